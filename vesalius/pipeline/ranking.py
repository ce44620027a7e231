"""Several models on the same kept-back cases: in which order they come, and where that order means nothing.

    Entrant   what one model scored on every case, and what it costs
    Ranking   entrants by mean Dice, each with its interval; every pair tested; groups without a significant difference
    table     one Markdown row a model
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from ..core.errors import InputError
from ..metrics.paired import SIGNIFICANT, Pair, alike, compare, least_p
from ..metrics.summary import Estimate, bootstrap
from .memory import readable

COLUMNS = ("", "Dice", "HD95", "alike", "parameters", "GFLOPs", "images/s", "memory", "training memory", "steps", "trained/s")


@dataclass(frozen=True)
class Cost:
    """What a model takes. `size`: the input (Z, Y, X) that GFLOPs (one multiply-add = 1) and memory are of.

    images_per_second    whole cases through the hallway, one process, after one to warm up
    inference_bytes      of one tile: what the process holds at its peak beyond what it held before the model was made
    training_bytes       the same of a training step with its batch, gradients and optimiser
    trained_per_second   samples of the training, validation between epochs included
    """

    parameters: int
    gflops: float
    size: tuple[int, ...]
    images_per_second: float
    inference_bytes: int
    training_bytes: int
    steps: int
    seconds: float
    trained_per_second: float


@dataclass(frozen=True)
class Entrant:
    """`dice` and `hd95` by case (means over the labels, NaN where no label has a value); `unit` of hd95: 'mm' or 'px'."""

    name: str
    dice: Mapping[str, float]
    hd95: Mapping[str, float]
    unit: str
    cost: Cost


@dataclass(frozen=True)
class Ranking:
    """Entrants that were tried on the same cases; `patients` says whose each case is."""

    entrants: tuple[Entrant, ...]
    patients: Mapping[str, str]

    @cached_property
    def dice(self) -> dict[str, Estimate]:
        """Mean Dice with its interval, the best model first."""
        found = {entrant.name: self._estimate(entrant.dice) for entrant in self.entrants}
        return dict(sorted(found.items(), key=lambda item: -item[1].mean if item[1].cases else math.inf))

    @cached_property
    def hd95(self) -> dict[str, Estimate]:
        """Mean HD95 with its interval."""
        return {entrant.name: self._estimate(entrant.hd95) for entrant in self.entrants}

    @cached_property
    def order(self) -> tuple[Entrant, ...]:
        """The entrants, the best first."""
        named = {entrant.name: entrant for entrant in self.entrants}
        return tuple(named[name] for name in self.dice)

    @cached_property
    def pairs(self) -> list[Pair]:
        """Every pair, the better one first, tested on its Dice.

        Where nothing is to be found, who finds nothing has no Dice and who finds something has 0: against that, silence counts 1.
        Otherwise a test would never see false alarms.
        """
        silent = set(self._alarmed)
        judged = {
            entrant.name: {case: 1.0 if case in silent and math.isnan(d) else d for case, d in entrant.dice.items()}
            for entrant in self.order
        }
        return compare(judged, self.patients)

    @cached_property
    def _alarmed(self) -> list[str]:
        """The cases that have a Dice by some entrants and none by others."""
        cases = self.entrants[0].dice if self.entrants else {}
        return [case for case in cases if len({math.isnan(entrant.dice[case]) for entrant in self.entrants}) == 2]

    @cached_property
    def groups(self) -> list[tuple[str, ...]]:
        """Models among which no pair differs significantly; one may be in several groups."""
        return alike(list(self.dice), [(pair.first, pair.second) for pair in self.pairs if pair.significant])

    def letters(self, name: str) -> str:
        """The groups of a model as letters: two models that share one do not differ significantly."""
        return "".join(letter for letter, group in zip(LETTERS, self.groups, strict=False) if name in group)

    def sentences(self) -> list[str]:
        """The ranking in words."""
        if not self.entrants:
            return ["no model has been scored yet"]
        first, dice = next(iter(self.dice.items()))
        lines = [f"{first} is first, with a Dice of {dice.mean:.3f}{interval(dice)} over {dice.cases} cases."]
        against = [pair for pair in self.pairs if pair.first == first]
        near = [f"{pair.second} ({probability(pair.corrected)})" for pair in against if not pair.significant]
        far = [f"{pair.second} ({probability(pair.corrected)})" for pair in against if pair.significant]
        if near:
            lines.append(f"Not significantly different from it: {', '.join(near)}.")
        if far:
            lines.append(f"Significantly different from it: {', '.join(far)}.")
        if len(self.groups) > 1:
            lines.append("No two models of a group differ significantly: " + "; ".join(map(", ".join, self.groups)) + ".")
        return lines + self._method()

    def _method(self) -> list[str]:
        """What the words rest on, and whether so few patients could have shown anything."""
        if not self.pairs:
            return []
        patients, tests = min(pair.patients for pair in self.pairs), len(self.pairs)
        alone = len(set(self.patients.values())) == len(self.patients)
        what = f"{patients} cases" if alone else f"{patients} patients, each the mean of the patient's cases"
        lines = [
            f"Wilcoxon signed-rank tests of the Dice of {what}, {tests} pair{'' if tests == 1 else 's'}, Holm's correction, "
            f"significant below p = {SIGNIFICANT}."
        ]
        if self._alarmed:
            empty = len(self._alarmed)
            lines.append(f"Nothing is to be found in {empty} of the cases; in the tests, finding nothing counts 1 there.")
        if (least := least_p(patients, tests)) >= SIGNIFICANT:
            lines.append(f"So few cannot show a difference: even a model better on every one would have {probability(least)}.")
        return lines

    def rows(self) -> list[tuple[str, ...]]:
        """COLUMNS of every model, the best first."""
        return [
            (
                entrant.name,
                f"{self.dice[entrant.name].mean:.3f}{interval(self.dice[entrant.name])}",
                distance(self.hd95[entrant.name], entrant.unit),
                self.letters(entrant.name),
                f"{entrant.cost.parameters / 1e6:.2f} M",
                f"{entrant.cost.gflops:.2f}",
                f"{entrant.cost.images_per_second:.2f}",
                readable(entrant.cost.inference_bytes),
                readable(entrant.cost.training_bytes),
                str(entrant.cost.steps),
                f"{entrant.cost.trained_per_second:.2f}",
            )
            for entrant in self.order
        ]

    def record(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        results = [
            {
                "model": entrant.name,
                "dice": self.dice[entrant.name]._asdict(),
                f"hd95_{entrant.unit}": self.hd95[entrant.name]._asdict(),
                "alike": self.letters(entrant.name),
                **asdict(entrant.cost),
                "cases": {case: {"dice": entrant.dice[case], "hd95": entrant.hd95[case]} for case in entrant.dice},
            }
            for entrant in self.order
        ]
        pairs = [pair._asdict() | {"significant": pair.significant} for pair in self.pairs]
        return {"ranking": self.sentences(), "groups": self.groups, "results": results, "pairs": pairs}

    def _estimate(self, values: Mapping[str, float]) -> Estimate:
        return bootstrap(list(values.values()), [self.patients[case] for case in values])


LETTERS = "abcdefghijklmnopqrstuvwxyz"


def rank(entrants: Sequence[Entrant], patients: Mapping[str, str]) -> Ranking:
    """The ranking of `entrants`; raises InputError unless all were tried on the same cases."""
    for entrant in entrants:
        if set(entrant.dice) != set(entrants[0].dice):
            raise InputError(
                f"'{entrant.name}' and '{entrants[0].name}' were tried on different cases", fix="train both on the same split"
            )
    return Ranking(tuple(entrants), patients)


def table(ranking: Ranking) -> str:
    """The rows as a Markdown table."""
    rows = [COLUMNS, tuple("---" for _ in COLUMNS), *ranking.rows()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def interval(found: Estimate) -> str:
    """' (0.71 to 0.78)', or nothing for a single patient."""
    return f" ({found.low:.3f} to {found.high:.3f})" if math.isfinite(found.low) else ""


def distance(found: Estimate, unit: str) -> str:
    """A mean distance with its interval and unit; '-' where nothing was measured."""
    if not found.cases:
        return "-"
    between = f" ({found.low:.1f} to {found.high:.1f})" if math.isfinite(found.low) else ""
    return f"{found.mean:.1f} {unit}{between}"


def probability(p: float) -> str:
    """'p = 0.21', 'p < 0.001'."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"
