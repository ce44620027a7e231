"""A volume given to a task of pictures: every slice is a picture of its own, from its grey values to its cleaning.

    (C, Z, Y, X) --pages--> Z pictures (C, 1, Y, X) ... Z masks --Numbered--> (Z, Y, X), objects numbered on from slice to slice
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ..core.errors import InputError
from ..core.image import Grid, Image, Mask
from ..tasks.task import Task

MOST_OBJECTS = 65535  # that a mask of 16 bits can number


def pages(image: Image, task: Task) -> Sequence[Image]:
    """The slices of `image` as pictures where `task` is one of pictures, views that copy nothing; else the image itself."""
    if task.dims == 3 or image.grid.dims == 2:
        return [image]
    return [replace(image, array=image.array[:, z : z + 1], grid=_page(image.grid, z)) for z in range(image.grid.shape[0])]


def of_all(progress: Callable[[int, int], None], z: int, count: int) -> Callable[[int, int], None]:
    """`progress` of all `count` slices, as that of slice `z` is told; all have as many tiles."""
    return lambda done, tiles: progress(z * tiles + done, count * tiles)


def _page(grid: Grid, z: int) -> Grid:
    affine = None
    if grid.affine is not None:
        affine = grid.affine.copy()
        affine[:3, 3] += z * affine[:3, 0]
    return Grid((1, *grid.shape[1:]), affine, 2)


class Numbered:
    """Masks of an image's slices, or the one of the whole image, put together."""

    def __init__(self) -> None:
        self.masks: list[Mask] = []
        self.count = 0

    def add(self, mask: Mask) -> None:
        """The next one; objects are numbered on. Raises InputError where that takes more than 16 bits."""
        if mask.instances:
            before, self.count = self.count, self.count + int(mask.array.max())
            if self.count > MOST_OBJECTS:
                told = f"{self.count} objects are more than a 16-bit mask can number"
                raise InputError(told, fix="segment parts of the image")
            mask = replace(mask, array=np.where(mask.array > 0, mask.array + np.uint16(before), mask.array)) if before else mask
        self.masks.append(mask)

    def on(self, grid: Grid) -> Mask:
        """All of them as one mask on the image's grid."""
        if len(self.masks) == 1:
            return replace(self.masks[0], grid=grid)
        return replace(self.masks[0], array=np.concatenate([mask.array for mask in self.masks]), grid=grid)
