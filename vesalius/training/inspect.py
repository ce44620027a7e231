"""What a dataset looks like, found by reading all of it once: the plan is derived from this and nothing else."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.errors import DatasetError
from ..core.image import Image, Mask, Shape3, Spacing
from ..transforms.spatial import Orient

TOLD = 12  # shares of classes told, and kinds of notes, at most
SAMPLE = 10_000  # foreground intensities kept per case and channel


@dataclass(frozen=True)
class CaseFacts:
    """One case after orientation to RAS+: sizes and spacing follow (Z, Y, X)."""

    name: str
    patient: str
    shape: Shape3
    spacing: Spacing | None
    objects: int
    diameter_px: float


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """The dataset in numbers. `intensity` (C, 5): 0.5 %, mean, deviation, 99.5 % and maximum of the foreground;
    `counts` voxels per class, background first; `kinds` the integer or float types met; `notes` what the readers said of how
    many cases."""

    cases: tuple[CaseFacts, ...]
    dims: int
    channels: int
    units: str | None
    kinds: frozenset[str]
    intensity: np.ndarray
    counts: np.ndarray
    notes: tuple[tuple[str, int], ...] = ()

    @property
    def median_shape(self) -> Shape3:
        z, y, x = np.median([case.shape for case in self.cases], 0).astype(int)
        return int(z), int(y), int(x)

    @property
    def median_spacing(self) -> Spacing | None:
        known = [case.spacing for case in self.cases if case.spacing]
        if not known:
            return None
        z, y, x = np.median(known, 0)
        return round(float(z), 4), round(float(y), 4), round(float(x), 4)

    @property
    def mixed_spacing(self) -> bool:
        """Spacings that differ by more than 1 % along an axis."""
        known = np.array([case.spacing for case in self.cases if case.spacing])
        return len(known) > 0 and bool((known.max(0) / known.min(0) > 1.01).any())

    def describe(self, labels: Sequence[str]) -> list[str]:
        """What a person wants to know before training, a sentence a line."""
        patients = len({case.patient for case in self.cases})
        what = f"{count(len(self.cases), 'case')} of {count(patients, 'patient')}"
        lines = [f"{what}, {self.dims}D, {count(self.channels, 'channel')}"]
        low, high = np.min([c.shape for c in self.cases], 0), np.max([c.shape for c in self.cases], 0)
        axes = slice(3 - self.dims, None)
        lines.append(f"sizes {by(low[axes])} to {by(high[axes])}, median {by(tuple(self.median_shape)[axes])}")
        spacing = self.median_spacing
        lines.append(
            "no spacing: sizes are in pixels" if spacing is None else f"spacing {by(tuple(spacing)[axes])} mm in the median"
        )
        if len(self.counts) > 1:
            parts = self.counts / max(self.counts.sum(), 1)
            told = [f"{name} {100 * part:.2f} %" for name, part in zip(["background", *labels], parts, strict=True)]
            more = [f"and {len(told) - TOLD} labels more"] if len(told) > TOLD else []
            lines.append("voxels: " + ", ".join(told[:TOLD] + more))
        if any(case.objects for case in self.cases):
            counts = [case.objects for case in self.cases]
            size = np.median([case.diameter_px for case in self.cases if case.objects])
            lines.append(
                f"{min(counts)} to {max(counts)} objects a case, {np.median(counts):.0f} in the median, {size:.0f} px across"
            )
        lines += [f"{note} ({count(cases, 'case')})" for note, cases in self.notes[:TOLD]]
        left = len(self.notes) - TOLD
        return lines + ([f"and {count(left, 'note')} more on how cases were read"] if left > 0 else [])


def count(number: int, what: str) -> str:
    """1 case, 2 cases."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def by(sizes: Iterable[float]) -> str:
    """Sizes as people write them: 40 x 56 x 40."""
    return " x ".join(f"{n:g}" for n in sizes)


def fingerprint(dataset: Any) -> Fingerprint:
    """Read every case of `dataset` once. Raises DatasetError for cases that cannot be trained on together."""
    facts, samples, kinds, units = [], [], set(), set()
    notes: Counter[str] = Counter()
    counts = np.zeros(1 + (1 if dataset.instances else len(dataset.labels)), np.int64)
    dims = set()
    for case in dataset.cases:
        if case.mask is None:
            raise DatasetError("this case has no mask", file=case.images[0], fix="add its mask or take the image out")
        image, mask = dataset.load(case)
        facts.append(case_facts(case, image, mask, dataset.instances))
        counts += class_counts(mask, dataset)
        samples.append(foreground(image, mask, dataset.labels.ignore))
        kinds.add(image.array.dtype.name)
        units.add(image.units)
        notes.update(set(image.notes))
        dims.add(image.grid.dims)
    if len(dims) > 1:
        raise DatasetError("pictures and volumes are mixed in this dataset", file=dataset.root, fix="train on one kind at a time")
    with_spacing = sum(fact.spacing is not None for fact in facts)
    if 0 < with_spacing < len(facts):
        bare = [fact.name for fact in facts if fact.spacing is None]
        raise DatasetError(
            f"{len(bare)} of {len(facts)} cases carry no spacing, such as {bare[0]}",
            file=dataset.root,
            fix="give all cases their spacing, or none",
        )
    values = np.concatenate(samples, 1).astype(np.float64)
    intensity = np.stack(
        [np.percentile(values, 0.5, 1), values.mean(1), values.std(1), np.percentile(values, 99.5, 1), values.max(1)], 1
    )
    return Fingerprint(
        tuple(facts), dims.pop(), len(values), units.pop() if len(units) == 1 else None, frozenset(kinds), intensity, counts,
        tuple(notes.most_common()),
    )  # fmt: skip


def case_facts(case: Any, image: Image, mask: Mask, instances: bool) -> CaseFacts:
    """Size, spacing and objects of one case, its axes turned to RAS+ where they are known."""
    grid = image.grid
    if grid.affine is not None and grid.dims == 3:
        grid = Orient().apply(image)[0].grid
    sizes = np.bincount(mask.array.ravel())[1:] if instances else np.zeros(0, int)
    sizes = sizes[sizes > 0]
    diameter = float(np.median(2 * np.sqrt(sizes / np.pi))) if len(sizes) else 0.0
    return CaseFacts(case.name, case.patient, grid.shape, grid.spacing, len(sizes), diameter)


def class_counts(mask: Mask, dataset: Any) -> np.ndarray:
    """Voxels of background and of each label; objects all count as one class; ignored voxels as none."""
    if dataset.instances:
        inside = np.count_nonzero(mask.array)
        return np.array([mask.array.size - inside, inside])
    found = np.bincount(mask.array.ravel(), minlength=max((0, *dataset.labels.values)) + 1)
    return np.array([found[0], *[found[value] for value in dataset.labels.values]])


def foreground(image: Image, mask: Mask, ignore: int | None = None) -> np.ndarray:
    """Up to SAMPLE intensities (C, n) of the foreground, evenly spread; of everything where there is none."""
    flat = np.flatnonzero(mask.array if ignore is None else (mask.array != 0) & (mask.array != ignore))
    flat = flat if len(flat) else np.arange(mask.array.size)
    return image.array.reshape(len(image.array), -1)[:, flat[:: max(1, len(flat) // SAMPLE)]]
