"""NRRD and MHA through SimpleITK, an optional extra: the one light reader of both that is well kept.

ITK's LPS becomes RAS. A file that states no spacing gives a grid without affine, where ITK would say 1 mm.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from ..core.atomic import atomic
from ..core.errors import GeometryError, InputError, OutputError
from ..core.image import Grid, Image, Mask, Source
from .decoding import Peek, decoding, native, rgb_names
from .raster import MM_PER_UNIT

SPACED = re.compile(r"^(space directions|spacings|ElementSpacing|ElementSize)\s*[:=](?!.*nan)", re.MULTILINE | re.IGNORECASE)
UNITS = re.compile(r"^(?:space )?units:(.*)$", re.MULTILINE | re.IGNORECASE)  # of NRRD; ITK passes over them
HEADER_BYTES = 65536


def read_itk(path: Path, name: str, format: str) -> Image:
    """The image as stored, components as channels. Raises InputError without SimpleITK, UnreadableFile."""
    sitk = _sitk()
    with decoding(path, format.upper()):
        picture = sitk.ReadImage(str(path))
        array = sitk.GetArrayFromImage(picture)
        array = np.moveaxis(array, -1, 0) if picture.GetNumberOfComponentsPerPixel() > 1 else array[None]
        if picture.GetDimension() == 4 and array.shape[0] == 1:
            array = array[0]  # ITK's fourth dimension: channels
        grid = _grid(picture, path)
        array = np.ascontiguousarray(array).reshape(-1, *grid.shape)
    colours = picture.GetNumberOfComponentsPerPixel() == 3 and array.dtype == np.uint8  # ITK tells no colours from vectors
    return Image(native(array), grid, rgb_names(3) if colours else (), source=Source(path, format, name))


def peek_itk(path: Path) -> Peek:
    """Grid and channels from the header; raises as `read_itk`."""
    sitk = _sitk()
    with decoding(path, "ITK"):
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        extra = reader.GetSize()[3] if reader.GetDimension() == 4 else 1
        return Peek(_grid(reader, path), reader.GetNumberOfComponents() * extra)


def fit_itk(grid: Grid, source: Source | None, path: Path) -> None:
    """Raises OutputError for a sheared grid, which ITK cannot hold, and InputError without SimpleITK."""
    _sitk()
    if grid.affine is not None:
        _, direction, _ = _geometry(grid.affine)
        if np.abs(direction.T @ direction - np.eye(3)).max() > 1e-4:
            raise OutputError("the grid is sheared: NRRD and MHA cannot hold it", file=path, fix="write nifti")


def write_itk(mask: Mask, path: Path, source: Source | None = None) -> None:
    """Compressed, on the mask's grid. Raises as `fit_itk`, and OutputError."""
    fit_itk(mask.grid, source, path)
    sitk = _sitk()
    picture = sitk.GetImageFromArray(mask.array)
    if mask.grid.affine is not None:
        spacing, direction, origin = _geometry(mask.grid.affine)
        picture.SetSpacing(spacing.tolist())
        picture.SetDirection(direction.ravel().tolist())
        picture.SetOrigin(origin.tolist())
    with atomic(path) as part:
        try:
            sitk.WriteImage(picture, str(part), True)
        except RuntimeError as error:  # ITK says no more than that it failed
            raise OutputError("ITK could not write the file", file=path, fix="check the place and the free disk space") from error


def _geometry(affine: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Spacing (3,), direction (3, 3) and origin (3,) of an affine as ITK wants them: x, y, z in LPS."""
    lps = affine[:, [2, 1, 0, 3]].copy()
    lps[:2] *= -1
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    return spacing, lps[:3, :3] / spacing, lps[:3, 3]


def _grid(picture: Any, path: Path) -> Grid:
    size, ndim = picture.GetSize(), picture.GetDimension()
    spatial = min(ndim, 3)
    shape = (*size[:spatial], 1)[:3][::-1]
    head = _header(path)
    if not SPACED.search(head):
        return Grid(shape, None, 2 if shape[0] == 1 else 3)
    direction = np.array(picture.GetDirection()).reshape(ndim, ndim)[:spatial, :spatial]
    affine = np.eye(4)
    affine[:spatial, :spatial] = direction * np.array(picture.GetSpacing()[:spatial])
    affine[:spatial, 3] = picture.GetOrigin()[:spatial]
    if spatial == 2:
        affine[2, 2] = picture.GetSpacing()[0]  # a picture's third size means nothing
    affine[:3] *= _mm_per_unit(head)
    affine[:2] *= -1  # LPS -> RAS
    return Grid(shape, affine[:, [2, 1, 0, 3]], 2 if shape[0] == 1 else 3)


def _header(path: Path) -> str:
    with open(path, "rb") as file:
        text = file.read(HEADER_BYTES).decode("latin-1")
    return re.split(r"\n\r?\n|ElementDataFile", text, maxsplit=1)[0]


def _mm_per_unit(head: str) -> float:
    """What an NRRD header counts in, mm where it names no length. Raises GeometryError where its axes count differently."""
    lines = "".join(UNITS.findall(head)).encode("latin-1").decode("utf-8", "replace")
    named = set(re.findall('"([^"]*)"', lines))
    known = {MM_PER_UNIT[unit] for unit in named & MM_PER_UNIT.keys()}
    if len(known) > 1:
        raise GeometryError(f"its axes count in different units: {', '.join(sorted(named))}", fix="save it in mm")
    return known.pop() if known else 1.0


def _sitk() -> Any:
    try:
        import SimpleITK
    except ImportError as error:
        fix = "install it with: pip install 'vesalius[itk]'"
        raise InputError("NRRD and MHA need SimpleITK, which is not installed", fix=fix) from error
    return SimpleITK
