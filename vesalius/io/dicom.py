"""DICOM: a folder, or a file, as one volume on its grid in the patient.

    normal = row x column        slices sort by  position . normal,  never by file name or instance number
    step   = (last - first position) scaled to the usual distance: SliceThickness is never asked, a sheared
             stack (gantry tilt) keeps its shear

LPS becomes RAS by turning round the first two rows. Stored values become real ones by RescaleSlope and
RescaleIntercept, or by a modality LUT: Hounsfield units for CT. Single-frame, enhanced and other multi-frame objects
all become a list of `Frame`. No message quotes a field that could name a patient: UIDs, modality, series description, files only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pydicom
from pydicom.pixels import apply_color_lut, apply_modality_lut, iter_pixels
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from ..core.errors import GeometryError, InputError, UnreadableFile, unknown_name
from ..core.image import Grid, Image, Source
from .decoding import Peek, begins_as_dicom, decoding, files_below, native

NO_IMAGES = {"SEG", "SR", "PR", "KO", "RTSTRUCT", "RTPLAN", "RTDOSE", "REG", "DOC", "FID", "RWV", "AU", "ECG"}
UNEVEN, UNEVEN_AT_LEAST = 0.25, 3  # share and number of odd steps between slices beyond which no even grid is true
ASIDE = 0.5  # pixels by which a slice may lie aside of the others
SKEW = 0.05  # by which directions may be no unit vectors: headers round them
LISTED = 12  # series, at most, in one message
STACKED = {"CT", "MR", "PT", "NM"}  # whose values are measured: MONOCHROME1 says how to show them, elsewhere that bright is dark
HEADER_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesDescription", "Modality", "ImageType", "Rows", "Columns",
    "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "BitsStored", "BitsAllocated", "PixelRepresentation",
    "RescaleSlope", "RescaleIntercept", "RescaleType", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
    "SliceThickness", "InstanceNumber", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "FrameOfReferenceUID", "ModalityLUTSequence",
]  # fmt: skip


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


@dataclass(frozen=True)
class Stack:
    """The frames of one series in the order of the volume; what a DICOM source keeps as its header."""

    series: str
    frames: tuple[Frame, ...]


def read_dicom(path: Path, name: str, series: str | None = None) -> Image:
    """A folder's only series (or the one of UID `series`), or a single file, as (C, Z, Y, X).

    Raises InputError listing the series where there are several, UnknownName for a UID that is not there,
    GeometryError for slices that form no volume, UnreadableFile for damaged or missing pixels.
    """
    first, stack, grid, notes = _organised(path, series)
    with decoding(path, "DICOM"):
        kept, array, said = _pixels(first, stack.frames)
    if len(kept) < len(stack.frames):
        stack = Stack(stack.series, kept)
        grid, more = _grid(kept, first)
        notes = [*notes, *more]
    units = "HU" if first.get("Modality") == "CT" and all(f.rescaled in ("", "HU") for f in kept) else None
    if first.get("Modality") == "CT" and units is None:
        notes.append("a CT without a rescale to Hounsfield units: its values are no HU")
    channels = ("red", "green", "blue") if len(array) == 3 else (str(first.get("Modality") or "image"),)
    source = Source(path, "dicom", name, stack)
    return Image(native(array), grid, channels, units, source, tuple([*notes, *said]))


def peek_dicom(path: Path) -> Peek:
    """Grid and channels from the headers; raises as `read_dicom`, but for damaged pixels."""
    first, _, grid, _ = _organised(path, None)
    return Peek(grid, 3 if int(first.get("SamplesPerPixel", 1)) == 3 or _is_palette(first) else 1)


def _organised(path: Path, series: str | None) -> tuple[Any, Stack, Grid, list[str]]:
    """Header of the first file, the sorted stack, its grid, and what must be said."""
    headers, notes = _headers(path)
    files = _chosen(path, headers, series)
    frames = [frame for file, header in files for frame in _frames(file, header)]
    sizes = {(header.Rows, header.Columns, header.get("SamplesPerPixel", 1)) for _, header in files}
    if len(sizes) > 1:
        told = ", ".join(f"{columns}x{rows}" for rows, columns, _ in sorted(sizes))
        raise GeometryError(f"the series holds slices of different sizes: {told}", file=path, fix="split it into volumes")
    first = files[0][1]
    frames, said = _sorted(path, frames)
    try:
        grid, more = _grid(frames, first)
    except GeometryError as error:
        raise GeometryError(error.problem, file=path, fix=error.fix) from error
    return first, Stack(_series(first), tuple(frames)), grid, [*notes, *said, *more]


def _headers(path: Path) -> tuple[list[tuple[Path, Any]], list[str]]:
    """(file, header) of every image below `path`, with notes on the objects left out; UnreadableFile if none is left."""
    single = path.is_file()
    with decoding(path, "DICOM"):
        files = [path] if single else list(_candidates(path))
    found: list[tuple[Path, Any]] = []
    left_out: Counter[str] = Counter()
    for file in files:
        with decoding(file, "DICOM"):
            header = open_dicom(file, stop_before_pixels=True, specific_tags=HEADER_TAGS)
        kind = UID(header.file_meta.get("MediaStorageSOPClassUID") or header.get("SOPClassUID") or "").name
        if "Rows" not in header and (not kind or kind.endswith("Image Storage")):
            # A slice that was cut within its header would otherwise go missing in silence.
            raise UnreadableFile("this DICOM image is cut short: its header ends early", file=file, fix="copy it again")
        if "Rows" not in header or header.get("Modality") in NO_IMAGES:
            left_out["objects that are no images"] += 1
        elif not single and "LOCALIZER" in (header.get("ImageType") or ()):
            left_out["localizers"] += 1
        else:
            found.append((file, header))
    if not found:
        reason = f" ({', '.join(f'{n} {what}' for what, n in left_out.items())})" if left_out else ""
        raise UnreadableFile(f"no DICOM image is here{reason}", file=path, fix="give a folder of slices or a known image file")
    return found, [f"{n} {what} left out" for what, n in left_out.items()]


def open_dicom(file: Path, **options: Any) -> Any:
    """The dataset in `file`, with or without preamble and file meta information; its transfer syntax is always set.

    Without the latter the file's own encoding says which of the two uncompressed ones it is. Raises what pydicom raises.
    """
    dataset = pydicom.dcmread(file, force=begins_as_dicom(file), **options)
    if "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if dataset.original_encoding[0] else ExplicitVRLittleEndian
    return dataset


def _candidates(folder: Path) -> Iterator[Path]:
    """Visible files below the folder that are DICOM by their first bytes; any other .dcm is taken as well, to fail aloud."""
    for file in files_below(folder):
        if file.name.upper() == "DICOMDIR":
            continue
        with decoding(file, "DICOM"):
            begins = begins_as_dicom(file)
        if begins or file.suffix.lower() in (".dcm", ".dicom"):
            yield file


def _chosen(path: Path, headers: list[tuple[Path, Any]], series: str | None) -> list[tuple[Path, Any]]:
    groups: dict[str, list[tuple[Path, Any]]] = {}
    for file, header in headers:
        groups.setdefault(_series(header), []).append((file, header))
    if series is not None:
        if series not in groups:
            raise unknown_name("series", series, groups)
        return groups[series]
    if len(groups) > 1:
        listed = "; ".join(_told(uid, members) for uid, members in list(groups.items())[:LISTED])
        more = f"; and {len(groups) - LISTED} more" if len(groups) > LISTED else ""
        fix = "choose one with --series UID"
        if not any(header.get("ImagePositionPatient") or int(header.get("NumberOfFrames") or 1) > 1 for _, header in headers):
            fix += "; X-rays and other single pictures are a case each where their own folder is given"
        raise InputError(f"{len(groups)} series are here: {listed}{more}", file=path, fix=fix)
    return next(iter(groups.values()))


def _series(header: Any) -> str:
    return str(header.get("SeriesInstanceUID") or "unknown")


def _told(uid: str, members: list[tuple[Path, Any]]) -> str:
    header = members[0][1]
    slices = sum(int(each.get("NumberOfFrames") or 1) for _, each in members)
    return f"{uid} ({header.get('Modality') or '?'}, '{header.get('SeriesDescription') or ''}', {slices} slices)"


def _frames(file: Path, header: Any) -> list[Frame]:
    """The frames of one object; an enhanced one carries place and rescale per frame, or shared, or neither."""
    shared = (header.get("SharedFunctionalGroupsSequence") or [{}])[0]
    per_frame = header.get("PerFrameFunctionalGroupsSequence") or []
    frames = []
    for index in range(int(header.get("NumberOfFrames") or 1)):
        groups = [per_frame[index]] if index < len(per_frame) else []
        groups += [shared, header] if (per_frame or shared) else [header]

        def find(macro: str, field: str, groups: list[Any] = groups) -> Any:
            for group in groups:
                for item in [*(group.get(macro) or []), group]:
                    if (value := item.get(field)) not in (None, ""):
                        return value
            return None

        slope, intercept = find("PixelValueTransformationSequence", "RescaleSlope"), None
        if slope is not None:
            intercept = find("PixelValueTransformationSequence", "RescaleIntercept")
        kind = find("PixelValueTransformationSequence", "RescaleType")
        thickness = find("PixelMeasuresSequence", "SliceThickness")
        table = header.get("ModalityLUTSequence")
        if int(header.get("SamplesPerPixel") or 1) == 3 or _is_palette(header):
            slope = intercept = table = None  # colours are no measurements, whatever a converter copied
        if table:  # in place of a rescale (PS3.3 C.11.1): both at once are not allowed
            slope, kind = 1, table[0].get("ModalityLUTType")
        with decoding(file, "DICOM"):
            frames.append(Frame(
                file, index, str(header.get("SOPInstanceUID") or ""),
                _floats(find("PlanePositionSequence", "ImagePositionPatient"), 3),
                _floats(find("PlaneOrientationSequence", "ImageOrientationPatient"), 6),
                _floats(find("PixelMeasuresSequence", "PixelSpacing"), 2),
                float(thickness) if thickness is not None else None, *_stored(header),
                float(slope if slope is not None else 1), 0.0 if table else float(intercept or 0),
                None if slope is None else str(kind or ""),
            ))  # fmt: skip
    return frames


def _stored(header: Any) -> tuple[np.dtype[Any], int]:
    """How the pixels are stored, and how many of their bits count."""
    if _is_palette(header):
        return np.dtype(np.uint8), 8  # indices become colours
    if header.get("ModalityLUTSequence"):
        bits = int(header.ModalityLUTSequence[0].LUTDescriptor[2])
        return np.dtype(np.uint8 if bits <= 8 else np.uint16), bits  # what the table gives
    if "PixelRepresentation" not in header:
        return np.dtype(np.float32), 32  # float and double pixel data have none
    allocated = max(int(header.BitsAllocated), 8)
    kind = "i" if int(header.PixelRepresentation) else "u"
    return np.dtype(f"{kind}{allocated // 8}"), int(header.get("BitsStored") or allocated)


def _floats(value: Any, count: int) -> tuple[float, ...] | None:
    return tuple(float(v) for v in value) if value is not None and len(value) == count else None


def _sorted(path: Path, frames: list[Frame]) -> tuple[list[Frame], list[str]]:
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


def laid(path: Path, frames: Sequence[Frame], header: Any) -> tuple[Stack, Grid, bool]:
    """Frames along their normal, the grid they are read on, and whether they are unevenly spaced: then it closes their gaps."""
    ordered, _ = _sorted(path, list(frames))
    grid, uneven = _grid(ordered, header)
    return Stack("", tuple(ordered)), grid, bool(uneven)


def _normal(frame: Frame) -> np.ndarray:
    orientation = np.array(frame.orientation)
    normal = np.cross(orientation[:3], orientation[3:])
    sides = np.linalg.norm([orientation[:3], orientation[3:]], axis=1)
    if not (np.abs(sides - 1).max() < SKEW and np.linalg.norm(normal) > 1 - SKEW):
        raise GeometryError("the slice orientation is no pair of directions", file=frame.file, fix="repair the header")
    return normal / np.linalg.norm(normal)


def _grid(frames: Sequence[Frame], header: Any) -> tuple[Grid, list[str]]:
    """The grid in RAS mm, with gaps and uneven steps told in mm."""
    shape = (len(frames), int(header.Rows), int(header.Columns))
    dims = cast(Any, 2 if len(frames) == 1 else 3)
    first, last = frames[0], frames[-1]
    if first.position is None or first.orientation is None or first.spacing is None or min(first.spacing) <= 0:
        return Grid(shape, None, dims), []
    normal, notes = _normal(first), []
    if len(frames) == 1:
        step = normal * (first.thickness or first.spacing[1])  # of a single slice the third size means nothing
    else:
        along = np.array([np.dot(frame.position or (0, 0, 0), normal) for frame in frames])
        steps = np.diff(along)
        usual = float(np.median(steps[steps > 1e-3])) if (steps > 1e-3).any() else 0.0
        if usual == 0:
            raise GeometryError("all slices lie at one position: they are no volume", fix="give one file at a time")
        step = np.subtract(last.position or 0, first.position) / (along[-1] - along[0]) * usual
        _require_straight(frames, along, min(first.spacing))
        notes = _unevenness(steps, usual)
    orientation = np.array(first.orientation)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = step, orientation[3:] * first.spacing[0], orientation[:3] * first.spacing[1]
    affine[:3, 3] = first.position
    affine[:2] *= -1  # LPS -> RAS
    return Grid(shape, affine, dims), notes


def _require_straight(frames: Sequence[Frame], along: np.ndarray, pixel_mm: float) -> None:
    """Raise GeometryError where slices lie aside of the line from the first to the last: no affine holds them."""
    places = np.array([frame.position for frame in frames])
    line = places[0] + np.outer((along - along[0]) / (along[-1] - along[0]), places[-1] - places[0])
    aside = np.linalg.norm(places - line, axis=1)
    if aside.max() > max(ASIDE * pixel_mm, 0.01):
        told = f"slices are shifted against each other in their plane, by up to {aside.max():.2f} mm, as of several stacks"
        raise GeometryError(told, fix="split it into volumes")


def _unevenness(steps: np.ndarray, usual: float) -> list[str]:
    """Notes on gaps; raises GeometryError where so many steps differ that no even grid is true to them."""
    wide = np.flatnonzero(np.abs(steps - usual) > max(0.02 * usual, 0.01))
    wide = wide[steps[wide] > 1e-3]  # a step of nothing is a duplicate, told elsewhere
    if not wide.size:
        return []
    if wide.size >= UNEVEN_AT_LEAST and wide.size > UNEVEN * len(steps):
        low, high = steps[wide].min(), steps[wide].max()
        told = f"{wide.size} of {len(steps)} steps between slices are not {usual:.2f} mm, but {low:.2f} to {high:.2f} mm"
        raise GeometryError(told, fix="resample the series to even steps, or give the evenly spaced parts one at a time")
    told = ", ".join(f"{steps[i]:.2f} mm after slice {i + 1}" for i in wide[:3])
    more = f" and {wide.size - 3} more" if wide.size > 3 else ""
    return [f"slices are not evenly spaced: usually {usual:.2f} mm, but {told}{more}; distances across the gaps are too short"]


def _pixels(header: Any, frames: Sequence[Frame]) -> tuple[tuple[Frame, ...], np.ndarray, list[str]]:
    """Frames kept, their real values (C, Z, Y, X), and notes. Two slices at one place must be alike: one is kept."""
    channels = 3 if int(header.get("SamplesPerPixel", 1)) == 3 or _is_palette(header) else 1
    rescales = {(frame.slope, frame.intercept) for frame in frames}
    if not any(slope for slope, _ in rescales):  # of some slices, as empty ones of PET, it may be
        told = "the RescaleSlope is 0, which makes all voxels alike"
        raise UnreadableFile(told, file=frames[0].file, fix="repair the header")
    whole = all(frame.stored.kind in "ui" for frame in frames)
    at_once = whole and len(rescales) == 1 and all(value.is_integer() for value in next(iter(rescales)))
    dtype = np.result_type(*{frame.stored for frame in frames}) if at_once else np.dtype(np.float32)
    array = np.empty((channels, len(frames), int(header.Rows), int(header.Columns)), dtype)
    negative, modality = header.get("PhotometricInterpretation") == "MONOCHROME1", header.get("Modality")
    invert = negative and modality and modality not in STACKED
    slot = {(frame.file, frame.index): z for z, frame in enumerate(frames)}
    for file in dict.fromkeys(frame.file for frame in frames):
        for index, pixels in enumerate(_decoded(file, header)):
            z = slot.pop((file, index), None)
            if z is None:
                continue
            if invert:
                pixels = (2 ** frames[z].bits - 1 - pixels.astype(np.int32)).astype(pixels.dtype)
            if not at_once:
                pixels = pixels.astype(np.float32) * np.float32(frames[z].slope) + np.float32(frames[z].intercept)
            array[:, z] = pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
    if slot:
        raise UnreadableFile(f"{len(slot)} of its frames are not there", file=next(iter(slot))[0], fix="copy it again")
    if at_once and rescales != {(1.0, 0.0)}:
        array = _rescaled(array, *(int(value) for value in next(iter(rescales))))
    elif array.dtype == np.uint16 and all(frame.bits <= 8 for frame in frames) and array.max() <= 255:
        array = array.astype(np.uint8)  # 8 bits in a container of 16: what the picture is, not how it is kept
    notes = ["MONOCHROME1: bright was stored as dark, values are inverted"] if invert else []
    if negative and not modality:
        notes.append("MONOCHROME1: bright may be stored as dark, but of no modality nobody knows; values are taken as stored")
    doubles = _doubles(frames)
    if not doubles:
        return tuple(frames), array, notes
    for z in doubles:
        if not np.array_equal(array[:, z], array[:, z - 1]):
            raise GeometryError(f"{len(doubles)} positions hold two different slices (times, echoes or b-values in one series)",
                                file=frames[z].file, fix="split the series into single volumes")  # fmt: skip
    kept = [z for z in range(len(frames)) if z not in doubles]
    notes.append(f"{len(doubles)} duplicated slices (same place, same pixels) are taken once")
    return tuple(frames[z] for z in kept), np.ascontiguousarray(array[:, kept]), notes


def _rescaled(array: np.ndarray, slope: int, intercept: int) -> np.ndarray:
    """Whole numbers stay whole: int16 where the values fit, in the memory they lie in already, else int32."""
    ends = [int(end) * slope + intercept for end in (array.min(), array.max())]
    fits = min(ends) >= -(2**15) and max(ends) < 2**15
    if fits and array.dtype.itemsize == 2:
        out = array.view(np.int16)
    else:
        out = np.empty(array.shape, np.int16 if fits else np.int32)
    for index in np.ndindex(array.shape[:2]):
        out[index] = array[index].astype(np.int64) * slope + intercept
    return out


def _doubles(frames: Sequence[Frame]) -> set[int]:
    """Indices of frames that lie where the one before lies."""
    if frames[0].position is None or frames[0].orientation is None:
        return set()
    normal = _normal(frames[0])
    along = [float(np.dot(frame.position or (0, 0, 0), normal)) for frame in frames]
    return {z for z in range(1, len(frames)) if along[z] - along[z - 1] <= 1e-3}


def _decoded(file: Path, header: Any) -> Iterator[np.ndarray]:
    """The file's frames one by one, as (Y, X) or (Y, X, 3) RGB; UnreadableFile names file and compression."""
    with decoding(file, "DICOM"):
        try:
            several = int(header.get("NumberOfFrames") or 1) > 1  # then they are read one by one
            dataset = open_dicom(file, stop_before_pixels=several)
            if several and not dataset.preamble:
                several, dataset = False, open_dicom(file)  # pydicom reads frames one by one only from behind a preamble
            for pixels in iter_pixels(file if several else dataset):
                if _is_palette(header):
                    coloured = apply_color_lut(pixels, dataset)[..., :3]
                    pixels = (coloured >> 8).astype(np.uint8) if coloured.dtype == np.uint16 else coloured
                elif dataset.get("ModalityLUTSequence"):
                    pixels = apply_modality_lut(pixels, dataset)
                yield pixels
        except (RuntimeError, NotImplementedError) as error:
            if "missing dependencies" not in str(error) and not isinstance(error, NotImplementedError):
                raise
            syntax = open_dicom(file, stop_before_pixels=True).file_meta.TransferSyntaxUID.name
            raise UnreadableFile(f"pixels compressed as {syntax} need a decoder that is not installed",
                                 file=file, fix="install it with: pip install 'vesalius[jpeg]'") from error  # fmt: skip


def _is_palette(header: Any) -> bool:
    return bool(header.get("PhotometricInterpretation") == "PALETTE COLOR")
