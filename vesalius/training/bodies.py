"""The volumes of all sources with the objects in them: what exercises in three dimensions are cut from.

An object is a connected component of one label value, or of all labels joined. Volumes stand upright, as in use, and beyond
MOST voxels they are halved.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cc3d
import numpy as np

from ..core.greys import USUAL
from ..core.image import Image
from ..io.files import read, read_mask
from ..io.layouts import Case
from ..pipeline.cubes import lengths
from ..pipeline.upright import Upright
from ..pipeline.views import View
from ..transforms.clean import components
from .gallery import Opened

MOST = 12_000_000
THIN = 3  # voxels that an object reaches at least along two of the axes


@dataclass(frozen=True, eq=False)
class Part:
    """One object: its number in the body's map, and its box `low`, `high` (3,) in voxel edges."""

    number: int
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True, eq=False)
class Body:
    """A volume: grey values (S, A, R) uint8 as a model in use sees them, object numbers (S, A, R), the objects, a voxel's sides
    (3,)."""

    source: str
    name: str
    image: np.ndarray
    numbers: np.ndarray
    parts: tuple[Part, ...]
    voxel: np.ndarray


def raise_bodies(opened: Opened, case: Case, least: int) -> list[Body]:
    """The volume of a case, once for each meaning of its labels; none of a picture. Raises what `read` and `read_mask` raise."""
    assert case.mask is not None
    image = read(case.images[0] if len(case.images) == 1 else case.images)
    if image.grid.dims == 2 or len(image.array) > 1:
        return []
    labels = read_mask(case.mask, like=image).array
    return list(_bodies(opened, case.name, image, labels, least))


def _bodies(opened: Opened, name: str, image: Image, labels: np.ndarray, least: int) -> Iterator[Body]:
    lies, grey = Upright.of(image.grid), View.of(image, opened.settings.window, USUAL).volume()
    grey, labels, voxel = lies.volume(grey), lies.volume(labels), lies.sides(lengths(image.grid))
    while grey.size > MOST:
        grey, labels, voxel = halved(grey), np.ascontiguousarray(labels[::2, ::2, ::2]), 2 * voxel
    wanted = {"components": (False,), "joined": (True,), "both": (False, True)}[opened.settings.objects]
    if len(np.unique(labels)) < 3:
        wanted = wanted[-1:]  # one label: both are the same
    for joined in wanted:
        numbers = components(labels > 0 if joined else labels.astype(np.int32), 26)
        parts = tuple(_parts(numbers, least))
        if parts:
            yield Body(opened.name, name, grey, numbers.astype(np.uint16), parts, voxel)


def _parts(numbers: np.ndarray, least: int) -> Iterator[Part]:
    counted = cc3d.statistics(numbers)
    for number in range(1, min(len(counted["voxel_counts"]), 65536)):
        box = counted["bounding_boxes"][number]
        low, high = np.array([part.start for part in box], float), np.array([part.stop for part in box], float)
        if counted["voxel_counts"][number] >= least and np.sort(high - low)[1] >= THIN:
            yield Part(number, low, high)


def halved(grey: np.ndarray) -> np.ndarray:
    """(Z / 2, Y / 2, X / 2) uint8, rounded up: the mean of eight voxels."""
    even = np.pad(grey, [(0, n % 2) for n in grey.shape], mode="edge")
    z, y, x = (n // 2 for n in even.shape)
    return even.reshape(z, 2, y, 2, x, 2).mean((1, 3, 5), dtype=np.float32).round().astype(np.uint8)
