"""Probabilities on the image's own grid, compressed, from slabs as they come: (K, Z, Y, X) is never held whole.

    .npz      'probabilities' float16 (K, Z, Y, X), 'affine' (4, 4) of [z, y, x, 1] to RAS mm unless unknown
    .nii.gz   uint16 with scl_slope 1/65535, classes along the fourth axis, under the image's header

Slabs arrive by slices and both formats store class after class, so they wait in a file beside the target.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ..core.atomic import atomic, output_error
from ..core.errors import GeometryError, OutputError
from ..core.image import Grid, Image
from .nifti import header_for, start, writing

Slabs = Iterable[tuple[int, np.ndarray]]


def write_probabilities(
    scores: np.ndarray | Slabs, grid: Grid, path: str | Path, *, like: Image | None = None, overwrite: bool = False
) -> Path:
    """Write probabilities in 0..1: an array (K, Z, Y, X), or slabs `(z0, (K, dz, Y, X))` that cover the grid.

    Raises OutputError (exists, full disk, another suffix), GeometryError (the slabs do not cover `grid`).
    """
    path = Path(path)
    if not path.name.endswith((".npz", ".nii", ".nii.gz")):
        raise OutputError("probabilities are written as .npz, .nii or .nii.gz", file=path, fix="give one of these suffixes")
    if path.exists() and not overwrite:
        raise OutputError("the output exists already", file=path, fix="give another place, or allow overwriting")
    store = np.dtype(np.float16) if path.suffix == ".npz" else np.dtype(np.uint16)
    slabs = [(0, scores)] if isinstance(scores, np.ndarray) else scores
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryFile(dir=path.parent) as waiting:
            classes = _collect(slabs, grid, store, waiting)
            with atomic(path) as part:
                if path.suffix == ".npz":
                    _write_npz(part, waiting, classes, grid)
                else:
                    _write_nifti(part, waiting, classes, grid, like)
    except OSError as error:
        raise output_error(error, path) from error
    return path


def _collect(slabs: Slabs, grid: Grid, store: np.dtype[Any], waiting: Any) -> int:
    """Slabs into the waiting file, each class in its place; returns K."""
    plane = int(np.prod(grid.shape[1:])) * store.itemsize
    done = np.zeros(grid.shape[0], bool)
    classes = 0
    for z0, slab in slabs:
        classes = classes or len(slab)
        depth = slab.shape[1]
        if slab.shape != (classes, depth, *grid.shape[1:]) or z0 + depth > grid.shape[0]:
            raise GeometryError(f"a slab {slab.shape} at slice {z0} does not lie on the grid {grid.shape}")
        for k, volume in enumerate(slab):
            values = np.clip(volume, 0, 1)
            values = np.rint(values * 65535) if store.kind == "u" else values
            waiting.seek((k * grid.shape[0] + z0) * plane)
            waiting.write(np.ascontiguousarray(values, dtype=store.newbyteorder("<")).tobytes())
        done[z0 : z0 + depth] = True
    if not done.all():
        raise GeometryError(f"the slabs leave out {int((~done).sum())} of {len(done)} slices")
    return classes


def _copy(waiting: Any, file: Any) -> None:
    waiting.seek(0)
    while block := waiting.read(1 << 22):
        file.write(block)


def _write_npz(part: Path, waiting: Any, classes: int, grid: Grid) -> None:
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=3) as archive:
        with archive.open("probabilities.npy", "w", force_zip64=True) as file:
            described = {"descr": "<f2", "fortran_order": False, "shape": (classes, *grid.shape)}
            np.lib.format.write_array_header_1_0(file, described)
            _copy(waiting, file)
        if grid.affine is not None:
            with archive.open("affine.npy", "w") as file:
                np.lib.format.write_array(file, np.array(grid.affine))


def _write_nifti(part: Path, waiting: Any, classes: int, grid: Grid, like: Image | None) -> None:
    header = header_for(grid, like.source if like else None, classes)
    header.set_data_dtype(np.uint16)
    header["scl_slope"], header["scl_inter"] = 1 / 65535, 0
    with writing(part) as file:
        start(file, header)
        _copy(waiting, file)
