"""The ISBI 2012 challenge's scores for cells separated by membranes: V_rand and V_info.

With p_ij the share of pixels that lie in cell j of the reference and in cell i of the prediction, counted
over the reference's cells only (foreground-restricted), alpha = 1/2:

    V_rand = sum p_ij^2 / (1/2 sum s_i^2 + 1/2 sum t_j^2)      Arganda-Carreras et al. 2015,
    V_info = I(S; T)    / (1/2 H(S)      + 1/2 H(T))           doi:10.3389/fnana.2015.00142

s and t are the marginals. A pixel that the prediction calls membrane inside a reference cell counts as
a segment of its own, as in the challenge's code. Predicted membranes are thinned first, so that only the topology
is scored, not their width.

Differs    The challenge leaves membranes one pixel wide, we none: every membrane pixel goes to the nearest cell. A skeleton
           draws back from the border of the image, and the cells on its sides flow together there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from ..core.errors import GeometryError
from .overlap import confusion


class VScore(NamedTuple):
    """Both scores, 0..1, and the membrane threshold they were reached at (None for a given label map)."""

    v_rand: float
    v_info: float
    threshold: float | None = None


def cells(inside: np.ndarray) -> np.ndarray:
    """Number the cells of one section: 4-connected pieces (Y, X) of what is not membrane (bool)."""
    return ndimage.label(inside)[0]


def grown(numbers: np.ndarray) -> np.ndarray:
    """The cells (Y, X) with the membranes thinned away: every pixel of 0 takes the nearest cell's number, if any."""
    if not numbers.any():
        return numbers
    return numbers[tuple(ndimage.distance_transform_edt(numbers == 0, return_distances=False, return_indices=True))]


def v_scores(pred: np.ndarray, ref: np.ndarray) -> VScore:
    """V_rand and V_info of two maps of cells (`*S` numbers, 0 is membrane); NaN if the reference has no cell."""
    table = confusion(pred, ref)
    inside = table.ref > 0
    pred_cell, ref_cell, voxels = table.pred[inside], table.ref[inside], table.voxels[inside].astype(np.float64)
    n = voxels.sum()
    if not n:
        return VScore(float("nan"), float("nan"))
    lone = voxels[pred_cell == 0].sum()  # membrane pixels: each a segment of its own, of probability 1/n
    joint = voxels[pred_cell > 0] / n
    s = _marginal(pred_cell[pred_cell > 0], joint)
    t = _marginal(ref_cell, voxels / n)
    joint_square, s_square, t_square = (joint**2).sum() + lone / n**2, (s**2).sum() + lone / n**2, (t**2).sum()
    lone_entropy = lone / n * np.log(n)
    h_joint, h_s, h_t = _entropy(joint) + lone_entropy, _entropy(s) + lone_entropy, _entropy(t)
    half = (h_s + h_t) / 2
    information = max(0.0, h_s + h_t - h_joint)
    return VScore(float(joint_square / ((s_square + t_square) / 2)), float(information / half) if half else 1.0)


def v_rand(pred: np.ndarray, ref: np.ndarray) -> float:
    """The foreground-restricted Rand F-score of two maps of cells."""
    return v_scores(pred, ref).v_rand


def v_info(pred: np.ndarray, ref: np.ndarray) -> float:
    """The foreground-restricted information F-score of two maps of cells."""
    return v_scores(pred, ref).v_info


def best_v_scores(
    membrane: np.ndarray, inside: np.ndarray, thresholds: Sequence[float] = tuple(np.arange(1, 10) / 10)
) -> tuple[VScore, VScore]:
    """The challenge's scores of membrane probabilities: best V_rand and best V_info over the thresholds.

    `membrane` (Z, Y, X) in 0..1, `inside` (Z, Y, X) bool, true within the reference's cells. Sections are scored one by
    one and averaged (sections without a cell left out). Returns the score at the threshold of the best V_rand, and
    that of the best V_info. Raises GeometryError for shapes that differ.
    """
    if membrane.shape != inside.shape or membrane.ndim != 3:
        raise GeometryError(f"membrane {membrane.shape} and reference {inside.shape} are not two stacks (Z, Y, X) of one shape")
    references = [cells(section) for section in inside]
    scores = []
    for threshold in thresholds:
        sections = [
            v_scores(grown(cells(section < threshold)), reference)[:2]
            for section, reference in zip(membrane, references, strict=True)
            if reference.any()
        ]
        rand, info = np.mean(sections, axis=0) if sections else (float("nan"), float("nan"))
        scores.append(VScore(float(rand), float(info), float(threshold)))
    return max(scores, key=lambda score: score.v_rand), max(scores, key=lambda score: score.v_info)


def _marginal(group: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Sum of `share` (N,) over equal `group` (N,)."""
    found, where = np.unique(group, return_inverse=True)
    return np.bincount(where, weights=share, minlength=len(found))


def _entropy(share: np.ndarray) -> float:
    """-sum p log p, in nats."""
    share = share[share > 0]
    return float(-(share * np.log(share)).sum())
