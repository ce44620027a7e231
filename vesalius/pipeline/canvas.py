"""Where objects are painted, one number each; where they overlap the higher logit wins, and of equal ones the first.

    Canvas   a picture or a volume, in memory
    Reel     the frames of a video, painted one by one when they are asked for: only what draws them is kept
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..core.image import Grid
from ..core.prompts import Plane
from .volumes import Slices


class Canvas:
    """`labels` (Z, Y, X) uint16 on `grid`."""

    def __init__(self, grid: Grid):
        self.labels = np.zeros(grid.shape, np.uint16)
        self._top = np.zeros(grid.shape, np.float32)  # logits of what is painted: only above 0 is anything an object

    def paint(self, found: Slices, number: int) -> None:
        for index, logits in found.logits.items():
            plane = Plane(found.axis, index)
            _paint(plane.take(self.labels), plane.take(self._top), logits, number)

    def put(self, plane: Plane, labels: np.ndarray) -> None:
        """Labels (H, W) of a slice, painted already."""
        plane.put(self.labels, labels)

    def counts(self, most: int) -> np.ndarray:
        """Voxels of the labels 0 to `most`."""
        return np.bincount(self.labels.ravel(), minlength=most + 1)


class Reel:
    """The frames (Z, Y, X) of `grid`; `counts` knows those that were last drawn."""

    def __init__(self, grid: Grid):
        self.grid = grid
        self._objects: list[tuple[int, Slices]] = []
        self._given: dict[int, np.ndarray] = {}
        self._counts = np.zeros(1, np.int64)

    def paint(self, found: Slices, number: int) -> None:
        self._objects.append((number, found))

    def put(self, plane: Plane, labels: np.ndarray) -> None:
        """Labels (H, W) of a frame, painted already."""
        self._given[plane.index] = labels

    def frames(self) -> Iterator[np.ndarray]:
        """(Y, X) of each frame in turn: uint8, where there are more than 255 objects or a painted frame uint16."""
        size = self.grid.shape[1:]
        most = max((number for number, _ in self._objects), default=0)
        self._counts = np.zeros(most + 1, np.int64)
        narrow = np.uint8 if most <= 255 and not self._given else np.uint16
        for z in range(self.grid.shape[0]):
            labels = self._given.get(z, np.zeros(size, narrow)).astype(narrow)
            top = np.zeros(size, np.float32)
            for number, found in self._objects:
                if z in found.logits:
                    _paint(labels, top, found.logits[z], number)
            present = np.bincount(labels.ravel(), minlength=len(self._counts))
            self._counts = np.pad(self._counts, (0, len(present) - len(self._counts))) + present
            yield labels

    def counts(self, most: int) -> np.ndarray:
        """Pixels of the labels 0 to `most`, over all frames."""
        return np.pad(self._counts, (0, max(0, most + 1 - len(self._counts))))


def _paint(labels: np.ndarray, top: np.ndarray, logits: np.ndarray, number: int) -> None:
    """Where these logits are above 0 and above all before, the object `number` stands."""
    wins = logits > top
    labels[wins] = number
    top[wins] = logits[wins]
