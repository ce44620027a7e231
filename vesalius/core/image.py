"""What walks through the house: an image, the grid it lies on, and the mask that comes back.

One axis order everywhere, (C, Z, Y, X). A picture is a volume with Z = 1 and `dims` = 2.

    index (z, y, x) --affine--> millimetres (right, anterior, superior)

The affine's columns follow the house order z, y, x; its rows are RAS+ mm (DICOM's LPS is flipped in
`io`). No affine means that nobody knows the physical size, as in a PNG: then spacing is None, and
whatever needs millimetres must say so instead of assuming 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .errors import GeometryError
from .labels import Labels

Shape3 = tuple[int, int, int]
Spacing = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Grid:
    """Where voxels lie. `shape` is (Z, Y, X); `affine` (4, 4) maps [z, y, x, 1] to RAS+ mm, or None."""

    shape: Shape3
    affine: np.ndarray | None = None
    dims: Literal[2, 3] = 3

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise GeometryError(f"a grid needs three positive sizes (Z, Y, X), not {self.shape}")
        if self.dims == 2 and self.shape[0] != 1:
            raise GeometryError(f"a picture has one slice, not {self.shape[0]}")
        if self.affine is not None:
            affine = np.array(self.affine, dtype=np.float64)
            if affine.shape != (4, 4) or not np.isfinite(affine).all():
                raise GeometryError("the affine is not a finite 4x4 matrix", fix="repair the image header")
            norms = np.linalg.norm(affine[:3, :3], axis=0)  # the angles decide, not the size: voxels may be nanometres
            if not norms.all() or abs(np.linalg.det(affine[:3, :3] / norms)) < 1e-6:
                raise GeometryError("the affine is singular: two axes point the same way", fix="repair the header")
            affine.setflags(write=False)
            object.__setattr__(self, "affine", affine)

    @property
    def spacing(self) -> Spacing | None:
        """Voxel size in mm along (z, y, x), or None if unknown."""
        if self.affine is None:
            return None
        z, y, x = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(z), float(y), float(x)

    @property
    def orientation(self) -> str | None:
        """Direction in which each axis (z, y, x) increases, such as 'SAR'; None without an affine.

        Axes are named from the most to the least aligned. Where two are equally aligned (45 degrees), the one
        that stands where the house wants it wins, so that an oriented grid is named 'SAR' and stays so.
        """
        if self.affine is None:
            return None
        codes, taken = ["", "", ""], set()
        direction = self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)
        for row, column in sorted(np.ndindex(3, 3), key=lambda rc: (-round(abs(direction[rc]), 6), sum(rc) != 2)):
            if not codes[column] and row not in taken:
                taken.add(row)
                codes[column] = ("RL", "AP", "SI")[row][int(direction[row, column] < 0)]
        return "".join(codes)

    @property
    def voxel_mm3(self) -> float | None:
        """Volume of a voxel in mm3 (its area in mm2 for a picture), or None if unknown; less than its sides say if sheared."""
        if self.affine is None:
            return None
        z, y, x = self.affine[:3, :3].T
        across = np.cross(y, x)
        return float(np.linalg.norm(across) if self.dims == 2 else abs(z @ across))

    def same_as(self, other: Grid, tolerance_mm: float = 1e-3) -> bool:
        """Same shape, and no voxel corner further than `tolerance_mm` from its counterpart."""
        if self.shape != other.shape or (self.affine is None) != (other.affine is None):
            return False
        if self.affine is None or other.affine is None:
            return True
        corners = np.array([[z, y, x, 1] for z in (0, self.shape[0]) for y in (0, self.shape[1]) for x in (0, self.shape[2])])
        return bool(np.abs(corners @ (self.affine - other.affine)[:3].T).max() <= tolerance_mm)

    def same_sizes(self, other: Grid) -> bool:
        """Same shape, and voxels of one size, wherever they lie: summed over an axis they drift by less than a tenth of one."""
        if self.shape != other.shape or (self.spacing is None) != (other.spacing is None):
            return False
        pairs = zip(self.shape, self.spacing or (), other.spacing or (), strict=False)
        return all(n == 1 or n * abs(a - b) <= 0.1 * min(a, b) for n, a, b in pairs)  # the size across one slice means nothing


@dataclass(frozen=True, eq=False)
class Source:
    """Where an image came from. `header` belongs to the format's own file in `io`: nobody else looks inside."""

    path: Path
    format: str
    name: str
    header: Any = field(default=None, repr=False)


@dataclass(frozen=True, eq=False)
class Image:
    """`array` (C, Z, Y, X) as stored, on its `grid`.

    `channels` name the C channels; `units` is 'HU' for CT, else None; `notes` are what the reader
    must be told (an alpha channel dropped, a slice missing). `stored` is the type of the voxels as they were read, which
    all that is made of the image keeps: the brightest voxel does not tell 8 bits from a dark picture of 16.
    """

    array: np.ndarray
    grid: Grid
    channels: tuple[str, ...] = ()
    units: str | None = None
    source: Source | None = None
    notes: tuple[str, ...] = ()
    stored: np.dtype[Any] | None = None

    def __post_init__(self) -> None:
        if self.stored is None:
            object.__setattr__(self, "stored", np.dtype(self.array.dtype))
        if self.array.ndim != 4 or self.array.shape[1:] != self.grid.shape:
            raise GeometryError(f"array {self.array.shape} is not (C, Z, Y, X) on the grid {self.grid.shape}")
        if not self.channels:
            object.__setattr__(self, "channels", tuple(f"channel_{i}" for i in range(len(self.array))))
        if len(self.channels) != len(self.array):
            raise GeometryError(f"{len(self.channels)} channel names for {len(self.array)} channels")

    @property
    def name(self) -> str:
        """The case's own stem, such as `case` for case.nii.gz."""
        return self.source.name if self.source else "image"

    def with_array(self, array: np.ndarray, grid: Grid | None = None, *notes: str) -> Image:
        """The same image with other voxels, and another grid where they moved."""
        return replace(self, array=array, grid=grid or self.grid, notes=self.notes + notes)


@dataclass(frozen=True, eq=False)
class Mask:
    """`array` (Z, Y, X) of label values, or of object numbers 1..n if `instances`; on the image's own `grid`."""

    array: np.ndarray
    grid: Grid
    labels: Labels | None = None
    source: Source | None = None
    instances: bool = False

    def __post_init__(self) -> None:
        if self.array.shape != self.grid.shape:
            raise GeometryError(f"mask {self.array.shape} does not lie on the grid {self.grid.shape}")
        if self.array.dtype.kind not in "ui":
            raise GeometryError(f"a mask holds unsigned integers, not {self.array.dtype}")
