"""A run under way: steps, epochs, validation, checkpoints, and what is told about them.

The weights kept are the running average (EMA). With `keep = 'last'` they are those of the end, where the schedule has
come down to zero; with 'best' those of the highest validation Dice.
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..models.weights import load_into, load_state, save
from ..pipeline.runs import RUN_WEIGHTS
from .checkpoint import CHECKPOINT, save_checkpoint, settled
from .journal import Bar, Journal
from .plan import Plan
from .recipe import Recipe
from .summary import SCORES, Scored, write_report, write_scores
from .trainer import Trainer
from .validate import Examination, Scores, mean_dice, means

Say = Callable[[str], None]
VALIDATION_SHARE = 0.1  # of the time so far that validations between epochs may take, where a run is limited in minutes
QUICK = 16  # cases looked at between epochs; all of them at the end


@dataclass(frozen=True)
class TrainOptions:
    """What the caller may choose; None leaves it to the recipe. `minutes`, `epochs`, `steps`: the first reached ends the run."""

    model: str = "unet"
    task: str | None = None
    recipe: str | Path | Recipe | None = None
    weights: str | Path | None = None  # to begin with
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

    @property
    def several(self) -> bool:
        """Whether `model` names more than one, 'all' or a list with commas: a shoot-out."""
        return self.model == "all" or "," in self.model


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


class Session:
    """What a run remembers between its steps, and when it does what. One process writes."""

    def __init__(self, plan: Plan | Any, trainer: Trainer, held: Examination, run: Path, options: TrainOptions, say: Say):
        self.plan, self.recipe, self.trainer, self.held, self.run = plan, plan.recipe, trainer, held, run
        self.options, self.say = options, say
        self.main = trainer.accelerator.is_main_process
        self.losses: list[float] = []
        self.best, self.best_epoch, self.stale, self.dice = -1.0, 0, 0, math.nan  # stale: epochs since the best
        self.validating, self.saved = 0.0, time.monotonic()

    def train(self, stream: Iterator[dict[str, Tensor]]) -> RunSummary:
        """Steps until the end or the early stop, then the final weights and the report."""
        journal = Journal(self.run, step=self.trainer.step) if self.main else None
        if self.main:
            (self.run / SCORES).unlink(missing_ok=True)  # of an earlier end, where a run goes on beyond it
        self.trainer.start()
        try:
            with Bar(quiet=self.options.quiet or not self.main) as bar:
                self._steps(stream, journal, bar)
            return self._finish(journal)
        finally:
            if journal:
                journal.close()

    def _steps(self, stream: Iterator[dict[str, Tensor]], journal: Journal | None, bar: Bar) -> None:
        """Step by step; an interrupted run leaves a checkpoint, at the end of an epoch the one before."""
        try:
            while not self._stopped() and (progress := self.trainer.progress()) < 1:
                batch = next(stream)
                with held_back():
                    self.losses.append(self.trainer.advance(batch, progress))
                self._show(bar, progress)
                if self.trainer.step % self.recipe.steps_per_epoch == 0:
                    self._epoch(journal)
                elif time.monotonic() - self.saved > self.options.checkpoint_seconds:
                    self.save()
        except KeyboardInterrupt:
            if self.trainer.step % self.recipe.steps_per_epoch:  # else its line and validation may be half done
                self.save()
            raise

    def _stopped(self) -> bool:
        """Whether validation has not improved for too long."""
        return self.recipe.patience is not None and self.stale >= self.recipe.patience

    def _show(self, bar: Bar, progress: float) -> None:
        epoch = self.trainer.step // self.recipe.steps_per_epoch
        dice = "-" if math.isnan(self.dice) else f"{self.dice:.4f}"
        bar.show(progress, self.trainer.elapsed, epoch=epoch, loss=f"{np.mean(self.losses[-50:]):.3f}", dice=dice)

    def _epoch(self, journal: Journal | None) -> None:
        """The end of an epoch: perhaps a validation, a line in the journal, a checkpoint."""
        line = self._line() | {"loss": float(np.mean(self.losses)), "rate": self.trainer.optimiser.param_groups[0]["lr"]}
        self.losses = []
        if self.main and self._due(line["epoch"]):
            line |= self._validated(line["epoch"])
        self.stale = int(self.trainer.agree(self.stale))
        if journal:
            journal.write(line)
        self.save()

    def _line(self) -> dict[str, Any]:
        step = self.trainer.step
        return {"epoch": step // self.recipe.steps_per_epoch, "step": step, "seconds": round(self.trainer.elapsed, 1)}

    def _due(self, epoch: int) -> bool:
        """Every so many epochs; a run limited in minutes spends no more than a tenth of them on it."""
        if epoch % self.recipe.validate_every:
            return False
        return self.trainer.limit.seconds is None or self.validating <= VALIDATION_SHARE * self.trainer.elapsed

    def _validated(self, epoch: int) -> dict[str, float]:
        """Look at a few kept-back cases, remember the best, keep the weights."""
        start = time.monotonic()
        found = means(self.held.some(QUICK).examine(self.trainer.average, self.plan))
        self.dice = mean_dice(found)
        better = self.dice > self.best
        if better:
            self.best, self.best_epoch = self.dice, epoch
        self.stale = epoch - self.best_epoch
        if better or self.recipe.keep == "last":
            self.keep_weights()
        self.validating += time.monotonic() - start
        return flat(self.dice, found)

    def keep_weights(self) -> None:
        """RUN/weights.safetensors: the running average, with the task it is for."""
        about = self._line() | {"dice": self.dice, "seed": self.recipe.seed, "data": self.plan.data.name}
        metadata = self.plan.metadata | {"training": json.dumps(about)}
        save(self.run / RUN_WEIGHTS, self.trainer.average, metadata, half=self.options.half or self.plan.half)

    def save(self) -> None:
        """A checkpoint, by one process."""
        self.saved = time.monotonic()
        if self.main:
            mine = {name: getattr(self, name) for name in ("losses", "best", "best_epoch", "stale", "dice", "validating")}
            save_checkpoint(self.run / CHECKPOINT, {**self.trainer.state(), "session": mine, "plan": settled(self.plan)})

    def restore(self, state: dict[str, Any]) -> None:
        """Stand where `save` was called."""
        self.trainer.restore(state)
        for key, value in state["session"].items():
            setattr(self, key, value)

    def _finish(self, journal: Journal | None) -> RunSummary:
        """The final weights, their scores on every kept-back case, and the report."""
        trainer, seconds = self.trainer, self.trainer.elapsed
        scores: dict[str, Scores] = {}
        self.save()
        if journal:
            if self.recipe.keep == "best" and (self.run / RUN_WEIGHTS).is_file():
                load_into(trainer.average, load_state(self.run / RUN_WEIGHTS)[0])
            scores = self.held.examine(trainer.average, self.plan)
            self.dice = mean_dice(means(scores))
            self.keep_weights()
            begun = {"loss": float(np.mean(self.losses))} if self.losses else {}  # of an epoch that was not finished
            journal.write(self._line() | {"final": True} | begun | flat(self.dice, means(scores)))
            report = write_report(self.run, self.plan, scores)
            write_scores(self.run, Scored(trainer.step, seconds, scores))
            if unseen := [label for label, values in means(scores).items() if math.isnan(values.get("dice", math.nan))]:
                self.say(f"no kept-back case holds {', '.join(unseen)}, nor was it found in one: the Dice leaves it out")
            spent = f"{trainer.step} steps in {seconds / 60:.1f} minutes"
            self.say(f"{spent}; validation Dice {self.dice:.4f} over {len(self.held)} cases; see {report}")
        trainer.accelerator.wait_for_everyone()
        epochs = trainer.step // self.recipe.steps_per_epoch
        return RunSummary(self.run, self.dice, means(scores), epochs, trainer.step, seconds, self.run / RUN_WEIGHTS)


@contextmanager
def held_back() -> Iterator[None]:
    """Whatever interrupts waits for the end of the block: a checkpoint of half a step would resume to other weights.

    Signals that are ignored, or another's to handle, are left alone.
    """
    numbers = [each for each in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(each) is signal.default_int_handler]
    asked: list[int] = []
    try:
        for each in numbers:
            signal.signal(each, lambda number, _: asked.append(number))
    except ValueError:  # only the main thread may, and only there do they arrive
        yield
        return
    try:
        yield
    finally:
        for each in numbers:
            signal.signal(each, signal.default_int_handler)
    if asked:
        raise KeyboardInterrupt


def flat(dice: float, found: Scores) -> dict[str, float]:
    """Scores for one line of the journal: dice, then label/metric."""
    return {"dice": dice} | {f"{label}/{metric}": value for label, all_ in found.items() for metric, value in all_.items()}
