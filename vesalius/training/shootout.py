"""The shoot-out: many models, one after another, each with the same data, split, augmentation, patch, batch, seed and budget.

    OUT/NAME/   a run as `train` makes it, and cost.json        OUT/shootout.json, shootout.md, pareto.png   see standings.py

Every plan is written before the first step is made. A model that fails is listed, and the others go on.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState

from ..core.atomic import FULL
from ..core.errors import InputError, OutputError, UnreadableFile, VesaliusError
from ..models.catalog import CATALOG, entry, gflops, parameter_count
from ..models.needs import check_dims
from ..pipeline.predictor import Predictor, choose_device, load
from ..pipeline.ranking import Cost, Entrant, rank
from ..pipeline.runs import RUN_WEIGHTS
from ..pipeline.segment import segment_image
from .checkpoint import CHECKPOINT
from .footprint import Footprint, footprint
from .inspect import Fingerprint, by
from .loop import Seen, adjust, begin, fit, limit_of, look
from .plan import VOXELS, Plan, choose_patch, outline, prepared_shapes, spacing_of
from .recipe import Recipe, override, read_recipe
from .session import Say, TrainOptions
from .slicewise import thickest, turned
from .split import Split
from .standings import RESULT, ShootOut, notes_on, read_json, remembered, write, write_json
from .summary import Scored, read_scores

ALL, RECIPE, COST = "all", "shootout", "cost.json"
WHOLE = 2  # times VOXELS: images up to this size are seen in one piece
STEP = 32  # pixels that patches of pictures go in, so that every model takes the same
TIMED = 20  # kept-back cases whose segmentation is timed

Runs = dict[str, tuple[Plan, Split]]


@dataclass(frozen=True)
class Course:
    """What all models have in common."""

    dataset: Path
    out: Path
    options: TrainOptions
    recipe: Recipe
    seen: Seen
    names: tuple[str, ...]
    say: Say

    def told(self, runs: Runs, finished: Mapping[str, Entrant], failures: Mapping[str, str]) -> ShootOut:
        """How things stand, written down."""
        patients = {case.name: case.patient for case in self.seen[0].cases}
        pending = tuple(name for name in self.names if name not in finished and name not in failures)
        notes = notes_on(runs, budget(self.recipe), choose_device(self.options.device))
        result = ShootOut(self.out, rank(list(finished.values()), patients), dict(failures), pending, notes)
        asked = {"models": self.names, "recipe": self.recipe.model_dump(mode="json", exclude_none=True)}
        write(result, asked, f"{self.seen[0].name}, {budget(self.recipe)} each")
        return result


def shoot_out(
    dataset: str | Path, out: str | Path, options: TrainOptions | None = None, *, say: Say = print, **given: Any
) -> ShootOut:
    """Train every model of `options.model` ('all', or 'unet,segvit') on `dataset` into `out`, and compare them.

    With `resume` finished models are skipped, and an unfinished one goes on from its checkpoint. Raises UnknownName and
    InputError for a list that cannot be, OutputError where a shoot-out lies already, and what is wrong with the data.

        >>> planned = vesalius.shoot_out("dataset", "runs/all", model="unet,segvit", plan_only=True, say=lambda line: None)
        >>> planned.pending
        ('unet', 'segvit')
    """
    options = replace(options or TrainOptions(model=ALL), **given)
    listed = read_names(options.model)
    refuse_what_does_not_fit(options)
    before = remembered(Path(out), resume=options.resume)
    recipe = common_recipe(options, before, Path(out))
    seen = look(Path(dataset), options, say)
    names = entrants(listed, before.get("models", ()), seen[1].dims, recipe.slices is not None, say)
    course = Course(Path(dataset), Path(out), options, with_patch(recipe, seen[1]), seen, names, say)
    if not before:
        course.told({}, {}, {})  # from here on it can be resumed, whatever happens
    runs, failures = begin_all(course)
    finished = {name: compare_one(course, name, *run) for name, run in runs.items() if is_finished(course.out / name)}
    result = course.told(runs, finished, failures)
    if options.plan_only:
        return result
    say(f"{len(runs)} models, {len(finished)} of them finished; each ends after {budget(course.recipe)}")
    for name in [name for name in runs if name not in finished]:
        say(f"{len(finished) + len(failures) + 1} of {len(names)}: {name}")
        try:
            train_one(course, name, *runs[name])
            finished[name] = compare_one(course, name, *runs[name])
        except Exception as error:  # any: at --resume it would come again, and the others never have their turn
            if isinstance(error, OutputError) or (isinstance(error, OSError) and error.errno in FULL):
                raise
            failures[name] = in_words(error)
            say(f"{name} failed: {failures[name]}")
        gc.collect()
        result = course.told(runs, finished, failures)
    return result


def refuse_what_does_not_fit(options: TrainOptions) -> None:
    """Raises InputError for options that speak of one model, or of several processes."""
    alone = {"task": options.task, "weights": options.weights, "plan": options.plan, "folds": options.folds, "fold": options.fold}
    for name, value in alone.items():
        if value is not None:
            raise InputError(f"--{name} is for a single model", fix=f"leave it out, or name one instead of '{options.model}'")
    if PartialState(cpu=choose_device(options.device).type == "cpu").num_processes > 1:
        raise InputError("a shoot-out runs in one process", fix="start it without torchrun or accelerate launch")


def read_names(text: str) -> tuple[str, ...] | None:
    """The models of a list with commas; None for 'all'. Raises UnknownName, and InputError for one that is no Segmenter."""
    if text == ALL:
        return None
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if entry(name).kind != "segmenter":
            raise InputError(f"'{name}' gives no classes for a whole image", fix="leave it out of the shoot-out")
        if names.count(name) > 1:
            raise InputError(f"'{name}' is named twice", fix="name each model once")
    if not names:
        raise InputError(f"'{text}' names no model", fix="write --model all, or --model unet,segvit")
    return names


def entrants(
    listed: tuple[str, ...] | None, before: tuple[str, ...], dims: int, sliced: bool, say: Say
) -> tuple[str, ...]:
    """Those of an earlier start, then those asked for; of 'all' only what takes the data's dimensions. Raises InputError.

    Where the recipe asks for slices of volumes (`sliced`) these are two, and whoever is named goes slice by slice if it must.
    """
    if listed is None:
        able = [name for name, one in CATALOG.items() if one.kind == "segmenter"]
        wanted = 2 if sliced else dims
        listed = tuple(name for name in able if wanted in entry(name).dims)
        if left := [name for name in able if name not in listed]:
            hint = "; named, or with [slices] in the recipe, they go slice by slice" if wanted == 3 else ""
            say(f"left out, as they take no {wanted}D data: {', '.join(left)}{hint}")
    for name in listed:
        if dims == 2 or sliced:  # volumes are for every model, plane by plane where it is a 2D one
            check_dims(name, entry(name).dims, 2)
    return tuple(dict.fromkeys([*before, *listed]))


def common_recipe(options: TrainOptions, before: Mapping[str, Any], out: Path) -> Recipe:
    """The recipe of all models; raises InputError where a shoot-out to be resumed began with another."""
    began = override(Recipe(), before["recipe"], str(out / RESULT)) if before else None
    chosen = options.recipe or began or RECIPE
    recipe = adjust(chosen if isinstance(chosen, Recipe) else read_recipe(chosen), options)
    if recipe.start is not None or recipe.model or recipe.prompting is not None:
        fix = "put what is for one model under [each.NAME], and begin with no weights"
        raise InputError("this recipe is for a single model", file=str(options.recipe), fix=fix)
    for name in recipe.each or {}:
        entry(name)  # raises UnknownName
        recipe.of(name)
    if began is not None:
        recipe = recipe.model_copy(update={"patch": recipe.patch or began.patch, "workers": began.workers})
        old, new = began.model_dump(), recipe.model_dump()
        if differing := [key for key in new if new[key] != old[key]]:
            fix = "leave out what differs, or start a new one in another folder"
            raise InputError(f"this shoot-out began with another {differing[0]}", file=out, fix=fix)
    return recipe


def with_patch(recipe: Recipe, found: Fingerprint) -> Recipe:
    """The recipe with the patch that all models share: its own, or the median image, cut where it is larger than WHOLE."""
    if recipe.patch is not None:
        return recipe
    dims = found.dims
    if recipe.slices and dims == 3:
        found, dims = turned(found, recipe.slices.axis or thickest(found)), 2
    z, y, x = (int(n) for n in np.median(prepared_shapes(found, recipe), 0))
    z = 1 if dims == 2 else z
    if z * y * x > WHOLE * VOXELS[dims]:
        z, y, x = choose_patch((z, y, x), dims, spacing_of(found, recipe))
    if dims == 2:
        y, x = (max(STEP, round(n / STEP) * STEP) for n in (y, x))
    return recipe.model_copy(update={"patch": (z, y, x)})


def begin_all(course: Course) -> tuple[Runs, dict[str, str]]:
    """Plan and split of every model, written before the first one is trained; and those that cannot be planned, with why.

    Raises OutputError where something else lies in the place of a run, InputError for runs of different splits.
    """
    runs: Runs = {}
    failures: dict[str, str] = {}
    for name in course.names:
        require_plan(course.out / name)
        try:
            plan, split, _ = begin(course.dataset, course.out / name, options_for(course, name), silent, course.seen)
        except OutputError:
            raise
        except InputError as error:
            failures[name] = str(error)
            course.say(f"{name} cannot be planned: {error}")
            continue
        runs[name] = plan, split
        size, numbers = by(plan.patch[3 - plan.dims :]), parameter_count(outline(name, plan.model.config))  # type: ignore[arg-type]
        course.say(f"{name}: {numbers / 1e6:.2f} M parameters, patch {size}, batch {plan.recipe.batch}")
        if split != next(iter(runs.values()))[1]:
            raise InputError("this run has another split than the first", file=course.out / name, fix="start in a new folder")
    return runs, failures


def require_plan(run: Path) -> None:
    """Raises OutputError where a run that has begun has lost its plan: without it nobody can go on."""
    if not (run / "plan.toml").is_file() and any((run / name).exists() for name in (CHECKPOINT, RUN_WEIGHTS)):
        fix = "put that file back, or delete this folder: the model is then trained anew"
        raise OutputError("this run has lost its plan.toml", file=run, fix=fix)


def options_for(course: Course, name: str) -> TrainOptions:
    """The options of one model's run: a new one by the common recipe, one that has begun by its own plan."""
    begun = (course.out / name / "plan.toml").is_file()
    recipe = None if begun else course.recipe  # which names the ends of the run
    return replace(course.options, model=name, resume=begun, recipe=recipe, minutes=None, epochs=None, steps=None)


def is_finished(run: Path) -> bool:
    """Whether everything about a run is known."""
    return read_scores(run) is not None and "images_per_second" in read_cost(run)


def read_cost(run: Path) -> dict[str, Any]:
    """What has been measured so far. Raises UnreadableFile."""
    path = run / COST
    if not path.is_file():
        return {}
    found = read_json(path, fix := "delete it: what it held is measured again")
    if not {*Footprint._fields} <= found.keys() <= {*Footprint._fields, "images_per_second"}:
        raise UnreadableFile("this is no record of a model's cost", file=path, fix=fix)
    return found


def train_one(course: Course, name: str, plan: Plan, split: Split) -> None:
    """One model's run to its end, and RUN/cost.json; what an earlier start has done is not done again."""
    run, device = course.out / name, choose_device(course.options.device)
    cost = read_cost(run)
    if not cost:  # first, so that a network too large for this machine takes down a child process and not this one
        cost = footprint(run / "plan.toml", device)._asdict()
        write_json(run / COST, cost)
    if read_scores(run) is None:
        fit(plan, split, course.seen[0], run, options_for(course, name), course.say)
    predictor = load(run, device=device.type, precision=plan.recipe.precision)
    write_json(run / COST, cost | {"images_per_second": images_per_second(predictor, course.seen[0], split)})


def images_per_second(predictor: Predictor, data: Any, split: Split) -> float:
    """Kept-back cases through the hallway, reading them not counted; the first is done once before, to warm up."""
    cases = {case.name: case for case in data.cases}
    segment_image(data.image(cases[split.validation[0]]), predictor)
    seconds = 0.0
    for name in split.validation[:TIMED]:
        image = data.image(cases[name])
        start = time.perf_counter()
        segment_image(image, predictor)
        seconds += time.perf_counter() - start
    return min(TIMED, len(split.validation)) / seconds


def compare_one(course: Course, name: str, plan: Plan, split: Split) -> Entrant:
    """What a finished run comes to."""
    scored: Scored | None = read_scores(course.out / name)
    assert scored is not None  # is_finished, or train_one has just seen to it
    model = outline(name, plan.model.config)
    channels = plan.model.config.get("in_channels", len(plan.task.channels))
    cost = Cost(
        parameters=parameter_count(model),  # type: ignore[arg-type]
        gflops=gflops(model, (1, channels, *plan.patch[3 - plan.dims :])),  # type: ignore[arg-type]
        size=plan.patch,
        steps=scored.steps,
        seconds=scored.seconds,
        trained_per_second=scored.steps * (plan.recipe.batch or 1) / max(scored.seconds, 1e-9),
        **read_cost(course.out / name),
    )
    unit = "mm" if any("hd95_mm" in metrics for labels in scored.cases.values() for metrics in labels.values()) else "px"
    dice, hd95 = (
        {case: over_labels(scored.cases[case], metric) for case in split.validation} for metric in ("dice", f"hd95_{unit}")
    )
    return Entrant(name, dice, hd95, unit, cost)


def over_labels(labels: Mapping[str, Mapping[str, float]], metric: str) -> float:
    """The mean over the labels that have a value; NaN where none has."""
    values = [metrics[metric] for metrics in labels.values() if math.isfinite(metrics.get(metric, math.nan))]
    return sum(values) / len(values) if values else math.nan


def budget(recipe: Recipe) -> str:
    """What ends each run, in words."""
    limit = limit_of(recipe)
    minutes = [f"{limit.seconds / 60:g} minutes"] if limit.seconds else []
    return " or ".join([*minutes, *([f"{limit.steps} steps"] if limit.steps else [])])


def in_words(error: Exception) -> str:
    """Why a model failed, in one line; where that is a fault of ours, it is called one."""
    expected = isinstance(error, VesaliusError | RuntimeError | MemoryError | ValueError | OSError)
    told = str(error) or type(error).__name__
    return " ".join((told if expected else f"internal error: {type(error).__name__}: {told}").split())


def silent(_: str) -> None:
    """Said to nobody: every plan would repeat what was told of the data."""
