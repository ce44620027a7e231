"""A session: one image, one promptable model, and prompts that are answered at once.

    session = vesalius.Session("polyp.png", "sam_vit_b")
    mask = session.predict(box=(60, 40, 180, 150))          # the image is looked at now, and not again
    session.add(points=[(70, 50)]); session.add(points=[(100, 90)], labels=[0]); session.undo()

Coordinates are the pixels of the image as stored, x before y; `core/prompts.py` says how slices of volumes are counted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import GeometryError, InputError
from ..core.image import Image
from ..core.prompts import ObjectPrompt, Plane, find_plane
from ..io.files import SUFFIXES, read_mask, suffix_of
from ..io.frames import PICTURES
from .embeddings import EmbeddingCache, user_cache
from .everything import EverythingOptions, Progress, Record, everything
from .looks import Asked, Look, Proposals
from .opening import open_image
from .prompter import Prompter, load_prompter
from .propagation import PropagateOptions, Seen
from .solids import Found, SolidPrompter, Told, sibling_of
from .upright import Upright
from .views import View
from .volumes import Slices, find_whole, follow, points_by_slice, require_one_axis, with_clicks

BATCH = 64  # prompts answered together
AN_IMAGE = "read it by vesalius.read, or make one: Image(array, Grid(shape)) with an array (C, Z, Y, X)"
LOOKS_KEPT = 8  # in memory; a SAM's features are 4 MB a slice


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a prompt gave. `mask` boolean on the image's pixels: (H, W), in a volume (Z, Y, X).

    `masks` (M, H, W) on the prompted slice, with their `scores` (M,), the IoU that the model predicts of each, and `logits`
    (M, H, W): three for a lone click or with multimask, else one. `mask` is the one of the best score.
    """

    mask: np.ndarray
    masks: np.ndarray
    scores: np.ndarray
    logits: np.ndarray


@dataclass(frozen=True, eq=False)
class Step:
    """All that has been said about the current object after one `add`, and what was answered on each slice by itself: the state
    of the mask and its predicted IoU; to a prompt in three dimensions alone, none."""

    prompts: tuple[ObjectPrompt, ...]
    answers: dict[Plane, tuple[Tensor, float]]


class Session:
    """An image or its path, a video, a folder of frames; and a model: a name that has weights, a weights file, or a Prompter.

        >>> session = vesalius.Session("polyp.png", "sam.safetensors", cache=False)
        >>> mask = session.predict(box=(8, 6, 30, 32))          # x0, y0, x1, y1 in pixels
        >>> mask.shape == session.image.array.shape[-2:], mask.dtype
        (True, dtype('bool'))

    `window` (low, high) says which grey values become black and white; without it 8-bit images stay as they are and others
    follow the percentile rule of the weights (`view.rule` says which). `cache` is where embeddings are kept: a folder, an
    EmbeddingCache, None for the user's own cache folder, False for none. `sibling` goes through volumes in the model's place: a
    weights file or a SolidPrompter, None for the model's own where it has one, False to go from slice to slice. `doubt` says
    what speaks against the last mask that the sibling gave, None where nothing does.
    Raises what `open_image` and `load_prompter` raise, ChannelError for an image that is neither grey nor RGB.
    """

    def __init__(
        self,
        image: Image | str | Path,
        model: Prompter | str | Path | None = None,
        *,
        window: tuple[float, float] | None = None,
        cache: EmbeddingCache | str | Path | bool | None = None,
        device: str = "auto",
        sibling: SolidPrompter | str | Path | bool | None = None,
    ):
        if not isinstance(image, Image | str | Path):
            raise InputError(f"a session is of an image or its path, not of a {type(image).__name__}", fix=AN_IMAGE)
        self.image = image if isinstance(image, Image) else open_image(image)
        self.prompter = load_prompter(model, device=device) if model is None or isinstance(model, str | Path) else model
        self.view = View.of(self.image, window, self.prompter.greys)
        self.cache, self._sibling = _cache(cache), sibling
        self._looks: OrderedDict[Plane, Look] = OrderedDict()
        self._steps: list[Step] = []  # one an `add`
        self._undone: list[Step] = []
        self.doubt: str | None = None

    def predict(
        self,
        points: Any = (),
        labels: Any = (),
        box: Any = None,
        mask: Any = None,
        text: str | None = None,
        *,
        slice: int | None = None,
        axis: str | None = None,
        multimask: bool = False,
        details: bool = False,
    ) -> Any:
        """The mask of the one object that all these prompts mean: boolean, (H, W), in a volume (Z, Y, X).

        points [(x, y)] with labels 1 (on it) or 0 (beside it), box (x0, y0, x1, y1), an earlier mask, words; in a volume with
        `slice` and `axis`, or in three dimensions, which propagates. A lone click is answered by the best of three masks;
        `multimask` asks for three whatever the prompt. With `details` a Prediction, which holds all of them with their scores.
        Raises InputError and GeometryError for prompts that are wrong in themselves, on this image, or never learned.
        """
        prompt = ObjectPrompt(_listed(points), _listed(labels), box, mask, text, None, slice, axis)
        if prompt.plane(self.image.grid) is None:
            if multimask or details:
                raise InputError("several masks are given for one slice at a time", fix="say which slice, or leave out multimask")
            return self._on_image(self.follow([prompt]))
        found = self.answer(prompt, multimask=multimask)
        return found if details else found.mask

    def answer(self, prompt: ObjectPrompt, *, multimask: bool = False) -> Prediction:
        """What the model says to a prompt on one slice. Raises as `predict`."""
        plane = self._plane_of(prompt)
        proposals = self._propose([self._resolved(prompt)], plane, multimask)
        logits, scores = self.look(plane).full(proposals.state[0]).cpu().numpy(), proposals.iou[0].cpu().numpy()
        mask = self._on_image(Slices(plane.axis, {plane.index: logits[scores.argmax()]}))
        return Prediction(mask, logits > 0, scores, logits)

    def follow(
        self, prompts: Sequence[ObjectPrompt], options: PropagateOptions | None = None, step: Step | None = None
    ) -> Slices:
        """One object through the volume, from prompts on slices of one axis or in three dimensions; on slices that `step` has
        answered, from that answer. Raises as `predict`.

        The model's sibling for volumes is asked, where there is one; `options` are about going from slice to slice, and do that.
        """

        def seen(prompt: ObjectPrompt, plane: Plane) -> Seen:
            if step is None or plane not in step.answers:
                return self.seen(prompt, plane)
            state, iou = step.answers[plane]
            return Seen(self._drawn(plane, state), state, iou)

        known = [self._resolved(prompt) for prompt in prompts]
        for prompt in known:
            prompt.plane(self.image.grid)  # all are looked at before the model is asked
        self.doubt = None
        if options is None and self.sibling is not None and all(prompt.text is None for prompt in known):
            found = find_whole(known, self.image.grid, seen, self._find)
            self.doubt = None if found.trust is None else found.trust.doubt
            return found
        return follow(known, self.image.grid, seen, self.look, self._carrying(options))

    def add(self, points: Any = (), labels: Any = (), box: Any = None, mask: Any = None, **rest: Any) -> np.ndarray:
        """Say more about the current object, and get its mask. A new box or mask replaces the one before; points are added.

        Points correct the mask that is there: a model that learned it (`prompter.refines`) is shown its last answer on that
        slice, as SAM is trained. A new box, mask or text begins on that slice anew, with the points said before.
        `text`, `slice` and `axis` as in `predict`; a later prompt without a slice is on the last one's. They may lie on several
        slices of one axis: the mask then has them all, and `propagate` goes through them.
        """
        last = self._steps[-1] if self._steps else Step((), {})
        before = last.prompts
        told = self._resolved(self._placed(ObjectPrompt(_listed(points), _listed(labels), box, mask, **rest), before))
        here = [each for each in before if self._place(each) == self._place(told)]
        others = tuple(each for each in before if each not in here)
        step = self._answered((*others, _joined(here[0], told) if here else told), told, last)
        found = self._mask_of(step)  # a prompt that is refused changes nothing
        self._steps.append(step)
        self._undone.clear()
        return found

    def _placed(self, told: ObjectPrompt, before: Sequence[ObjectPrompt]) -> ObjectPrompt:
        """A prompt on a slice that it does not name is on the last one's; raises InputError where it names another axis."""
        flat = told.dims == 2 or (isinstance(told.mask, np.ndarray) and told.mask.ndim == 2) or (
            told.dims is None and told.text is not None
        )
        last = before[-1] if before else None
        if last is None or last.slice is None or told.slice is not None or not flat:
            return told
        if (told.axis or last.axis or "axial") != (last.axis or "axial"):
            fix = f"say which {told.axis} slice"
            raise InputError(f"the object was prompted on {last.axis or 'axial'} slices before", fix=fix)
        return replace(told, slice=last.slice, axis=last.axis)

    def undo(self) -> np.ndarray:
        """Take the last `add` back; the mask before it, empty before the first. Raises InputError where there is none."""
        if not self._steps:
            raise InputError("there is nothing to undo", fix="add a prompt first")
        self._undone.append(self._steps.pop())
        return self.current()

    def redo(self) -> np.ndarray:
        """Do again what was undone last. Raises InputError where there is none."""
        if not self._undone:
            raise InputError("there is nothing to redo", fix="undo comes first, and no new prompt in between")
        self._steps.append(self._undone.pop())
        return self.current()

    def current(self) -> np.ndarray:
        """The mask of the current object, as it was answered; empty before its first prompt."""
        return self._mask_of(self._steps[-1]) if self._steps else self._on_image(Slices(0, {}))

    def clear(self) -> None:
        """Begin another object."""
        self._steps, self._undone = [], []

    def everything(
        self,
        options: EverythingOptions | None = None,
        *,
        slice: int | None = None,
        axis: str | None = None,
        progress: Progress | None = None,
        **given: Any,
    ) -> list[Record]:
        """Records of all objects of a picture, or of one slice; options as one record or by name. See `everything.everything`."""
        self._require_learned(points=True)
        plane = self.plane(slice, axis)
        look = lambda crop: self.prompter.look(crop, self.cache)  # noqa: E731
        chosen = self.everything_options(options, **given)
        return everything(self.view.picture(plane), look, chosen, progress=progress)

    def everything_options(self, options: EverythingOptions | None = None, **given: Any) -> EverythingOptions:
        """What `everything` goes by: what is not said is the original's default, or what suits the weights."""
        chosen = replace(options or EverythingOptions(), **given)
        return replace(chosen, stability_score_thresh=self.prompter.stable) if chosen.stability_score_thresh is None else chosen

    def propagate(self, options: PropagateOptions | None = None, **given: Any) -> np.ndarray:
        """The current object (of `add`) through the volume, (Z, Y, X) boolean; options as one record or by name.

        Raises InputError for a picture, or before the first prompt.
        """
        if self.image.grid.dims == 2:
            raise InputError("a picture has no slices to propagate through", fix="give a volume, or use predict")
        if not self._steps:
            raise InputError("there is no object to propagate", fix="add a prompt on one slice first")
        step = self._steps[-1]
        chosen = replace(self._carrying(options), **given) if given else options
        return self._on_image(self.follow(step.prompts, chosen, step))

    def _carrying(self, options: PropagateOptions | None) -> PropagateOptions:
        """How to go from slice to slice as suits these weights; where they never learned to rate, areas alone stop it."""
        chosen = options or PropagateOptions(least_iou=PropagateOptions.least_iou if self.prompter.rates else None)
        return replace(chosen, carry=chosen.carry or self.prompter.carries)

    def _require_learned(self, **given: bool) -> None:
        """Raises InputError for kinds of prompts that the weights were not trained with."""
        name, learned = self.prompter.name, self.prompter.learned
        if odd := [kind for kind, there in given.items() if there and kind not in learned]:
            problem = f"'{name}' never learned {' and '.join(odd)}: it was trained with {' and '.join(learned)} alone"
            raise InputError(problem, fix=f"give {' or '.join(learned)}, or choose another model")

    @property
    def of_frames(self) -> bool:
        """Whether the slices are the frames of a video: what moves is followed from one to the next."""
        return self.image.source is not None and self.image.source.format in ("frames", "video")

    @cached_property
    def sibling(self) -> SolidPrompter | None:
        """The model that sees volumes in this one's place; None for pictures, frames, and models without one."""
        return None if self.image.grid.dims == 2 or self.of_frames else sibling_of(self.prompter, self._sibling)

    @cached_property
    def _volume(self) -> np.ndarray:
        return Upright.of(self.image.grid).volume(self.view.volume())

    def _find(self, voxel: np.ndarray, told: Told) -> Found:
        assert self.sibling is not None
        return self.sibling.find(self._volume, voxel, told)

    def plane(self, slice: int | None = None, axis: str | None = None) -> Plane:
        """A picture's only slice, or the slice named; raises InputError where it is not there, or none is named in a volume."""
        if self.image.grid.dims == 2:
            if slice not in (None, 0) or axis is not None:
                raise InputError("a picture has no slices", fix="leave out the slice and the axis")
            return Plane(0, 0)
        if slice is None:
            raise InputError("this is a volume: everything mode looks at one slice", fix="give the slice (--slice K)")
        return find_plane(self.image.grid, slice, axis or "axial")

    def look(self, plane: Plane) -> Look:
        """The slice as the model sees it; the last few are remembered."""
        found = self._looks.pop(plane, None) or self.prompter.look(self.view.picture(plane), self.cache)
        self._looks[plane] = found  # the last one now
        if len(self._looks) > LOOKS_KEPT:
            self._looks.popitem(last=False)
        return found

    def _answered(self, prompts: tuple[ObjectPrompt, ...], told: ObjectPrompt, last: Step) -> Step:
        """The step to `prompts`, of which `told` is new: the slices that it says nothing of keep their answers."""
        grid, answers = self.image.grid, dict[Plane, tuple[Tensor, float]]()
        planes = [prompt.plane(grid) for prompt in prompts]
        placed = [(prompt, plane) for prompt, plane in zip(prompts, planes, strict=True) if plane is not None]
        require_one_axis({plane.axis for _, plane in placed})
        solid, own = [prompt for prompt, plane in zip(prompts, planes, strict=True) if plane is None], planes[-1]
        corrects = told.box is None and told.mask is None and told.text is None and self.prompter.refines
        for prompt, plane in placed:
            meant = plane == own if own is not None else plane.index in points_by_slice([told], plane.axis, grid)
            if plane in last.answers and not meant:
                answers[plane] = last.answers[plane]
                continue
            state = last.answers[plane][0] if corrects and plane in last.answers else None
            heard = points_by_slice(solid, plane.axis, grid).get(plane.index)
            proposals = self._propose([with_clicks(prompt, heard)], plane, state=state)
            best = int(proposals.iou[0].argmax())
            answers[plane] = proposals.state[0, best], float(proposals.iou[0, best])
        return Step(prompts, answers)

    def _mask_of(self, step: Step) -> np.ndarray:
        """Every prompted slice as it was answered by itself; a prompt in three dimensions propagates."""
        if any(prompt.plane(self.image.grid) is None for prompt in step.prompts):
            return self._on_image(self.follow(step.prompts, step=step))
        found = {plane.index: self._drawn(plane, state) for plane, (state, _) in step.answers.items()}
        return self._on_image(Slices(next(iter(step.answers)).axis, found))

    def _drawn(self, plane: Plane, state: Tensor) -> np.ndarray:
        return self.look(plane).full(state[None])[0].cpu().numpy()

    def seen(self, prompt: ObjectPrompt, plane: Plane) -> Seen:
        """The best mask of a prompt on a slice."""
        return next(self._answers([(prompt, plane)]))

    def answers(self, prompts: Sequence[ObjectPrompt]) -> Iterator[tuple[Plane, Seen]]:
        """The best mask of each prompt on its own slice, in order; prompts alike in a row are answered together."""
        placed = [(self._resolved(prompt), self._plane_of(prompt)) for prompt in prompts]
        return zip((plane for _, plane in placed), self._answers(placed), strict=True)

    def _answers(self, placed: Sequence[tuple[ObjectPrompt, Plane]]) -> Iterator[Seen]:
        for (plane, _), run in groupby(placed, key=lambda each: (each[1], _kind(each[0]))):
            alike = [prompt for prompt, _ in run]
            for start in range(0, len(alike), BATCH):
                proposals = self._propose(alike[start : start + BATCH], plane)
                for ious, states in zip(proposals.iou, proposals.state, strict=True):
                    best = int(ious.argmax())
                    logits = self.look(plane).full(states[best][None])[0].cpu().numpy()
                    yield Seen(logits, states[best], float(ious[best]))

    def _propose(
        self, alike: Sequence[ObjectPrompt], plane: Plane, multimask: bool = False, state: Tensor | None = None
    ) -> Proposals:
        """What the model says to prompts of one kind on one slice; to a single one, shown its last answer's `state`."""
        seen, first = self.look(plane), alike[0]
        masks = [seen.believed(plane.take(each.mask)) for each in alike if isinstance(each.mask, np.ndarray)]
        if state is not None:
            masks = [state[None]]
        asked = Asked(
            points=np.array([each.points for each in alike]) if first.points else None,
            labels=np.array([each.labels for each in alike]) if first.points else None,
            boxes=None if first.box is None else np.array([each.box for each in alike]),
            states=torch.cat(masks) if masks else None,
            text=None if first.text is None else torch.stack([self.prompter.words(each.text or "") for each in alike]),
        )
        return seen.ask(asked, multimask=multimask or first.lone_click)

    def _plane_of(self, prompt: ObjectPrompt) -> Plane:
        plane = prompt.plane(self.image.grid)
        if plane is None:
            raise InputError("this prompt lies on no single slice", fix="say which slice")
        return plane

    def _place(self, prompt: ObjectPrompt) -> tuple[int | None, str]:
        return None if self.image.grid.dims == 2 else prompt.slice, prompt.axis or "axial"

    def _resolved(self, prompt: ObjectPrompt) -> ObjectPrompt:
        """The prompt with its mask as a boolean array (Z, Y, X); raises GeometryError where it does not fit the image, InputError
        for kinds of prompts that the weights never learned."""
        mask, grid = prompt.mask, self.image.grid
        self._require_learned(points=bool(prompt.points), boxes=prompt.box is not None, masks=mask is not None)
        if prompt.text is not None:
            self.prompter.words(prompt.text)  # refused at once by weights that know none
        if mask is None:
            return prompt
        plane, file = prompt.plane(grid), mask if isinstance(mask, Path) else None
        values = np.asarray(mask) if file is None else self._read_mask(file, plane)
        whole = values > 0
        if plane is not None and whole.shape == plane.size(grid) != grid.shape:
            drawn, whole = whole, np.zeros(grid.shape, bool)
            plane.put(whole, drawn)
        if whole.shape != grid.shape:
            raise GeometryError(
                f"the mask prompt {whole.shape} is not as large as the image {grid.shape}", fix="give one on its pixels"
            )
        if not (whole if plane is None else plane.take(whole)).any():
            where = "" if grid.dims == 2 or plane is None else " on this slice"
            raise InputError(f"the mask prompt is empty{where}", file=file, fix="give one that marks the object, or leave it out")
        part = values if plane is None or values.ndim == 2 else plane.take(values)
        if len(labels := np.unique(part[part > 0])) > 1:
            problem = f"the mask prompt holds {len(labels)} labels, and one object is meant"
            raise InputError(problem, file=file, fix="give a mask of one of them alone; of probabilities, those above one half")
        return replace(prompt, mask=whole)

    def _read_mask(self, file: Path, plane: Plane | None) -> np.ndarray:
        """The label map (Z, Y, X) in a file, or (H, W) where that is a picture of one slice of a volume, or of one frame."""
        if plane is not None and self.image.grid.dims == 3 and SUFFIXES.get(suffix_of(file) or "") in PICTURES:
            values = read_mask(file).array
            if values.shape == (1, *plane.size(self.image.grid)):
                return values[0]
        return read_mask(file, like=self.image).array

    def _on_image(self, found: Slices) -> np.ndarray:
        mask = found.mask(self.image.grid)
        return mask[0] if self.image.grid.dims == 2 else mask


def _kind(prompt: ObjectPrompt) -> tuple[Any, ...]:
    """Prompts of one kind fit into one batch."""
    return len(prompt.points), prompt.lone_click, prompt.box is None, prompt.mask is None, prompt.text is None


def _joined(before: ObjectPrompt, told: ObjectPrompt) -> ObjectPrompt:
    """What was said before and what is said now about the same object on the same slice."""
    return replace(
        told,
        points=before.points + told.points,
        labels=before.labels + told.labels,
        box=before.box if told.box is None else told.box,
        mask=before.mask if told.mask is None else told.mask,
        text=before.text if told.text is None else told.text,
    )


def _listed(values: Any) -> Any:
    return () if values is None else values


def _cache(where: EmbeddingCache | str | Path | bool | None) -> EmbeddingCache | None:
    if isinstance(where, EmbeddingCache):
        return where
    if where is False:
        return None
    return EmbeddingCache(user_cache() if where is None or where is True else Path(where))
