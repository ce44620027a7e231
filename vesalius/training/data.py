"""Samples: prepared cases in memory (or in a memory map), and patches cut from them by number.

Sample n depends on (seed, n) alone: which case, where, how it is changed. So any number of workers, ranks or
restarts sees the same samples, and a run that was killed goes on as if nothing had happened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ..core.atomic import atomic
from ..core.errors import DatasetError
from ..pipeline.segment import fit_channels
from ..tasks.task import Task
from ..transforms.objects import encode
from ..transforms.spatial import prepare_pair
from ..transforms.tiles import mirrored
from .augment import Augmentation
from .border import border_weights
from .losses import IGNORED

SPOTS = 20_000  # foreground positions remembered per class and case: enough to centre patches on
Spots = tuple[np.ndarray, ...]


@dataclass(frozen=True, eq=False)
class Prepared:
    """A case as the network sees it: image float32 (C, Z, Y, X); mask (Z, Y, X) of class indices (0 background, k the
    k-th label, IGNORED) or of object numbers; `spots`, foreground positions (n, 3) per class, all objects one class.
    """

    name: str
    image: np.ndarray
    mask: np.ndarray
    spots: Spots


def prepare_case(dataset: Any, case: Any, task: Task) -> Prepared:
    """Load a case, walk the task's steps with image and mask, turn label values into class indices.

    Raises what `Dataset.load` and the steps raise, and DatasetError for a case without a mask.
    """
    if case.mask is None:
        raise DatasetError("this case has no mask", file=case.images[0], fix="add its mask or take the image out")
    image, mask = dataset.load(case)
    image, mask, _ = prepare_pair(fit_channels(image, task), mask, task.steps)
    array = np.ascontiguousarray(image.array, dtype=np.float32)
    numbers = mask.array.astype(np.int32) if task.instances else indices(mask.array, task)
    return Prepared(case.name, array, numbers, spots_of(numbers, task))


def indices(mask: np.ndarray, task: Task) -> np.ndarray:
    """Label values -> class indices int16: 0 background, k for the k-th label, IGNORED for the ignore label."""
    table = np.zeros(int(mask.max()) + 1, np.int16)
    for index, value in enumerate(task.labels.values, 1):
        if value < len(table):
            table[value] = index
    if task.labels.ignore is not None and task.labels.ignore < len(table):
        table[task.labels.ignore] = IGNORED
    return table[mask]


def spots_of(mask: np.ndarray, task: Task) -> Spots:
    """Positions (n, 3) of the foreground, per class; a fixed draw of at most SPOTS of them."""
    rng = np.random.default_rng(0)
    found = []
    for k in [None] if task.instances else range(1, len(task.labels) + 1):
        flat = np.flatnonzero(mask > 0 if k is None else mask == k)
        if len(flat) > SPOTS:
            flat = rng.choice(flat, SPOTS, replace=False)
        if len(flat):
            found.append(np.stack(np.unravel_index(flat, mask.shape), 1).astype(np.int32))
    return tuple(found)


def gather(
    dataset: Any, cases: Sequence[Any], task: Task, *, cache: Path, limit_gb: float, say: Callable[[str], None]
) -> list[Prepared]:
    """All cases prepared: in memory up to `limit_gb`, the others as .npy files in `cache`, mapped."""
    ready, used, mapped = [], 0, 0
    for case in cases:
        one = prepare_case(dataset, case, task)
        size = one.image.nbytes + one.mask.nbytes
        if used + size > limit_gb * 1e9:
            one = replace(
                one,
                image=on_disk(one.image, cache / f"{one.name}.image.npy"),
                mask=on_disk(one.mask, cache / f"{one.name}.mask.npy"),
            )
            mapped += 1
        else:
            used += size
        ready.append(one)
    where = f"{used / 1e9:.2f} GB in memory" + (f", {mapped} of them in {cache}" if mapped else "")
    say(f"{len(ready)} training cases prepared, {where}")
    return ready


def on_disk(array: np.ndarray, path: Path) -> np.ndarray:
    """`array` written to `path`, and mapped back read-only."""
    with atomic(path) as part:
        np.save(part, array)
    return np.load(path, mmap_mode="r")


class Samples(Dataset):
    """Patch n, cut, changed and encoded: {'image': (C, *S), 'target': (*S) int64 | (T, *S) float32, 'weight'?: (*S)}.

    `shares`: how often each case is drawn. `overhang`: voxels a patch may reach beyond the image, mirrored (valid convolutions).
    `class_weights`: w_c of Ronneberger's border map, or None where the loss wants no map.
    """

    def __init__(
        self,
        cases: Sequence[Prepared],
        task: Task,
        augmentation: Augmentation,
        *,
        patch: tuple[int, int, int],
        seed: int,
        foreground: float = 0.33,
        shares: np.ndarray | None = None,
        overhang: tuple[int, ...] = (0, 0, 0),
        class_weights: tuple[float, ...] | None = None,
    ):
        self.cases, self.augmentation, self.patch = list(cases), augmentation, patch
        self.dims, self.context, self.objects = task.model_dims, task.context, task.instances
        self.seed, self.foreground = seed, foreground
        self.shares = None if shares is None else shares / shares.sum()
        self.overhang, self.class_weights = overhang, class_weights
        self.crop = (*patch[: 3 - self.dims], *augmentation.crop)

    def __getitem__(self, n: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng([self.seed, n])
        case = self.cases[rng.choice(len(self.cases), p=self.shares)]
        centre = self._centre(case, rng)
        border = "reflection" if any(self.overhang) else self.augmentation.border
        image = self._seen(case.image, centre, border)
        mask = cut(case.mask[None], centre, self.crop, border)[0]
        if self.dims == 2:
            image, mask = image[:, 0], mask[0]
        changed, numbers = self.augmentation(image, mask, int(rng.integers(2**31)))
        sample = {"image": changed}
        if self.objects:
            sample["target"] = torch.from_numpy(np.ascontiguousarray(encode(numbers.numpy()), dtype=np.float32))
            return sample
        sample["target"] = numbers.long()
        if self.class_weights is not None:
            sample["weight"] = torch.from_numpy(border_weights(numbers.numpy(), self.class_weights))
        return sample

    def _seen(self, image: np.ndarray, centre: list[int], border: str) -> np.ndarray:
        """The crop (C, *crop) around `centre`; with context (C (2 context + 1), 1, Y, X), as `pipeline.tiled` has it."""
        if not self.context:
            return cut(image, centre, self.crop, border)
        planes = np.clip(np.arange(centre[0] - self.context, centre[0] + self.context + 1), 0, image.shape[1] - 1)
        return np.concatenate([cut(image, (int(z), *centre[1:]), self.crop, border) for z in planes])

    def _centre(self, case: Prepared, rng: np.random.Generator) -> list[int]:
        """The patch's middle: a foreground voxel of a class drawn evenly, or anywhere; kept where the patch stays inside."""
        size = case.mask.shape
        low = [min(p // 2, n // 2) - o for n, p, o in zip(size, self.patch, self.overhang, strict=True)]
        high = [max(n - (p - p // 2), n // 2) + o for n, p, o in zip(size, self.patch, self.overhang, strict=True)]
        if case.spots and rng.random() < self.foreground:
            spots = case.spots[rng.integers(len(case.spots))]
            return [int(np.clip(c, a, b)) for c, a, b in zip(spots[rng.integers(len(spots))], low, high, strict=True)]
        return [int(rng.integers(a, b + 1)) for a, b in zip(low, high, strict=True)]


def cut(array: np.ndarray, centre: Sequence[int], size: Sequence[int], border: str) -> np.ndarray:
    """A copy (C, *size) of `array` (C, Z, Y, X) around `centre`; beyond it zeros, its border voxels, or the image mirrored."""
    starts = [c - s // 2 for c, s in zip(centre, size, strict=True)]
    inside = [slice(max(a, 0), min(a + s, n)) for a, s, n in zip(starts, size, array.shape[1:], strict=True)]
    whole = all(a >= 0 and a + s <= n for a, s, n in zip(starts, size, array.shape[1:], strict=True))
    if whole:
        return np.array(array[(slice(None), *inside)])
    if border == "zeros":
        out = np.zeros((len(array), *size), array.dtype)
        out[(slice(None), *[slice(i.start - a, i.stop - a) for i, a in zip(inside, starts, strict=True)])] = array[
            (slice(None), *inside)
        ]
        return out
    beyond = mirrored if border == "reflection" else lambda index, n: np.clip(index, 0, n - 1)
    index = [beyond(np.arange(a, a + s), n) for a, s, n in zip(starts, size, array.shape[1:], strict=True)]
    return array[(slice(None), *np.ix_(*index))]  # type: ignore[arg-type]


class Order:
    """Which samples each step takes, from step `start` on: batch b of step s is sample s * batch + b; ranks take turns."""

    def __init__(self, start: int, batch: int, rank: int = 0, world: int = 1):
        if batch % world:
            raise DatasetError(f"a batch of {batch} cannot be shared by {world} processes", fix=f"choose a multiple of {world}")
        self.start, self.batch, self.rank, self.world = start, batch, rank, world

    def __iter__(self) -> Iterator[list[int]]:
        step = self.start
        while True:
            yield [step * self.batch + b for b in range(self.rank, self.batch, self.world)]
            step += 1


def batches(samples: Dataset, order: Order, workers: int) -> Iterator[dict[str, torch.Tensor]]:
    """An endless stream of batches, made `workers` processes ahead (0: in this one)."""
    loader = DataLoader(samples, batch_sampler=order, num_workers=workers, prefetch_factor=4 if workers else None)  # type: ignore[arg-type]
    return iter(loader)
