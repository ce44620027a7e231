"""Cubic views of a volume, at any scale and place, and the way back of what was found in them.

    volume (Z, Y, X)  --take-->  view (S, S, S)  --model-->  logits (S, S, S)  --put-->  logits on the volume's own voxels

A cube lies along the volume's axes and is as long in mm along each of them; where nothing is known of mm, in voxels. It is given
in voxel edges, so that voxel i reaches from i to i + 1. Every cell is the mean over its own extent, or interpolated where voxels
are larger, and so is every voxel on the way back. Beyond the volume is nothing: 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..core.image import Grid
from .glances import OUTSIDE, weights

EVEN = 1.0  # grey levels added to a view's deviation, so that noise in a flat view stays small
LEAST = 8.0  # voxels of the finest axis that a cube reaches at least


@dataclass(frozen=True, eq=False)
class Cube:
    """Its middle z, y, x and its sides, in voxel edges."""

    middle: np.ndarray
    sides: np.ndarray

    @property
    def low(self) -> np.ndarray:
        return self.middle - self.sides / 2

    def cells(self, places: np.ndarray, size: int) -> np.ndarray:
        """Places (..., 3) in voxel edges as cell edges of the view of `size` cells."""
        return (places - self.low) / self.sides * size

    def voxels(self, places: np.ndarray, size: int) -> np.ndarray:
        """Cell edges (..., 3) of the view as voxel edges."""
        return places / size * self.sides + self.low

    def middles(self, axis: int, size: int) -> np.ndarray:
        """(size,) the middles of its cells along an axis, in voxel edges."""
        return self.low[axis] + self.sides[axis] * (np.arange(size) + 0.5) / size


def lengths(grid: Grid) -> np.ndarray:
    """(3,) the sides z, y, x of a voxel: in mm, or all 1 where nothing is known of them."""
    return np.ones(3) if grid.spacing is None else np.asarray(grid.spacing, float)


def around(low: np.ndarray, high: np.ndarray, voxel: np.ndarray, spread: float) -> Cube:
    """A cube around the box from `low` to `high` (voxel edges): `spread` times its longest side."""
    longest = max(float(((high - low) * voxel).max()), LEAST / spread * float(voxel.min()))
    return Cube((low + high) / 2, spread * longest / voxel)


def take(volume: np.ndarray, cube: Cube, size: int) -> Tensor:
    """(S, S, S) float32: the volume's values in the cells of the cube, 0 beyond it."""
    found, parts, matrices = volume, [], []
    for axis, n in enumerate(volume.shape):
        low, wide = cube.low[axis], cube.sides[axis] / size
        first, last = int(np.clip(np.floor(low) - 1, 0, n - 1)), int(np.clip(np.ceil(low + cube.sides[axis]) + 1, 1, n))
        last = max(last, first + 1)
        middles = cube.middles(axis, size)
        matrices.append(weights(middles - first, last - first, wide) * within(middles, n)[:, None])
        parts.append(slice(first, last))
    values = torch.from_numpy(np.ascontiguousarray(found[tuple(parts)])).float()
    return spread_out(values, matrices)


def inside(shape: Sequence[int], cube: Cube, size: int) -> Tensor:
    """(S, S, S) boolean: which cells have their middle in the volume."""
    z, y, x = (within(cube.middles(axis, size), n) > 0 for axis, n in enumerate(shape))
    return z[:, None, None] & y[:, None] & x


def within(middles: np.ndarray, n: int) -> Tensor:
    """(S,) 1 where a middle lies between 0 and n, else 0."""
    return torch.from_numpy(((middles >= 0) & (middles <= n)).astype(np.float32))


def put(logits: Tensor, cube: Cube, shape: Sequence[int]) -> tuple[tuple[slice, slice, slice], Tensor]:
    """Logits (S, S, S) of a view on the voxels whose middles it reaches: where in the volume, and the logits there."""
    parts, matrices = [], []
    for axis, n in enumerate(shape):
        low, high, size = cube.low[axis], cube.low[axis] + cube.sides[axis], logits.shape[axis]
        first, last = max(0, int(np.ceil(low - 0.5))), min(n, int(np.floor(high - 0.5)) + 1)
        scale = size / cube.sides[axis]
        matrices.append(weights((np.arange(first, max(first, last)) + 0.5 - low) * scale, size, scale))
        parts.append(slice(first, max(first, last)))
    return (parts[0], parts[1], parts[2]), spread_out(logits.float(), matrices)


def carry(logits: Tensor, source: Cube, target: Cube) -> Tensor:
    """Logits (S, S, S) of one cube on the cells of another; OUTSIDE where the first did not reach."""
    size, matrices, known = len(logits), [], []
    for axis in range(3):
        middles, scale = target.middles(axis, size), size / source.sides[axis]
        at = (middles - source.low[axis]) * scale
        matrices.append(weights(at, size, target.sides[axis] / size * scale))
        known.append(within(at, size) > 0)
    reached = known[0][:, None, None] & known[1][:, None] & known[2]
    return torch.where(reached, spread_out(logits, matrices), torch.tensor(OUTSIDE))


def spread_out(values: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """Values (Z, Y, X) resampled along each axis by its matrix (n, Z), the one that shrinks most first."""
    for axis in sorted(range(3), key=lambda axis: matrices[axis].shape[0] / max(1, matrices[axis].shape[1])):
        values = torch.tensordot(matrices[axis], values, ([1], [axis])).movedim(0, axis)
    return values.contiguous()


def normalised(view: Tensor, known: Tensor) -> Tensor:
    """The values (S, S, S) to mean 0, deviation 1 over what is volume; the rest 0."""
    count = known.sum().clamp(min=1)
    centred = (view - (view * known).sum() / count) * known
    return centred / (((centred**2).sum() / count).sqrt() + EVEN)
