"""The four ways an array moves to another grid, each knowing its inverse. They are the undos of the spatial steps.

    Turn     transpose and flip           exact
    Cut      keep a box                   exact
    Place    put a box into a larger one  exact, the rest is filled; the inverse of Cut
    Resize   interpolate, edges kept      the only one that invents values between voxels

Each acts on (K, Z, Y, X) and holds sizes only, so it is small and knows no image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..core.image import Grid, Shape3
from .resample import Matrix, Slabs, resize, resize_nearest, resize_slabs, weights

Fill = float | Sequence[float]


@dataclass(frozen=True)
class Turn:
    """The target's axis i is the source's axis `axes[i]`, reversed where `flips[i]`; `source` is the shape before."""

    source: Shape3
    axes: Shape3
    flips: tuple[bool, bool, bool]

    @property
    def target(self) -> Shape3:
        return tuple(self.source[a] for a in self.axes)  # type: ignore[return-value]

    @property
    def idle(self) -> bool:
        return self.axes == (0, 1, 2) and not any(self.flips)

    def inverse(self) -> Turn:
        back = [self.axes.index(i) for i in range(3)]
        return Turn(self.target, tuple(back), tuple(self.flips[i] for i in back))  # type: ignore[arg-type]

    def matrix(self) -> np.ndarray:
        """(4, 4) from target index to source index."""
        matrix = np.zeros((4, 4))
        matrix[3, 3] = 1
        for i, (axis, flip) in enumerate(zip(self.axes, self.flips, strict=True)):
            matrix[axis, i] = -1 if flip else 1
            matrix[axis, 3] = self.source[axis] - 1 if flip else 0
        return matrix

    def apply(self, array: np.ndarray, order: Literal[0, 1] = 1, fill: Fill = 0) -> np.ndarray:
        """A view; nothing is copied."""
        array = array.transpose(0, *(a + 1 for a in self.axes))
        return array[:, *(slice(None, None, -1 if flip else 1) for flip in self.flips)]

    def sized(self, sizes: Sequence) -> tuple:
        """One value an axis, in the order that the axes have after the turn."""
        return tuple(sizes[a] for a in self.axes)


@dataclass(frozen=True)
class Cut:
    """Keep the box of size `target` that begins at `start` inside `source`."""

    source: Shape3
    target: Shape3
    start: Shape3

    @property
    def idle(self) -> bool:
        return self.source == self.target

    def inverse(self) -> Place:
        return Place(self.target, self.source, self.start)

    def matrix(self) -> np.ndarray:
        matrix = np.eye(4)
        matrix[:3, 3] = self.start
        return matrix

    def apply(self, array: np.ndarray, order: Literal[0, 1] = 1, fill: Fill = 0) -> np.ndarray:
        """A view; nothing is copied."""
        return array[:, *(slice(s, s + n) for s, n in zip(self.start, self.target, strict=True))]

    def turned(self, turn: Turn) -> Cut:
        """The same cut, as it acts on the turned array."""
        return Cut(turn.sized(self.source), turn.sized(self.target), _turned_start(turn, self.start, self.target, self.source))

    def stream(self, slabs: Slabs, max_slices: int, fill: Fill = 0) -> Iterator[tuple[int, np.ndarray]]:
        (z, y, x), (nz, ny, nx) = self.start, self.target
        for z0, slab in slabs:
            low, high = max(z, z0), min(z + nz, z0 + slab.shape[1])
            if low < high:
                yield low - z, slab[:, low - z0 : high - z0, y : y + ny, x : x + nx]


@dataclass(frozen=True)
class Place:
    """Put an array of size `source` at `start` into one of size `target`; the rest is filled."""

    source: Shape3
    target: Shape3
    start: Shape3

    @property
    def idle(self) -> bool:
        return self.source == self.target

    def inverse(self) -> Cut:
        return Cut(self.target, self.source, self.start)

    def matrix(self) -> np.ndarray:
        matrix = np.eye(4)
        matrix[:3, 3] = [-s for s in self.start]
        return matrix

    def apply(self, array: np.ndarray, order: Literal[0, 1] = 1, fill: Fill = 0) -> np.ndarray:
        """A new array of the same dtype; `fill` is one value or one a channel."""
        out = self._filled(self.target, array, fill)
        self.inverse().apply(out)[:] = array
        return out

    def turned(self, turn: Turn) -> Place:
        return self.inverse().turned(turn).inverse()

    def stream(self, slabs: Slabs, max_slices: int, fill: Fill = 0) -> Iterator[tuple[int, np.ndarray]]:
        z, (nz, ny, nx) = self.start[0], self.target
        done, like = 0, None
        for z0, like in slabs:
            yield from self._blank(done, z + z0, like, max_slices, fill)
            done = z + z0 + like.shape[1]
            out = self._filled((like.shape[1], ny, nx), like, fill)
            out[:, :, self.start[1] : self.start[1] + like.shape[2], self.start[2] : self.start[2] + like.shape[3]] = like
            yield z + z0, out
        if like is not None:
            yield from self._blank(done, nz, like, max_slices, fill)

    def _blank(self, start: int, stop: int, like: np.ndarray, max_slices: int, fill: Fill) -> Iterator[tuple[int, np.ndarray]]:
        for z in range(start, stop, max_slices):
            yield z, self._filled((min(max_slices, stop - z), *self.target[1:]), like, fill)

    @staticmethod
    def _filled(shape: Sequence[int], like: np.ndarray, fill: Fill) -> np.ndarray:
        out = np.empty((len(like), *shape), like.dtype)
        out[:] = np.reshape(np.asarray(fill, like.dtype), (-1, 1, 1, 1))
        return out


@dataclass(frozen=True)
class Resize:
    """Interpolate from shape `source` to `target`, outer edges kept; by nearest along the axes marked `nearest`."""

    source: Shape3
    target: Shape3
    nearest: tuple[bool, bool, bool] = (False, False, False)

    @property
    def idle(self) -> bool:
        return self.source == self.target

    def inverse(self) -> Resize:
        return Resize(self.target, self.source, self.nearest)

    def matrix(self) -> np.ndarray:
        """The target's voxel i sits at (i + 1/2) r - 1/2 of the source, r = source / target."""
        ratio = np.array(self.source) / np.array(self.target)
        matrix = np.diag([*ratio, 1.0])
        matrix[:3, 3] = (ratio - 1) / 2
        return matrix

    def weights(self, order: Literal[0, 1, 3] = 1, average: bool = False) -> tuple[Matrix, ...]:
        """One banded matrix an axis, None where the size stays."""
        axes = zip(self.source, self.target, self.nearest, strict=True)
        return tuple(weights(n, m, order=0 if nearest else order, average=average) for n, m, nearest in axes)

    def apply(self, array: np.ndarray, order: Literal[0, 1] = 1, fill: Fill = 0) -> np.ndarray:
        """Linear as float32 (order 1), or nearest in the array's own dtype (order 0)."""
        return resize(array, self.weights()) if order else resize_nearest(array, self.target)

    def turned(self, turn: Turn) -> Resize:
        return Resize(turn.sized(self.source), turn.sized(self.target), turn.sized(self.nearest))

    def stream(self, slabs: Slabs, max_slices: int, fill: Fill = 0) -> Iterator[tuple[int, np.ndarray]]:
        return resize_slabs(slabs, self.weights(), max_slices)


Move = Turn | Cut | Place | Resize
Undo = Move


def _turned_start(turn: Turn, start: Shape3, inner: Shape3, outer: Shape3) -> Shape3:
    ends = tuple(o - s - n for s, n, o in zip(start, inner, outer, strict=True))
    return tuple((ends if flip else start)[a] for a, flip in zip(turn.axes, turn.flips, strict=True))  # type: ignore[return-value]


def moved(grid: Grid, move: Move) -> Grid:
    """The grid after `move`: its affine tells for each new voxel the millimetres where it always was."""
    affine = None if grid.affine is None else grid.affine @ move.matrix()
    return Grid(move.target, affine, grid.dims)
