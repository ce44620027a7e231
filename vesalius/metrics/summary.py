"""What many cases say together: mean, median and a 95 % interval that respects patients.

Two scans of one patient are not two independent observations: the bootstrap draws patients, not
cases (Field and Welsh 2007, doi:10.1111/j.1467-9868.2007.00593.x), and takes the mean over all cases of those drawn.

An empty mask has no surface and no overlap; `EmptyPolicy` says what is then written down, and every
summary says how often.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

NAN = float("nan")
BLOCK = 1 << 21  # draws held at once


@dataclass(frozen=True)
class EmptyPolicy:
    """What an absent label scores.

    `both_empty`: 'exclude' leaves the case out of that label's mean (nnU-Net; NaN policy of Metrics Reloaded,
    arXiv:2206.01653), 'perfect' gives overlap 1 and distance 0.
    `one_empty`: overlaps are 0 always; distances are the image's 'diagonal' (the worst value possible, so that a miss
    is never cheaper than a poor try), or left out with 'exclude'.
    """

    both_empty: Literal["exclude", "perfect"] = "exclude"
    one_empty: Literal["diagonal", "exclude"] = "diagonal"

    def describe(self) -> str:
        """The policy in one sentence, for reports."""
        left_out, perfect = "the case is left out of that label's mean", "overlap counts 1, distance 0"
        both = {"exclude": left_out, "perfect": perfect}[self.both_empty]
        one = {"diagonal": "distances count as the image diagonal", "exclude": "distances are left out"}[self.one_empty]
        return f"Label in neither mask: {both}. Label in one mask only: overlap and NSD count 0, {one}."


class Estimate(NamedTuple):
    """`mean` with its 95 % interval `low`..`high` (NaN for a single patient), `median`, and how many values stand behind it."""

    mean: float
    low: float
    high: float
    median: float
    cases: int
    patients: int
    excluded: int


def bootstrap(values: Sequence[float], patients: Sequence[str], n: int = 2000, seed: int = 0) -> Estimate:
    """Mean of `values` (one a case; NaN and infinite ones are excluded and counted) with a bootstrap interval over `patients`."""
    array = np.asarray(values, dtype=np.float64)
    if len(array) != len(patients):
        raise ValueError(f"{len(array)} values for {len(patients)} patients")
    kept = np.isfinite(array)
    excluded = int((~kept).sum())
    array = array[kept]
    if not array.size:
        return Estimate(NAN, NAN, NAN, NAN, 0, 0, excluded)
    sums, counts = grouped(array, [patient for patient, there in zip(patients, kept, strict=True) if there])
    low, high = NAN, NAN
    if len(sums) > 1:
        means = _resampled_means(sums, counts, n, np.random.default_rng(seed))
        low, high = (float(q) for q in np.percentile(means, (2.5, 97.5)))
    return Estimate(float(array.mean()), low, high, float(np.median(array)), array.size, len(sums), excluded)


def grouped(values: Sequence[float] | np.ndarray, patients: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Sum of `values` and number of them (P,) for each patient, in the order of the patients' names."""
    names, where = np.unique(np.asarray(patients, dtype=object).astype(str), return_inverse=True)
    return np.bincount(where, weights=np.asarray(values, float), minlength=len(names)), np.bincount(where, minlength=len(names))


def _resampled_means(sums: np.ndarray, counts: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Means (n,) over patients drawn with replacement; `sums` and `counts` (P,) are each patient's values and cases."""
    patients = len(sums)
    share = np.full(patients, 1 / patients)
    means = []
    for start in range(0, n, max(1, BLOCK // patients)):
        size = min(n - start, max(1, BLOCK // patients))
        drawn = rng.multinomial(patients, share, size=size)  # how often each patient was drawn
        means.append((drawn @ sums) / (drawn @ counts))
    return np.concatenate(means)
