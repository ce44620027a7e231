"""Probabilities, kept beside the mask: tapped from the scores as they stream by, and never whole in memory.

    slabs on the lattice --wait on disk--> class by class home --wait on disk--> slabs on the image's grid
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import numpy as np

from ..core.atomic import output_error
from ..core.image import Image
from ..io.probabilities import write_probabilities
from ..tasks.decide import Argmax, Objects
from ..tasks.task import Task
from ..transforms.restore import Restore
from .tiled import Slab


@contextmanager
def keep_probabilities(
    scores: Iterable[Slab], restore: Restore, task: Task, image: Image, path: Path | None
) -> Iterator[Iterable[Slab]]:
    """Lend `scores` on; when they have been used up, their probabilities are written to `path` (nothing if None).

    What stood there before, of an interrupted run perhaps, is replaced. Raises OutputError for a full disk.
    """
    if path is None:
        yield scores
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch(path.parent) as first, scratch(path.parent) as second:
            lattice = _Waiting(first, channels(task), restore.lattice)
            home = _Waiting(second, channels(task), image.grid.shape)
            yield _tapped(scores, task, lattice)
            for k in range(channels(task)):
                outside = 1.0 if k == 0 and isinstance(task.decide, Argmax) else 0.0  # of a crop all is background
                home.put(0, restore.finish(lattice.volume(k), outside)[None], first=k)
            write_probabilities(home.slabs(), image.grid, path, like=image, overwrite=True)
    except OSError as error:
        raise output_error(error, path) from error


def scratch(folder: Path) -> IO[bytes]:
    """A nameless file that vanishes with its last reader, even after kill -9."""
    return cast(IO[bytes], tempfile.TemporaryFile(prefix=".probabilities-", dir=folder))


def channels(task: Task) -> int:
    """How many probabilities a voxel has: of objects only the first score, the foreground's, is a logit."""
    return 1 if isinstance(task.decide, Objects) else task.outputs


def probabilities(scores: np.ndarray, task: Task) -> np.ndarray:
    """Probabilities of logits (K, ...): softmax where one class wins, a sigmoid for each region, or the foreground's."""
    scores = scores[: channels(task)]
    if isinstance(task.decide, Argmax):
        powers = np.exp(scores - scores.max(axis=0))
        return powers / powers.sum(axis=0)
    return 1 / (1 + np.exp(-np.clip(scores, -60, 60)))


def _tapped(scores: Iterable[Slab], task: Task, lattice: _Waiting) -> Iterator[Slab]:
    for z0, slab in scores:
        lattice.put(z0, probabilities(slab, task))
        yield z0, slab


class _Waiting:
    """(K, Z, Y, X) float16 in a nameless file on the output's disk: written and read by parts, gone when closed."""

    def __init__(self, file: IO[bytes], classes: int, shape: Sequence[int]):
        self.file, self.classes, self.shape = file, classes, tuple(shape)
        self.plane = 2 * math.prod(self.shape[1:])

    def put(self, z0: int, part: np.ndarray, first: int = 0) -> None:
        """Store `part` (k, dz, Y, X) from class `first` and plane `z0` on."""
        for k, volume in enumerate(part, first):
            self.file.seek((k * self.shape[0] + z0) * self.plane)
            self.file.write(np.ascontiguousarray(volume, dtype=np.float16).data)

    def volume(self, k: int, z0: int = 0, depth: int | None = None) -> np.ndarray:
        """Class `k`, from plane `z0` on: (dz, Y, X)."""
        depth = self.shape[0] - z0 if depth is None else depth
        self.file.seek((k * self.shape[0] + z0) * self.plane)
        return np.frombuffer(self.file.read(depth * self.plane), np.float16).reshape(depth, *self.shape[1:])

    def slabs(self, depth: int = 8) -> Iterator[Slab]:
        """All classes together, in order of z."""
        for z0 in range(0, self.shape[0], depth):
            count = min(depth, self.shape[0] - z0)
            yield z0, np.stack([self.volume(k, z0, count).astype(np.float32) for k in range(self.classes)])
