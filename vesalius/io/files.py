"""One door for every format: `read` an image, `read_mask` a label map, `write` a mask.

    file or DICOM folder --read--> Image (C, Z, Y, X) ... Mask --write--> the same grid, on disk at once or not at all

`formats.py` lists the formats. Several files that are the channels of one case (`case_0000.nii.gz`, `case_0001.nii.gz`)
travel as a tuple of paths.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from ..core.errors import (
    ChannelError,
    DatasetError,
    GeometryError,
    InputError,
    LabelError,
    OutputError,
    UnreadableFile,
    unknown_name,
)
from ..core.image import Grid, Image, Mask, Source
from .decoding import Peek, checked, decoding, files_below, native
from .dicom import read_dicom
from .formats import FORMATS, OUTPUTS, SUFFIXES, WRITERS, format_of, is_dicom, is_placed, output_of, suffix_of
from .projections import pictures_among
from .segmentation import read_segmentation

Input: TypeAlias = Path | tuple[Path, ...]
PathLike: TypeAlias = str | os.PathLike[str]

CHANNEL_FILE = re.compile(r"^(?P<case>.+)_(?P<channel>\d{4})$")  # nnU-Net's way to name channel files


def read(path: PathLike | tuple[Path, ...], *, series: str | None = None) -> Image:
    """Read an image of any format, a DICOM folder, or several files as the channels of one image.

        >>> image = vesalius.read("examples/hippocampus/images/hippocampus_014.nii.gz")
        >>> image.grid.spacing
        (1.0, 1.0, 1.0)

    `series` picks a DICOM series by its UID. Voxels stay as stored: orientation, integers, 16 bit.
    Raises UnreadableFile (missing, empty, damaged, NaN, a single pixel), ChannelError, GeometryError,
    InputError (several DICOM series and none chosen).
    """
    if isinstance(path, tuple):
        _require_every_channel(path)
        return _stacked([read(each, series=series) for each in path], case_name(path))
    path = Path(path)
    format = format_of(path)
    if series is not None:
        if format != "dicom":
            raise UnreadableFile("only DICOM has series", file=path, fix="leave out the series")
        return checked(read_dicom(path, case_name(path), series), path)
    return checked(FORMATS[format].read(path, case_name(path)), path)


def peek(path: Input) -> Peek:
    """Grid and number of channels from the header alone; for several files those of their stack. Raises as `read`."""
    if isinstance(path, tuple):
        parts = [peek(each) for each in path]
        return Peek(parts[0].grid, sum(part.channels for part in parts))
    return FORMATS[format_of(path)].peek(path)


def read_mask(path: PathLike, *, like: Image | None = None) -> Mask:
    """Read a label map: grey or palette PNG, TIFF, NIfTI, NRRD, MHA, DICOM-SEG. With `like` it takes that image's grid.

    Raises LabelError for fractions, negative values and colours, GeometryError where it does not lie on `like`'s
    grid (shape, or voxels more than a tenth of a voxel apart), and whatever `read` raises.
    """
    path = Path(path)
    format = format_of(path)
    if format == "jpeg":
        raise LabelError("JPEG changes pixel values: it cannot hold labels", file=path, fix="save the mask as PNG")
    if format == "dicom":
        return read_segmentation(path, case_name(path), like)
    read_labels = FORMATS[format].labels or FORMATS[format].read
    image = checked(read_labels(path, case_name(path)), path)
    mask = Mask(_label_values(image.array, path), image.grid, source=image.source)
    if like is None:
        return mask
    require_grid(mask.grid, like.grid, path, like.source.path if like.source else "given")
    return replace(mask, grid=like.grid)


def write(
    mask: Mask, path: PathLike, *, format: str | None = None, like: Image | None = None, overwrite: bool = False
) -> Path:
    """Write a mask, whole or not at all, as uint8, or uint16 above 255 (always for objects, so that a folder agrees).

        >>> mask = read_mask("examples/hippocampus/labels/hippocampus_014.nii.gz")
        >>> vesalius.write(mask, "masks/case", format="nifti").name
        'case.nii.gz'

    `format` is png, tiff, nifti, dicom-seg, mha or nrrd; without it the suffix decides. A path without a suffix
    gets the format's own. `like` is the image whose header the mask inherits (else the mask's own source).
    Raises OutputError (exists, full disk, does not fit the format), GeometryError (`like` has another grid).
    """
    path, format = _target(Path(path), format)
    if path.exists() and not overwrite:
        raise OutputError("the output exists already", file=path, fix="give another place, or allow overwriting")
    if like is not None and not mask.grid.same_as(like.grid):
        raise GeometryError("the mask does not lie on the grid of its image", file=path)
    source = like.source if like is not None else mask.source
    mask = replace(mask, array=mask.array.astype(smallest_type(mask), copy=False))
    writer = FORMATS[OUTPUTS[format]].write
    assert writer is not None  # OUTPUTS lists those that have one
    writer(mask, path, source)
    return path


def require_fit(format: str, grid: Grid, source: Source | None, path: Path) -> None:
    """OutputError, naming `path`, where the mask of an image on `grid` cannot be written as `format`, by name as for `write`."""
    if fit := FORMATS[OUTPUTS[format]].fit:
        fit(grid, source, path)


def lost(format: str | None, grid: Grid) -> tuple[str, ...]:
    """What the mask of an image on `grid` loses when it is written as `format`: a note, or none."""
    if format is None or FORMATS[OUTPUTS[format]].placed or grid.affine is None:
        return ()
    return (f"the mask is written as {format}, which holds no origin and no orientation: it fits its image voxel by voxel, "
            "and says nothing of where that lies",)  # fmt: skip


def case_name(path: PathLike | tuple[Path, ...]) -> str:
    """The stem of a case: `case` for case.nii.gz, for the folder case/ and for (case_0000.nii.gz, case_0001.nii.gz)."""
    if isinstance(path, tuple):
        stem = case_name(path[0])
        match = CHANNEL_FILE.match(stem)
        return match["case"] if match and len(path) > 1 else stem
    path = Path(os.path.abspath(path))
    suffix = suffix_of(path)
    return path.name[: -len(suffix)] if suffix and path.name.lower() != suffix and not path.is_dir() else path.name


def default_suffix(image: Image) -> str:
    """What a mask of this image is called by default: .png for pictures, .nii.gz for volumes; TIFF, MHA, NRRD keep theirs."""
    if image.source is None:
        return ".png" if image.grid.dims == 2 else ".nii.gz"
    format = FORMATS[image.source.format]
    return format.mask_suffix or suffix_of(image.source.path) or format.suffixes[0]


def find_inputs(path: PathLike, *, channels: int = 1) -> list[Input]:
    """The cases at `path`: one file; a DICOM folder (one case); or a folder of files and DICOM folders, by name.

    DICOM files that are pictures, such as X-rays, are a case each (`projections.py`); slices of a series are one case.

    Hidden files and whatever is no image (csv, txt) are passed over. With `channels` = n > 1 the files `case_0000`
    to `case_000(n-1)` become one tuple, unless the first holds n channels by itself (an RGB picture, a 4D NIfTI).
    A study folder whose series lie in subfolders gives one case a subfolder.
    A case with a channel file that is missing or cannot be read is listed all the same: it is told when its turn comes.
    Raises UnreadableFile (no such place, not an image, a folder that may not be read), DatasetError (empty, two inputs of one
    name, DICOM slices loose among other images).
    """
    path = Path(path)
    if not path.is_dir():
        format_of(path)
        return [path]
    images, slices, folders = [], [], []
    with decoding(path, "image"):
        entries = sorted(_visible(path), key=lambda each: natural(each.name))
    for entry in entries:
        if entry.is_dir():
            folders.extend([entry] if _holds_dicom(entry) else [])
        elif suffix_of(entry) not in (None, *FORMATS["dicom"].suffixes):
            images.append(entry)
        elif is_dicom(entry):
            slices.append(entry)
    pictures = pictures_among(slices) if slices else []
    slices = [] if pictures else slices
    if slices and (images or folders):
        raise DatasetError("DICOM slices lie loose among other images", file=path, fix="move them to a folder of their own")
    if slices:
        return [path]
    cases: list[Input] = [*(_grouped(images, channels) if channels > 1 else images), *pictures, *folders]
    if not cases:
        raise DatasetError("this folder holds no image", file=path, fix=f"known are {', '.join(SUFFIXES)} and DICOM folders")
    named: dict[str, Input] = {}
    for case in cases:
        twin = named.setdefault(case_name(case), case)
        if twin is not case:
            raise DatasetError(f"two inputs are called '{case_name(case)}': {_show(twin)} and {_show(case)}",
                               file=path, fix="rename one")  # fmt: skip
    return sorted(cases, key=lambda case: natural(case_name(case)))


def content_hash(path: PathLike | tuple[Path, ...]) -> str:
    """sha256 of a file, or of a folder's visible files with their names in order, or of several files.

    Raises UnreadableFile for a file that is gone or may not be read, ChannelError for one of several that is missing.
    """
    digest = hashlib.sha256()
    if isinstance(path, tuple):
        _require_every_channel(path)
    for root in [Path(each) for each in path] if isinstance(path, tuple) else [Path(path)]:
        with decoding(root, "image"):
            files = sorted(files_below(root)) if root.is_dir() else [root]
        for file in files:
            if file != root:
                digest.update(os.fsencode(file.relative_to(root)))
            with decoding(file, "image"), open(file, "rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


def smallest_type(mask: Mask) -> type[np.unsignedinteger]:
    """uint8 where every value present or declared fits, else uint16, else uint32; objects take uint16 at least."""
    declared = max(mask.labels.values, default=0) if mask.labels and not mask.instances else 0
    top = max(int(mask.array.max(initial=0)), declared)
    if top <= 255 and not mask.instances:
        return np.uint8
    return np.uint16 if top <= 65535 else np.uint32


def require_grid(ours: Grid, theirs: Grid, path: Path, other: Path | str) -> None:
    """GeometryError, naming the mask `path` and its image `other`, where shapes differ or voxels lie apart.

    Where either is a format that does not know where its voxels lie (TIFF), their sizes must agree.
    """
    if ours.shape != theirs.shape:
        raise GeometryError(f"mask {ours.shape} and image {other} {theirs.shape} differ in shape (z, y, x)",
                            file=path, fix="give each image the mask drawn on it")  # fmt: skip
    if not (is_placed(path) and is_placed(Path(other))):
        if ours.spacing and theirs.spacing and not ours.same_sizes(theirs):
            told = [f"{tuple(round(s, 4) for s in grid.spacing or ())} mm" for grid in (ours, theirs)]
            raise GeometryError(f"the mask's voxels have another size than image {other}'s: {told[0]} against {told[1]}",
                                file=path, fix="resample or re-export the mask on the image's grid")  # fmt: skip
    elif ours.spacing and theirs.spacing and not ours.same_as(theirs, tolerance_mm=0.1 * min(theirs.spacing)):
        told = [f"{grid.orientation} {tuple(round(s, 4) for s in grid.spacing or ())} mm" for grid in (ours, theirs)]
        raise GeometryError(f"the mask lies elsewhere than image {other}: {told[0]} against {told[1]}, or another origin",
                            file=path, fix="resample or re-export the mask on the image's grid")  # fmt: skip


def natural(name: str) -> list[tuple[bool, int, str]]:
    """Sort key that puts case_9 before case_10."""
    return [(not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", name) if part]


def _stacked(images: list[Image], name: str) -> Image:
    """Channels in the order given, on the first one's grid; GeometryError where the grids differ."""
    first = images[0]
    if len(images) == 1:
        return first
    for other in images[1:]:
        if not other.grid.same_as(first.grid, tolerance_mm=0.1 * min(first.grid.spacing or (0.01,))):
            file = other.source.path if other.source else None
            shapes = f"{other.grid.shape} and {first.grid.shape}"
            raise GeometryError(f"its grid is not that of the case's first channel ({shapes})", file=file)
    array = np.concatenate([image.array for image in images])
    source = replace(first.source, name=name) if first.source else None
    notes = tuple(dict.fromkeys(note for image in images for note in image.notes))
    return Image(array, first.grid, units=first.units, source=source, notes=notes)


def _label_values(array: np.ndarray, path: Path) -> np.ndarray:
    """(C, Z, Y, X) as read -> (Z, Y, X) unsigned integers. Float whole numbers count; LabelError for anything else."""
    if any(not np.array_equal(array[0], other) for other in array[1:]):
        raise LabelError(f"the mask has {len(array)} different channels: colours are no labels",
                         file=path, fix="save it as a grey image with one value a label")  # fmt: skip
    values = array[0]
    if values.dtype.kind == "f":
        for plane in values:
            away = np.abs(plane - np.rint(plane))
            if away.max() > 1e-3:  # scl_slope leaves whole numbers a little off; more is no label
                odd = plane.flat[away.argmax()]
                raise LabelError(f"the mask holds {odd:g}, which is no whole number", file=path, fix="give labels, not scores")
    low, top = round(float(values.min())), round(float(values.max()))
    if low < 0:
        raise LabelError(f"the mask holds the negative value {low}", file=path, fix="labels are 0 and above")
    if top > 2**32 - 1:
        raise LabelError(f"the mask holds {top}, too large for a label", file=path)
    dtype = np.dtype(np.uint8 if top <= 255 else np.uint16 if top <= 65535 else np.uint32)
    if values.dtype.kind != "f":
        return native(values.astype(dtype, copy=False))
    whole = np.empty(values.shape, dtype)
    for z, plane in enumerate(values):
        whole[z] = np.rint(plane)
    return whole


def _target(path: Path, format: str | None) -> tuple[Path, str]:
    """The path with a suffix that fits, and the format it is written in."""
    if format is not None and format not in WRITERS:
        raise unknown_name("output format", format, WRITERS)
    suffix = suffix_of(path)
    if format is None:
        format = output_of(suffix) if suffix else None
        if format is None:
            raise OutputError("this name does not tell a format masks can be written in", file=path,
                              fix=f"end it in one of {', '.join(WRITERS.values())}")  # fmt: skip
        return path, format
    if suffix is None:
        return path.with_name(path.name + WRITERS[format]), format
    if SUFFIXES[suffix] != OUTPUTS[format]:
        raise OutputError(f"the name ends in {suffix}, the format is {format}", file=path, fix=f"end it in {WRITERS[format]}")
    return path, format


def _require_every_channel(files: tuple[Path, ...]) -> None:
    for index, file in enumerate(files):
        if not file.exists():
            raise ChannelError(f"channel _{index:04d} of {len(files)} is missing", file=file, fix="add the file")


def _grouped(files: list[Path], channels: int) -> list[Input]:
    """Files of one case, `_0000` to `_000(n-1)`, as tuples, where one is missing with its place; the others as they are."""
    groups: dict[str, dict[int, Path]] = {}
    for file in files:
        match = CHANNEL_FILE.match(case_name(file))
        if match:
            groups.setdefault(match["case"] + (suffix_of(file) or ""), {})[int(match["channel"])] = file
    found: list[Input] = []
    grouped: set[Path] = set()
    for members in groups.values():
        # Frames of a video are numbered too: only 0..n-1 and no more, each with one channel, are a case.
        if 0 not in members or len(members) == 1 or max(members) >= channels or _is_colour(members[0]):
            continue
        first = case_name(members[0])
        suffix, case = members[0].name[len(first) :], first.removesuffix("_0000")
        places = (members[0].with_name(f"{case}_{index:04d}{suffix}") for index in range(channels))
        found.append(tuple(members.get(index, place) for index, place in enumerate(places)))
        grouped |= set(members.values())
    return [*found, *(file for file in files if file not in grouped)]


def _is_colour(file: Path) -> bool:
    """Whether it holds several channels by itself; one that cannot be read is told when its case is read."""
    try:
        return peek(file).channels > 1
    except InputError:
        return False


def _visible(folder: Path) -> Iterator[Path]:
    return (entry for entry in folder.iterdir() if not entry.name.startswith("."))


def _holds_dicom(folder: Path) -> bool:
    """Whether a file below says so; a folder that may not be read counts, to be told when its turn comes."""
    try:
        return any(is_dicom(file) for file in files_below(folder))
    except PermissionError:
        return True


def _show(case: Input) -> str:
    return case[0].name if isinstance(case, tuple) else case.name
