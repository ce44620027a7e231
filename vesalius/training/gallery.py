"""All pictures of all sources, with the objects in them: what a promptable model's samples are cut from.

    DATA/dsb2018/images, labels    every data set a folder of its own below DATA, or DATA itself is one
    pictures                       as they are; of volumes, slices along every axis that is not much coarser than the others

An object is a connected component of one label value, or of all labels joined, of at least `least_area_px`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cc3d
import numpy as np

from ..core.errors import DatasetError
from ..core.greys import USUAL
from ..core.image import Image
from ..core.prompts import Plane
from ..io.datasets import read_patients
from ..io.files import case_name, read, read_mask
from ..io.layouts import Case, find_layout
from ..pipeline.glances import Mips
from ..pipeline.views import View
from ..transforms.clean import components
from .prompting import Source
from .recipe import Recipe

COARSE = 3.0  # slices across an axis this much coarser than the finest are no pictures anybody looks at
Say = Callable[[str], None]


@dataclass(frozen=True)
class Thing:
    """One object: its number in the picture's map, the label value it has, its box x0, y0, x1, y1 and area in px."""

    number: int
    label: int
    box: tuple[int, int, int, int]
    area: int


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture or slice: values as a model in use sees them, the map (H, W) of object numbers, the objects.

    `beside`: the labels (H, W) of the next slice, or None; with `joined`, all labels count as one there.
    """

    source: str
    name: str
    mips: Mips
    numbers: np.ndarray
    things: tuple[Thing, ...]
    beside: np.ndarray | None = None
    joined: bool = False


@dataclass(frozen=True)
class Opened:
    """A source that was found: its cases, named SOURCE/CASE."""

    name: str
    settings: Source
    cases: tuple[Case, ...]


def open_sources(root: Path, recipe: Recipe, say: Say) -> list[Opened]:
    """What of the recipe's sources lies below `root`, and folders there that it does not name. Raises DatasetError for none."""
    if not root.is_dir():
        raise DatasetError("there is no such folder", file=root, fix="give a data set, or the folder that holds several")
    known, opened, unused = recipe.sources or {}, [], []
    single = next((root for kind in ("images", "imagesTr", "train") if (root / kind).is_dir()), None)
    for folder in [root] if single else sorted(each for each in root.iterdir() if each.is_dir()):
        settings = known.get(folder.name, Source())
        if not settings.share:
            say(f"{folder.name}: left out by the recipe")
            continue
        try:
            opened.append(_open(folder, settings))
        except DatasetError as error:
            if folder.name in known or single:
                raise
            unused.append(f"{folder.name} ({error.problem})")
    for line in unused:
        say(f"not used: {line}")
    wanted = {each.made for each in known.values() if each.share}
    if not opened and wanted != {"shapes"}:  # drawn shapes alone are a beginning
        raise DatasetError("no data set lies here", file=root, fix="give images/ with masks/ or labels/, or folders of such")
    here = {each.name for each in opened}
    if absent := [name for name, settings in known.items() if name not in here and settings.share and not settings.made]:
        say(f"the recipe also names {', '.join(absent)}, which are not here")
    return opened


def _open(folder: Path, settings: Source) -> Opened:
    if settings.pairs:
        files = [(folder / image, folder / mask) for image, mask in settings.pairs]
        if missing := [file for pair in files for file in pair if not file.is_file()]:
            fix = "restore it, or set the source's share to 0"
            raise DatasetError("this file of the source is missing", file=missing[0], fix=fix)
        cases = [Case(f"{folder.name}/{case_name(image)}", (image,), mask, folder.name) for image, mask in files]
        return Opened(folder.name, settings, tuple(cases))
    patients = read_patients(folder / "cases.csv") if (folder / "cases.csv").is_file() else {}

    def patient(case: Case) -> str:
        told = re.search(settings.patient, case.name) if settings.patient else None
        return f"{folder.name}/{told.group(1) if told else patients.get(case.name, case.patient)}"

    found = find_layout(folder).cases
    wanted = [case for case in found if case.mask and case.name not in settings.without]
    cases = [replace(case, name=f"{folder.name}/{case.name}", patient=patient(case)) for case in wanted]
    return Opened(folder.name, settings, tuple(cases))


def hang(opened: Opened, case: Case, least_area_px: int) -> list[Picture]:
    """The pictures of a case that hold an object. Raises what `read` and `read_mask` raise."""
    assert case.mask is not None
    image = read(case.images[0] if len(case.images) == 1 else case.images)
    labels = read_mask(case.mask, like=image).array
    view = View.of(image, opened.settings.window, USUAL)
    planes = _planes(image, labels, opened.settings.slices, least_area_px)
    return [found for plane in planes for found in _pictures(opened, case.name, view, labels, plane, least_area_px)]


def _planes(image: Image, labels: np.ndarray, most: int, least: int) -> Iterator[Plane]:
    """A picture's own plane; of a volume, slices with objects, evenly spread along each axis."""
    if image.grid.dims == 2:
        yield Plane(0, 0)
        return
    spacing = image.grid.spacing or (1.0, 1.0, 1.0)
    inside = labels > 0
    for axis in range(3):
        across = [s for i, s in enumerate(spacing) if i != axis]
        if max(across) > COARSE * min(across):
            continue
        filled = np.flatnonzero(np.count_nonzero(inside, axis=tuple(i for i in range(3) if i != axis)) >= least)
        chosen = filled[np.unique(np.linspace(0, len(filled) - 1, most).round().astype(int))] if len(filled) else filled
        yield from (Plane(axis, int(index)) for index in chosen)


def _pictures(opened: Opened, name: str, view: View, labels: np.ndarray, plane: Plane, least: int) -> Iterator[Picture]:
    """One slice, with its components, with all labels joined, or twice; none where it holds no object."""
    mips, here = Mips(view.picture(plane)), np.ascontiguousarray(plane.take(labels))
    beside = None
    if labels.shape[plane.axis] > 1:
        step = 1 if plane.index + 1 < labels.shape[plane.axis] else -1
        beside = plane.at(plane.index + step).take(labels)
    wanted = {"components": (False,), "joined": (True,), "both": (False, True)}[opened.settings.objects]
    if opened.settings.objects == "both" and len(np.unique(here)) < 3:
        wanted = (True,)  # one label: both are the same
    for joined in wanted:
        numbers = components(here > 0 if joined else here.astype(np.int32), 8)
        if things := _things(numbers, here, least):
            where = "" if view.image.grid.dims == 2 else f":{'zyx'[plane.axis]}{plane.index}"
            yield Picture(opened.name, name + where, mips, numbers, things, beside, joined)


def _things(numbers: np.ndarray, labels: np.ndarray, least: int) -> tuple[Thing, ...]:
    counted = cc3d.statistics(numbers)
    found = []
    for number in range(1, len(counted["voxel_counts"])):
        rows, columns = counted["bounding_boxes"][number][:2]
        area, box = int(counted["voxel_counts"][number]), (columns.start, rows.start, columns.stop, rows.stop)
        if area < least:
            continue
        inside = numbers[rows, columns] == number
        found.append(Thing(number, int(labels[rows, columns][inside][0]), box, area))
    return tuple(found)
