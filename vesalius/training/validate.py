"""Validation: kept-back cases through the very path that is deployed, then the metrics of the task."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import nn

from ..core.image import Mask
from ..metrics.score import Scoring, score_case
from ..pipeline.predictor import Predictor
from ..pipeline.segment import segment_image
from ..tasks.task import Task

Scores = dict[str, dict[str, float]]  # label -> metric -> value


class Examination(Protocol):
    """What a run's weights are tried on."""

    def __len__(self) -> int: ...

    def some(self, most: int) -> Examination: ...

    def examine(self, model: nn.Module, plan: Any) -> dict[str, Scores]:
        """Scores per case and label."""
        ...


@dataclass(frozen=True, eq=False)
class Held:
    """Kept-back cases of a dataset, read one at a time when they are looked at."""

    dataset: Any
    cases: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.cases)

    def some(self, most: int) -> Held:
        return replace(self, cases=self.cases[:most])

    def examine(self, model: nn.Module, plan: Any) -> dict[str, Scores]:
        return validate(model, plan.task, self, precision=plan.recipe.precision)


def validate(model: nn.Module, task: Task, held: Held, *, precision: str) -> dict[str, Scores]:
    """Scores per case and label; `model` is put into eval mode, and stays as it is otherwise."""
    device = next(model.parameters()).device
    predictor = Predictor(task, (model.eval(),), "in training", device, precision, ())  # type: ignore[arg-type]
    scores = {}
    for case in held.cases:
        image, reference = held.dataset.load(case)
        scores[case.name] = score(segment_image(image, predictor).mask, reference, task)
    return scores


def score(found: Mask, reference: Mask, task: Task) -> Scores:
    scoring = Scoring(nsd_tolerance_mm=task.nsd_tolerance_mm, instances=task.instances)
    return {label: dict(one.metrics) for label, one in score_case(found, reference, labels=task.labels, scoring=scoring).items()}


def means(scores: dict[str, Scores]) -> Scores:
    """Per label and metric, the mean over the cases where it is defined."""
    labels = {label: None for case in scores.values() for label in case}
    result: Scores = {}
    for label in labels:
        metrics = {metric: None for case in scores.values() for metric in case.get(label, {})}
        for metric in metrics:
            values = [case[label][metric] for case in scores.values() if metric in case.get(label, {})]
            values = [v for v in values if not math.isnan(v)]
            result.setdefault(label, {})[metric] = sum(values) / len(values) if values else math.nan
    return result


def mean_dice(summary: Scores) -> float:
    """The mean of the labels' Dice, those without a value left out; nan where there is none."""
    values = [metrics["dice"] for metrics in summary.values() if not math.isnan(metrics.get("dice", math.nan))]
    return sum(values) / len(values) if values else math.nan
