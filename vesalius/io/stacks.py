"""Slices in the patient: sorted along their normal and laid on one grid, or refused where they form no volume.

    normal = row x column        slices sort by  position . normal,  never by file name or instance number
    step   = (last - first position) scaled to the usual distance: the mean where headers round even places, the median
             where slices are missing. SliceThickness is never asked, a sheared stack (gantry tilt) keeps its shear

LPS becomes RAS by turning round the first two rows. A single frame without a place has its size, and lies with x to the left
and y to the back from the origin, as ITK reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np

from ..core.errors import GeometryError
from ..core.image import Grid

UNEVEN, UNEVEN_AT_LEAST = 0.25, 3  # share and number of odd steps between slices beyond which no even grid is true
ASTRAY = 0.2  # of a step by which a slice may lie off an even grid: headers round places
ASIDE = 0.5  # pixels by which a slice may lie aside of the others
SKEW = 0.05  # by which directions may be no unit vectors: headers round them


@dataclass(frozen=True)
class Frame:
    """One slice: where its pixels are (`file`, `index`), where it lies (LPS mm), how its values become real ones."""

    file: Path
    index: int
    uid: str
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    thickness: float | None
    stored: np.dtype[Any]
    bits: int
    slope: float = 1.0
    intercept: float = 0.0
    rescaled: str | None = None
    acquisition: str = ""


@dataclass(frozen=True)
class Stack:
    """The frames of one series in the order of the volume; what a DICOM source keeps as its header."""

    series: str
    frames: tuple[Frame, ...]


def laid(path: Path, frames: Sequence[Frame], header: Any) -> tuple[Stack, Grid, bool]:
    """Frames along their normal, the grid they are read on, and whether they are unevenly spaced: then it closes their gaps."""
    ordered, _ = in_order(path, list(frames))
    grid, uneven = grid_of(ordered, header)
    return Stack("", tuple(ordered)), grid, bool(uneven)


def in_order(path: Path, frames: list[Frame]) -> tuple[list[Frame], list[str]]:
    """Frames along the normal; a file that is there twice counts once."""
    seen: dict[Any, Frame] = {}
    for frame in frames:  # tools that remove names have left slices without a UID, and all with the same
        seen.setdefault((frame.uid or frame.file, frame.index, frame.position), frame)
    copies = len(frames) - len(seen)
    told = "1 file is a second copy of another; it" if copies == 1 else f"{copies} files are second copies of others; each"
    notes = [f"{told} is taken once"] if copies else []
    frames = list(seen.values())
    if len(frames) == 1:
        return frames, notes
    placed = [frame for frame in frames if frame.position and frame.orientation]
    if not placed and len({frame.file for frame in frames}) == 1:
        return frames, [*notes, "the frames carry no position: they are taken in their order, spacing is unknown"]
    if len(placed) < len(frames):
        raise GeometryError(f"{len(frames) - len(placed)} of {len(frames)} slices say no position: they form no volume",
                            file=path, fix="give one file at a time")  # fmt: skip
    first = placed[0]
    assert first.orientation is not None
    if any(np.abs(np.subtract(frame.orientation or (), first.orientation)).max() > 1e-3 for frame in placed):
        raise GeometryError("the series holds slices of different orientations", file=path, fix="split it into volumes")
    spacings = {frame.spacing for frame in placed}
    if len(spacings) > 1 and not all(np.allclose(s or 0, first.spacing or 0, rtol=1e-4) for s in spacings):
        raise GeometryError("the series holds slices of different pixel spacings", file=path, fix="split it into volumes")
    normal = _normal(first)
    return sorted(placed, key=lambda frame: float(np.dot(frame.position or (0, 0, 0), normal))), notes


def grid_of(frames: Sequence[Frame], header: Any) -> tuple[Grid, list[str]]:
    """The grid in RAS mm, with gaps and uneven steps told in mm."""
    shape = (len(frames), int(header.Rows), int(header.Columns))
    dims = cast(Any, 2 if len(frames) == 1 else 3)
    first, last = frames[0], frames[-1]
    if len(frames) == 1 and (first.position is None or first.orientation is None):
        first = replace(first, position=(0, 0, 0), orientation=(1, 0, 0, 0, 1, 0))  # its size is known, as ITK has it
    if first.position is None or first.orientation is None or first.spacing is None or min(first.spacing) <= 0:
        return Grid(shape, None, dims), []
    normal = _normal(first)
    notes: list[str] = []
    if len(frames) == 1:
        step = normal * (first.thickness or first.spacing[1])  # of a single slice the third size means nothing
    else:
        along = np.array([np.dot(frame.position or (0, 0, 0), normal) for frame in frames])
        places = np.delete(along, list(doubled(frames)))
        if len(places) == 1:
            raise GeometryError("all slices lie at one position: they are no volume", fix="give one file at a time")
        _require_straight(frames, along, min(first.spacing))
        if header.get("Modality") == "CT":  # slices of MR are often taken by turns, and form a volume
            _require_one_acquisition(frames)
        usual, notes = _usual(places)
        step = np.subtract(last.position or 0, first.position) / (along[-1] - along[0]) * usual
    orientation = np.array(first.orientation)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = step, orientation[3:] * first.spacing[0], orientation[:3] * first.spacing[1]
    affine[:3, 3] = first.position
    affine[:2] *= -1  # LPS -> RAS
    return Grid(shape, affine, dims), notes


def doubled(frames: Sequence[Frame]) -> set[int]:
    """Indices of frames that lie where the one before lies."""
    if frames[0].position is None or frames[0].orientation is None:
        return set()
    normal = _normal(frames[0])
    along = [float(np.dot(frame.position or (0, 0, 0), normal)) for frame in frames]
    return {z for z in range(1, len(frames)) if along[z] - along[z - 1] <= 1e-3}


def _require_straight(frames: Sequence[Frame], along: np.ndarray, pixel_mm: float) -> None:
    """Raise GeometryError where slices lie aside of the line from the first to the last: no affine holds them."""
    places = np.array([frame.position for frame in frames])
    line = places[0] + np.outer((along - along[0]) / (along[-1] - along[0]), places[-1] - places[0])
    aside = np.linalg.norm(places - line, axis=1)
    if aside.max() > max(ASIDE * pixel_mm, 0.01):
        told = f"slices are shifted against each other in their plane, by up to {aside.max():.2f} mm, as of several stacks"
        raise GeometryError(told, fix="split it into volumes")


def _require_one_acquisition(frames: Sequence[Frame]) -> None:
    """Raise GeometryError where slices of several acquisitions take turns: contrast phases of a CT, not one volume.

    Acquisitions that follow each other, as of a scan in steps, change as often as there are others to come.
    """
    numbers = [frame.acquisition for frame in frames]
    changes, kinds = sum(a != b for a, b in pairwise(numbers)), len(set(numbers))
    if 2 * changes > len(numbers) > 2 * kinds:
        told = f"slices of {kinds} acquisitions take turns, as of several contrast phases: they are no volume"
        raise GeometryError(told, fix="split the series by AcquisitionNumber")


def _usual(places: np.ndarray) -> tuple[float, list[str]]:
    """The usual step in mm between places that rise, and notes on others; raises GeometryError where so many steps differ that
    no even grid is true to them.
    """
    steps = np.diff(places)
    astray = float(np.abs(places - np.linspace(places[0], places[-1], len(places))).max())
    even = astray <= ASTRAY * steps.mean()
    usual = float(steps.mean() if even else np.median(steps))
    wide = np.flatnonzero(np.abs(steps - usual) > max(0.02 * usual, 0.01))
    if not wide.size:
        return usual, []
    if even:
        return usual, [f"slices are not quite evenly spaced: up to {astray:.2f} mm aside of steps of {usual:.2f} mm"]
    if wide.size >= UNEVEN_AT_LEAST and wide.size > UNEVEN * len(steps):
        low, high = steps[wide].min(), steps[wide].max()
        told = f"{wide.size} of {len(steps)} steps between slices are not {usual:.2f} mm, but {low:.2f} to {high:.2f} mm"
        raise GeometryError(told, fix="resample the series to even steps, or give the evenly spaced parts one at a time")
    told = ", ".join(f"{steps[i]:.2f} mm after slice {i + 1}" for i in wide[:3])
    more = f" and {wide.size - 3} more" if wide.size > 3 else ""
    told += f"{more}; distances across the gaps are too short"
    return usual, [f"slices are not evenly spaced: usually {usual:.2f} mm, but {told}"]


def _normal(frame: Frame) -> np.ndarray:
    orientation = np.array(frame.orientation)
    normal = np.cross(orientation[:3], orientation[3:])
    sides = np.linalg.norm([orientation[:3], orientation[3:]], axis=1)
    if not (np.abs(sides - 1).max() < SKEW and np.linalg.norm(normal) > 1 - SKEW):
        raise GeometryError("the slice orientation is no pair of directions", file=frame.file, fix="repair the header")
    return normal / np.linalg.norm(normal)
