"""What an evaluation found: scores of every case, their summary, and how to write them down.

    JSON   {cases: [...], summary: {label: {metric: {mean, low, high, ...}}}, policy, missing, failed, ...}
    CSV    a row for every case and label
    HTML   the summary, the policy, the worst cases pictured
"""

from __future__ import annotations

import csv
import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..core.atomic import atomic
from ..core.labels import Labels
from ..core.names import printable
from ..metrics.score import LabelScore, Scoring
from ..metrics.summary import bootstrap
from .pairs import Pair

Summary = dict[str, dict[str, dict[str, float]]]


@dataclass(frozen=True)
class CaseResult:
    """One case: `scores` by label; or the `problem` for which there are none; `notes` on how its masks were read; values that
    its masks hold and the labels leave `unnamed`, so that they did not count."""

    pair: Pair
    scores: dict[str, LabelScore]
    problem: str | None = None
    notes: tuple[str, ...] = ()
    unnamed: tuple[int, ...] = ()

    @property
    def status(self) -> str:
        """'failed', 'missing' (no prediction: scored as an empty one) or 'scored'."""
        return "failed" if self.problem else "missing" if self.pair.pred is None else "scored"

    def mean(self, metric: str) -> float:
        """The mean of one metric over the labels that have it; NaN if none has."""
        found = [s.metrics[metric] for s in self.scores.values() if math.isfinite(s.metrics.get(metric, math.nan))]
        return float(np.mean(found)) if found else math.nan


@dataclass(frozen=True)
class Evaluation:
    """All cases in order of the references. `labels` is None for objects; `extra` predictions had no reference."""

    cases: tuple[CaseResult, ...]
    scoring: Scoring
    labels: Labels | None = None
    extra: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @cached_property
    def summary(self) -> Summary:
        """label -> metric -> mean, low, high (95 %, bootstrap over patients), median, cases, patients, excluded."""
        names = _unique(name for case in self.cases for name in case.scores)
        return {name: self._estimates([_of(case, name) for case in self.cases]) for name in names}

    @cached_property
    def overall(self) -> dict[str, dict[str, float]]:
        """metric -> the same, of every case's mean over its labels."""
        metrics = self.metrics
        return self._estimates([{metric: case.mean(metric) for metric in metrics if case.scores} for case in self.cases])

    @property
    def metrics(self) -> list[str]:
        """The metrics that were measured, in order."""
        return _unique(metric for case in self.cases for score in case.scores.values() for metric in score.metrics)

    @property
    def missing(self) -> tuple[str, ...]:
        """Cases without a prediction."""
        return tuple(case.pair.name for case in self.cases if case.status == "missing")

    @property
    def failed(self) -> dict[str, str]:
        """Cases that could not be scored, and why; they are in no mean."""
        return {case.pair.name: case.problem for case in self.cases if case.problem}

    @property
    def exit_code(self) -> int:
        """1 if a prediction is missing or a case failed, else 0."""
        return int(bool(self.missing or self.failed))

    @property
    def empty(self) -> dict[str, dict[str, int]]:
        """label -> in how many cases it is absent from 'both' masks, from the 'pred' only, from the 'ref' only."""
        counts = {name: [case.scores[name].empty for case in self.cases if name in case.scores] for name in self.summary}
        return {name: {which: found.count(which) for which in _ABSENT} for name, found in counts.items()}

    def describe(self) -> list[str]:
        """What must be said beside the figures, a sentence each: intervals, tolerance, policy, counts, notes."""
        patients = len({case.pair.patient for case in self.cases if case.scores})
        cases = sum(bool(case.scores) for case in self.cases)
        lines = [f"{cases} cases of {patients} patients; 95 % intervals by bootstrap over patients (2000 draws)."]
        if patients == 1:
            lines.append("One patient allows no interval.")
        if self.scoring.instances:
            lines.append(f"Objects match at IoU > {self.scoring.iou_threshold:g}.")
        lines += [f"NSD tolerance: {self.scoring.nsd_tolerance_mm:g} mm."] if "nsd" in self.metrics else []
        lines += [f"NSD tolerance: {self.scoring.nsd_tolerance_px:g} px."] if "nsd_px" in self.metrics else []
        if any(metric.endswith("_px") for metric in self.metrics):
            lines.append("Distances in px: these images carry no spacing.")
            lines += [] if "nsd_px" in self.metrics else ["NSD was not measured: it needs a tolerance in pixels."]
        lines.append(self.scoring.policy.describe())
        for name, counts in self.empty.items():
            told = [f"{n} in {where}" for which, where in _ABSENT.items() if (n := counts[which])]
            lines += [f"{name} is empty: {', '.join(told)}."] if told else []
        if self.missing:
            alone = len(self.missing) == 1
            lines.append("1 case has no prediction and scores as an empty one." if alone else
                         f"{len(self.missing)} cases have no prediction and score as empty ones.")  # fmt: skip
        lines += [f"{len(self.failed)} cases could not be scored and are in no mean."] if self.failed else []
        lines += [f"{note[:1].upper()}{note[1:]}." for note in self.notes]
        read = Counter(note for case in self.cases for note in case.notes if case.pair.pred is not None)
        return lines + [f"{note[:1].upper()}{note[1:]} ({n} cases)." for note, n in read.items()]

    def record(self) -> dict[str, Any]:
        """Everything as plain dicts and lists; what is not a number is None."""
        rules = self.scoring
        return _plain({
            "cases": [_case_record(case) for case in self.cases],
            "summary": self.summary,
            "overall": self.overall,
            "policy": {**asdict(rules.policy), "text": rules.policy.describe()},
            "nsd_tolerance_mm": rules.nsd_tolerance_mm if "nsd" in self.metrics else None,
            "nsd_tolerance_px": rules.nsd_tolerance_px if "nsd_px" in self.metrics else None,
            "iou_threshold": rules.iou_threshold if rules.instances else None,
            "empty": self.empty,
            "missing": list(self.missing),
            "failed": self.failed,
            "extra": list(self.extra),
            "notes": self.describe(),
        })  # fmt: skip

    def to_json(self, path: str | Path) -> Path:
        """Write `record()`; raises OutputError."""
        with atomic(path) as part:
            part.write_text(json.dumps(self.record(), indent=2, allow_nan=False) + "\n", encoding="utf-8")
        return Path(path)

    def to_csv(self, path: str | Path) -> Path:
        """Write a row for every case and label, an empty cell where there is no number; raises OutputError."""
        metrics = self.metrics
        with atomic(path) as part, open(part, "w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(["case", "patient", "label", "status", "empty", *metrics, "problem"])
            for case in self.cases:
                start = [printable(case.pair.name), printable(case.pair.patient)]
                if case.problem:
                    rows.writerow([*start, "", case.status, "", *[""] * len(metrics), printable(case.problem)])
                for name, score in case.scores.items():
                    cells = [_cell(score.metrics.get(metric, math.nan)) for metric in metrics]
                    rows.writerow([*start, name, case.status, score.empty, *cells, ""])
        return Path(path)

    def to_html(self, path: str | Path, *, images: str | Path | None = None) -> Path:
        """Write the page, its worst cases drawn on the `images` of the same stem, or on black; raises OutputError."""
        from .scorecard import scorecard

        text = scorecard(self, images=None if images is None else Path(images))
        with atomic(path) as part:
            part.write_text(text, encoding="utf-8")
        return Path(path)

    def worst(self, count: int) -> list[CaseResult]:
        """The scored cases of lowest Dice (F1 for objects), the worst first."""
        metric = "f1" if self.scoring.instances else "dice"
        ranked = [case for case in self.cases if case.status == "scored" and math.isfinite(case.mean(metric))]
        return sorted(ranked, key=lambda case: case.mean(metric))[:count]

    def _estimates(self, measured: list[dict[str, float]]) -> dict[str, dict[str, float]]:
        """Bootstrap estimates of every metric over the cases that have it; `measured` has one dict a case."""
        estimates = {}
        for metric in _unique(name for metrics in measured for name in metrics):
            having = [(m[metric], case.pair.patient) for m, case in zip(measured, self.cases, strict=True) if metric in m]
            estimates[metric] = bootstrap([value for value, _ in having], [patient for _, patient in having])._asdict()
        return estimates


_ABSENT: dict[Any, str] = {"both": "both masks", "pred": "the prediction only", "ref": "the reference only"}


def _case_record(case: CaseResult) -> dict[str, Any]:
    return {
        "case": case.pair.name,
        "patient": case.pair.patient,
        "status": case.status,
        "problem": case.problem,
        "notes": list(case.notes),
        "empty": {name: score.empty for name, score in case.scores.items() if score.empty != "neither"},
        "scores": {name: score.metrics for name, score in case.scores.items()},
    }


def _of(case: CaseResult, label: str) -> dict[str, float]:
    return case.scores[label].metrics if label in case.scores else {}


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _cell(value: float) -> str:
    return f"{value:.9g}" if math.isfinite(value) else ""


def _plain(data: Any) -> Any:
    """The same with None for what JSON has no number for."""
    if isinstance(data, dict):
        return {str(key): _plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_plain(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data
