"""A folder of images and masks as a `Dataset`: paired folders, nnU-Net v2 (and v1), Medical Segmentation Decathlon.

    paired     images/ with masks/ or labels/; or these below train/ and validation/ (val/), a fixed split
    nnU-Net    imagesTr/case_0000.nii.gz, labelsTr/case.nii.gz, dataset.json with channel_names; splits_final.json, its folds
    MSD        imagesTr/, labelsTr/, dataset.json with modality and training

Opening reads every header (not the voxels) and, where no dataset.json declares labels, every mask; whatever does not
fit stops here, with the file's name. `Dataset.load` reads one case.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from ..core.errors import ChannelError, DatasetError, LabelError
from ..core.image import Image, Mask
from ..core.labels import Label, Labels
from .decoding import Peek
from .files import case_name, peek, read, read_mask, require_grid
from .formats import format_of
from .layouts import VALIDATION_FOLDERS, Case, Fold, Found, find_layout

Split = Literal["train", "validation"]
MANY_LABELS = 50  # more distinct values than this look like objects, not classes
MANY_OBJECTS = 8  # numbered 1..n in each mask, so many look like objects as well


@dataclass(frozen=True)
class Dataset:
    """Cases with what their masks mean. `labels` are classes, or the one kind of object if `instances`.

    `binary255`: masks hold 0 and 255, and 255 is read as 1. `notes` are what the user must be told. `folds` are those that the
    dataset brings: names to train on and to validate with.
    """

    root: Path
    name: str
    layout: Literal["paired", "nnunet", "msd"]
    cases: tuple[Case, ...]
    labels: Labels
    channels: tuple[str, ...]
    instances: bool = False
    notes: tuple[str, ...] = ()
    binary255: bool = False
    folds: tuple[Fold, ...] = ()

    def load(self, case: Case) -> tuple[Image, Mask]:
        """Image (C, Z, Y, X) with this dataset's channels, and its mask on the same grid.

        Raises UnreadableFile for damaged voxels, GeometryError where mask and image differ, LabelError for a value
        nobody declared, ChannelError for other channels; each names the file.
        """
        if case.mask is None:
            raise DatasetError(f"case '{case.name}' has no mask", file=self.root)
        image = self.image(case)
        mask = read_mask(case.mask, like=image)
        array = mask.array
        if self.binary255:
            array = (array > 0).astype(np.uint8)
        if not self.instances:
            self._check_labels(array, case.mask)
        return image, replace(mask, array=array, labels=self.labels, instances=self.instances)

    def image(self, case: Case) -> Image:
        """The image alone, its channels stacked and named; grey is repeated where the dataset is RGB, and that is noted."""
        image = read(case.images[0] if len(case.images) == 1 else case.images)
        count = len(self.channels)
        if len(image.array) == 1 and self.channels == ("red", "green", "blue"):
            array = np.broadcast_to(image.array, (3, *image.array.shape[1:]))
            return replace(image, array=array, channels=self.channels, notes=(*image.notes, "grey was repeated to RGB"))
        if len(image.array) != count:
            told = f"{len(image.array)} channels where the dataset has {count} ({', '.join(self.channels)})"
            raise ChannelError(told, file=case.images[0])
        # nnU-Net's own convention: a channel called CT holds Hounsfield units
        units = "HU" if tuple(name.upper() for name in self.channels) == ("CT",) else image.units
        return replace(image, channels=self.channels, units=units)

    def _check_labels(self, array: np.ndarray, file: Path) -> None:
        known = {0, *self.labels.values, *([self.labels.ignore] if self.labels.ignore is not None else [])}
        strange = [value for value in _values(array) if value not in known]
        if strange:
            told = f"the mask holds the value {strange[0]}, which no label declares (known: {sorted(known)})"
            raise LabelError(told, file=file, fix="mend the mask, or declare the label in dataset.json")


def open_dataset(path: str | Path, *, instances: bool = False, patients: str | Path | None = None) -> Dataset:
    """Recognise the layout at `path`, pair images with masks, check headers, find labels and patients.

    `instances`: masks are numbered objects. `patients`: a CSV with columns case and patient; by default cases.csv
    beside the images, else every case is a patient of its own, which is noted.
    Raises DatasetError (no layout, no case, missing masks, doubled names, sizes that differ, spacing in some cases
    only, patients missing), LabelError, UnreadableFile.
    """
    root = Path(path)
    if not root.is_dir():
        raise DatasetError("there is no such folder", file=root)
    found = find_layout(root)
    notes = list(found.notes)
    _check_names(root, found.cases)
    headers = _checked_headers(root, found.cases)
    channels = _channels(root, found, headers)
    cases = _with_patients(root, found.cases, Path(patients) if patients else None, notes)
    labels, binary255 = _labels(root, found, instances, notes)
    return Dataset(root, found.name, found.layout, cases, labels, channels, instances, tuple(notes), binary255, found.folds)


def _check_names(root: Path, cases: Iterable[Case]) -> None:
    seen: dict[str, Case] = {}
    for case in cases:
        twin = seen.setdefault(case.name, case)
        if twin is not case:
            raise DatasetError(f"two cases are called '{case.name}': {twin.images[0]} and {case.images[0]}",
                               file=root, fix="rename one, or move a repeated case out of one of the splits")  # fmt: skip
    if not seen:
        raise DatasetError("the dataset holds no case", file=root, fix="put images into images/ and masks into masks/")


def _checked_headers(root: Path, cases: tuple[Case, ...]) -> list[Peek]:
    """The header of every image, its mask compared; DatasetError for sizes that differ and for spacing in some only."""

    def look(case: Case) -> Peek:
        image = peek(case.images[0] if len(case.images) == 1 else case.images)
        if case.mask is not None and format_of(case.mask) != "dicom":  # a SEG omits empty frames
            require_grid(peek(case.mask).grid, image.grid, case.mask, case.images[0])
        return image

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        headers = list(pool.map(look, cases))
    without = [case.name for case, header in zip(cases, headers, strict=True) if header.grid.spacing is None]
    if without and len(without) < len(cases):
        raise DatasetError(f"{len(without)} of {len(cases)} cases carry no voxel size ({_some(without)})",
                           file=root, fix="give every image its spacing, or none")  # fmt: skip
    flat = [case.name for case, header in zip(cases, headers, strict=True) if header.grid.dims == 2]
    if flat and len(flat) < len(cases):
        raise DatasetError(f"{len(flat)} of {len(cases)} cases are pictures, the others volumes ({_some(flat)})",
                           file=root, fix="keep them in two datasets")  # fmt: skip
    return headers


def _channels(root: Path, found: Found, headers: list[Peek]) -> tuple[str, ...]:
    """Declared names, else names by count; grey pictures may stand among RGB ones, nothing else may differ."""
    counts = {header.channels: case for case, header in zip(found.cases, headers, strict=True)}
    wanted = len(found.channels) or max(counts)
    rgb = wanted == 3 and headers[0].grid.dims == 2
    for count, case in counts.items():
        if count != wanted and not (rgb and count == 1):
            source = "dataset.json declares" if found.channels else "others have"
            raise DatasetError(f"case '{case.name}' has {count} channels, {source} {wanted}", file=case.images[0])
    if rgb and (not found.channels or 1 in counts):
        return ("red", "green", "blue")
    names = ("grey",) if headers[0].grid.dims == 2 and wanted == 1 else tuple(f"channel_{i}" for i in range(wanted))
    return found.channels or names


def _labels(root: Path, found: Found, instances: bool, notes: list[str]) -> tuple[Labels, bool]:
    """Declared labels, else those the masks hold; and whether {0, 255} means {0, 1}."""
    if found.labels is not None and not instances:
        return found.labels, False
    masks = [case.mask for case in found.cases if case.mask]
    held = [each - {0} for each in _scan(masks)]
    values = sorted(set().union(*held))
    if not values:
        raise DatasetError("all masks are empty", file=root, fix="label something first")
    if instances:
        if len(values) == 1 and len(found.cases) > 1:
            raise DatasetError(f"no mask tells one object from another: they hold 0 and {values[0]} only",
                               file=root, fix="number the objects 1..n, or leave out --instances")  # fmt: skip
        kind = found.labels.items[0].name if found.labels and len(found.labels) == 1 else "object"
        return Labels((Label(1, kind),)), False
    if 255 in values and all(each in (set(), {1}, {255}) for each in held):
        others = ", others only 0 and 1" if 1 in values else ""
        notes.append(f"masks hold only 0 and 255{others}: 255 is read as label 1")
        return Labels((Label(1, "foreground"),)), True
    if _soft_edged(values, masks):
        told = f"masks hold 255 and {len(values) - 1} rarer greys up to it: soft edges of one class, no labels"
        raise LabelError(told, file=root, fix="threshold the masks at 128, or declare the classes in dataset.json")
    if 255 in values and max((0, *values[:-1])) < 128:
        notes.append('255 is taken as a class; if it is what nobody labelled, give a dataset.json with "ignore": 255 in "labels"')
    if len(values) > MANY_LABELS or _look_numbered(held):
        notes.append(f"masks hold {len(values)} different values; if these are objects, not classes, use --instances")
    if max(values) > 65535:
        raise LabelError(f"masks hold the value {max(values)}, too large for a class", file=root)
    return Labels(tuple(Label(value, f"label_{value}") for value in values)), False


def _look_numbered(held: list[set[int]]) -> bool:
    """Whether the masks' values look like numbers of objects: 1 to n without a gap in each, n now large, now small."""
    counts = [len(values) for values in held if values]
    return max(counts) >= MANY_OBJECTS and max(counts) >= 2 * min(counts) and all(max(v) == len(v) for v in held if v)


def _soft_edged(values: list[int], masks: list[Path]) -> bool:
    """Whether masks of one class, 255, were smoothed, resampled or saved as JPEG: dark and bright greys, each rare beside it.

    A few greys are classes, spread so that one sees them: 51, 102, 153, 204, 255.
    """
    dark, bright = sum(value < 128 for value in values), sum(128 <= value < 255 for value in values)
    if max(values) != 255 or min(dark, bright) < 4:
        return False
    counts = np.zeros(256, int)
    for file in masks:
        for plane in read_mask(file).array:  # whole volumes would be counted as 64 bit
            counts += np.bincount(plane.ravel(), minlength=256)
    return bool(counts[255] > 3 * counts[1:255].max())


def _scan(masks: list[Path]) -> list[set[int]]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda file: set(_values(read_mask(file).array)), masks))


def _values(array: np.ndarray) -> list[int]:
    """Distinct values; counting is many times faster than sorting for the 8 and 16 bit of a mask."""
    if array.dtype.itemsize > 2:
        return [int(value) for value in np.unique(array)]
    present = np.zeros(int(array.max(initial=0)) + 1, bool)
    for plane in array:  # most of a mask is background, and indices become 64 bit: a plane at a time
        inside = plane[plane != 0]
        present[inside] = True
        present[0] |= inside.size < plane.size
    return np.flatnonzero(present).tolist()


def _with_patients(root: Path, cases: tuple[Case, ...], file: Path | None, notes: list[str]) -> tuple[Case, ...]:
    """Cases with their patients; without a table each is its own."""
    tables = _patient_tables(root, file)
    if not tables:
        notes.append("no patients are named: each case is its own patient (name them in cases.csv or with --patients)")
        return cases

    def patient(case: Case) -> str | None:
        # a table inside train/ or validation/ knows its cases by the names they have there
        inside = tables.get(case.split, {}).get(case.name.removeprefix(f"{case.split}_")) if case.split else None
        return tables.get(None, {}).get(case.name) or tables.get(case.split, {}).get(case.name) or inside

    missing = [case.name for case in cases if patient(case) is None]
    if missing:
        raise DatasetError(f"{len(missing)} of {len(cases)} cases have no patient in the table ({_some(missing)})",
                           file=file or root, fix="add a line 'case,patient' for each")  # fmt: skip
    cases = tuple(replace(case, patient=patient(case) or case.name) for case in cases)
    split = {name: {case.patient for case in cases if case.split == name} for name in ("train", "validation")}
    both = split["train"] & split["validation"]
    if both:
        notes.append(f"{len(both)} patients are in train and in validation ({_some(both)}): the validation score flatters")
    return cases


def _patient_tables(root: Path, file: Path | None) -> dict[Split | None, dict[str, str]]:
    """The table given, else cases.csv beside the images: one for all (None), or one a split."""
    if file is not None:
        return {None: read_patients(file)}
    for folder in (root, root / "images", root / "imagesTr"):
        if (folder / "cases.csv").is_file():
            return {None: read_patients(folder / "cases.csv")}
    places: list[tuple[Split, str]] = [("train", "train"), *(("validation", name) for name in VALIDATION_FOLDERS)]
    found = [(split, root / name / "cases.csv") for split, name in places]
    return {split: read_patients(table) for split, table in found if table.is_file()}


def read_patients(file: str | Path) -> dict[str, str]:
    """case -> patient from a CSV with these two columns (others are passed over); raises DatasetError."""
    file = Path(file)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError("the table of patients cannot be read", file=file, fix="give a CSV file in UTF-8") from error
    head = text.partition("\n")[0]
    try:
        rows = iter(list(csv.reader(text.splitlines(), delimiter=max(",;\t", key=head.count))))
    except csv.Error as error:  # a field without end
        raise DatasetError("the table of patients cannot be read", file=file, fix="close every quotation mark in it") from error
    columns = [name.strip().lower() for name in next(rows, [])]
    if not {"case", "patient"} <= set(columns):
        raise DatasetError("the table needs the columns 'case' and 'patient'", file=file, fix="name them in its first line")
    c, p = columns.index("case"), columns.index("patient")
    table: dict[str, str] = {}
    for number, row in enumerate(rows, start=2):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) <= max(c, p) or not row[c].strip() or not row[p].strip():
            raise DatasetError(f"line {number} names no case or no patient", file=file)
        case, patient = case_name(row[c].strip()), row[p].strip()
        if table.setdefault(case, patient) != patient:
            raise DatasetError(f"line {number} gives case '{case}' a second patient", file=file)
    return table


def _some(names: Iterable[str], most: int = 3) -> str:
    ordered = sorted(names, key=lambda name: [int(part) if part.isdigit() else 0 for part in re.split(r"(\d+)", name)])
    return ", ".join(ordered[:most]) + (", ..." if len(ordered) > most else "")
