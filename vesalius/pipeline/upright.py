"""Volumes stand upright before a model that knows how organs lie: feet to head, back to front, left to right, however stored.

    stored (Z, Y, X), what was said of it  --volume, told-->  upright (S, A, R)  --model-->  Found  --back-->  as stored

Axes are exchanged and turned round, nothing is interpolated. Where nobody knows how a volume lies, it stays as stored.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from ..core.image import Grid
from .cubes import Cube
from .solids import Found, Told

AXES = ("SI", "AP", "RL")  # the letters of Grid.orientation; upright axes run to the first


@dataclass(frozen=True)
class Upright:
    """`order` says which stored axis each upright one is, `turned` whether it runs the other way; `shape` is the stored one."""

    order: tuple[int, ...]
    turned: tuple[bool, ...]
    shape: tuple[int, ...]

    @classmethod
    def of(cls, grid: Grid) -> Upright:
        letters = grid.orientation or "SAR"
        order = tuple(next(i for i, letter in enumerate(letters) if letter in pair) for pair in AXES)
        return cls(order, tuple(letters[i] not in "SAR" for i in order), grid.shape)

    def volume(self, array: np.ndarray) -> np.ndarray:
        """(Z, Y, X) as stored -> upright; a singleton axis stays one."""
        backwards = tuple(slice(None, None, -1 if turned else 1) for turned in self.turned)
        return np.ascontiguousarray(array.transpose(self.order)[backwards])

    def sides(self, voxel: np.ndarray) -> np.ndarray:
        """(3,) the sides of a voxel."""
        return voxel[list(self.order)]

    def places(self, places: np.ndarray) -> np.ndarray:
        """(..., 3) in voxel edges."""
        moved, sizes = places[..., list(self.order)], np.array(self.shape)[list(self.order)]
        return np.where(self.turned, sizes - moved, moved)

    def told(self, told: Told) -> Told:
        """All that was said, of the upright volume."""
        axis, box = self.order.index(told.axis), None
        if told.box is not None:
            ends = self.places(np.stack(told.box))
            box = ends.min(0), ends.max(0)
        last = self.shape[told.axis] - 1
        sections = {
            last - index if self.turned[axis] else index: self.volume(np.expand_dims(mask, told.axis)).squeeze(axis)
            for index, mask in told.sections.items()
        }
        mask = None if told.mask is None else self.volume(told.mask)
        return replace(told, box=box, points=self.places(told.points), axis=axis, sections=sections, mask=mask)

    def back(self, found: Found) -> Found:
        """What was found in the upright volume, as stored."""
        logits = found.logits.flip(list(_true(self.turned))).permute(*np.argsort(self.order).tolist())
        middle, sides = np.empty(3), np.empty(3)
        sizes = np.array(self.shape)[list(self.order)]
        middle[list(self.order)] = np.where(self.turned, sizes - found.cube.middle, found.cube.middle)
        sides[list(self.order)] = found.cube.sides
        return Found(logits, found.iou, Cube(middle, sides))


def _true(flags: Iterable[bool]) -> Iterable[int]:
    return (i for i, flag in enumerate(flags) if flag)
