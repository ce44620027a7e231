"""Clean a mask by connected components, with limits in physical units.

Structures touch by faces, edges and corners (26 neighbours, 8 in a picture); holes by faces only (6, 4), the dual.
Works label by label, or object by object in an instance mask, inside each one's bounding box. Voxels are
cleared or filled with the label around them; no value appears that was not there, and object numbers stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Literal

import cc3d
import numpy as np
from scipy.ndimage import find_objects

from ..core.errors import GeometryError, InputError
from ..core.image import Grid, Mask

Connectivity = Literal[4, 6, 8, 26]
_UNITS = {"mm3": (3, 1.0), "mm2": (2, 1.0), "um2": (2, 1e-6), "px": (2, None)}  # dims, in mm


@dataclass(frozen=True)
class KeepLargest:
    """Of each label (of each in `labels`, if given) keep the largest component; with `joint`, of all of them together.

    nnU-Net's largest component touches by `faces` only.
    """

    kind: Literal["keep_largest"] = "keep_largest"
    labels: tuple[int, ...] | None = None
    joint: bool = False
    touching: Literal["corners", "faces"] = "corners"


@dataclass(frozen=True)
class RemoveSmall:
    """Clear components smaller than the one limit given: `min_mm3` for volumes; `min_mm2`, `min_um2`, `min_area_px` for pictures.

    In an instance mask an object is weighed as a whole.
    """

    kind: Literal["remove_small"] = "remove_small"
    min_mm3: float | None = None
    min_mm2: float | None = None
    min_um2: float | None = None
    min_area_px: float | None = None
    labels: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        _limit(self, "min_")


@dataclass(frozen=True)
class FillHoles:
    """Fill background that a label encloses, holes up to the limit given; with none, all holes. Other labels stay."""

    kind: Literal["fill_holes"] = "fill_holes"
    max_mm3: float | None = None
    max_mm2: float | None = None
    max_um2: float | None = None
    max_area_px: float | None = None
    labels: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        _limit(self, "max_")


Rule = KeepLargest | RemoveSmall | FillHoles


def clean(mask: Mask, rules: Sequence[Rule]) -> Mask:
    """A new mask after the rules, in their order; raises GeometryError for a limit that the grid cannot measure."""
    array = mask.array.copy()
    for rule in rules:
        if isinstance(rule, KeepLargest):
            _keep_largest(array, mask, rule)
        elif isinstance(rule, RemoveSmall):
            _remove_small(array, mask, rule)
        else:
            _fill_holes(array, mask, rule)
    return Mask(array, mask.grid, mask.labels, mask.source, mask.instances)


def _keep_largest(array: np.ndarray, mask: Mask, rule: KeepLargest) -> None:
    boxes = list(_boxes(array, mask, rule.labels))
    if rule.joint and boxes:
        values = [value for value, _ in boxes]
        box = tuple(slice(min(b[i].start for _, b in boxes), max(b[i].stop for _, b in boxes)) for i in range(3))
        _drop(array[box], np.isin(array[box], values), 0, _neighbours(mask, rule.touching), largest=True)
        return
    for value, box in boxes:
        _drop(array[box], array[box] == value, 0, _neighbours(mask, rule.touching), largest=True)


def _remove_small(array: np.ndarray, mask: Mask, rule: RemoveSmall) -> None:
    least = _limit_voxels(rule, "min_", mask)
    assert least is not None
    for value, box in _boxes(array, mask, rule.labels):
        structure = array[box] == value
        if not mask.instances:
            _drop(array[box], structure, least, _neighbours(mask))
        elif np.count_nonzero(structure) < least:
            array[box][structure] = 0


def _neighbours(mask: Mask, touching: str = "corners") -> Connectivity:
    if mask.grid.dims == 2:
        return 4 if touching == "faces" else 8
    return 6 if touching == "faces" else 26


def _drop(crop: np.ndarray, structure: np.ndarray, least: float, neighbours: Connectivity, largest: bool = False) -> None:
    """Clear in `crop` the components of `structure` with fewer than `least` voxels, or all but the largest."""
    components, counts = _components(structure, neighbours)
    keep = counts >= least
    if largest:
        keep = np.arange(len(counts)) == 1 + np.argmax(counts[1:])
    keep[0] = True  # what is not of the structure is left alone
    if not keep.all():
        crop[~keep[components]] = 0


def _fill_holes(array: np.ndarray, mask: Mask, rule: FillHoles) -> None:
    most = _limit_voxels(rule, "max_", mask)
    rim = [(0, 0) if mask.grid.dims == 2 else (1, 1), (1, 1), (1, 1)]
    for value, box in _boxes(array, mask, rule.labels):
        outside = np.pad(array[box] != value, rim, constant_values=True)
        components, counts = _components(outside, _neighbours(mask, "faces"))
        hole = np.ones(len(counts), bool) if most is None else counts <= most
        hole[0] = hole[components[0, 0, 0]] = False  # the structure itself, and what reaches round it
        if hole.any():
            inside = components[tuple(slice(a, n - b) for (a, b), n in zip(rim, components.shape, strict=True))]
            crop = array[box]
            crop[hole[inside] & (crop == 0)] = value


def components(values: np.ndarray, connectivity: Connectivity) -> np.ndarray:
    """Connected pieces of equal values numbered from 1, and 0 where `values` (`*S`, truth values or integers) are 0.

    Truth values go in as integers: the quick ways that cc3d 4.1.1 has for them are wrong. At 8 neighbours pixels of the
    background are numbered too, at the borders of pictures of odd width; at 26, lone voxels in a thin box make it fail.
    """
    values = np.ascontiguousarray(values)
    return cc3d.connected_components(values.view(np.uint8) if values.dtype == bool else values, connectivity=connectivity)


def _components(structure: np.ndarray, connectivity: Connectivity) -> tuple[np.ndarray, np.ndarray]:
    """Component numbers (Z, Y, X), 0 outside the structure, and the voxels of each (index 0: outside)."""
    flat = connectivity in (4, 8)
    found = components(structure[0] if flat else structure, connectivity)
    counts = np.asarray(cc3d.statistics(found, no_slice_conversion=True)["voxel_counts"])
    return (found[None] if flat else found), counts


def _boxes(array: np.ndarray, mask: Mask, labels: tuple[int, ...] | None) -> Iterator[tuple[int, tuple[slice, slice, slice]]]:
    """(value, bounding box) of each label present that a rule is for; never background, never the ignore label."""
    ignore = mask.labels.ignore if mask.labels else None
    for value, box in enumerate(find_objects(array), start=1):
        if box is not None and value != ignore and (labels is None or value in labels):
            yield value, box


def _limit(rule: RemoveSmall | FillHoles, prefix: str) -> tuple[str, float] | None:
    """(field, limit) of the one limit that is set; None if a rule without one is whole."""
    names = [f.name for f in fields(rule) if f.name.startswith(prefix)]
    found = [(name, getattr(rule, name)) for name in names if getattr(rule, name) is not None]
    if len(found) > 1 or (not found and prefix == "min_"):
        raise InputError(f"the rule '{rule.kind}' needs one limit, not {len(found)}", fix=f"give one of {', '.join(names)}")
    return found[0] if found else None


def _limit_voxels(rule: RemoveSmall | FillHoles, prefix: str, mask: Mask) -> float | None:
    """The rule's limit in voxels of the mask's grid, a hair lenient so that equality survives rounding."""
    limit = _limit(rule, prefix)
    if limit is None:
        return None
    name, size = limit
    dims, unit = _UNITS[name.rsplit("_", 1)[1]]
    grid: Grid = mask.grid
    file = mask.source.path if mask.source else None
    if dims != grid.dims:
        what, fit = ("a picture", "mm2 or area_px") if grid.dims == 2 else ("a volume", "mm3")
        raise GeometryError(f"'{name}' cannot measure {what}", file=file, fix=f"give the rule '{rule.kind}' a limit in {fit}")
    hair = 1 - 1e-6 if prefix == "min_" else 1 + 1e-6
    if unit is None:
        return size * hair
    if grid.voxel_mm3 is None:
        fix = "use a format that stores the spacing" + (f", or the limit {prefix}area_px" if dims == 2 else "")
        raise GeometryError(f"'{name}' needs millimetres, but the spacing is unknown", file=file, fix=fix)
    return size * unit * hair / grid.voxel_mm3
