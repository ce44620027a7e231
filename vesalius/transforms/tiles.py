"""Where tiles lie, what they see beyond the border, and how they are blended (nnU-Net, Isensee 2021, supplement)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from math import ceil

import numpy as np

from ..core.errors import InputError


def starts(size: int, patch: int, overlap: float = 0.5) -> list[int]:
    """First voxels of the tiles along an axis: n = ceil((size - patch) / (patch (1 - overlap))) + 1, evenly spread.

    [0] if the patch covers the axis. Raises InputError for an overlap outside [0, 1).
    """
    if not 0 <= overlap < 1 or patch < 1:
        raise InputError(f"tiles of {patch} voxels cannot overlap by {overlap}", fix="choose an overlap from 0 to below 1")
    span = size - patch
    if span <= 0:
        return [0]
    gaps = min(span, ceil(span / (patch * (1 - overlap)) - 1e-9))  # tiles of a voxel or two cannot lie closer than that
    return [round(i * span / gaps) for i in range(gaps + 1)]


def gaussian(patch: Sequence[int], sigma_scale: float = 1 / 8) -> np.ndarray:
    """Weights (*patch) float32 with peak 1 at patch // 2, sigma = `sigma_scale` patch, cut at 4 sigma.

    Beyond the cut stands the smallest positive weight, so that a voxel seen by one tile only is never divided by zero.
    """
    axes = []
    for size in patch:
        distance, sigma = np.abs(np.arange(size) - size // 2), size * sigma_scale
        axes.append(np.where(distance <= int(4 * sigma + 0.5), np.exp(-0.5 * (distance / sigma) ** 2), 0))
    weights = reduce(np.multiply.outer, axes).astype(np.float32)
    weights[weights == 0] = weights[weights > 0].min()
    return weights


def mirrored(index: np.ndarray, size: int) -> np.ndarray:
    """Indices beyond 0..size-1 mirrored at the border voxels, as often as needed: -1 -> 1, size -> size - 2."""
    if size == 1:
        return np.zeros_like(index)
    index = np.abs(index) % (2 * size - 2)
    return np.where(index < size, index, 2 * size - 2 - index)
