"""What the user points at on the command line, and the options record that the pipeline takes."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.errors import InputError

if TYPE_CHECKING:
    from ..pipeline.prompted import PromptOptions


@dataclass(frozen=True)
class Pointing:
    """The words of `vesalius segment` that prompt, and those that say what becomes of the answer."""

    point: list[str] | None = None
    not_point: list[str] | None = None
    box: list[str] | None = None
    mask_prompt: Path | None = None
    text: str | None = None
    text_encoder: Path | None = None
    everything: bool = False
    set: list[str] | None = None
    prompts: Path | None = None
    slice: int | None = None
    axis: str | None = None
    window: str | None = None
    separate: bool = False
    all_masks: bool = False
    video: bool = False
    no_propagate: bool = False
    slice_by_slice: bool = False

    @property
    def pointed(self) -> bool:
        """Whether anything is prompted; the other words need that, which raises InputError."""
        words = {field.name: getattr(self, field.name) for field in fields(self)}
        prompting = ("point", "not_point", "box", "mask_prompt", "text", "everything", "prompts")
        given = [name for name, word in words.items() if word is not None and word is not False and word != []]
        if given and not any(name in prompting for name in given):
            said = given[0].replace("_", "-")
            raise InputError(
                f"--{said} goes with a prompt", fix="add --point, --box, --mask-prompt, --text, --prompts or --everything"
            )
        return bool(given)

    def options(self, refused: dict[str, Any], **rest: Any) -> PromptOptions:
        """The record that `segment_prompted` takes. `refused` are options of `segment` that prompts have no use for.

        Raises InputError for prompts that do not go together, and for an option of `refused` that was given.
        """
        from ..core.prompts import parse_prompts, parse_window, read_prompts
        from ..pipeline.everything import read_settings
        from ..pipeline.prompted import PromptOptions

        if odd := next((name for name, value in refused.items() if value is not None and value is not False), None):
            raise InputError(f"--{odd.replace('_', '-')} does not go with prompts", fix="leave it out")
        mixed = bool(self.point or self.not_point or self.box or self.mask_prompt is not None or self.text is not None)
        if (self.prompts is not None and (mixed or self.everything)) or (self.everything and mixed):
            raise InputError("prompts are given in more than one way", fix="give --prompts, or --everything, or points and boxes")
        if self.prompts is not None and (self.slice is not None or self.axis is not None):
            raise InputError("--slice and --axis say nothing to --prompts", fix="say slice and axis in the file, for each object")
        if self.set and not self.everything:
            raise InputError("--set is about everything mode", fix="add --everything, or leave it out")
        if self.prompts is not None:
            objects = read_prompts(self.prompts)
        elif self.everything:
            objects = ()
        else:
            objects = parse_prompts(
                points=self.point or (),
                not_points=self.not_point or (),
                boxes=self.box or (),
                mask=self.mask_prompt,
                text=self.text,
                slice=self.slice,
                axis=self.axis,
            )
        if self.text_encoder is not None and all(each.text is None for each in objects):
            raise InputError("--text-encoder goes with words", fix="add --text, or leave it out")
        return PromptOptions(
            objects=objects,
            everything=self.everything and read_settings(self.set or ()),
            text_encoder=self.text_encoder,
            slice=self.slice,
            axis=self.axis,
            window=None if self.window is None else parse_window(self.window),
            separate=self.separate,
            all_masks=self.all_masks,
            video=self.video,
            propagate=not self.no_propagate,
            sibling=False if self.slice_by_slice else None,
            prompts=self.prompts,
            **rest,
        )
