"""What `vesalius segment` does with prompts: one image, some objects pointed at (or everything), one label map on its grid.

OUT/case.png           1..n in the order given; where objects overlap the higher logit wins
OUT/case_2.png         with `separate`, the second object alone, whatever overlaps it
OUT/case_mask_3.png    with `all_masks`, the third of the masks that a lone click was answered with
OUT/case.json          in everything mode, the records; record i is label i + 1, and smaller masks lie on top

`places.py` says where the masks of frames go; a video is painted and written frame by frame.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

import numpy as np

from ..core.atomic import atomic
from ..core.errors import InputError
from ..core.image import Image
from ..core.labels import Label, Labels
from ..core.prompts import ObjectPrompt, Plane
from . import rle
from .canvas import Canvas, Reel
from .everything import EverythingOptions
from .opening import open_image
from .places import Places
from .prompter import Prompter, load_prompter
from .session import Session
from .solids import SIBLINGS, SolidPrompter
from .tiled import Precision
from .volumes import Slices

Watch = Callable[[int, int, str], None]  # done, in all, of what
OBJECTS_MOST = 65535  # labels that 16 bits can tell apart
SOLE = ("box", "mask", "text")  # of which an object has one, but for points


@dataclass(frozen=True, eq=False)
class PromptOptions:
    """What to segment, with what, and what to write. `objects`, or `everything` with the slice it looks at in a volume."""

    objects: tuple[ObjectPrompt, ...] = ()
    prompts: Path | None = None  # the file that tells of the objects, to be named where one is wrong
    everything: bool | EverythingOptions = False  # or with these parameters
    slice: int | None = None
    axis: str | None = None
    model: str | Path | Prompter | None = None
    weights: str | Path | None = None
    text_encoder: str | Path | None = None  # a folder of CLIP, for words
    window: tuple[float, float] | None = None
    separate: bool = False
    all_masks: bool = False
    propagate: bool = True
    format: str | None = None
    overwrite: bool = False
    overlays: bool = False
    series: str | None = None
    video: bool = False  # the pictures of a folder are frames, whatever they look like
    device: str = "auto"
    precision: Precision = "auto"
    cache: str | Path | bool | None = None
    sibling: SolidPrompter | str | Path | bool | None = None  # as Session takes it


@dataclass(frozen=True)
class FoundObject:
    """One object of the label map: its `value`, what the user called it, size and predicted IoU, of a slice or the volume."""

    value: int
    name: str
    voxels: int
    predicted_iou: float | None = None
    file: Path | None = None


@dataclass(frozen=True)
class Prompted:
    """A finished segmentation by prompts. `alternatives`: the three masks of a lone click, with their predicted IoU."""

    case: str
    mask: Path
    objects: tuple[FoundObject, ...]
    model: str
    view: str
    seconds: float
    records: Path | None = None
    alternatives: tuple[tuple[Path, float], ...] = ()
    overlay: Path | None = None
    notes: tuple[str, ...] = ()


def segment_prompted(input: str | Path, out: str | Path, options: PromptOptions, *, progress: Watch | None = None) -> Prompted:
    """Segment what `options` point at in an image, a DICOM folder, a video or a folder of frames, into `out`, a folder or a file.

    Raises InputError and its kin for prompts that are wrong, weights that are not there, or an output that exists.
    """
    began = time.monotonic()
    if bool(options.objects) == bool(options.everything):
        raise InputError("either objects are prompted, or everything is wanted", fix="give prompts, or --everything alone")
    image = open_image(input, series=options.series, frames=options.video)
    if options.sibling is False and image.grid.dims == 2:
        raise InputError("a picture has no slices to go through one by one", fix="leave out --slice-by-slice")
    _require_fit(image, options)  # all prompts are looked at before weights are loaded
    places = Places(image, out, options.format, overwrite=options.overwrite, overlays=options.overlays)
    try:
        session = _session(image, options)
        tell = progress or (lambda done, total, what: None)
        canvas, labels, found, notes, more = (_everything if options.everything else _objects)(session, options, places, tell)
        picture = places.draw(canvas, labels, session.view, options.window) if options.overlays else None
    except BaseException:
        places.vacate()
        raise
    return Prompted(
        places.case, places.target, found, session.prompter.name, session.view.rule, time.monotonic() - began,
        overlay=picture, notes=(*image.notes, *_way(session, options), *places.outputs.lost(image), *notes), **more,
    )  # fmt: skip


def _require_fit(image: Image, options: PromptOptions) -> None:
    """Raises what `ObjectPrompt.plane` raises, with the number and name of the object where there are several."""
    for number, prompt in enumerate(options.objects, start=1):
        try:
            prompt.plane(image.grid)
        except InputError as error:
            if len(options.objects) == 1 and options.prompts is None:
                raise
            named = f" ('{prompt.name}')" if prompt.name else ""
            raise type(error)(f"object {number}{named}: {error.problem}", file=options.prompts, fix=error.fix) from None


def _session(image: Image, options: PromptOptions) -> Session:
    prompter = options.model
    if prompter is None or isinstance(prompter, str | Path):
        prompter = load_prompter(
            prompter,
            weights=options.weights,
            text_encoder=options.text_encoder,
            device=options.device,
            precision=options.precision,
        )
    return Session(image, prompter, window=options.window, cache=options.cache, sibling=options.sibling)


def _way(session: Session, options: PromptOptions) -> tuple[str, ...]:
    """How objects went through a volume, where that is not what the model is best at."""
    volume = session.image.grid.dims == 3 and not session.of_frames
    if not volume or options.everything or not options.propagate or options.sibling is False or session.sibling is not None:
        return ()
    name = SIBLINGS.get(session.prompter.name)
    return () if name is None else (f"went from slice to slice: the weights of {name}, which see volumes, are not installed",)


Answer = tuple[Slices, float | None]
Done = tuple[Canvas | Reel, Labels | None, tuple[FoundObject, ...], list[str], dict[str, Any]]


def _objects(session: Session, options: PromptOptions, places: Places, tell: Watch) -> Done:
    """Object after object, painted as they come."""
    groups = _grouped(options.objects, session.image.grid.dims)
    if len(groups) > OBJECTS_MOST:
        raise InputError(f"{len(groups)} objects are more than a mask can number", fix=f"prompt at most {OBJECTS_MOST} at once")
    if options.separate:
        places.require_vacant(*(places.beside(str(number)) for number in range(1, len(groups) + 1)))
    alternatives = _alternatives(session, options, places) if options.all_masks else ()
    canvas, (names, notes), trust, files = places.canvas(), _names(groups), [], []
    for number, (slices, iou) in enumerate(_found(session, groups, options), start=1):
        tell(number, len(groups), names[number - 1])
        trust.append(iou)
        canvas.paint(slices, number)
        notes += _lost(session, slices, names[number - 1], options)
        if slices.trust is not None and slices.trust.doubt is not None:
            notes.append(f"'{names[number - 1]}' is doubtful, look at every slice of it: {slices.trust.doubt}")
        files.append(places.alone(slices, str(number), names[number - 1]) if options.separate else None)
    named = Labels(tuple(Label(i, name) for i, name in enumerate(names, start=1)))
    places.write(canvas, named)
    counts = canvas.counts(len(groups))
    found = tuple(
        FoundObject(i, name, int(counts[i]), iou, file)
        for i, (name, iou, file) in enumerate(zip(names, trust, files, strict=True), start=1)
    )
    empty = [each.name for each in found if not each.voxels]
    notes += [f"'{name}' is nowhere in the mask: nothing was found, or other objects lie on it" for name in empty]
    return canvas, named, found, notes, {"alternatives": alternatives}


def _lost(session: Session, slices: Slices, name: str, options: PromptOptions) -> list[str]:
    """Through which frames an object was followed, where not through all; of a volume, where it stays on one slice."""
    held = sorted(slices.logits)
    if session.image.grid.dims == 2 or not options.propagate:
        return []
    if not session.of_frames:
        alone = slices.trust is None and len(held) == 1 and (slices.logits[held[0]] > 0).any()
        return [f"'{name}' is on slice {held[0]} alone: beside it nothing was found to go on by"] if alone else []
    end = session.image.grid.shape[0] - 1
    followed = f"through frames {runs_of(held)}" if len(held) > 1 else f"nowhere from frame {held[0]}"
    why = "it was lost there, or left the picture"
    return [] if len(held) == end + 1 else [f"'{name}' was followed {followed}, of 0 to {end}: {why}"]


def runs_of(numbers: Sequence[int]) -> str:
    """Whole numbers that rise, in words: 0 to 3, 5, 7 to 9."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ", ".join(" to ".join(map(str, run)) for run in runs)


def _found(session: Session, groups: Sequence[Sequence[ObjectPrompt]], options: PromptOptions) -> Iterator[Answer]:
    """Each object's logits by slice, and the predicted IoU where slices were prompted one by one, or a volume seen as a whole."""
    grid = session.image.grid
    if grid.dims == 3 and options.propagate:
        for group in groups:
            slices = session.follow(group)
            yield slices, None if slices.trust is None else slices.trust.iou
        return
    if any(prompt.plane(grid) is None for group in groups for prompt in group):
        raise InputError("a prompt in three dimensions has to propagate", fix="leave out --no-propagate, or prompt one slice")
    answers = session.answers([prompt for group in groups for prompt in group])
    for group in groups:
        seen = list(islice(answers, len(group)))
        logits = {plane.index: one.logits for plane, one in seen}
        yield Slices(seen[0][0].axis, logits), min(one.iou for _, one in seen)


def _alternatives(session: Session, options: PromptOptions, places: Places) -> tuple[tuple[Path, float], ...]:
    """The three masks of a lone click, written one by one."""
    if len(options.objects) != 1 or not options.objects[0].lone_click:
        raise InputError(
            "all masks are given for a lone click", fix="give one --point and nothing else, or leave out --all-masks"
        )
    prompt, grid = options.objects[0], session.image.grid
    plane = prompt.plane(grid)
    if plane is None:
        raise InputError("all masks are given on one slice", fix="give the slice (--slice K) and x,y")
    places.require_vacant(*(places.beside(f"mask_{number}") for number in (1, 2, 3)))
    found, written = session.answer(prompt), []
    for number, (logits, score) in enumerate(zip(found.logits, found.scores, strict=True), start=1):
        slices = Slices(plane.axis, {plane.index: logits})
        written.append((places.alone(slices, f"mask_{number}", f"mask_{number}"), float(score)))
    return tuple(written)


def _everything(session: Session, options: PromptOptions, places: Places, tell: Watch) -> Done:
    """All objects of a picture or a slice; the records go to a file of their own."""
    if options.separate or options.all_masks:
        raise InputError("everything mode writes one label map and its records", fix="leave out --separate and --all-masks")
    plane = session.plane(options.slice, options.axis)
    places.require_vacant(places.records)
    chosen = session.everything_options(options.everything if isinstance(options.everything, EverythingOptions) else None)
    watch = lambda done, total: tell(done, total, "points")  # noqa: E731
    records = session.everything(options=chosen, slice=options.slice, axis=options.axis, progress=watch)
    if len(records) > OBJECTS_MOST:
        raise InputError(f"{len(records)} objects are more than a mask can number")
    canvas, painted = places.canvas(), np.zeros(plane.size(session.image.grid), np.uint16)
    for number in sorted(range(1, len(records) + 1), key=lambda number: -records[number - 1]["area"]):
        painted[records[number - 1]["segmentation"]] = number
    canvas.put(plane, painted)
    places.write(canvas, None)
    _write_records(records, session, plane, places, chosen)
    counts = canvas.counts(len(records))  # in the map, where smaller masks lie on top
    found = tuple(
        FoundObject(i, f"object {i}", int(counts[i]), record["predicted_iou"]) for i, record in enumerate(records, start=1)
    )
    asked = f"pred_iou_thresh={chosen.pred_iou_thresh:g} and stability_score_thresh={chosen.stability_score_thresh:g}"
    notes = [] if records else [f"nothing was found: no mask reached {asked}; lower ones find less certain objects"]
    return canvas, None, found, notes, {"records": places.records}


def _write_records(
    records: Iterable[dict[str, Any]], session: Session, plane: Plane, places: Places, options: EverythingOptions
) -> None:
    """case.json: how it was made, and the records with COCO RLE in place of arrays."""
    kept = {
        "image": places.case,
        "model": session.prompter.name,
        "view": session.view.rule,
        "axis": "zyx"[plane.axis],
        "slice": plane.index,
        "options": {key: value for key, value in asdict(options).items() if key != "output_mode"},
        "records": [{**record, "segmentation": rle.to_text(rle.encode(record["segmentation"]))} for record in records],
    }
    places.remember(places.records)
    with atomic(places.records) as part:
        part.write_text(json.dumps(kept, indent=1, default=lambda value: value.tolist()), encoding="utf-8")


def _grouped(objects: Sequence[ObjectPrompt], dims: int) -> list[list[ObjectPrompt]]:
    """One group an object. In a volume, prompts of one name on different slices, or beside one in three dimensions, are the same
    object; two boxes or lone clicks in three dimensions, or on one slice, are two. Raises InputError where their slices cross.
    """
    groups: list[list[ObjectPrompt]] = []
    named: dict[str, list[ObjectPrompt]] = {}
    for prompt in objects:
        group = named.get(prompt.name or "") if dims == 3 else None
        if group is not None and _joins(group, prompt):
            group.append(prompt)
            continue
        groups.append([prompt])
        if prompt.name:
            named[prompt.name] = groups[-1]
    return groups


def _joins(group: Sequence[ObjectPrompt], prompt: ObjectPrompt) -> bool:
    """Whether a prompt of the name of `group` may mean the same object."""
    flat = [each for each in group if each.slice is not None]
    if prompt.slice is None:  # two clicks of a name may be two lesions; beside a box, or slices, they correct it
        known = {kind for each in group for kind in SOLE if each.slice is None and getattr(each, kind) is not None}
        told = {kind for kind in SOLE if getattr(prompt, kind) is not None}
        return not known & told and bool(flat or known or told)
    if odd := next((each for each in flat if _axis(each) != _axis(prompt)), None):
        problem = f"the prompts of '{prompt.name}' lie along different axes: {_axis(odd)} and {_axis(prompt)}"
        raise InputError(problem, fix="give those of one object on slices of one axis, or name two objects differently")
    return all(each.slice != prompt.slice for each in flat)


def _names(groups: Sequence[Sequence[ObjectPrompt]]) -> tuple[list[str], list[str]]:
    """Every object's own name, the user's, numbered where it is said twice, or its number; and notes on those numbered."""
    names: dict[str, None] = {}
    notes: list[str] = []
    for number, group in enumerate(groups, start=1):
        name = group[0].name or f"object {number}"
        own = next(each for each in chain((name,), (f"{name} {n}" for n in count(number))) if each not in names)
        names[own] = None
        notes += [f"'{name}' is said of several objects: object {number} is called '{own}'"] if own != name else []
    return list(names), notes


def _axis(prompt: ObjectPrompt) -> str:
    return prompt.axis or "axial"
