"""The hallway in words: every step with the user's own shapes and millimetres, without running the network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..core.image import Grid, Image
from ..io.files import read
from ..tasks.task import Task
from ..transforms.restore import Restore
from ..transforms.spatial import Step, prepare
from .memory import Budget, readable
from .outputs import Outputs
from .pages import pages
from .predictor import Predictor
from .segment import SegmentOptions, fit_channels, fit_dims, flips_of, inputs_of, predictor_of, said_of
from .tiled import plan_tiles


def explain(input: str | Path, out: str | Path, options: SegmentOptions) -> str:
    """What `segment` with the same arguments would do to its first case, a line a step. Writes nothing; raises as `segment`."""
    predictor = predictor_of(options)
    inputs = inputs_of(input, options, predictor.task)
    outputs = Outputs.of(out, inputs, options.format)
    image = read(inputs[0], series=options.series)
    lines = [*explain_image(image, predictor, options), ("write", f"{outputs.mask_path(image)}, on the image's own grid")]
    lines += [("", f"note: {note}") for note in (*said_of(input, inputs, predictor.task), *predictor.notes)]
    if len(inputs) > 1:
        lines.append(("", f"and so for {len(inputs) - 1} more cases"))
    width = max(len(step) for step, _ in lines)
    return "\n".join(f"{step:<{width}}  {said}" for step, said in lines)


def explain_image(image: Image, predictor: Predictor, options: SegmentOptions) -> Iterator[tuple[str, str]]:
    """(step, what it does) for one image, from reading to cleaning."""
    task = predictor.task
    yield "read", f"{image.name}: {_channels(image)}, {_grid(image.grid)}, {image.array.dtype}"
    fitted = fit_dims(fit_channels(image, task), task)
    for note in fitted.notes:
        yield "", f"note: {note}"
    fitted = pages(fitted, task)[0]
    small = fitted
    for step in task.steps:
        before = small
        small, _ = prepare(small, (step,))
        yield step.kind, _step(step, before, small)
    _, restore = prepare(fitted, task.steps)
    yield from _network(image, small, restore, predictor, options)
    yield "restore", _restore(restore)
    yield "decide", f"{task.decide.kind}: {task.outputs} channels -> {_labels(task)}"
    for rule in task.clean:
        yield rule.kind, _settings(rule) or "of every label"


def _network(
    image: Image, small: Image, restore: Restore, predictor: Predictor, options: SegmentOptions
) -> Iterator[tuple[str, str]]:
    task = predictor.task
    overlap = task.inference.overlap if options.overlap is None else options.overlap
    flips = flips_of(task, options.flips)
    budget = Budget.of(options.max_ram, image, small, restore, task.outputs)
    plan = plan_tiles(
        predictor.models,
        small.array.shape,
        patch=task.inference.patch,
        overlap=overlap,
        precision=predictor.precision,
        ram_bytes=budget.tiles,
        context=task.context,
    )
    if task.slices:
        yield "slices", _slices(task, small)
    counts = " x ".join(str(len(axis)) for axis in plan.starts)
    depth, height, width = plan.patch
    patch = Grid((depth, height, width), None, small.grid.dims)
    extent = ""
    if small.grid.spacing:
        extent = f" ({_times(n * s for n, s in zip(plan.patch, small.grid.spacing, strict=True))} mm)"
    yield "tiles", f"{_grid(patch)}{extent}, overlap {overlap:g}: {counts} = {plan.tiles} tiles, {plan.batch} at a time"
    numbers = sum(p.numel() for p in predictor.models[0].parameters())
    runs = len(predictor.models) * 2 ** len(flips)
    folds = f", {len(predictor.models)} folds" if len(predictor.models) > 1 else ""
    yield (
        "model",
        (
            f"{task.model.name}, {numbers / 1e6:.2f} million parameters{folds}, {runs} pass{'es' * (runs > 1)} a tile, "
            f"{predictor.arithmetic} on {predictor.device.type}"
        ),
    )
    held = f"about {readable(plan.held_bytes)} for tiles and scores"
    yield "memory", f"{held}, leaving in slabs of {plan.slab} plane{'s' * (plan.slab > 1)}, beside image and weights"


def _slices(task: Task, small: Image) -> str:
    """Which planes a 2D model sees, and how many of them at once."""
    oriented = next((step.slices for step in task.steps if step.kind == "orient"), None) if small.grid.spacing else None
    walk = f"{oriented or 'stored'} planes, one by one along z"
    if not task.context:
        return f"{walk}, each alone"
    sides = f"{task.context} neighbour{'s' * (task.context > 1)} on either side"
    return f"{walk}, each with {sides}: {len(task.channels)} x {2 * task.context + 1} channels"


def _step(step: Step, before: Image, after: Image) -> str:
    settings = _settings(step)
    if before.grid is not after.grid and not before.grid.same_as(after.grid):
        return f"{settings + ': ' if settings else ''}{_grid(before.grid)} -> {_grid(after.grid)}"
    ranges = f"{_range(before)} -> {_range(after)}"
    return f"{settings + ': ' if settings else ''}{'nothing to do' if before.array is after.array else ranges}"


def _restore(restore: Restore) -> str:
    names = [type(undo).__name__.lower() for undo in restore.undos]
    return f"{_grid(restore.prepared)} -> {_grid(restore.original)}" + (f" ({', '.join(names)})" if names else ", the same grid")


def _labels(task: Task) -> str:
    if task.instances:
        return "numbered objects"
    return ", ".join(f"{label.value} {label.name}" for label in task.labels)


def _settings(record: Any) -> str:
    """The fields of a step or a rule that say something, as name value."""
    said = ((f.name, getattr(record, f.name)) for f in fields(record) if f.name != "kind")
    return ", ".join(f"{name} {_value(value)}" for name, value in said if value not in (None, False, ()))


def _value(value: Any) -> str:
    return _times(value) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else str(value)


def _grid(grid: Grid) -> str:
    unit = "pixels (y, x)" if grid.dims == 2 else "voxels (z, y, x)"
    said = f"{_times(grid.shape[-grid.dims :])} {unit}"
    if grid.spacing is None:
        return said
    return f"{said} of {_times(grid.spacing[-grid.dims :])} mm, {grid.orientation}"


def _channels(image: Image) -> str:
    return f"{len(image.array)} channel{'s' * (len(image.array) > 1)} ({', '.join(image.channels)})"


def _range(image: Image) -> str:
    return f"{image.array.min():.4g} to {image.array.max():.4g}{' ' + image.units if image.units else ''}"


def _times(numbers: Any) -> str:
    return " x ".join(f"{n:.3g}" if isinstance(n, float) else str(n) for n in numbers)
