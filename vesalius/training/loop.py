"""Training, from a dataset folder to a run folder: inspect, plan, split, prepare, then steps until the end.

RUN/plan.toml  split.json  metrics.jsonl  tensorboard/  checkpoint.pt  weights.safetensors  report.html
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState

from ..core.atomic import sole_writer
from ..core.errors import DatasetError, InputError, OutputError, unknown_name
from ..io.datasets import open_dataset
from ..models.catalog import build, entry
from ..models.compiled import require_no_openvino
from ..models.pretrained import begin_with, head_of, read_weights
from ..pipeline.predictor import choose_device
from ..pipeline.runs import RUN_WEIGHTS
from ..tasks.catalog import TASKS
from ..tasks.task import Task
from ..transforms.spatial import Orient, Resample
from .appearance import shares
from .augment import Augmentation
from .border import class_weights
from .checkpoint import CHECKPOINT, state_of
from .data import Order, Prepared, Samples, batches, gather
from .identity import identity
from .inspect import Fingerprint, fingerprint
from .plan import Data, Plan, check_labels, derive, fit_patch, read_plan, unmirrored, write_plan
from .recipe import Recipe, override, read_recipe
from .session import RunSummary, Say, Session, TrainOptions
from .split import Split, read_split, split_cases, write_split
from .trainer import Limit, Trainer
from .validate import Held

__all__ = ["RunSummary", "TrainOptions", "train"]

Seen = tuple[Any, Fingerprint]  # a dataset, and what it is like
EPOCHS = 100  # where neither the recipe nor the caller names an end


def train(
    dataset: str | Path, out: str | Path, options: TrainOptions | None = None, *, say: Say = print, **given: Any
) -> list[RunSummary]:
    """Train on the dataset folder `dataset` into the run folder `out`; one summary a fold (none with `plan_only`).

        >>> told = []
        >>> runs = vesalius.train("dataset", "runs/first", epochs=1, recipe="short.toml", quiet=True, say=told.append)
        >>> runs[0].weights.name
        'weights.safetensors'

    Options are given as one record or by name; `say` takes each line about what is found and done.
    Raises OutputError for an existing run without `resume`, DatasetError and UnknownName for what the options ask in vain,
    InputError where this process has loaded OpenVINO.
    """
    options = replace(options or TrainOptions(), **given)
    if options.several:
        raise InputError(f"'{options.model}' is not one model", fix="compare several with vesalius.shoot_out")
    require_no_openvino()
    device = choose_device(options.device)  # one that is absent is told before a run is begun
    PartialState(cpu=device.type == "cpu")  # joins the other processes, if there are any
    if options.weights is not None:
        read_weights(options.weights)  # one that cannot be read is told before a run is begun
    out = Path(out)
    say = say if is_main() else lambda _: None
    from .promptable import is_promptable, train_promptable  # which only its own kind of model needs

    if is_promptable(options, out):
        recipe = adjust(chosen_recipe(options, options.model), options)
        with sole_writer(out) if is_main() else nullcontext():
            return train_promptable(Path(dataset), out, options, recipe, limit_of, say)
    if options.folds is None:
        if options.fold is not None:
            raise InputError("a fold of how many?", fix="give --folds too")
        runs = [(out, 0)]
    else:
        if options.folds < 2:
            raise InputError(f"{options.folds} folds leave nobody to train on", fix="ask for 2 or more")
        chosen = range(options.folds) if options.fold is None else [options.fold]
        require_same_folds(out, options.folds)
        runs = [(out / f"fold_{fold}", fold) for fold in chosen]
    summaries = []
    for run, fold in runs:
        with sole_writer(run) if is_main() else nullcontext():
            plan, split, data = begin(Path(dataset), run, replace(options, fold=fold), say)
            if not options.plan_only:
                summaries.append(fit(plan, split, data, run, options, say))
    return summaries


def begin(dataset: Path, run: Path, options: TrainOptions, say: Say, seen: Seen | None = None) -> tuple[Plan, Split, Any]:
    """The plan and split of the run: those it began with when it is resumed, else new ones, written before anything starts.

    `seen`: what `look` found, where it has looked already.
    """
    planned = (run / "plan.toml").exists()
    if options.resume and not planned and options.folds is None:
        raise OutputError("there is no run to resume here", file=run, fix="start it without --resume")
    if options.resume and planned:
        return take_up(dataset, run, options, say, seen)
    if is_main() and any((run / name).exists() for name in (CHECKPOINT, "metrics.jsonl", RUN_WEIGHTS)):
        raise OutputError("a run lies here already", file=run, fix="go on with --resume, or choose another folder")
    if is_main() and planned and options.plan is None:
        fix = f"start from it with --plan {run / 'plan.toml'}, or choose another folder"
        raise OutputError("a plan lies here already", file=run, fix=fix)
    if run.is_file():
        raise OutputError("a file stands where the run should go", file=run, fix="choose another folder")
    plan, data = read_or_derive(dataset, options, say, seen)
    if plan.recipe.start is not None:  # weights that do not fit are told before a plan stands in the way of the next try
        name, config = plan.task.model.name, plan.task.model.config
        begin_with(build(name, config), plan.recipe.start, head_of(name, config))
    fraction = plan.recipe.validation_fraction
    seed, fold = plan.recipe.seed, options.fold or 0
    split = split_cases(data.cases, fraction=fraction, seed=seed, folds=options.folds, fold=fold, say=say, own=data.folds)
    if options.folds is not None:
        require_one_cut(data, plan.recipe, options.folds, run)
    plan = with_data(plan, cases=identity(cases_of(split, data)))
    if is_main():
        write_split(split, run / "split.json")  # first: whoever finds a plan finds its split
        write_plan(plan, run / "plan.toml")
        say(f"the plan is in {run / 'plan.toml'}")
    return plan, split, data


def take_up(dataset: Path, run: Path, options: TrainOptions, say: Say, seen: Seen | None) -> tuple[Plan, Split, Any]:
    """The plan, split and data of a run that goes on; a new end, or a new place of the data, is written into its plan."""
    began = read_plan(run / "plan.toml")
    require_same(began, run, options)
    plan = began.model_copy(update={"recipe": adjust(began.recipe, options)})
    data = seen[0] if seen else open_dataset(dataset, instances=plan.data.instances, patients=plan.data.patients)
    split = read_split(run / "split.json")
    if plan.data.cases is not None and identity(cases_of(split, data)) != plan.data.cases:
        told = f"the files of this dataset are not those that the run in {run} began with"
        raise DatasetError(told, file=dataset, fix=f"give that dataset (it lay in {plan.data.path}), or start a new run")
    plan = with_data(plan, path=str(dataset.resolve()))
    if plan != began and is_main():
        write_plan(plan, run / "plan.toml")
    return plan, split, data


def cases_of(split: Split, data: Any) -> list[Any]:
    """The cases of a run. Raises DatasetError where one is gone."""
    cases = {case.name: case for case in data.cases}
    names = (*split.train, *split.validation)
    if missing := [name for name in names if name not in cases]:
        raise DatasetError(f"case {missing[0]} of the run's split is gone", file=data.root, fix="restore it, or start anew")
    return [cases[name] for name in names]


def with_data(plan: Plan, **changes: Any) -> Plan:
    return plan.model_copy(update={"data": plan.data.model_copy(update=changes)})


def require_same_folds(out: Path, folds: int) -> None:
    """Raises InputError where folds lie in `out` already that were cut another way: their cases would be on both sides."""
    for file in sorted(out.glob("fold_*/plan.toml")):
        data = read_plan(file).data
        if data.cases is not None and (before := data.folds) not in (None, folds):  # older plans may name another run's folds
            fix = f"ask for --folds {before}, or name another folder"
            raise InputError(f"the folds here are {before}, not {folds}", file=out, fix=fix)


def require_one_cut(data: Any, recipe: Recipe, folds: int, run: Path) -> None:
    """Raises InputError where another fold beside `run` was cut from other cases, by another seed or other patients."""
    for fold in range(folds):
        file = run.parent / f"fold_{fold}" / "split.json"
        ours = split_cases(
            data.cases, fraction=0.5, seed=recipe.seed, folds=folds, fold=fold, say=lambda _: None, own=data.folds
        )
        if file.parent != run and file.is_file() and ours != read_split(file):
            told = f"{file.parent.name} here is of another cut than {run.name}: of other cases, another seed or other patients"
            raise InputError(told, file=run.parent, fix="repeat what that fold was given, or name another folder")


def require_same(plan: Plan, run: Path, options: TrainOptions) -> None:
    """Raises InputError where a run to be resumed is asked for another recipe, plan, task, model, seed or weights."""

    def refuse(option: str, told: str) -> InputError:
        return InputError(f"this run began with {told}", file=run, fix=f"leave out --{option} to go on, or start a new run")

    task, data = plan.task, plan.data
    if options.task is not None and options.task != task.name:
        raise refuse("task", f"the task '{task.name}', not '{options.task}'")
    if options.model not in (TrainOptions.model, task.model.name):
        raise refuse("model", f"the model '{task.model.name}', not '{options.model}'")
    if options.instances and not data.instances:
        raise refuse("instances", "masks of classes, not of objects")
    if options.seed not in (None, plan.recipe.seed):
        raise refuse("seed", f"the seed {plan.recipe.seed}, not {options.seed}")
    if options.patients is not None and absolute(options.patients) != absolute(data.patients):
        raise refuse("patients", f"the patients of {data.patients or 'its own dataset'}")
    if options.weights is not None and absolute(options.weights) != absolute(plan.recipe.start):
        raise refuse("weights", f"the weights of {plan.recipe.start}" if plan.recipe.start else "random weights")
    if options.plan is not None:
        wanted = read_plan(options.plan)
        if wanted.task != task:
            raise refuse("plan", "another plan: its task differs")
        recipe, option = adjust(wanted.recipe, options), "plan"
    elif options.recipe is not None:
        recipe, option = fitting_recipe(options, plan), "recipe"
    else:
        return
    if what := difference(adjust(plan.recipe, options), recipe):
        raise refuse(option, what)


def require_no_contradiction(plan: Plan, options: TrainOptions) -> None:
    """Raises InputError for an option that asks for something else than the plan it is given with."""

    def refuse(option: str, told: str) -> InputError:
        fix = f"leave out --{option}, or edit the plan"
        return InputError(f"--{option} does not go with this plan, which is {told}", file=options.plan, fix=fix)

    task = plan.task
    if options.model not in (TrainOptions.model, task.model.name):
        raise refuse("model", f"for the model '{task.model.name}', not '{options.model}'")
    if options.task not in (None, task.name):
        raise refuse("task", f"for the task '{task.name}', not '{options.task}'")
    if options.instances and not plan.data.instances:
        raise refuse("instances", "for masks of classes, not of objects")
    if not options.resample and any(step.kind == "resample" for step in task.steps):
        raise refuse("no-resample", "one that resamples")
    if options.recipe is not None and (what := difference(adjust(plan.recipe, options), fitting_recipe(options, plan))):
        raise refuse("recipe", f"one with {what}")


def fitting_recipe(options: TrainOptions, plan: Plan) -> Recipe:
    """The recipe that was asked for, its patch and flips as `derive` makes them fit, with what the caller chose."""
    task = plan.task
    axis = next((step.slices for step in task.steps if isinstance(step, Orient)), Orient().slices)
    recipe = unmirrored(adjust(chosen_recipe(options, task.model.name), options), task.labels, axis)
    if recipe.patch is None:
        return recipe
    return recipe.model_copy(update={"patch": fit_patch(recipe.patch, task.model.name, task.model.config, task.model_dims)})


def difference(began: Recipe, recipe: Recipe) -> str | None:
    """In words, the first value of `began` that `recipe` wants otherwise."""
    has, wants = began.model_dump(), recipe.model_dump()
    for key, value in wants.items():
        if value is not None and value != has[key]:
            return f"another {key}" if isinstance(value, dict) else f"{key} = {has[key]}, not {value}"
    return None


def read_or_derive(dataset: Path, options: TrainOptions, say: Say, seen: Seen | None = None) -> tuple[Plan, Any]:
    """The plan in a file, or one derived from the data."""
    if options.plan is not None:
        plan = read_plan(options.plan)
        require_no_contradiction(plan, options)
        plan = plan.model_copy(update={"recipe": adjust(plan.recipe, options)})
        patients = absolute(options.patients or plan.data.patients)
        data = open_dataset(dataset, instances=plan.data.instances, patients=patients)
        place = {"path": str(dataset.resolve()), "name": data.name, "patients": patients}
        plan = with_data(plan, **place, folds=options.folds, fold=options.fold or 0)
        check_labels(plan.task, data)
        for note in data.notes:
            say(note)
        say(f"as the plan says: the task '{plan.name}', the model '{plan.model.name}'")
        return plan, data
    if options.task is not None and options.task not in TASKS:
        raise unknown_name("task", options.task, TASKS)
    like = TASKS[options.task] if options.task else None
    if entry(options.model).kind != "segmenter":
        raise InputError(f"'{options.model}' cannot be trained yet", fix="train a model that gives class logits, such as unet")
    recipe = adjust(chosen_recipe(options, options.model, like), options)
    instances = options.instances or (like is not None and like.instances)
    options = replace(options, instances=instances)
    seen = seen or look(dataset, options, say)
    if options.recipe is None and like is None and recipe.model and recipe.start is None:
        say(
            f"the recipe '{entry(options.model).recipe}' has the paper's sizes, made to begin with pretrained weights "
            "(--weights FILE); --recipe default plans a smaller network that learns from random ones"
        )
    return plan_for(seen, dataset, options, recipe, like, say), seen[0]


def look(dataset: Path, options: TrainOptions, say: Say) -> Seen:
    """The dataset and its fingerprint, told about."""
    data = open_dataset(dataset, instances=options.instances, patients=options.patients)
    for note in data.notes:
        say(note)
    found = fingerprint(data)
    for line in found.describe([label.name for label in data.labels] if not options.instances else ["objects"]):
        say(line)
    return data, found


def plan_for(seen: Seen, dataset: Path, options: TrainOptions, recipe: Recipe, like: Task | None, say: Say) -> Plan:
    """The plan for what `look` found."""
    data, found = seen
    about = Data(
        path=str(Path(dataset).resolve()),
        name=data.name,
        instances=options.instances,
        patients=absolute(options.patients),
        folds=options.folds,
        fold=options.fold or 0,
        frequencies=tuple(int(n) for n in found.counts),
        notes=tuple(data.notes),
    )
    return derive(data, found, about, model=options.model, recipe=recipe, like=like, resample=options.resample, say=say)


def absolute(path: str | Path | None) -> str | None:
    """So that the run can go on from any folder."""
    return str(Path(path).resolve()) if path else None


def chosen_recipe(options: TrainOptions, model: str, like: Task | None = None) -> Recipe:
    """The recipe that was asked for, or that of the shipped task `like`, or of the model's catalog entry; for this model.

    Raises UnknownName where it speaks of a model that is not there.
    """
    chosen = options.recipe or (like.name if like else entry(model).recipe)
    recipe = chosen if isinstance(chosen, Recipe) else read_recipe(chosen)
    for name in recipe.each or {}:
        entry(name)  # one that is misspelt is told, not passed over
    return recipe.of(model)


def adjust(recipe: Recipe, options: TrainOptions) -> Recipe:
    """The recipe with what the caller chose laid over it; an end the caller names replaces the recipe's."""
    chosen = {
        "seed": options.seed,
        "workers": options.workers,
        "precision": options.precision,
        "patience": options.patience,
        "start": absolute(options.weights),
    }
    wanted: dict[str, Any] = {key: value for key, value in chosen.items() if value is not None}
    ends = {"epochs": options.epochs, "steps": options.steps, "minutes": options.minutes}
    return override(recipe, wanted | (ends if any(ends.values()) else {}), "options")


def fit(plan: Plan, split: Split, data: Any, run: Path, options: TrainOptions, say: Say) -> RunSummary:
    """Train as the plan says, from the checkpoint if the run is resumed, to its end."""
    cases_of(split, data)  # all of them are there
    cases = {case.name: case for case in data.cases}
    state = state_of(run, plan) if options.resume else None
    trainer = Trainer(plan, choose_device(options.device), limit_of(plan.recipe))
    prepared = gather(data, [cases[n] for n in split.train], plan.task, cache=run / "cache", limit_gb=options.cache_gb, say=say)
    if missing := never_shown(prepared, plan.task):
        say(f"no training case holds {', '.join(missing)}: this cannot be learned")
    held = Held(data, tuple(cases[n] for n in split.validation))
    session = Session(plan, trainer, held, run, options, say)
    if state is not None:
        session.restore(state)
        say(f"going on from step {trainer.step}")
    elif plan.recipe.start is not None:
        say(trainer.begin(plan.recipe.start))
    samples = make_samples(prepared, plan)
    rank, world = trainer.accelerator.process_index, trainer.accelerator.num_processes
    return session.train(batches(samples, Order(trainer.step, plan.recipe.batch or 1, rank, world), plan.recipe.workers))


def never_shown(prepared: Sequence[Prepared], task: Task) -> list[str]:
    """The labels that no prepared case holds."""
    shown = {int(case.mask[tuple(spots[0])]) for case in prepared for spots in case.spots}
    return [] if task.instances else [label.name for k, label in enumerate(task.labels, 1) if k not in shown]


def make_samples(prepared: list, plan: Plan) -> Samples:
    """The samples of a plan: augmentation, balance, and the border map where the loss wants it."""
    recipe, task, patch = plan.recipe, plan.task, plan.patch
    output = valid_output(plan)
    overhang = tuple((p - o) // 2 for p, o in zip(patch, output, strict=True))
    first = 3 - task.model_dims
    spacing = next((step.spacing_mm[first:] for step in task.steps if isinstance(step, Resample)), None)
    return Samples(
        prepared,
        task,
        Augmentation(recipe.augment, patch[first:], spacing),
        patch=patch,
        seed=recipe.seed,
        foreground=recipe.foreground,
        shares=shares([case.image for case in prepared], recipe.seed) if recipe.balance == "appearance" else None,
        overhang=overhang,
        class_weights=class_weights(np.array(plan.data.frequencies)) if plan.loss == "border_ce" else None,
    )


def valid_output(plan: Plan) -> tuple[int, ...]:
    """The size of what the network gives for a patch; smaller than it for valid convolutions."""
    size = build(plan.task.model.name, plan.task.model.config).output_size(plan.patch[3 - plan.dims :])
    return (1, *size) if plan.dims == 2 else size


def limit_of(recipe: Recipe) -> Limit:
    """The first of minutes, epochs and steps; EPOCHS where the recipe names no end."""
    steps = [n for n in (recipe.steps, recipe.epochs and recipe.epochs * recipe.steps_per_epoch) if n]
    if not steps and recipe.minutes is None:
        steps = [EPOCHS * recipe.steps_per_epoch]
    return Limit(60 * recipe.minutes if recipe.minutes else None, min(steps) if steps else None)


def is_main() -> bool:
    """Whether this process writes: the only one, or rank 0 of several."""
    return PartialState().is_main_process
