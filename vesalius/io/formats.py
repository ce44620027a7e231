"""Every file format by name: one literal table. Who adds a format writes its file and one entry here, nothing else.

A name's suffix chooses the format; a file without a known one is tried as DICOM, whose files often have none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..core.errors import UnreadableFile
from ..core.image import Grid, Image, Mask, Source
from .decoding import Peek, begins_as_dicom, require_bytes
from .dicom import peek_dicom, read_dicom
from .itk import fit_itk, peek_itk, read_itk, write_itk
from .nifti import peek_nifti, read_nifti, write_nifti
from .raster import fit_png, peek_picture, peek_tiff, read_picture, read_tiff, write_png, write_tiff
from .segmentation import fit_segmentation, write_segmentation

Write = Callable[[Mask, Path, Source | None], None]
Fit = Callable[[Grid, Source | None, Path], None]


@dataclass(frozen=True)
class Format:
    """What a format can do. The first of its `suffixes` is the one it is written with.

    `labels` reads a label map where that differs from reading an image; `write` is None where it cannot hold one. `fit`
    raises OutputError where the mask of an image cannot be written so: it is asked before anything is computed.
    `written_as` is its name as an output where that is another; `mask_suffix` what the mask of such an image is called
    by default, where it does not keep its image's own. `placed` is False where a file may know the size of a voxel but
    never where it lies: its masks are compared with an image by shape and size alone.
    """

    suffixes: tuple[str, ...]
    read: Callable[[Path, str], Image]
    peek: Callable[[Path], Peek]
    write: Write | None = None
    labels: Callable[[Path, str], Image] | None = None
    written_as: str | None = None
    mask_suffix: str | None = None
    fit: Fit | None = None
    placed: bool = True


def picture(name: str, *suffixes: str, write: Write | None = None, fit: Fit | None = None) -> Format:
    """A picture that Pillow reads, `name` being its format; its mask is a PNG."""
    read = partial(read_picture, format=name)
    labels = partial(read_picture, format=name, as_labels=True)
    return Format(suffixes, read, partial(peek_picture, format=name), write, labels, mask_suffix=".png", fit=fit)


def volume_of_itk(name: str, *suffixes: str) -> Format:
    """A volume that SimpleITK reads and writes."""
    return Format(suffixes, partial(read_itk, format=name), peek_itk, write_itk, fit=fit_itk)


FORMATS: dict[str, Format] = {
    "nifti": Format((".nii.gz", ".nii"), read_nifti, peek_nifti, write_nifti, mask_suffix=".nii.gz"),
    "png": picture("png", ".png", write=write_png, fit=fit_png),
    "jpeg": picture("jpeg", ".jpg", ".jpeg"),
    "bmp": picture("bmp", ".bmp"),
    "tiff": Format((".tiff", ".tif"), read_tiff, peek_tiff, write_tiff, partial(read_tiff, as_labels=True), placed=False),
    "svs": Format((".svs",), partial(read_tiff, format="svs"), peek_tiff, mask_suffix=".tiff", placed=False),
    "dicom": Format(
        (".dcm", ".dicom"),
        read_dicom,
        peek_dicom,
        write_segmentation,
        written_as="dicom-seg",
        mask_suffix=".nii.gz",
        fit=fit_segmentation,
    ),
    "mha": volume_of_itk("mha", ".mha"),
    "nrrd": volume_of_itk("nrrd", ".nrrd"),
}
SUFFIXES = {suffix: name for name, format in FORMATS.items() for suffix in format.suffixes}
OUTPUTS = {format.written_as or name: name for name, format in FORMATS.items() if format.write}  # as --format names them
WRITERS = {output: FORMATS[name].suffixes[0] for output, name in OUTPUTS.items()}


def suffix_of(path: Path) -> str | None:
    """The known suffix in lower case, the longest first, or None."""
    name = path.name.lower()
    return next((suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if name.endswith(suffix)), None)


def output_of(suffix: str) -> str | None:
    """The output format a file with this suffix is written in, or None where it cannot hold labels."""
    return next((output for output, name in OUTPUTS.items() if name == SUFFIXES[suffix]), None)


def is_placed(path: Path) -> bool:
    """Whether a file of this name can say where its voxels lie."""
    suffix = suffix_of(path)
    return suffix is None or FORMATS[SUFFIXES[suffix]].placed


def format_of(path: Path) -> str:
    """The format of a file or folder that exists; raises UnreadableFile."""
    if path.is_dir():
        return "dicom"
    require_bytes(path)
    suffix = suffix_of(path)
    if suffix is None and not is_dicom(path):
        known = f"known are {', '.join(SUFFIXES)} and DICOM"
        raise UnreadableFile("this is no image format Vesalius knows", file=path, fix=known)
    return SUFFIXES[suffix] if suffix else "dicom"


def is_dicom(path: Path) -> bool:
    """Whether it says so, by suffix or by its first bytes; a DICOMDIR is an index, no image."""
    if path.name.upper() == "DICOMDIR":
        return False
    if suffix_of(path) in FORMATS["dicom"].suffixes:
        return True
    try:
        return begins_as_dicom(path)
    except OSError:
        return False
