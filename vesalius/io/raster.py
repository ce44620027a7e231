"""PNG, JPEG, BMP and TIFF: pictures, and TIFF pages as the slices of a volume.

Pixels stay where they are stored (an EXIF rotation is said, never applied: the mask must fit the file) and keep
their depth: 16 bit stays 16 bit. 1, 2 and 4 bits are spread over 8 in an image, as a viewer shows them, and stay the
stored values in a mask. An opaque alpha is dropped with a note; palettes become RGB in an image and stay indices in a
mask. Only OME, ImageJ and Aperio metadata tell a physical size; the dots per inch of other files are ignored, as they speak
of paper. Such an affine knows sizes, no anatomy: x, y, z are taken along R, A, S.
"""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any, cast

import numpy as np
from PIL import Image as Pillow

from ..core.atomic import atomic
from ..core.errors import ChannelError, OutputError, UnreadableFile
from ..core.image import Grid, Image, Mask, Source
from .decoding import Peek, decoding, native, rgb_names, without_alpha

MAP_ABOVE = 2**28  # bytes: an uncompressed TIFF above this is mapped, not read
MM_PER_UNIT = {"m": 1e3, "cm": 10.0, "mm": 1.0, "µm": 1e-3, "μm": 1e-3, "um": 1e-3, "micron": 1e-3, "microns": 1e-3}
MM_PER_UNIT |= {"\\u00B5m": 1e-3, "\\u00b5m": 1e-3, "micrometer": 1e-3, "nm": 1e-6, "pm": 1e-9, "inch": 25.4}
MICRONS = re.compile(r"\|\s*MPP\s*=\s*(\d+(?:\.\d+)?)")  # a pixel's side in an Aperio slide's description
EXIF_ORIENTATION = 0x0112  # the same tag in a TIFF
NO_LIGHT = {5: "CMYK inks, not light", 6: "YCbCr colours", 8: "Lab colours", 9: "Lab colours", 10: "Lab colours"}  # photometric
JPEGS = (6, 7, 33007, 34892)  # compressions whose decoder gives RGB
IN_MM = ("", "Z", "I", "Q")  # axes that may become Z with a distance: I and Q are pages that nothing names, of a stack
ALPHA = (1, 2)  # ExtraSamples that are opacity; 0 is any further channel
STEPS = {2: 85, 4: 17}  # bits of grey -> what one step is of the 255 of 8 bits
OPENING = Lock()
DEEP_COLOURS = {2: 3, 4: 1, 6: 3}  # PNG colour types that Pillow would cut to 8 bit: RGB, grey with alpha, RGBA -> channels


def read_picture(path: Path, name: str, format: str, *, as_labels: bool = False) -> Image:
    """A PNG, JPEG or BMP as (C, 1, Y, X); `as_labels` keeps indices and stored values. Raises UnreadableFile, ChannelError."""
    notes: list[str] = []
    with decoding(path, format.upper()):
        if format == "png" and _deep_channels(path):
            array = _deep_png(path)
        else:
            with _opened(path) as picture:
                depth = 4 if picture.mode in ("I", "F") else 2 if picture.mode.startswith("I") else 1
                size = f"{picture.width} x {picture.height}"
                _require_memory(2 * picture.width * picture.height * len(picture.getbands()) * depth, size)
                picture.load()
                if picture.getexif().get(EXIF_ORIENTATION, 1) not in (0, 1):
                    notes.append("its EXIF data ask for a rotation; the pixels are taken as stored")
                step = STEPS.get(_png_header(path)[0], 1) if format == "png" else 1
                array = _pixels(picture, notes, as_labels, step)
        array = array.reshape(*array.shape[:2], -1)
        if array.shape[2] in (2, 4):
            array = without_alpha(array[:, :, :-1], array[:, :, -1], notes)
    array = np.ascontiguousarray(array.transpose(2, 0, 1))[:, None]
    grid = Grid(array.shape[1:], None, 2)
    return Image(native(array), grid, rgb_names(len(array)), source=Source(path, format, name), notes=tuple(notes))


def peek_picture(path: Path, format: str) -> Peek:
    """Size and channels without decoding a pixel; raises UnreadableFile."""
    with decoding(path, format.upper()), _opened(path) as picture:
        grey = picture.mode in ("1", "L", "LA", "F") or picture.mode.startswith("I")
        channels = (_deep_channels(path) if format == "png" else None) or (1 if grey else 3)
        return Peek(Grid((1, picture.height, picture.width), None, 2), channels)


def read_tiff(path: Path, name: str, format: str = "tiff", *, as_labels: bool = False) -> Image:
    """The largest image of a TIFF or Aperio slide as (C, Z, Y, X), its pages along Z. Raises UnreadableFile, ChannelError."""
    notes: list[str] = []
    with decoding(path, "TIFF"), _opened_tiff(path) as tiff:
        number, series = _largest(tiff)
        page = cast(Any, series.keyframe)
        _whole(tiff, series, path, notes)
        if len(tiff.series) > 1:
            which = "first" if number == 0 else "largest"
            notes.append(f"the file holds {len(tiff.series)} images; the {which} is read")
        if EXIF_ORIENTATION in page.tags and int(page.tags[EXIF_ORIENTATION].value) > 1:
            notes.append("its orientation tag asks for a rotation or a mirroring; the pixels are taken as stored")
        order = _house_axes(series.axes, series.shape, path)
        along = _along_z(series)
        if along == "T":
            notes.append(f"its {order[1]} time points are taken as slices: nothing is known of mm between them")
        if series.nbytes > MAP_ABOVE and page.is_memmappable and series.dataoffset is not None:  # pages lie one behind the other
            array: np.ndarray = np.memmap(path, tiff.byteorder + series.dtype.char, "r", series.dataoffset, series.shape)
        else:
            _require_memory(series.nbytes, " x ".join(map(str, series.shape)))
            array = series.asarray()
        array = _arranged(array.reshape(series.shape), series.axes, order)
        array = _colours(array, page, notes, as_labels)
        spacing = _spacing_mm(tiff, number) if along in IN_MM else None
    grid = _grid(array.shape[1:], spacing)
    return Image(native(array), grid, rgb_names(len(array)), source=Source(path, format, name), notes=tuple(notes))


def peek_tiff(path: Path) -> Peek:
    """Grid and channels from the tags; raises UnreadableFile."""
    with decoding(path, "TIFF"), _opened_tiff(path) as tiff:
        number, series = _largest(tiff)
        page = cast(Any, series.keyframe)
        sizes = _house_axes(series.axes, series.shape, path)
        channels = 3 if page.photometric == 3 else sizes[0] - int(_has_alpha(page, sizes[0]))
        return Peek(_grid(sizes[1:], _spacing_mm(tiff, number) if _along_z(series) in IN_MM else None), channels)


def fit_png(grid: Grid, source: Source | None, path: Path) -> None:
    """Raises OutputError for a volume."""
    if grid.shape[0] != 1:
        raise OutputError(f"a PNG holds one slice, and this volume has {grid.shape[0]}", file=path, fix="write nifti or tiff")


def write_png(mask: Mask, path: Path, source: Source | None = None) -> None:
    """One slice as a grey PNG of 8 or 16 bit. Raises OutputError for a volume or more than 65535 values."""
    fit_png(mask.grid, source, path)
    if mask.array.dtype.itemsize > 2:
        raise OutputError("a PNG holds values up to 65535", file=path, fix="write tiff or nifti")
    with atomic(path) as part:
        Pillow.fromarray(np.ascontiguousarray(mask.array[0])).save(part, format="PNG")


def write_tiff(mask: Mask, path: Path, source: Source | None = None) -> None:
    """Slices as pages, deflated; a known spacing goes into ImageJ metadata where the mask has 8 or 16 bit."""
    import tifffile

    spacing = mask.grid.spacing
    options: dict[str, Any] = {"compression": "zlib", "photometric": "minisblack"}
    if spacing and mask.array.dtype.itemsize <= 2:
        metadata = {"axes": "ZYX", "unit": "mm", "spacing": spacing[0]}
        options |= {"imagej": True, "resolution": (1 / spacing[2], 1 / spacing[1]), "metadata": metadata}
    elif mask.grid.shape[0] > 1:
        options |= {"metadata": {"axes": "ZYX"}}
    with atomic(path) as part:
        array = mask.array if mask.grid.shape[0] > 1 or spacing else mask.array[0]
        tifffile.imwrite(part, array, **options)


def write_tiff_pages(pages: Iterator[np.ndarray], shape: tuple[int, ...], path: Path) -> None:
    """Pages (Y, X) of one type, taken one by one, as a deflated TIFF of `shape` (Z, Y, X)."""
    import tifffile

    first = next(pages)
    options: dict[str, Any] = {"compression": "zlib", "photometric": "minisblack", "metadata": {"axes": "ZYX"}}
    with atomic(path) as part:
        tifffile.imwrite(part, chain([first], pages), shape=shape, dtype=first.dtype, **options)


def _opened(path: Path) -> Pillow.Image:
    """The picture, of any size: Pillow takes one above 179 megapixels for an attack, a slide is one.

    Its limit is the whole process's: it is lifted for the moment in which such a header is read, by one thread at a time.
    """
    try:
        return Pillow.open(path)
    except Pillow.DecompressionBombError:
        pass
    with OPENING:
        limit, Pillow.MAX_IMAGE_PIXELS = Pillow.MAX_IMAGE_PIXELS, None
        try:
            return Pillow.open(path)
        finally:
            Pillow.MAX_IMAGE_PIXELS = limit


def _require_memory(need: int, size: str) -> None:
    """UnreadableFile for a picture whose `need` bytes this machine could not hold."""
    have = _memory_bytes()
    if have is not None and need > have:
        told = f"its {size} pixels need {need / 1e9:.1f} GB of memory, this machine has {have / 1e9:.1f}"
        raise UnreadableFile(told, fix="cut it into tiles, or use a larger machine")


def _memory_bytes() -> int | None:
    """Of this machine; None where it does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows
        return None


def _pixels(picture: Pillow.Image, notes: list[str], as_labels: bool, step: int) -> np.ndarray:
    """(Y, X) or (Y, X, C) with an alpha last where the file has one. Pillow gives grey of few bits in steps of `step`."""
    mode = picture.mode
    if mode == "1":
        return np.asarray(picture).astype(np.uint8) * (1 if as_labels else 255)
    if mode == "P" and as_labels:
        return np.asarray(picture)
    if mode == "L" and as_labels:
        return np.asarray(picture) // np.uint8(step)
    if mode in ("P", "PA") or "transparency" in picture.info:
        clear = mode == "PA" or "transparency" in picture.info
        notes.extend(["palette colours were expanded to RGB"] if mode in ("P", "PA") else [])
        target = ("LA" if mode == "L" else "RGBA") if clear else "RGB"
        return np.asarray(picture if mode.startswith("I") else picture.convert(target))
    if mode in ("CMYK", "YCbCr", "RGBX"):
        notes.append(f"{mode} colours were converted to RGB")
        return np.asarray(picture.convert("RGB"))
    if mode in ("L", "LA", "RGB", "RGBA", "F") or mode.startswith("I"):
        return np.asarray(picture)
    raise ChannelError(f"pictures of mode {mode} are not read", fix="save it as grey or RGB")


def _png_header(path: Path) -> tuple[int, int]:
    """Bits a sample, and the colour type, of a PNG (IHDR); (0, 0) where the file ends before."""
    with open(path, "rb") as file:
        head = file.read(26)
    return (head[24], head[25]) if len(head) == 26 else (0, 0)


def _deep_channels(path: Path) -> int | None:
    """Channels without alpha if the PNG has 16 bit with colour or alpha, else None."""
    depth, colour = _png_header(path)
    return DEEP_COLOURS.get(colour) if depth == 16 else None


def _deep_png(path: Path) -> np.ndarray:
    import imagecodecs

    return np.asarray(imagecodecs.png_decode(path.read_bytes()))


def _opened_tiff(path: Path) -> Any:
    """The file; pages of one size that tifffile wrote one by one, which it takes for so many images, are a stack as in others."""
    import tifffile

    tiff = tifffile.TiffFile(path)
    alike = {(series.kind, series.axes, series.shape, series.dtype) for series in tiff.series}
    if len(tiff.series) == 1 or len(alike) > 1 or tiff.series[0].kind != "shaped" or tiff.series[0].axes not in ("YX", "YXS"):
        return tiff
    tiff.close()
    return tifffile.TiffFile(path, is_shaped=False)


def _largest(tiff: Any) -> tuple[int, Any]:
    """Number and series of the image with the most pixels, of equal ones the first: a thumbnail may stand before its picture."""
    return max(enumerate(tiff.series), key=lambda each: each[1].size)


def _whole(tiff: Any, series: Any, path: Path, notes: list[str]) -> None:
    """Raise UnreadableFile where a page's data end behind the end of the file, or where pages of an OME-TIFF lie in other files
    that are gone: tifffile would fill them with zeros.
    """
    sparse = any(page.keyframe.is_tiled and 0 in page.databytecounts for page in tiff.pages)  # which is legal
    if series.kind == "ome":
        pages = series.pages
        gone, files = sum(page is None for page in pages), {page.parent.filename for page in pages if page is not None}
        if gone:
            fix = "put all files of the image into one folder, under the names they were written with"
            raise UnreadableFile(f"{gone} of its {len(pages)} planes lie in other files that are not here", file=path, fix=fix)
        if len(files) > 1:
            notes.append(f"the image is spread over {len(files)} files, which are read together")
            return
    if sparse:
        return
    size = tiff.filehandle.size
    for page in series.pages:
        if page is None:
            continue
        ends = (start + count for start, count in zip(page.dataoffsets, page.databytecounts, strict=False))
        if max(ends, default=0) > size:
            raise UnreadableFile("the TIFF file is cut short", file=path, fix="copy it again from where it came")


def _house_axes(axes: str, shape: Sequence[int], path: Path) -> tuple[int, int, int, int]:
    """Sizes (C, Z, Y, X). S and C are channels, Y and X the plane, whatever else is longer than one is Z."""
    sizes = {"C": 1, "Z": 1, "Y": 1, "X": 1}
    used: dict[str, str] = {}
    for axis, size in zip(axes, shape, strict=True):
        target = {"S": "C", "C": "C", "Y": "Y", "X": "X"}.get(axis, "Z")
        if size > 1 or target in "YX":
            if target in used:
                raise UnreadableFile(f"the TIFF has axes {axes} {tuple(shape)}, more than channels and z, y, x",
                                     file=path, fix="save one time point and one position")  # fmt: skip
            used[target] = axis
            sizes[target] = int(size)
    return sizes["C"], sizes["Z"], sizes["Y"], sizes["X"]


def _along_z(series: Any) -> str:
    """The axis of a TIFF that becomes Z; empty where none is longer than one."""
    return "".join(axis for axis, size in zip(series.axes, series.shape, strict=True) if size > 1 and axis not in "SCYX")


def _arranged(array: np.ndarray, axes: str, sizes: Sequence[int]) -> np.ndarray:
    """The array in (C, Z, Y, X), a view where that is possible."""
    kept = [axis for axis, size in zip(axes, array.shape, strict=True) if size > 1 or axis in "YX"]
    array = array.reshape([size for axis, size in zip(axes, array.shape, strict=True) if size > 1 or axis in "YX"])
    rank = {"S": 0, "C": 0, "Y": 2, "X": 3}
    order = sorted(range(len(kept)), key=lambda i: rank.get(kept[i], 1))
    return array.transpose(order).reshape(tuple(sizes))


def _colours(array: np.ndarray, page: Any, notes: list[str], as_labels: bool) -> np.ndarray:
    """Palette, bilevel and white-is-zero resolved, an alpha dropped, as the photometric tag asks."""
    photometric = int(page.photometric)
    if photometric in NO_LIGHT and not (photometric == 6 and int(page.compression) in JPEGS):
        raise ChannelError(f"the TIFF holds {NO_LIGHT[photometric]}", fix="convert it to RGB")
    bilevel = array.dtype.kind == "b"
    if bilevel:
        array = array.astype(np.uint8) * np.uint8(1 if as_labels else 255)
    if photometric == 3 and not as_labels and page.colormap is not None:
        notes.append("palette colours were expanded to RGB")
        table = page.colormap if page.colormap.max() < 256 else page.colormap >> 8  # (3, 2**bits) of 16 bits; some write 8
        table = table.astype(np.uint8)
        return np.stack([table[c][array[0]] for c in range(3)])
    if photometric == 0 and not as_labels and array.dtype.kind == "u":
        notes.append("white was stored as zero; grey values are inverted")
        array = array.dtype.type(2 ** (8 if bilevel else page.bitspersample) - 1) - array
    if not as_labels and photometric in (0, 1) and page.bitspersample in STEPS:
        array = array * np.uint8(STEPS[page.bitspersample])
    if _has_alpha(page, len(array)):
        array = without_alpha(array[:-1], array[-1], notes)
    return array


def _has_alpha(page: Any, channels: int) -> bool:
    """Whether the last of the channels is an alpha: the tags say so, or it is the fourth of an RGB picture."""
    said = any(int(extra) in ALPHA for extra in page.extrasamples)
    return channels in (2, 4) and (said or (int(page.photometric) == 2 and channels == 4))


def _grid(shape: Sequence[int], spacing: tuple[float | None, float, float] | None) -> Grid:
    """A grid with sizes only; a volume needs its z spacing too, a picture's z means nothing and takes that of x."""
    z, y, x = shape
    affine = None
    if spacing is not None and (spacing[0] is not None or z == 1):
        affine = np.zeros((4, 4))
        affine[[2, 1, 0, 3], [0, 1, 2, 3]] = [spacing[0] or spacing[2], spacing[1], spacing[2], 1.0]
    return Grid((z, y, x), affine, 2 if z == 1 else 3)


def _spacing_mm(tiff: Any, number: int) -> tuple[float | None, float, float] | None:
    """(z or None, y, x) in mm of an image from OME, or of the first one from Aperio or ImageJ metadata; None where none tells."""
    if tiff.is_ome and tiff.ome_metadata:
        return _ome_spacing(tiff.ome_metadata, number)
    if number:
        return None
    if tiff.is_svs:
        microns = MICRONS.search(str(tiff.pages[0].description))
        return (None, float(microns[1]) / 1000, float(microns[1]) / 1000) if microns and float(microns[1]) else None
    metadata = tiff.imagej_metadata or {}
    scale = MM_PER_UNIT.get(str(metadata.get("unit", "")))
    tags = tiff.pages[0].tags
    if scale is None or "XResolution" not in tags or "YResolution" not in tags:
        return None
    (x_count, x_units), (y_count, y_units) = tags["XResolution"].value, tags["YResolution"].value
    if not (x_count and x_units and y_count and y_units):
        return None
    z = metadata.get("spacing")
    return (abs(float(z)) * scale if z else None), y_units / y_count * scale, x_units / x_count * scale


def _ome_spacing(xml: str, number: int) -> tuple[float | None, float, float] | None:
    """PhysicalSizeX, Y, Z of that Pixels element, one an image; the OME default unit is the micron."""
    try:
        pixels = [e for e in ElementTree.fromstring(xml).iter() if e.tag.endswith("}Pixels") or e.tag == "Pixels"][number]
    except (ElementTree.ParseError, IndexError):
        return None

    def size(axis: str) -> float | None:
        value, unit = pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm")
        known = value is not None and unit in MM_PER_UNIT and float(value) > 0
        return float(value) * MM_PER_UNIT[unit] if known and value is not None else None

    x, y, z = size("X"), size("Y"), size("Z")
    return (z, y, x) if x and y else None
