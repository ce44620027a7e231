"""How much two label maps share: one sparse table of overlaps, and Dice, IoU and volumes read from it.

    table    (value in pred, value in ref) -> voxels that carry both
    Dice     2 |P ∩ R| / (|P| + |R|)
    IoU      |P ∩ R| / |P ∪ R|

Label maps are runs of equal values, so the table is summed over runs, slab by slab: bounded memory,
and as quick with 65535 objects as with two classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..core.errors import GeometryError, LabelError

SLAB_VOXELS = 1 << 22


class Counts(NamedTuple):
    """Voxels of one label: in both masks, in the prediction, in the reference."""

    both: int
    pred: int
    ref: int


@dataclass(frozen=True, eq=False)
class Overlap:
    """Three parallel arrays (N,): `voxels` carry the value `pred` in the prediction and `ref` in the reference."""

    pred: np.ndarray
    ref: np.ndarray
    voxels: np.ndarray

    def counts(self, value: int) -> Counts:
        """The counts of one label `value`; zeros where it is absent."""
        in_pred, in_ref = self.pred == value, self.ref == value
        return Counts(*(int(self.voxels[where].sum()) for where in (in_pred & in_ref, in_pred, in_ref)))

    def foreground(self) -> Counts:
        """The counts of everything that is not background (0)."""
        in_pred, in_ref = self.pred > 0, self.ref > 0
        return Counts(*(int(self.voxels[where].sum()) for where in (in_pred & in_ref, in_pred, in_ref)))


def confusion(pred: np.ndarray, ref: np.ndarray) -> Overlap:
    """The overlap table of two label maps of one shape; raises GeometryError for two shapes, LabelError beyond 2**32."""
    if pred.shape != ref.shape:
        raise GeometryError(f"the prediction has shape {pred.shape}, the reference {ref.shape}", fix="compare masks of one grid")
    bits, dtype = _key(pred, ref)
    keys, voxels = [], []
    for p, r in _slabs(pred, ref):
        key = (p.astype(dtype) << dtype.type(bits)) | r.astype(dtype)
        starts = _starts(key)
        runs = np.diff(starts, append=key.size)
        found, where = np.unique(key[starts], return_inverse=True)
        keys.append(found)
        voxels.append(np.bincount(where, weights=runs))
    found, where = np.unique(np.concatenate(keys), return_inverse=True)
    total = np.bincount(where, weights=np.concatenate(voxels)).astype(np.int64)
    found = found.astype(np.uint64)
    low = np.uint64((1 << bits) - 1)
    return Overlap((found >> np.uint64(bits)).astype(np.int64), (found & low).astype(np.int64), total)


def values(array: np.ndarray) -> np.ndarray:
    """The values (N,) that a label map holds, in rising order."""
    return np.unique(np.concatenate([np.unique(slab[_starts(slab)]) for slab, _ in _slabs(array, array)]))


def _starts(flat: np.ndarray) -> np.ndarray:
    """Where (N,) a run of equal values begins."""
    return np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])


def _key(pred: np.ndarray, ref: np.ndarray) -> tuple[int, np.dtype]:
    """Bits that hold any value of either map, and the dtype that holds two of them."""
    bits = 8 * max(pred.dtype.itemsize, ref.dtype.itemsize)
    if bits > 32 or any(a.dtype.kind == "i" for a in (pred, ref)):
        top, low = (max(int(a.max(initial=0)) for a in (pred, ref)), min(int(a.min(initial=0)) for a in (pred, ref)))
        if low < 0 or top >= 1 << 32:
            raise LabelError(f"label values must lie between 0 and {(1 << 32) - 1}, not {low}..{top}")
        bits = 32
    return bits, np.dtype(f"u{bits // 4}")


def _slabs(pred: np.ndarray, ref: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Both maps as flat pieces of at most a few million voxels, cut along the first axis longer than 1."""
    while pred.ndim > 1 and len(pred) == 1:
        pred, ref = pred[0], ref[0]
    pred, ref = np.atleast_1d(pred), np.atleast_1d(ref)
    rows = max(1, SLAB_VOXELS // max(1, pred[0].size)) if len(pred) else 1
    for start in range(0, len(pred), rows):
        yield pred[start : start + rows].ravel(), ref[start : start + rows].ravel()


def dice(counts: Counts) -> float:
    """2 |P ∩ R| / (|P| + |R|), in 0..1; NaN where both are empty."""
    total = counts.pred + counts.ref
    return 2 * counts.both / total if total else float("nan")


def iou(counts: Counts) -> float:
    """|P ∩ R| / |P ∪ R|, in 0..1; NaN where both are empty."""
    union = counts.pred + counts.ref - counts.both
    return counts.both / union if union else float("nan")


def volume_difference(counts: Counts, voxel_size: float = 1.0) -> float:
    """|P| - |R| in the unit of `voxel_size` (mm3, mm2 for a picture, or voxels): positive means too much was predicted."""
    return (counts.pred - counts.ref) * voxel_size


def relative_volume_difference(counts: Counts) -> float:
    """(|P| - |R|) / |R|; NaN where the reference is empty."""
    return (counts.pred - counts.ref) / counts.ref if counts.ref else float("nan")
