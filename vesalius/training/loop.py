"""Training, from a dataset folder to a run folder: inspect, plan, split, prepare, then steps until the limit.

    RUN/plan.toml  split.json  metrics.jsonl  tensorboard/  checkpoint.pt  weights.safetensors  report.html

The weights are the running average (EMA). With `keep = 'last'` they are those of the end, where the schedule has
come down to zero; with 'best' those of the highest validation Dice.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..core.errors import DatasetError, InputError, OutputError, unknown_name
from ..io.datasets import open_dataset
from ..models.catalog import entry
from ..models.weights import save
from ..pipeline.predictor import RUN_WEIGHTS, TASK_KEY, choose_device
from ..tasks.catalog import TASKS
from .appearance import shares
from .augment import Augmentation
from .border import class_weights
from .checkpoint import load_checkpoint, save_checkpoint
from .data import Order, Samples, batches, gather
from .inspect import fingerprint
from .journal import Bar, Journal
from .plan import Data, Plan, derive, read_plan, write_plan
from .recipe import Recipe, override, read_recipe
from .split import Split, read_split, split_cases, write_split
from .summary import write_report
from .trainer import Limit, Trainer
from .validate import Held, Scores, load_held, mean_dice, means, validate

Say = Callable[[str], None]
VALIDATION_SHARE = 0.1  # of the time so far that validations between epochs may take, where a run is limited in minutes
QUICK = 16  # cases looked at between epochs; all of them at the end


@dataclass(frozen=True)
class TrainOptions:
    """What the caller may choose; None leaves it to the recipe. `minutes`, `epochs`, `steps`: the first reached ends the run."""

    model: str = "unet"
    task: str | None = None
    recipe: str | Path | Recipe | None = None
    plan: str | Path | None = None
    plan_only: bool = False
    instances: bool = False
    patients: str | Path | None = None
    folds: int | None = None
    fold: int | None = None
    resample: bool = True
    minutes: float | None = None
    epochs: int | None = None
    steps: int | None = None
    patience: int | None = None
    resume: bool = False
    seed: int | None = None
    workers: int | None = None
    device: str = "auto"
    precision: str | None = None
    quiet: bool = False
    half: bool = False  # store float16
    checkpoint_seconds: float = 120.0
    cache_gb: float = 4.0


@dataclass(frozen=True)
class RunSummary:
    """What came out: the run folder, the validation `dice` (mean over labels and cases) and `scores` per label and metric."""

    path: Path
    dice: float
    scores: Scores
    epochs: int
    steps: int
    seconds: float
    weights: Path | None


def train(dataset: str | Path, out: str | Path, options: TrainOptions | None = None, *, say: Say = print) -> list[RunSummary]:
    """Train on the dataset folder `dataset` into the run folder `out`; one summary a fold (none with `plan_only`).

    Raises OutputError for an existing run without `resume`, DatasetError and UnknownName for what the options ask in vain.
    """
    options = options or TrainOptions()
    out = Path(out)
    if options.folds is None:
        if options.fold is not None:
            raise InputError("a fold of how many?", fix="give --folds too")
        runs = [(out, 0)]
    else:
        chosen = range(options.folds) if options.fold is None else [options.fold]
        runs = [(out / f"fold_{fold}", fold) for fold in chosen]
    summaries = []
    for run, fold in runs:
        plan, split, data = begin(Path(dataset), run, replace(options, fold=fold), say)
        if not options.plan_only:
            summaries.append(fit(plan, split, data, run, options, say))
    return summaries


def begin(dataset: Path, run: Path, options: TrainOptions, say: Say) -> tuple[Plan, Split, Any]:
    """The plan and split of the run: those it began with when it is resumed, else new ones, written before anything starts."""
    exists = (run / "plan.toml").exists()
    if options.resume:
        if not exists:
            raise OutputError("there is no run to resume here", file=run, fix="start it without --resume")
        plan = read_plan(run / "plan.toml")
        data = open_dataset(dataset, instances=plan.data.instances, patients=plan.data.patients)
        return plan, read_split(run / "split.json"), data
    if exists and is_main():
        raise OutputError("a run lies here already", file=run, fix="go on with --resume, or choose another folder")
    if run.is_file():
        raise OutputError("a file stands where the run should go", file=run, fix="choose another folder")
    plan, data = read_or_derive(dataset, options, say)
    fraction = plan.recipe.validation_fraction
    split = split_cases(
        data.cases, fraction=fraction, seed=plan.recipe.seed, folds=options.folds, fold=options.fold or 0, say=say
    )
    if is_main():
        write_plan(plan, run / "plan.toml")
        write_split(split, run / "split.json")
        say(f"the plan is in {run / 'plan.toml'}")
    return plan, split, data


def read_or_derive(dataset: Path, options: TrainOptions, say: Say) -> tuple[Plan, Any]:
    """The plan in a file, or one derived from the data."""
    if options.plan is not None:
        plan = read_plan(options.plan)
        plan = plan.model_copy(update={"recipe": adjust(plan.recipe, options)})
        return plan, open_dataset(dataset, instances=plan.data.instances, patients=options.patients or plan.data.patients)
    if options.task is not None and options.task not in TASKS:
        raise unknown_name("task", options.task, TASKS)
    like = TASKS[options.task] if options.task else None
    chosen = options.recipe or (options.task if like else entry(options.model).recipe)
    recipe = adjust(chosen if isinstance(chosen, Recipe) else read_recipe(chosen), options)
    instances = options.instances or (like is not None and like.instances)
    data = open_dataset(dataset, instances=instances, patients=options.patients)
    for note in data.notes:
        say(note)
    found = fingerprint(data)
    for line in found.describe([label.name for label in data.labels] if not instances else ["objects"]):
        say(line)
    patients = str(options.patients) if options.patients else None
    about = Data(
        path=str(Path(dataset).resolve()),
        name=data.name,
        instances=instances,
        patients=patients,
        folds=options.folds,
        fold=options.fold or 0,
        frequencies=tuple(int(n) for n in found.counts),
        notes=tuple(data.notes),
    )
    return derive(data, found, about, model=options.model, recipe=recipe, like=like, resample=options.resample, say=say), data


def adjust(recipe: Recipe, options: TrainOptions) -> Recipe:
    """The recipe with what the caller chose laid over it."""
    wanted = {
        "seed": options.seed,
        "workers": options.workers,
        "precision": options.precision,
        "patience": options.patience,
        "epochs": options.epochs,
    }
    return override(recipe, {key: value for key, value in wanted.items() if value is not None}, "options")


def fit(plan: Plan, split: Split, data: Any, run: Path, options: TrainOptions, say: Say) -> RunSummary:
    """Train as the plan says, from the checkpoint if the run is resumed, to the limit."""
    cases = {case.name: case for case in data.cases}
    missing = [name for name in (*split.train, *split.validation) if name not in cases]
    if missing:
        raise DatasetError(f"case {missing[0]} of the run's split is gone", file=data.root, fix="restore it, or start anew")
    trainer = Trainer(plan, choose_device(options.device), limit_of(plan.recipe, options))
    prepared = gather(data, [cases[n] for n in split.train], plan.task, cache=run / "cache", limit_gb=options.cache_gb, say=say)
    held = load_held(data, [cases[n] for n in split.validation])
    state = load_checkpoint(run / "checkpoint.pt") if options.resume and (run / "checkpoint.pt").is_file() else None
    session = Session(plan, trainer, held, run, options, say)
    if state:
        session.restore(state)
        say(f"going on from step {trainer.step}")
    samples = make_samples(prepared, plan)
    rank, world = trainer.accelerator.process_index, trainer.accelerator.num_processes
    session.train(batches(samples, Order(trainer.step, plan.recipe.batch or 1, rank, world), plan.recipe.workers))
    return session.finish()


def make_samples(prepared: list, plan: Plan) -> Samples:
    """The samples of a plan: augmentation, balance, and the border map where the loss wants it."""
    recipe, task, patch = plan.recipe, plan.task, plan.patch
    output = valid_output(plan)
    overhang = tuple((p - o) // 2 for p, o in zip(patch, output, strict=True))
    return Samples(
        prepared,
        task,
        Augmentation(recipe.augment, patch[3 - task.dims :]),
        patch=patch,
        seed=recipe.seed,
        foreground=recipe.foreground,
        shares=shares([case.image for case in prepared], recipe.seed) if recipe.balance == "appearance" else None,
        overhang=overhang,
        class_weights=class_weights(np.array(plan.data.frequencies)) if plan.loss == "border_ce" else None,
    )


def valid_output(plan: Plan) -> tuple[int, ...]:
    """The size of what the network gives for a patch; smaller than it for valid convolutions."""
    from ..models.catalog import build

    size = build(plan.task.model.name, plan.task.model.config).output_size(plan.patch[3 - plan.task.dims :])
    return (1, *size) if plan.task.dims == 2 else size


def limit_of(recipe: Recipe, options: TrainOptions) -> Limit:
    """Minutes, epochs or steps; the recipe's epochs where nothing is said."""
    steps = options.steps
    epochs = options.epochs or (recipe.epochs if options.minutes is None and steps is None else None)
    if epochs is not None:
        steps = min(steps or math.inf, epochs * recipe.steps_per_epoch)  # type: ignore[assignment]
    return Limit(60 * options.minutes if options.minutes else None, steps)


def is_main() -> bool:
    """Whether this process writes: the only one, or rank 0 of several."""
    from accelerate import PartialState

    return PartialState().is_main_process


class Session:
    """A run under way: steps, epochs, validation, checkpoints and what is told about them."""

    def __init__(self, plan: Plan, trainer: Trainer, held: list[Held], run: Path, options: TrainOptions, say: Say):
        self.plan, self.recipe, self.trainer, self.held, self.run = plan, plan.recipe, trainer, held, run
        self.options, self.say = options, say
        self.main = trainer.accelerator.is_main_process
        self.losses: list[float] = []
        self.best, self.stale, self.dice, self.validating, self.saved = -1.0, 0, math.nan, 0.0, time.monotonic()

    def train(self, stream: Iterator[dict[str, Tensor]]) -> None:
        """Steps until the limit or the early stop."""
        journal = Journal(self.run, step=self.trainer.step) if self.main else None
        self.trainer.started = time.monotonic()  # preparing the cases is not training time
        try:
            with Bar(quiet=self.options.quiet or not self.main) as bar:
                while (progress := self.trainer.progress()) < 1:
                    self.losses.append(self.trainer.advance(next(stream), progress))
                    self._show(bar, progress)
                    if self.trainer.step % self.recipe.steps_per_epoch == 0:
                        if self.trainer.agree(float(self._epoch(journal))):
                            break
                    elif time.monotonic() - self.saved > self.options.checkpoint_seconds:
                        self.save()
        finally:
            if journal:
                journal.close()

    def _show(self, bar: Bar, progress: float) -> None:
        epoch = self.trainer.step // self.recipe.steps_per_epoch
        bar.show(progress, self.trainer.elapsed, epoch=epoch, loss=f"{np.mean(self.losses[-50:]):.3f}", dice=f"{self.dice:.4f}")

    def _epoch(self, journal: Journal | None) -> bool:
        """The end of an epoch: a line in the journal, perhaps a validation, a checkpoint. True: stop early."""
        trainer, epoch = self.trainer, self.trainer.step // self.recipe.steps_per_epoch
        stop = False
        line: dict[str, Any] = {
            "epoch": epoch,
            "step": trainer.step,
            "seconds": round(trainer.elapsed, 1),
            "loss": float(np.mean(self.losses)),
            "rate": trainer.optimiser.param_groups[0]["lr"],
        }
        self.losses = []
        if self.main and self._due(epoch):
            line |= self._validated()
            stop = self.recipe.patience is not None and self.stale >= self.recipe.patience
        if journal:
            journal.write(line)
        self.save()
        return stop

    def _due(self, epoch: int) -> bool:
        """Every so many epochs; a run limited in minutes spends no more than a tenth of them on it."""
        if epoch % self.recipe.validate_every:
            return False
        return self.trainer.limit.seconds is None or self.validating <= VALIDATION_SHARE * self.trainer.elapsed

    def _validated(self) -> dict[str, float]:
        """Look at a few kept-back cases, remember the best, keep the weights."""
        start = time.monotonic()
        found = means(validate(self.trainer.average, self.plan.task, self.held[:QUICK], precision=self.recipe.precision))
        self.dice = mean_dice(found)
        self.stale = 0 if self.dice > self.best else self.stale + 1
        if self.dice > self.best or self.recipe.keep == "last":
            self.keep_weights()
        self.best = max(self.best, self.dice)
        self.validating += time.monotonic() - start
        return {"dice": self.dice} | {
            f"{label}/{metric}": value for label, all_ in found.items() for metric, value in all_.items()
        }

    def keep_weights(self) -> None:
        about = {
            "steps": self.trainer.step,
            "seconds": round(self.trainer.elapsed),
            "dice": self.dice,
            "seed": self.recipe.seed,
            "data": self.plan.data.name,
        }
        metadata = {TASK_KEY: self.plan.task.model_dump_json(), "training": json.dumps(about)}
        save(self.run / RUN_WEIGHTS, self.trainer.average, metadata, half=self.options.half)

    def save(self) -> None:
        """A checkpoint, by one process."""
        if self.main:
            mine = {
                "losses": self.losses,
                "best": self.best,
                "stale": self.stale,
                "dice": self.dice,
                "validating": self.validating,
            }
            save_checkpoint(self.run / "checkpoint.pt", {**self.trainer.state(), "session": mine})
        self.saved = time.monotonic()

    def restore(self, state: dict[str, Any]) -> None:
        self.trainer.restore(state)
        for key, value in state["session"].items():
            setattr(self, key, value)

    def finish(self) -> RunSummary:
        """The final weights, their scores on every kept-back case, and the report."""
        trainer, scores = self.trainer, {}
        seconds = trainer.elapsed
        if self.main:
            if self.recipe.keep == "best" and (self.run / RUN_WEIGHTS).is_file():
                from ..models.weights import load_into, load_state

                load_into(trainer.average, load_state(self.run / RUN_WEIGHTS)[0])
            scores = validate(trainer.average, self.plan.task, self.held, precision=self.recipe.precision)
            self.dice = mean_dice(means(scores))
            self.keep_weights()
            self.save()
            write_report(self.run, self.plan, scores)
        trainer.accelerator.wait_for_everyone()
        found = means(scores)
        epochs = trainer.step // self.recipe.steps_per_epoch
        if self.main:
            self.say(
                f"{trainer.step} steps in {seconds / 60:.1f} minutes; validation Dice {self.dice:.4f}; weights in {self.run / RUN_WEIGHTS}"
            )
        return RunSummary(self.run, self.dice, found, epochs, trainer.step, seconds, self.run / RUN_WEIGHTS)
