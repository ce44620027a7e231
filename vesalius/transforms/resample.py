"""Separable interpolation between two grids that share their outer edges, in bounded memory.

    source  |--0--|--1--|--2--|          voxel i of n covers [i, i+1) / n of the axis,
    target  |-0-|-1-|-2-|-3-|-4-|        so the target's voxel i sits at (i + 1/2) n_source / n_target - 1/2

(the align_corners=False convention of PyTorch, grid_mode of scipy). Along each axis interpolation is a
banded matrix W (target, source), whatever its order, so one engine serves all of them: planes come in
order of z, are multiplied in y and x, and wait in a small window until z can be multiplied too.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
from scipy.ndimage import spline_filter1d
from scipy.sparse import csr_array

Slabs = Iterable[tuple[int, np.ndarray]]
Matrix = Any  # csr_array (target, source) float32; None where the axis stays as it is
Matrices = Sequence[Matrix]

_MARGIN = 12  # voxels by which scipy extends an axis before it filters a spline (0.27^12 = 1e-7)
_SLICES = 8


def nearest_index(source: int, target: int) -> np.ndarray:
    """For each of `target` voxels the source voxel that holds its centre, in exact integer arithmetic."""
    return (2 * np.arange(target) + 1) * source // (2 * target)


def weights(
    source: int,
    target: int,
    *,
    order: Literal[0, 1, 3] = 1,
    average: bool = False,
    align: Literal["edges", "centres"] = "edges",
) -> Matrix:
    """W (target, source) so that W @ column resamples an axis; None if nothing is to be done.

    Order 0 is nearest, 1 linear, 3 the cubic spline (Unser 1993; tails below 1e-8 dropped). Beyond the outermost
    centres the edge value holds. With `average`, an axis that shrinks takes for each new voxel the mean of the
    linear interpolant over that voxel's own extent: no aliasing, no overshoot, and a ramp stays a ramp.
    `align` "centres" lets the outermost centres meet instead of the edges, and mirrors beyond them: scipy's `zoom`, which
    papers that resize slices mean. It has no extents, so `average` does not apply.
    """
    if source == target:
        return None
    if align == "centres":
        position = np.arange(target) * ((source - 1) / max(target - 1, 1))
    elif order == 0:
        return _matrix(nearest_index(source, target)[:, None], np.ones((target, 1)), source)
    elif average and target < source:
        return _mean_over_extent(source, target)
    else:
        position = (np.arange(target) + 0.5) * source / target - 0.5
    if order == 0:
        return _matrix(np.floor(position + 0.5)[:, None], np.ones((target, 1)), source)
    floor = np.floor(position)
    if order == 1:
        fraction = position - floor
        return _matrix(floor[:, None] + [0, 1], np.stack([1 - fraction, fraction], 1), source)
    taps = floor[:, None] + [-1, 0, 1, 2]
    distance = np.abs(position[:, None] - taps)
    spline = np.where(distance < 1, 2 / 3 - distance**2 * (2 - distance) / 2, np.clip(2 - distance, 0, None) ** 3 / 6)
    beyond: Any = "edge" if align == "edges" else "reflect"
    coefficients = spline_filter1d(np.pad(np.eye(source), ((_MARGIN, _MARGIN), (0, 0)), mode=beyond), 3, axis=0, mode="nearest")
    dense = _matrix(taps + _MARGIN, spline, source + 2 * _MARGIN, np.float64) @ coefficients
    return csr_array(np.where(np.abs(dense) > 1e-8, dense, 0).astype(np.float32))


def _mean_over_extent(source: int, target: int) -> Matrix:
    """Rows are integrals of the hat functions over [a, b], the new voxel's extent, divided by b - a."""
    ratio = source / target
    a = np.arange(target)[:, None] * ratio - 0.5
    b = a + ratio
    taps = np.floor(a) + np.arange(int(np.ceil(ratio)) + 2)

    def integral(t: np.ndarray) -> np.ndarray:
        t = np.clip(t, -1, 1)
        return np.where(t < 0, (1 + t) ** 2 / 2, 1 - (1 - t) ** 2 / 2)

    return _matrix(taps, (integral(b - taps) - integral(a - taps)) / ratio, source)


def _matrix(taps: np.ndarray, values: np.ndarray, source: int, dtype: Any = np.float32) -> Matrix:
    """Sparse (target, source) of `values` (target, T) at `taps` (target, T); taps outside fall on the edge voxel."""
    columns = np.clip(taps, 0, source - 1).astype(np.int64)
    rows = np.broadcast_to(np.arange(len(taps))[:, None], taps.shape)
    matrix = csr_array((values.ravel(), (rows.ravel(), columns.ravel())), shape=(len(taps), source))
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix.astype(dtype)


def resize(array: np.ndarray, matrices: Matrices) -> np.ndarray:
    """`array` (K, Z, Y, X) resampled along z, y, x, as float32; works channel by channel."""
    shape = tuple(n if w is None else w.shape[0] for n, w in zip(array.shape[1:], matrices, strict=True))
    out = np.empty((len(array), *shape), np.float32)
    for k in range(len(array)):
        for z0, slab in resize_slabs([(0, array[k : k + 1])], matrices):
            out[k, z0 : z0 + slab.shape[1]] = slab[0]
    return out


def resize_nearest(array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """`array` (K, Z, Y, X) gathered on `shape` (Z, Y, X) by nearest neighbour; the dtype stays."""
    out = np.empty((len(array), *shape), array.dtype)
    iz, iy, ix = (nearest_index(n, m) for n, m in zip(array.shape[1:], shape, strict=True))
    for volume, target in zip(array, out, strict=True):
        for z, source in enumerate(iz):
            if z and source == iz[z - 1]:
                target[z] = target[z - 1]
            else:
                target[z] = volume[source].take(iy, axis=0).take(ix, axis=1)
    return out


def resize_labels(mask: np.ndarray, matrices: Matrices) -> np.ndarray:
    """Label map (Z, Y, X) resampled label by label: each voxel takes the label with the largest interpolated share.

    No value appears that was not there. Where two labels hold equal shares the larger value wins, so that
    structure beats background. Memory: a few planes a label.
    """
    if all(matrix is None for matrix in matrices):
        return mask
    values = np.array(sorted(set().union(*(np.unique(plane).tolist() for plane in mask)), reverse=True), mask.dtype)
    shares = ((z, np.equal(values[:, None, None, None], plane).astype(np.float32)) for z, plane in enumerate(mask))
    slabs = [values[slab.argmax(axis=0)] for _, slab in resize_slabs(shares, matrices)]
    return np.concatenate(slabs)


def resize_slabs(slabs: Slabs, matrices: Matrices, max_slices: int = _SLICES) -> Iterator[tuple[int, np.ndarray]]:
    """Slabs (z0, (K, dz, Y, X)) in order of z, resampled to float32 slabs of at most `max_slices` slices in order of z.

    Holds only the planes that the next slab's interpolation along z touches.
    """
    along_z, along_y, along_x = matrices
    if along_z is None:
        for z0, slab in slabs:
            for z in range(0, slab.shape[1], max_slices):
                planes = [_plane(slab[:, i], along_y, along_x) for i in range(z, min(z + max_slices, slab.shape[1]))]
                yield z0 + z, np.stack(planes, axis=1)
        return
    chunks = _chunks(along_z, max_slices)
    capacity = max(high - low for _, _, low, high in chunks)
    start, stop, low, high = chunks.pop(0)
    window = None
    for z0, slab in slabs:
        for z in range(z0, z0 + slab.shape[1]):
            if z < low:
                continue
            plane = _plane(slab[:, z - z0], along_y, along_x)
            if window is None:
                window = np.empty((len(plane), capacity, *plane.shape[1:]), np.float32)
            window[:, z - low] = plane
            while z == high - 1:
                yield start, _multiply_z(along_z[start:stop, low:high], window)
                if not chunks:
                    low = high = sys.maxsize  # what is left of the slabs touches nothing
                    break
                before = low
                start, stop, low, high = chunks.pop(0)
                kept = max(0, z + 1 - low)
                window[:, :kept] = window[:, low - before : low - before + kept]


def _plane(planes: np.ndarray, along_y: Matrix, along_x: Matrix) -> np.ndarray:
    """(K, Y, X) of any number type, multiplied along y and x, as float32."""
    planes = np.asarray(planes, np.float32)
    if along_y is None and along_x is None:
        return planes
    done = []
    for plane in planes:
        if along_x is not None:
            plane = (along_x @ plane.T).T
        done.append(plane if along_y is None else along_y @ plane)
    return np.stack(done)


def _multiply_z(matrix: Matrix, window: np.ndarray) -> np.ndarray:
    """W (dz, n) times the first n planes of `window` (K, capacity, Y, X), a channel at a time."""
    out = np.empty((len(window), matrix.shape[0], *window.shape[2:]), np.float32)
    for channel, target in zip(window, out, strict=True):
        target[:] = (matrix @ channel[: matrix.shape[1]].reshape(matrix.shape[1], -1)).reshape(target.shape)
    return out


def _chunks(matrix: Matrix, max_slices: int) -> list[tuple[int, int, int, int]]:
    """(start, stop, low, high): target slices start..stop need source planes low..high, at most about 2 max_slices."""
    rows = np.split(matrix.indices, matrix.indptr[1:-1])
    first = np.minimum.accumulate([row.min() for row in rows][::-1])[::-1]
    last = np.maximum.accumulate([row.max() for row in rows])
    widest = max(2 * max_slices, int((last - first).max()) + 1)
    chunks, start = [], 0
    for stop in range(1, len(rows) + 1):
        full = stop - start == max_slices
        if stop == len(rows) or full or last[stop] - first[start] >= widest:
            chunks.append((start, stop, int(first[start]), int(last[stop - 1]) + 1))
            start = stop
    return chunks
