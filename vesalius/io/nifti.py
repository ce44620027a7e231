"""NIfTI-1 and NIfTI-2: volumes as stored, and masks that carry their image's header.

    nibabel (i, j, k, channel) --transpose--> house (channel, k, j, i)        the same bytes, no copy

The affine is the sform, else the qform, else what pixdim says, as nibabel chooses. Its rows become millimetres
when the header counts in metres or microns. A header that states no spacing (pixdim 0 or NaN, or all fields left
at their defaults) gives a grid without affine: nobody may take it for 1 mm.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import imagecodecs
import nibabel as nib
import numpy as np

from ..core.atomic import atomic
from ..core.errors import GeometryError, UnreadableFile
from ..core.image import Grid, Image, Mask, Source
from .decoding import Peek, decoding, native, rgb_names, without_alpha

MM_PER_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # xyzt_units: unknown, metre, millimetre, micron (NIfTI-1 standard)
COMPRESSION = 3  # of gzip: masks shrink nearly as well as at 9, several times faster


def read_nifti(path: Path, name: str) -> Image:
    """The volume as stored, integers as integers, with scl_slope as float32; an uncompressed file is mapped, not read.

    Raises UnreadableFile for a damaged file or one that is no NIfTI.
    """
    with decoding(path, "NIfTI"):
        header = _raw_header(path)
        grid, notes = _grid(header)
        array = _channels_last(_voxels(path, header), path, notes).transpose(3, 2, 1, 0)
        slope, inter = header.get_slope_inter()
        if (slope, inter) not in ((None, None), (1.0, 0.0)):
            array = array.astype(np.float32)
            array *= np.float32(slope)
            array += np.float32(inter)
    source = Source(path, "nifti", name, header)
    colours = rgb_names(3) if header.get_data_dtype().fields else ()
    return Image(native(array), grid, colours, source=source, notes=tuple(notes))


def peek_nifti(path: Path) -> Peek:
    """Grid and channels from the header; raises UnreadableFile."""
    with decoding(path, "NIfTI"):
        header = _raw_header(path)
        shape = header.get_data_shape()
        rgb = header.get_data_dtype().fields
        return Peek(_grid(header)[0], len(rgb) - ("A" in rgb) if rgb else int(np.prod(shape[3:], dtype=int)))


def write_nifti(mask: Mask, path: Path, source: Source | None) -> None:
    """Write the mask under its image's own header where there is one (same affine, codes, units, to the byte).

    `path` must end in .nii or .nii.gz. Raises OutputError.
    """
    header = header_for(mask.grid, source)
    header.set_data_dtype(mask.array.dtype)
    with atomic(path) as part, writing(part) as file:
        start(file, header)
        for plane in mask.array:
            file.write(np.ascontiguousarray(plane, dtype=plane.dtype.newbyteorder("<")).tobytes())


def header_for(grid: Grid, source: Source | None, channels: int = 1) -> Any:
    """A little-endian header for one volume or `channels` of them on `grid`: the source's own where it is the same grid."""
    if source is not None and source.format == "nifti":
        own, _ = _grid(source.header)
        if own.same_as(grid):
            header = source.header.as_byteswapped("<")
            size = min(int(header["dim"][0]), 3) if channels == 1 else 4
            _set_shape(header, [*grid.shape[::-1], channels][:size])
            for field, value in (("scl_slope", 1), ("scl_inter", 0), ("cal_min", 0), ("cal_max", 0), ("intent_code", 0)):
                header[field] = value
            header["intent_name"] = b""
            return header
    header = nib.Nifti1Header(endianness="<")  # type: ignore[no-untyped-call]
    _set_shape(header, [*grid.shape[::-1], channels][: 4 if channels > 1 else grid.dims])
    header["scl_slope"], header["scl_inter"] = 1, 0
    if grid.affine is not None:
        affine = grid.affine[:, [2, 1, 0, 3]]
        header.set_xyzt_units("mm")
        header.set_sform(affine, code=1)
        header.set_qform(affine, code=1, strip_shears=True)
        back = header.get_qform()
        if np.abs(back - affine).max() > 1e-4 * max(1.0, float(np.abs(affine).max())):
            header["qform_code"] = 0  # shears do not fit into a qform; the sform holds them
    return header


def start(file: BinaryIO, header: Any) -> None:
    """Write header and an empty extension; the voxels follow."""
    header["vox_offset"] = header.sizeof_hdr + 4
    header["magic"] = header.single_magic if hasattr(header, "single_magic") else header["magic"]
    file.write(header.binaryblock + b"\0\0\0\0")


@contextmanager
def writing(part: Path) -> Iterator[BinaryIO]:
    """An open file, gzipped if its name says so; the same voxels give the same bytes (no time, no name inside)."""
    with open(part, "wb") as raw:
        if part.name.lower().endswith(".gz"):
            with gzip.GzipFile(filename="", mode="wb", compresslevel=COMPRESSION, fileobj=raw, mtime=0) as file:
                yield cast(BinaryIO, file)
        else:
            yield raw


def _set_shape(header: Any, shape: Iterable[int]) -> None:
    """Set `dim` alone: nibabel's set_data_shape would also forgive pixdim."""
    dim = np.ones(8, dtype=header["dim"].dtype)
    shape = list(shape)
    if max(shape) > np.iinfo(dim.dtype).max:
        raise GeometryError(f"an axis of {max(shape)} voxels does not fit into NIfTI-1", fix="write another format")
    dim[0], dim[1 : 1 + len(shape)] = len(shape), shape
    header["dim"] = dim


def _raw_header(path: Path) -> Any:
    """The header as it stands in the file. nib.load repairs it first: a pixdim of 0 would have become 1 mm."""
    opened: Any = gzip.open(path, "rb") if path.name.lower().endswith(".gz") else open(path, "rb")  # noqa: SIM115
    with opened as file:
        block = file.read(540)
    for header_class in (nib.Nifti1Header, nib.Nifti2Header):
        size = header_class.sizeof_hdr
        if len(block) >= size and header_class.may_contain_header(block[:size]):
            return header_class(block[:size], check=False)  # type: ignore[no-untyped-call]
    raise UnreadableFile("this is no NIfTI file", file=path, fix="check that the name says what the file is")


def _voxels(path: Path, header: Any) -> np.ndarray:
    """(i, j, k, ...) in the file's own order, unscaled: mapped from .nii, decompressed into one buffer from .nii.gz."""
    dtype, shape = header.get_data_dtype(), header.get_data_shape()
    offset = max(int(header["vox_offset"]), header.single_vox_offset)  # 0 where a writer left it out, as ITK has it
    if not path.name.lower().endswith(".gz"):
        return np.memmap(path, dtype, "c", offset, shape, "F")
    size = offset + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    buffer = np.empty(size, np.uint8)
    if not _inflated(path, buffer):
        with gzip.open(path, "rb") as file:
            if cast(Any, file).readinto(buffer) != size:
                raise EOFError
            while file.read(1 << 20):  # the checksum is compared only when the end is reached
                pass
    return np.ndarray(shape, dtype, buffer.data, offset, order="F")


def _inflated(path: Path, buffer: np.ndarray) -> bool:
    """Whether libdeflate filled the buffer: it takes a sixth of zlib's time, but knows one gzip member of just this size."""
    try:
        return len(imagecodecs.gzip_decode(path.read_bytes(), out=cast(Any, buffer))) == len(buffer)
    except imagecodecs.GzipError:
        return False


def _channels_last(raw: np.ndarray, path: Path, notes: list[str]) -> np.ndarray:
    """(i, j, k, C) from 2 to 5 dimensions; an RGB voxel becomes three channels, an opaque alpha is dropped with a note.

    Further axes count only where they are longer than 1.
    """
    while raw.ndim > 4 and raw.shape[-1] == 1:
        raw = raw[..., 0]
    if fields := raw.dtype.fields:
        colours = np.stack([raw[field] for field in fields if field != "A"], axis=-1)
        raw = without_alpha(colours, raw["A"], notes) if "A" in fields else colours
    if raw.ndim == 5 and raw.shape[3] == 1:
        raw = raw[:, :, :, 0]  # a vector image: the fourth axis is time, of which there is one
    if not 2 <= raw.ndim <= 4:
        raise UnreadableFile(f"an image of {raw.ndim} dimensions {raw.shape}", file=path, fix="give 2 to 4: x, y, z, channel")
    return raw.reshape(raw.shape + (1,) * (4 - raw.ndim), order="F") if raw.ndim < 4 else raw


def _grid(header: Any) -> tuple[Grid, list[str]]:
    """The grid with its affine in mm, and what must be said about it."""
    i, j, k, *_ = (*(int(n) for n in header.get_data_shape()), 1, 1)
    scale = MM_PER_UNIT.get(int(header["xyzt_units"]) & 7, 1.0)
    dims = cast(Any, 2 if k == 1 else 3)
    notes: list[str] = []
    for kind, affine in _affines(header, len(header.get_data_shape())):
        if affine is not None:
            house = affine[:, [2, 1, 0, 3]] * np.array([[scale], [scale], [scale], [1.0]])
            if kind == "pixdim":
                notes.append("no qform and no sform: the axes are taken as left, anterior, superior, as nibabel does")
            elif kind == "sform" and (apart := _qform_apart(header, affine)):
                notes.append(f"sform and qform disagree by up to {apart * scale:.2f} mm; the sform is taken")
            return Grid((k, j, i), house, dims), notes
        notes.append(f"the header's {kind} is unusable")
    return Grid((k, j, i), None, dims), [*notes, "the header states no voxel size: spacing is unknown"]


def _affines(header: Any, ndim: int) -> Iterator[tuple[str, np.ndarray | None]]:
    """Candidates in nibabel's order, each a usable affine over (i, j, k) or None."""
    pixdim = np.array(header["pixdim"][1:4], dtype=np.float64)
    if ndim < 3 and not (np.isfinite(pixdim[2]) and pixdim[2] > 0):
        pixdim[2] = pixdim[0]  # a picture's third size means nothing, but the matrix must have an inverse
    if header["sform_code"] > 0:
        yield "sform", _usable(np.array(header.get_sform(), dtype=np.float64), flat=ndim < 3)
    known = bool(np.isfinite(pixdim).all() and (pixdim > 0).all())
    if header["qform_code"] > 0:
        filled = header.copy()
        filled["pixdim"][:4] = (-1 if header["pixdim"][0] == -1 else 1, *pixdim)  # 0 counts as 1, by the standard
        try:
            yield "qform", _usable(np.array(filled.get_qform(), dtype=np.float64), flat=False)
        except (ValueError, ArithmeticError, nib.spatialimages.HeaderDataError):
            yield "qform", None
    untouched = header["qform_code"] <= 0 and header["sform_code"] <= 0 and int(header["xyzt_units"]) & 7 == 0
    if known and not (untouched and (pixdim[: max(ndim, 2)] == 1).all()):
        origin = -(np.array((*header.get_data_shape(), 1, 1)[:3]) - 1) / 2 * pixdim
        affine = np.diag([*pixdim, 1.0])
        affine[:3, 3] = origin
        affine[0] *= -1  # Analyze's convention, as nibabel has it
        yield "pixdim", affine


def _qform_apart(header: Any, sform: np.ndarray) -> float:
    """By how much the corners lie apart by qform and sform; 0 where that is less than a voxel, or there is no qform."""
    ndim = len(header.get_data_shape())
    qform = next((affine for kind, affine in _affines(header, ndim) if kind == "qform"), None)
    if qform is None:
        return 0.0
    i, j, k = (*header.get_data_shape()[:3], 1)[:3]
    corners = np.array([[x, y, z, 1] for x in (0, i - 1) for y in (0, j - 1) for z in (0, k - 1)])
    apart = float(np.linalg.norm(corners @ (qform - sform)[:3].T, axis=1).max())
    return apart if apart > np.linalg.norm(sform[:3, :3], axis=0).min() else 0.0


def _usable(affine: np.ndarray, flat: bool) -> np.ndarray | None:
    """The affine if finite and invertible; of a `flat` image a missing third column is filled with the normal."""
    if not np.isfinite(affine).all():
        return None
    x, y, z = affine[:3, :3].T
    if flat and not z.any() and np.cross(x, y).any():
        affine[:3, 2] = np.cross(x, y) / np.linalg.norm(np.cross(x, y)) * np.linalg.norm(x)
    sides = np.linalg.norm(affine[:3, :3], axis=0)  # the angles decide, as for a Grid: voxels may be nanometres
    return affine if sides.all() and abs(np.linalg.det(affine[:3, :3] / sides)) > 1e-6 else None
