"""Probabilities, kept beside the mask: tapped from the scores as they stream by, and never whole in memory.

    slabs on the lattice --wait on disk--> class by class home --wait on disk--> slabs on the image's grid
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
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

Keep = Callable[[Iterable[Slab], Restore, int], Iterable[Slab]]


@contextmanager
def keep_probabilities(task: Task, image: Image, path: Path | None) -> Iterator[Keep]:
    """Lend `keep(scores, restore, z)`, which hands scores on: their image begins at slice z of `image`. When all have been used
    up, the probabilities are written to `path` (nothing if None).

    What stood there before, of an interrupted run perhaps, is replaced. Raises OutputError for a full disk.
    """
    if path is None:
        yield lambda scores, restore, z: scores
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch(path.parent) as file:
            home = _Waiting(file, channels(task), image.grid.shape)

            def keep(scores: Iterable[Slab], restore: Restore, z: int) -> Iterator[Slab]:
                with scratch(path.parent) as file:
                    lattice = _Waiting(file, channels(task), restore.lattice)
                    for z0, slab in scores:
                        lattice.put(z0, probabilities(slab, task))
                        yield z0, slab
                    for k in range(channels(task)):
                        outside = 1.0 if k == 0 and isinstance(task.decide, Argmax) else 0.0  # of a crop all is background
                        home.put(z, restore.finish(lattice.volume(k), outside)[None], first=k)

            yield keep
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
