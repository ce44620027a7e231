"""Distance from some voxels to the nearest of others: a Euclidean distance transform, asked for on a surface only.

    d(z, y, x)^2 = min over (dy, dx) of  (dy sy)^2 + (dx sx)^2 + column(z, y + dy, x + dx)^2

`column` is the distance to the nearest target along the first axis: two sweeps of whole planes, one byte a voxel. The minimum
is sought in rising order of the first two terms and is exact as soon as they alone exceed what was found. Surfaces
of a fair segmentation lie a few voxels apart, so a few dozen looks a voxel do what a full transform does with
every voxel of the box. What is still open when that stops paying is left to the full transform.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import edt
import numpy as np

FAR = 255  # the column holds no target within 254 voxels
OFFSETS = 4096  # a disc of 36 voxels radius
LOOKS_PER_VOXEL = 4  # a look costs about a tenth of what the full transform takes for a voxel
LOOKS_A_ROUND = 2000  # what a round costs at least, however few voxels are still open


def nearest(source: np.ndarray, target: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """Distance (N,) float32 from every voxel of `source` to the nearest of `target` (`*S` bool, 1D to 3D, not empty).

    In the unit of `spacing` and in the order of `np.flatnonzero(source)`.
    """
    deep = (slice(None), *[None] * (3 - source.ndim), *[slice(None)] * (source.ndim - 1))
    sizes = (spacing[0], *[1.0] * (3 - source.ndim), *spacing[1:])
    squared, unsure = _search(source[deep], target[deep], sizes)
    if unsure.any():
        unit = float(spacing[-1])  # edt adds steps of the last axis up in float32: whole numbers stay exact
        ratios = tuple(s / unit for s in spacing)
        sizes_or_size = ratios if target.ndim > 1 else ratios[0]
        full = edt.edtsq(~target, anisotropy=sizes_or_size, black_border=False, parallel=os.cpu_count() or 1)
        squared[unsure] = full[source][unsure] * unit**2
    return np.sqrt(squared)


def _search(source: np.ndarray, target: np.ndarray, spacing: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances (N,) over the nearest offsets, and which of them (N, bool) may have a nearer target."""
    dy, dx, across, pad, reach = _offsets(target.shape, spacing)
    columns = _columns(target, pad)
    along = np.square(np.arange(FAR + 1, dtype=np.float32) * np.float32(spacing[0]))
    along[FAR] = np.inf
    steps = dy * columns.shape[2] + dx
    z, yx = np.divmod(np.flatnonzero(source), source.shape[1] * source.shape[2])
    y, x = np.divmod(yx, source.shape[2])
    at = (z * columns.shape[1] + y + pad[0]) * columns.shape[2] + x + pad[1]
    flat = columns.reshape(-1)
    squared = np.full(len(at), np.inf, np.float32)
    open_, best, looks = np.arange(len(at)), squared.copy(), 0
    for i, step in enumerate(steps):
        if i % 4 == 1:  # drop what cannot get nearer
            going = best > across[i]
            squared[open_] = best
            open_, at, best = open_[going], at[going], best[going]
        if not len(open_) or looks > LOOKS_PER_VOXEL * source.size:
            reach = min(reach, float(across[i]))
            break
        np.minimum(best, along[flat[at + step]] + across[i], out=best)
        looks += max(len(open_), LOOKS_A_ROUND)
    squared[open_] = best
    return squared, squared > reach


def _offsets(
    shape: tuple[int, ...], spacing: Sequence[float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[int, int], float]:
    """Offsets dy, dx (M,) by rising squared length (M,), the padding they need, and the squared reach they cover."""
    flat = [size == 1 for size in shape[1:]]
    cell = np.prod([s for s, only in zip(spacing[1:], flat, strict=True) if not only])
    radius = {0: np.sqrt(OFFSETS * cell / np.pi), 1: OFFSETS / 16 * cell, 2: 0.0}[sum(flat)]
    radius = min(radius, (FAR - 1) * spacing[0]) if sum(flat) < 2 else (FAR - 1) * spacing[0]
    pad_y, pad_x = (0 if only else min(int(radius / s), n - 1) for only, s, n in zip(flat, spacing[1:], shape[1:], strict=True))
    dy, dx = (grid.ravel() for grid in np.mgrid[-pad_y : pad_y + 1, -pad_x : pad_x + 1])
    length = ((dy * spacing[1]) ** 2 + (dx * spacing[2]) ** 2).astype(np.float32)
    order = np.argsort(length, kind="stable")
    order = order[length[order] <= radius**2]
    return dy[order], dx[order], length[order], (pad_y, pad_x), float(radius**2)


def _columns(target: np.ndarray, pad: tuple[int, int]) -> np.ndarray:
    """Voxels to the nearest target along axis 0, at most FAR; (Z, Y + 2 pad, X + 2 pad) uint8, FAR around."""
    columns = np.full((target.shape[0], target.shape[1] + 2 * pad[0], target.shape[2] + 2 * pad[1]), FAR, np.uint8)
    inner = columns[:, pad[0] : pad[0] + target.shape[1], pad[1] : pad[1] + target.shape[2]]
    inner[target] = 0
    for order in (range(1, len(inner)), range(len(inner) - 2, -1, -1)):
        before = order.step
        for z in order:
            behind = inner[z - before]
            np.minimum(inner[z], behind + (behind < FAR), out=inner[z])
    return columns
