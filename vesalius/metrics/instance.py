"""Whether objects were found one by one: F1 at an IoU, aggregated Jaccard and panoptic quality.

    TP    pairs with IoU > t (t >= 0.5: then no object can have two partners)
    F1    2 TP / (objects predicted + objects in the reference)
    PQ    sum of the pairs' IoU / (TP + FP/2 + FN/2) = SQ * RQ      Kirillov et al. 2019, arXiv:1801.00868, eq. 1
    AJI   sum |R ∩ P| / (sum |R ∪ P| + what was never a partner)    Kumar et al. 2017, doi:10.1109/TMI.2017.2677499

Object numbers mean nothing but identity; 0 is background. Everything is read from the sparse overlap
table, so that 65535 objects cost little more than ten.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.errors import InputError
from .overlap import Overlap, confusion

NAN = float("nan")


@dataclass(frozen=True, eq=False)
class Pairs:
    """Objects that touch each other: `pred` and `ref` (N,) index the sizes, `both` (N,) are shared voxels."""

    pred: np.ndarray
    ref: np.ndarray
    both: np.ndarray
    pred_sizes: np.ndarray
    ref_sizes: np.ndarray

    @classmethod
    def of(cls, table: Overlap) -> Pairs:
        """The pairs of an overlap table, background left out."""
        _, pred, pred_sizes = _objects(table.pred, table.voxels)
        _, ref, ref_sizes = _objects(table.ref, table.voxels)
        touching = (table.pred > 0) & (table.ref > 0)
        return cls(pred[touching], ref[touching], table.voxels[touching], pred_sizes, ref_sizes)

    @property
    def iou(self) -> np.ndarray:
        """IoU (N,) of every pair."""
        return self.both / (self.pred_sizes[self.pred] + self.ref_sizes[self.ref] - self.both)


@dataclass(frozen=True)
class Match:
    """Counts of objects at one IoU threshold, and the sum of the IoU of the true positives.

    Without any object in either mask every quotient is NaN; with objects in one only it is 0 (sq: NaN).
    """

    tp: int
    fp: int
    fn: int
    iou_sum: float

    @property
    def precision(self) -> float:
        """TP / objects predicted."""
        return self.tp / (self.tp + self.fp) if self.tp + self.fp else self._of_nothing

    @property
    def recall(self) -> float:
        """TP / objects in the reference."""
        return self.tp / (self.tp + self.fn) if self.tp + self.fn else self._of_nothing

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN); the recognition quality RQ of PQ."""
        total = 2 * self.tp + self.fp + self.fn
        return 2 * self.tp / total if total else NAN

    @property
    def sq(self) -> float:
        """Segmentation quality: mean IoU of the true positives; NaN without any."""
        return self.iou_sum / self.tp if self.tp else NAN

    @property
    def pq(self) -> float:
        """Panoptic quality: sum of IoU / (TP + FP/2 + FN/2)."""
        total = 2 * self.tp + self.fp + self.fn
        return 2 * self.iou_sum / total if total else NAN

    @property
    def _of_nothing(self) -> float:
        return 0.0 if self.fp or self.fn else NAN


def match(pred: np.ndarray | Overlap, ref: np.ndarray | None = None, iou: float = 0.5) -> Match:
    """Match the objects of two label maps (or of their overlap table) at IoU > `iou`.

    Raises InputError for a threshold below 0.5, where a partner is not unique.
    """
    if not 0.5 <= iou <= 1:
        raise InputError(f"objects cannot be matched at IoU {iou}", fix="choose a threshold from 0.5 to 1")
    pairs = Pairs.of(_table(pred, ref))
    shared = pairs.iou
    # >, not >=: at exactly one half two partners are possible; at 1 only identity is left
    hits = shared[(shared > iou) | (shared == 1)]
    tp = len(hits)
    return Match(tp, len(pairs.pred_sizes) - tp, len(pairs.ref_sizes) - tp, float(hits.sum()))


def pq(pred: np.ndarray | Overlap, ref: np.ndarray | None = None) -> float:
    """Panoptic quality at IoU > 0.5; NaN without objects in either."""
    return match(pred, ref).pq


def aji(pred: np.ndarray | Overlap, ref: np.ndarray | None = None) -> float:
    """Aggregated Jaccard index, 0..1; NaN without objects in either mask.

    Every reference object takes the prediction of largest IoU (of equal ones the lowest number); one that touches none
    adds its size to the union, and so does every prediction that nobody took.
    """
    pairs = Pairs.of(_table(pred, ref))
    shared = pairs.iou
    order = np.lexsort((pairs.pred, -shared, pairs.ref))
    _, first = np.unique(pairs.ref[order], return_index=True)
    best = order[first]
    taken = np.unique(pairs.pred[best])
    both = pairs.both[best].sum()
    union = (pairs.pred_sizes[pairs.pred[best]] + pairs.ref_sizes[pairs.ref[best]] - pairs.both[best]).sum()
    union += pairs.ref_sizes.sum() - pairs.ref_sizes[pairs.ref[best]].sum()
    union += pairs.pred_sizes.sum() - pairs.pred_sizes[taken].sum()
    return float(both / union) if union else NAN


def _table(pred: np.ndarray | Overlap, ref: np.ndarray | None) -> Overlap:
    if isinstance(pred, Overlap):
        return pred
    if ref is None:
        raise TypeError("two label maps are needed, or one overlap table")
    return confusion(pred, ref)


def _objects(values: np.ndarray, voxels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Object numbers without 0 (M,), the index of every row into them (-1 for background), and sizes (M,)."""
    found, where = np.unique(values, return_inverse=True)
    sizes = np.bincount(where, weights=voxels, minlength=len(found)).astype(np.int64)
    background = int(len(found) > 0 and found[0] == 0)
    return found[background:], where - background, sizes[background:]
