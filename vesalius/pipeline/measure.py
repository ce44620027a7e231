"""How much of each structure a mask holds, in the units that its grid knows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.image import Mask


@dataclass(frozen=True)
class Amount:
    """A structure's extent. `size` is in `unit`: ml for volumes, mm2 for pictures with a spacing, else voxels or px."""

    label: str
    voxels: int
    size: float
    unit: str

    def __str__(self) -> str:
        size = f"{self.size:,.0f}" if self.size >= 1000 else f"{self.size:.4g}"
        return f"{self.label} {size} {self.unit}"


def voxel_counts(array: np.ndarray) -> np.ndarray:
    """How often each value 0..max occurs in a label map (Z, Y, X), counted plane by plane."""
    counts = np.zeros(int(array.max()) + 1, np.int64)
    for plane in array:
        counts += np.bincount(plane.ravel(), minlength=len(counts))
    return counts


def amounts(mask: Mask, counts: np.ndarray | None = None) -> tuple[Amount, ...]:
    """The extent of each label of `mask`, the empty ones too; for objects, that of all together."""
    counts = voxel_counts(mask.array) if counts is None else counts
    each, unit = _unit(mask)
    if mask.instances or mask.labels is None:
        named = [("objects" if mask.instances else "foreground", int(counts[1:].sum()))]
    else:
        named = [(label.name, int(counts[label.value]) if label.value < len(counts) else 0) for label in mask.labels]
    return tuple(Amount(name, voxels, voxels * each, unit) for name, voxels in named)


def object_count(mask: Mask, counts: np.ndarray | None = None) -> int | None:
    """How many objects the mask numbers; None for a mask of classes."""
    if not mask.instances:
        return None
    counts = voxel_counts(mask.array) if counts is None else counts
    return int((counts[1:] > 0).sum())


def _unit(mask: Mask) -> tuple[float, str]:
    """The extent of one voxel and its unit."""
    voxel = mask.grid.voxel_mm3
    if mask.grid.dims == 2:
        return (1.0, "px") if voxel is None else (voxel, "mm2")
    return (1.0, "voxels") if voxel is None else (voxel / 1000, "ml")
