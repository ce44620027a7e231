"""How far two surfaces lie apart: Hausdorff, HD95, ASSD and normalised surface Dice.

A surface is the mask without its erosion by the 6-neighbourhood (4 in a picture); beyond the image lies background,
so that a mask cut by the border has a surface there. From every surface voxel of one mask the distance to
the nearest surface voxel of the other:

    HD95   max of the 95th percentiles of the two directions
    ASSD   mean over both directions together
    NSD    share of all surface voxels that lie within the tolerance     Nikolov et al. 2018, arXiv:1809.04430

One distance transform a mask (`nearest.py`) serves all of them, inside the box that holds both masks: no
nearest voxel lies outside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..core.errors import GeometryError
from .nearest import nearest

ROUNDING = 1e-5  # a distance equal to the tolerance is within it, whatever float32 made of the sum of squares


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """Distances (N,) from the prediction's surface to the reference's and (M,) back, in the unit of the spacing.

    Where one mask is empty the other's distances are infinite; where both are, there are none and
    every metric is NaN.
    """

    pred_to_ref: np.ndarray
    ref_to_pred: np.ndarray

    @classmethod
    def of(cls, pred: np.ndarray, ref: np.ndarray, spacing: Sequence[float] | None = None) -> SurfaceDistances:
        """Measure two masks (`*S` bool), 2D or 3D, `spacing` along their axes (1 if None: pixels).

        An axis of length 1 has no depth: the surface lies in the plane. Raises GeometryError for shapes that differ.
        """
        spacing = tuple(spacing) if spacing is not None else (1.0,) * pred.ndim
        if pred.shape != ref.shape or len(spacing) != pred.ndim:
            raise GeometryError(f"cannot compare surfaces of shapes {pred.shape} and {ref.shape} at spacing {spacing}")
        deep = [axis for axis, size in enumerate(pred.shape) if size > 1] or [pred.ndim - 1]
        flat = tuple(slice(None) if axis in deep else 0 for axis in range(pred.ndim))
        pred, ref, spacing = pred[flat].astype(bool, copy=False), ref[flat].astype(bool, copy=False), [spacing[a] for a in deep]
        box_pred, box_ref = bounding_box(pred), bounding_box(ref)
        if box_pred is None or box_ref is None:
            return cls(_infinite(pred, box_pred), _infinite(ref, box_ref))
        box = tuple(slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(box_pred, box_ref, strict=True))
        edge_pred, edge_ref = surface(pred[box]), surface(ref[box])
        return cls(nearest(edge_pred, edge_ref, spacing), nearest(edge_ref, edge_pred, spacing))

    @property
    def hd(self) -> float:
        """Hausdorff distance: the farthest surface voxel."""
        return self.hausdorff(100)

    @property
    def hd95(self) -> float:
        """95 % Hausdorff distance: the larger of the two directions' 95th percentiles."""
        return self.hausdorff(95)

    @property
    def hd95_pooled(self) -> float:
        """95th percentile of both directions' distances together, as medpy and the Synapse tables have it: at most `hd95`."""
        if not self._defined:
            return self._undefined
        return float(np.percentile(np.concatenate((self.pred_to_ref, self.ref_to_pred)).astype(np.float64), 95))

    def hausdorff(self, percentile: float) -> float:
        """The larger of the two directions' percentiles, interpolated linearly; NaN if both are empty, inf if one is."""
        if not self._defined:
            return self._undefined
        return float(max(np.percentile(d.astype(np.float64), percentile) for d in (self.pred_to_ref, self.ref_to_pred)))

    @property
    def assd(self) -> float:
        """Average symmetric surface distance, over the surface voxels of both masks together."""
        if not self._defined:
            return self._undefined
        total = self.pred_to_ref.sum(dtype=np.float64) + self.ref_to_pred.sum(dtype=np.float64)
        return float(total / (self.pred_to_ref.size + self.ref_to_pred.size))

    def nsd(self, tolerance_mm: float) -> float:
        """Normalised surface Dice, 0..1, at a tolerance in the unit of the spacing; NaN if both are empty, 0 if one is."""
        reach = tolerance_mm * (1 + ROUNDING)
        size = self.pred_to_ref.size + self.ref_to_pred.size
        near = np.count_nonzero(self.pred_to_ref <= reach) + np.count_nonzero(self.ref_to_pred <= reach)
        return float(near / size) if size else float("nan")

    @property
    def _defined(self) -> bool:
        return bool(self.pred_to_ref.size and self.ref_to_pred.size)

    @property
    def _undefined(self) -> float:
        return float("inf") if self.pred_to_ref.size or self.ref_to_pred.size else float("nan")


def bounding_box(mask: np.ndarray) -> tuple[slice, ...] | None:
    """The smallest box (`*S` slices) that holds all of a mask or label map that is not 0, or None if it is empty."""
    rows = mask.max(axis=tuple(range(1, mask.ndim))) > 0
    if not rows.any():
        return None
    first = slice(int(rows.argmax()), len(rows) - int(rows[::-1].argmax()))
    if mask.ndim == 1:
        return (first,)
    rest = bounding_box(np.maximum.reduce(mask[first], axis=0))
    assert rest is not None
    return (first, *rest)


def surface(mask: np.ndarray) -> np.ndarray:
    """Voxels of the mask (bool) with a face on the background or on the border of the array."""
    inner = mask.copy()
    for axis in range(mask.ndim):
        here, ahead = np.moveaxis(inner, axis, 0), np.moveaxis(mask, axis, 0)
        here[1:] &= ahead[:-1]
        here[:-1] &= ahead[1:]
        here[0] = here[-1] = False
    np.logical_xor(mask, inner, out=inner)
    return inner


def _infinite(mask: np.ndarray, box: tuple[slice, ...] | None) -> np.ndarray:
    """An infinite distance for every surface voxel of a mask whose counterpart is empty."""
    return np.full(np.count_nonzero(surface(mask[box])) if box else 0, np.inf, np.float32)
