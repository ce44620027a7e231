"""Two methods on the same cases: whether the one is better, and what many such questions at once are worth.

    d(patient) = mean over the patient's cases of (a - b)       two scans of one patient are not two observations
    p          = Wilcoxon's signed-rank test of d = 0, two-sided
    corrected  = Holm's step-down: the i-th smallest of m values times m - i + 1, never below the one before

Paper    Wilcoxon 1945, doi:10.2307/3001968; Holm 1979, Scandinavian Journal of Statistics 6, 65-70; letters: Piepho 2004,
         doi:10.1198/1061860043515 (insert and absorb)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from math import isfinite
from typing import NamedTuple

import numpy as np
from scipy.stats import wilcoxon

from .summary import grouped

SIGNIFICANT = 0.05  # corrected p below which a difference is told as one


class Pair(NamedTuple):
    """`first` against `second`: mean `difference` (first - second), `p`, `corrected` p, and the number of `patients`."""

    first: str
    second: str
    difference: float
    p: float
    corrected: float
    patients: int

    @property
    def significant(self) -> bool:
        """Whether the corrected p is below SIGNIFICANT."""
        return self.corrected < SIGNIFICANT


def signed_rank(differences: Sequence[float]) -> float:
    """p of Wilcoxon's signed-rank test, two-sided; zeros are dropped, and p is 1 where nothing else is left."""
    told = [d for d in differences if d]
    return float(wilcoxon(told).pvalue) if told else 1.0


def holm(values: Sequence[float]) -> list[float]:
    """The p-values corrected for their number, in their order."""
    order = np.argsort(values, kind="stable")
    corrected, highest = [0.0] * len(values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, values[index] * (len(values) - rank)))
        corrected[index] = highest
    return corrected


def compare(values: Mapping[str, Mapping[str, float]], patients: Mapping[str, str]) -> list[Pair]:
    """Every pair of `values` (method -> case -> value) on the cases where both are finite; `patients`: of the cases."""
    found = []
    for first, second in combinations(values, 2):
        a, b = values[first], values[second]
        both = [case for case in a if isfinite(a[case]) and isfinite(b.get(case, np.nan))]
        sums, counts = grouped([a[case] - b[case] for case in both], [patients[case] for case in both])
        differences = (sums / counts).tolist()
        mean = float(np.mean(differences)) if differences else np.nan
        found.append((first, second, mean, signed_rank(differences), len(differences)))
    corrected = holm([p for *_, p, _ in found])
    return [Pair(a, b, mean, p, better, n) for (a, b, mean, p, n), better in zip(found, corrected, strict=True)]


def alike(names: Sequence[str], apart: Iterable[tuple[str, str]]) -> list[tuple[str, ...]]:
    """The largest groups of `names` without a pair that is `apart`, in the order of `names`; a name may be in several."""
    groups = [frozenset(names)]
    for a, b in apart:
        split = [group - {one} for group in groups if {a, b} <= group for one in (a, b)]
        whole = [group for group in groups if not {a, b} <= group]
        unique = list(dict.fromkeys(whole + split))
        groups = [group for group in unique if not any(group < other for other in unique)]
    ordered = [tuple(name for name in names if name in group) for group in groups]
    return sorted(ordered, key=lambda group: [names.index(name) for name in group])


def least_p(patients: int, pairs: int) -> float:
    """The smallest corrected p that so many patients allow where `pairs` are compared: all differences of one sign."""
    return min(1.0, pairs * 2.0 ** (1 - patients))
