"""From slabs of scores to the label map on the scanner's grid, without ever holding all scores.

    classes   every slab is decided as it comes home; what waits for the end is one label map
    objects   a whole picture is needed; a large one is decoded in overlapping windows, and an object belongs
              to the window whose core holds its centre
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from ..core.errors import InputError
from ..tasks.decide import Objects, decide
from ..tasks.task import Task
from ..transforms.restore import Restore

Slab = tuple[int, np.ndarray]
WINDOW_PX, HALO_PX = 2048, 256  # core of a window and what it sees around; objects are smaller than the halo


def label_map(slabs: Iterable[Slab], restore: Restore, task: Task) -> np.ndarray:
    """Decide `slabs` of logits on the lattice, as `restore.stream` gives them, and take the labels home: (Z, Y, X).

    Raises InputError where more objects are found than a mask can number.
    """
    values = task.labels.values
    if isinstance(task.decide, Objects):
        labels = np.zeros(restore.lattice, np.uint32)
        count = 0
        for z0, scores in slabs:
            for i in range(scores.shape[1]):
                found = decode_windows(scores[:, i : i + 1], task.decide, values)
                labels[z0 + i] = np.where(found[0], found[0] + count, 0)
                count += int(found.max())
        if count > 65535:
            raise InputError(f"{count} objects are more than a 16-bit mask can number", fix="segment parts of the image")
        return restore.finish(labels.astype(np.uint16))
    labels = np.zeros(restore.lattice, np.uint8 if max(values) <= 255 else np.uint16)
    for z0, scores in slabs:
        labels[z0 : z0 + scores.shape[1]] = decide(scores, task.decide, values)
    return restore.finish(labels)


def decode_windows(scores: np.ndarray, rule: Objects, values: tuple[int, ...], window: int = WINDOW_PX) -> np.ndarray:
    """Objects 1..n (1, Y, X) from logits (K, 1, Y, X); at most a window with its halo is decoded at a time."""
    size = scores.shape[2:]
    if max(size) <= window + 2 * HALO_PX:
        return decide(scores, rule, values)
    out = np.zeros((1, *size), np.uint32)
    count = 0
    for core in _cores(size, window):
        rows, columns = (slice(max(c.start - HALO_PX, 0), min(c.stop + HALO_PX, n)) for c, n in zip(core, size, strict=True))
        seen = rows, columns
        found = decide(scores[:, :, rows, columns], rule, values)[0]
        table = _numbers(found, core, seen, count)
        count = max(count, int(table.max()))
        target = out[0][seen]
        numbered = table[found]
        np.copyto(target, numbered, where=(numbered > 0) & (target == 0))
    return out


def _cores(size: tuple[int, ...], window: int) -> Iterator[tuple[slice, slice]]:
    for y in range(0, size[0], window):
        for x in range(0, size[1], window):
            yield slice(y, min(y + window, size[0])), slice(x, min(x + window, size[1]))


def _numbers(found: np.ndarray, core: tuple[slice, slice], seen: tuple[slice, slice], count: int) -> np.ndarray:
    """For each object of a window its number in the whole picture, 0 where its centre lies in another core."""
    objects = int(found.max())
    table = np.zeros(objects + 1, np.uint32)
    if objects == 0:
        return table
    y, x = np.nonzero(found)
    which = found[y, x]
    area = np.maximum(np.bincount(which, minlength=objects + 1), 1)
    inside = np.ones(objects + 1, bool)
    for place, part, whole in ((y, core[0], seen[0]), (x, core[1], seen[1])):
        centre = np.bincount(which, weights=place, minlength=objects + 1) / area + whole.start
        inside &= (centre >= part.start) & (centre < part.stop)
    inside[0] = False
    table[inside] = count + 1 + np.arange(int(inside.sum()))
    return table
