"""The hallway: read, prepare, network, way home, decision, cleaning, mask, report.

One case walks through `segment_image`; `segment` leads files and folders through it, remembers what is done, and goes
on past a case that cannot be done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..core.atomic import atomic
from ..core.errors import ChannelError, GeometryError, InputError, OutputError
from ..core.image import Image, Mask
from ..io.files import Input, case_name, content_hash, find_inputs, read, read_mask, write
from ..io.formats import format_of, is_dicom
from ..tasks.decide import background
from ..tasks.task import Task
from ..transforms.clean import clean
from ..transforms.spatial import prepare
from .agreement import Agreement, measure_agreement
from .case_report import write_report
from .decision import label_map
from .measure import Amount, amounts, object_count, voxel_counts
from .memory import Budget
from .outputs import Outputs, fingerprint
from .overlay import overlay
from .pages import Numbered, of_all, pages
from .predictor import Engine, Predictor, load
from .probabilities import keep_probabilities
from .tiled import Precision, Slab, tiled

RESULTS = 2  # counted up whenever the same input, weights and options come to give another mask: finished cases are done anew
RGB = ({"red", "green", "blue"}, {"r", "g", "b"})


@dataclass(frozen=True)
class SegmentOptions:
    """How to segment. None means the task's own choice; `max_ram` is in bytes, `overlap` a share of the patch.

    Raises InputError for a task together with a model.
    """

    task: str | None = None
    model: str | Path | None = None
    weights: str | Path | None = None
    format: str | None = None
    overwrite: bool = False
    device: str = "auto"
    precision: Precision = "auto"
    engine: Engine = "torch"
    max_ram: int | None = None
    series: str | None = None
    flips: bool | None = None
    overlap: float | None = None
    save_probabilities: bool = False
    report: bool = True
    overlays: bool = False

    def __post_init__(self) -> None:
        if self.task and self.model:
            told = f"both a task ('{self.task}') and a model ('{self.model}') were named"
            raise InputError(told, fix="give one of them; a task's own model goes with it")


@dataclass(frozen=True)
class Progress:
    """`case` is number `index` of `count`, and `done` (0..1) of it is through the network; `seconds_left` for the whole run."""

    case: str
    index: int
    count: int
    done: float
    seconds_left: float | None


@dataclass(frozen=True)
class Result:
    """One segmented image: its mask, what was said on the way, and seconds per stage."""

    mask: Mask
    notes: tuple[str, ...]
    seconds: dict[str, float]
    amounts: tuple[Amount, ...]
    objects: int | None
    probabilities: Path | None = None
    agreement: Agreement | None = None


@dataclass(frozen=True)
class Case:
    """What became of one input. `state` is done, skipped (it was done before) or failed (`error` says why)."""

    name: str
    state: str
    mask: Path | None = None
    error: str | None = None
    shape: tuple[int, ...] = ()
    spacing_mm: tuple[float, ...] | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    amounts: tuple[Amount, ...] = ()
    objects: int | None = None
    probabilities: Path | None = None
    overlay: Path | None = None


@dataclass(frozen=True)
class Summary:
    """A finished run. `agreement` of bf16 with fp32 is measured on the first case that went through the network; `notes` are
    what must be said of all cases together.
    """

    task: str
    cases: tuple[Case, ...]
    seconds: float
    precision: str
    device: str
    weights_hash: str
    agreement: Agreement | None = None
    report: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def failed(self) -> tuple[Case, ...]:
        return tuple(case for case in self.cases if case.state == "failed")


Watch = Callable[[Progress], None]


def segment(
    input: str | Path,
    out: str | Path,
    options: SegmentOptions | None = None,
    *,
    progress: Watch | None = None,
    **given: Any,
) -> Summary:
    """Segment a file, a DICOM folder or a folder of cases into `out`, a folder, or a file for one case.

        >>> summary = vesalius.segment("examples/hippocampus/images", "masks", task="hippocampus")
        >>> [case.state for case in summary.cases]
        ['done']

    Options are given as one record or by name. A case done before with the same input, weights and options is skipped.
    Raises InputError where the one case cannot be done or nothing can be begun; in a folder a bad case is listed as
    failed and the others are done.
    """
    options = replace(options or SegmentOptions(), **given)
    predictor = predictor_of(options)
    inputs = inputs_of(input, options, predictor.task)
    outputs = Outputs.of(out, inputs, options.format)
    outputs.require_use(inputs, Path(input))
    known = outputs.folder.exists()
    outputs.prepare()
    run = _Run(predictor, options, outputs, len(inputs), progress)
    alone = not Path(input).is_dir() or inputs == [Path(input)]
    cases = []
    for index, path in enumerate(inputs):
        try:
            cases.append(run.case(path, index))
        except Exception as error:
            if alone:
                if not known:
                    outputs.vacate()
                raise
            cases.append(Case(case_name(path), "failed", error=_in_words(error)))
    summary = run.summary(cases)
    summary = replace(summary, notes=(*said_of(input, inputs, predictor.task), *summary.notes))
    return replace(summary, report=write_report(summary, outputs)) if options.report else summary


def segment_image(
    image: Image,
    predictor: Predictor,
    options: SegmentOptions | None = None,
    *,
    probabilities: Path | None = None,
    compare: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Result:
    """The mask of `image` on its own grid. `probabilities` is where to write them, `progress` is told tiles done and in all;
    with `compare`, bf16 is compared with fp32 on one tile.

    Raises ChannelError, ShapeError, GeometryError where image and task do not fit, InputError where memory does not suffice.
    """
    options, task, seconds = options or SegmentOptions(), predictor.task, _Stages()
    image = fit_dims(fit_channels(image, task), task)
    parts, masks = pages(image, task), Numbered()
    with keep_probabilities(task, image, probabilities) as keep:
        for z, part in enumerate(parts):
            with seconds("prepare"):
                small, restore = prepare(part, task.steps)
            budget = Budget.of(options.max_ram, image, small, restore, task.outputs)
            logits = tiled(
                predictor.models,
                small.array,
                patch=task.inference.patch,
                overlap=task.inference.overlap if options.overlap is None else options.overlap,
                flips=flips_of(task, options.flips),
                precision=predictor.precision,
                ram_bytes=budget.tiles,
                context=task.context,
                progress=progress and of_all(progress, z, len(parts)),
            )
            outside = background(task.decide, task.outputs)
            home = restore.stream(seconds.during("network", logits), max_slices=budget.slices, fill=outside)
            with seconds("decide"):
                array = label_map(keep(home, restore, z), restore, task)
                mask = Mask(array, part.grid, task.labels, image.source, task.instances)
            with seconds("clean"):
                masks.add(clean(mask, task.clean) if task.clean else mask)
            if z == len(parts) // 2:
                middle = small.array
    mask = masks.on(image.grid)
    counts = voxel_counts(mask.array)
    found = amounts(mask, counts), object_count(mask, counts)
    agreement = measure_agreement(predictor, middle) if compare and predictor.bf16 else None
    return Result(mask, image.notes, seconds.spent, *found, probabilities, agreement)


def predictor_of(options: SegmentOptions) -> Predictor:
    """What the options name, on their device, by their arithmetic and engine. Raises as `load` and `flips_of`."""
    how = {key: getattr(options, key) for key in ("weights", "device", "precision", "engine")}
    predictor = load(options.task or options.model, **how)
    flips_of(predictor.task, options.flips)  # what cannot be is told before the first case
    return predictor


def inputs_of(input: str | Path, options: SegmentOptions, task: Task) -> list[Input]:
    """The cases at `input`; a chosen DICOM series is the one case, wherever in the folder it lies. Raises as `find_inputs`."""
    if options.series is not None:
        format_of(Path(input))  # a place that is not there is told at once
        return [Path(input)]
    return find_inputs(input, channels=len(task.channels))


def said_of(input: str | Path, inputs: Sequence[Input], task: Task) -> tuple[str, ...]:
    """That numbered files were taken as channels, or DICOM files of a folder as pictures, each a case, where a reader may expect
    pictures or series.
    """
    if not Path(input).is_dir():
        return ()
    if together := sum(isinstance(path, tuple) for path in inputs):
        cases = "one case" if together == 1 else f"{together} cases"
        named = f"_0000 to _{len(task.channels) - 1:04d} are read as the channels {', '.join(task.channels)}"
        return (f"files that end in {named} of {cases}; pictures of their own need other names",)
    found = [path for path in inputs if isinstance(path, Path) and path.is_file() and is_dicom(path)]
    one, many = "a DICOM file is a picture, such as an X-ray,", f"{len(found)} DICOM files are pictures, such as X-rays,"
    told = one if len(found) == 1 else many
    return (f"{told} and no slices of a series: each is a case of its own, named as its file is",) if found else ()


def fit_dims(image: Image, task: Task) -> Image:
    """The image itself; that a task of pictures got a volume is noted, a lone slice for one of volumes is a GeometryError."""
    if task.dims == 3 and min(image.grid.shape) == 1:  # whichever way it lies
        raise GeometryError(
            f"this is a single slice, and the task '{task.name}' is one of volumes",
            file=image.source.path if image.source else None,
            fix="give the whole volume",
        )
    if task.dims == 2 and image.grid.dims == 3:
        said = f"a volume, given to a task of pictures: each of its {image.grid.shape[0]} slices was segmented by itself"
        return replace(image, notes=(*image.notes, said))
    return image


def fit_channels(image: Image, task: Task) -> Image:
    """The image with the channels the task wants: grey repeated for an RGB model, and said. Anything else is a ChannelError."""
    have, want = len(image.array), len(task.channels)
    if have == want:
        return image
    if have == 1 and {name.lower() for name in task.channels} in RGB:
        repeated = np.broadcast_to(image.array, (want, *image.grid.shape))
        said = (*image.notes, "a grey picture, given to an RGB model: the channel was repeated")
        return replace(image, array=repeated, channels=task.channels, notes=said)
    raise ChannelError(
        f"the image has {have} channel{'s' * (have != 1)}, the task '{task.name}' wants {want} ({', '.join(task.channels)})",
        file=image.source.path if image.source else None,
        fix="give the channels the model was trained on, in that order",
    )


def flips_of(task: Task, wanted: bool | None) -> tuple[int, ...]:
    """Axes to mirror: the task's own; all there are where flips are asked for and the task names none; or none.

    Raises InputError where that would mix left and right: who tells them apart knows no mirrored patient.
    """
    if wanted is None:
        return task.inference.flips
    if not wanted:
        return ()
    if task.labels.sided and not task.inference.flips:
        told = f"the labels of '{task.name}' tell left from right: mirrored images would mix them"
        raise InputError(told, fix="leave out --flips")
    return task.inference.flips or ((1, 2) if task.model_dims == 2 else (0, 1, 2))


class _Run:
    """One call of `segment`: what all its cases share."""

    def __init__(self, predictor: Predictor, options: SegmentOptions, outputs: Outputs, count: int, progress: Watch | None):
        self.predictor, self.options, self.outputs = predictor, options, outputs
        self.count, self.progress = count, progress
        self.began, self.walked = time.monotonic(), 0.0
        self.agreement: Agreement | None = None

    def case(self, path: Input, index: int) -> Case:
        """Segment one input, or skip it."""
        name, outputs, options = case_name(path), self.outputs, self.options
        mark = self._fingerprint(path)
        if (noted := outputs.recall(name, mark)) is not None:
            done = self._pictured(_remembered(name, noted, outputs), path)
            self._tell(name, index, 1.0)
            return done
        image = read(path, series=options.series)
        target = outputs.mask_path(image)
        if outputs.begun(name, mark):
            target.unlink(missing_ok=True)
        if target.exists() and not options.overwrite:
            told = "there is a mask already, made from another input, weights or options, or by another version"
            raise OutputError(told, file=target, fix="name another folder, or allow --overwrite")
        outputs.forget(name)
        scores = outputs.probabilities(image) if options.save_probabilities else None
        walk = lambda done, tiles: self._tell(name, index, done / tiles)  # noqa: E731
        compare = options.report and self.agreement is None
        result = segment_image(image, self.predictor, options, probabilities=scores, compare=compare, progress=walk)
        self.agreement = self.agreement or result.agreement
        began = time.monotonic()
        outputs.begin(name, mark)
        try:
            write(result.mask, target, format=outputs.format, like=image, overwrite=options.overwrite)
        except BaseException:
            outputs.forget(name)
            raise
        result.seconds["write"] = time.monotonic() - began
        notes = (*result.notes, *outputs.lost(image))
        case = Case(
            name, "done", target, None, image.grid.shape, image.grid.spacing, result.seconds, notes, result.amounts,
            result.objects, scores,
        )  # fmt: skip
        try:
            outputs.note(name, mark, target, {key: asdict(case)[key] for key in _KEPT})
        except BaseException:  # a mask that nothing vouches for would stand in the way of the same command
            target.unlink(missing_ok=True)
            raise
        return replace(case, overlay=self._picture(image, result.mask, name))  # where it breaks, the next run draws it

    def summary(self, cases: Iterable[Case]) -> Summary:
        predictor = self.predictor
        return Summary(
            predictor.task.name, tuple(cases), time.monotonic() - self.began, predictor.arithmetic, predictor.device.type,
            predictor.weights_hash, self.agreement, notes=predictor.notes,
        )  # fmt: skip

    def _fingerprint(self, path: Input) -> str:
        decides = {key: value for key, value in asdict(self.options).items() if key not in _INDIFFERENT}
        weights, task = self.predictor.weights_hash, self.predictor.task.model_dump(mode="json")
        return fingerprint(RESULTS, content_hash(path), weights, task, decides)

    def _pictured(self, case: Case, path: Input) -> Case:
        """A case done before, with the pictures that are asked for only now."""
        places = [self.outputs.picture(case.name)] if self.options.report else []
        places += [self.outputs.overlay(case.name)] if self.options.overlays else []
        if not all(place.is_file() for place in places) and case.mask:
            image = read(path, series=self.options.series)
            mask = replace(read_mask(case.mask, like=image), labels=self.predictor.task.labels)
            self._picture(image, replace(mask, instances=self.predictor.task.instances), case.name)
        return replace(case, overlay=self.outputs.overlay(case.name)) if self.options.overlays else case

    def _picture(self, image: Image, mask: Mask, name: str) -> Path | None:
        """Draw the overlay: beside the ledger for the report, which shows it after a resumed run too, and where asked for."""
        if not (self.options.overlays or self.options.report):
            return None
        png = overlay(image, mask, window=_window(self.predictor.task))
        wanted = self.outputs.overlay(name) if self.options.overlays else None
        for path in (self.outputs.picture(name), wanted):
            if path is not None:
                with atomic(path) as part:
                    part.write_bytes(png)
        return wanted

    def _tell(self, name: str, index: int, done: float) -> None:
        if self.progress is None:
            return
        share = (index + done) / self.count
        spent = time.monotonic() - self.began
        self.progress(Progress(name, index, self.count, done, spent / share - spent if share > 0 else None))


_INDIFFERENT = {"overwrite", "report", "overlays", "task", "model", "weights"}  # the last three are in the hash of the weights
_KEPT = ("shape", "spacing_mm", "seconds", "notes", "amounts", "objects")


def _remembered(name: str, noted: dict[str, Any], outputs: Outputs) -> Case:
    kept = noted["result"]
    found = tuple(Amount(**amount) for amount in kept["amounts"])
    spacing = tuple(kept["spacing_mm"]) if kept["spacing_mm"] else None
    return Case(
        name, "skipped", outputs.folder / noted["mask"], None, tuple(kept["shape"]), spacing, kept["seconds"],
        tuple(kept["notes"]), found, kept["objects"],
    )  # fmt: skip


def _window(task: Task) -> tuple[float, float] | None:
    """The grey values the model itself looks at, where its steps state a window."""
    return next(((step.low, step.high) for step in task.steps if step.kind == "window"), None)


def _in_words(error: Exception) -> str:
    return str(error) if isinstance(error, InputError) else f"internal error: {type(error).__name__}: {error}"


class _Stages:
    """Seconds per stage; what a generator spends inside another stage is counted for itself."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        began, inner = time.monotonic(), sum(self.spent.values())
        yield
        self._add(stage, time.monotonic() - began - (sum(self.spent.values()) - inner))

    def during(self, stage: str, slabs: Iterable[Slab]) -> Iterator[Slab]:
        walk = iter(slabs)
        while True:
            with self(stage):
                slab = next(walk, None)
            if slab is None:
                return
            yield slab

    def _add(self, stage: str, seconds: float) -> None:
        self.spent[stage] = self.spent.get(stage, 0.0) + seconds
