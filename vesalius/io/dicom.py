"""DICOM: a folder, or a file, as one volume on its grid in the patient.

Single-frame, enhanced and other multi-frame objects all become a list of `Frame`, and `stacks.py` says how they lie.
Stored values become real ones by RescaleSlope and RescaleIntercept, or by a modality LUT: Hounsfield units for CT.
No message quotes a field that could name a patient: UIDs, modality, series description, files only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.pixels import apply_color_lut, apply_modality_lut, iter_pixels
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from ..core.errors import GeometryError, InputError, UnreadableFile, unknown_name
from ..core.image import Grid, Image, Source
from .decoding import Peek, begins_as_dicom, decoding, files_below, native
from .stacks import Frame, Stack, doubled, grid_of, in_order

NO_IMAGES = {"SEG", "SR", "PR", "KO", "RTSTRUCT", "RTPLAN", "RTDOSE", "REG", "DOC", "FID", "RWV", "AU", "ECG"}
LISTED = 12  # series, at most, in one message
STACKED = {"CT", "MR", "PT", "NM"}  # whose values are measured: MONOCHROME1 says how to show them, elsewhere that bright is dark
HEADER_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesDescription", "Modality", "ImageType", "Rows", "Columns",
    "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "BitsStored", "BitsAllocated", "PixelRepresentation",
    "RescaleSlope", "RescaleIntercept", "RescaleType", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing",
    "SliceThickness", "InstanceNumber", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "FrameOfReferenceUID", "ModalityLUTSequence", "ImagerPixelSpacing", "AcquisitionNumber",
]  # fmt: skip


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
        grid, _ = grid_of(kept, first)
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
    frames, said = in_order(path, frames)
    try:
        grid, more = grid_of(frames, first)
    except GeometryError as error:
        raise GeometryError(error.problem, file=path, fix=error.fix) from error
    if grid.affine is not None and frames[0].spacing == _at_detector(first):
        more.append("its mm are those at the detector: what lies in the patient is smaller, by the X-ray's magnification")
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
    count = int(header.get("NumberOfFrames") or 1)
    placed = count == 1 or bool(per_frame or shared)  # one place for all frames, as a cine may have it, is none
    frames = []
    for index in range(count):
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
                _floats(find("PlanePositionSequence", "ImagePositionPatient"), 3) if placed else None,
                _floats(find("PlaneOrientationSequence", "ImageOrientationPatient"), 6),
                _floats(find("PixelMeasuresSequence", "PixelSpacing"), 2) or _at_detector(header),
                float(thickness) if thickness is not None else None, *_stored(header),
                float(slope if slope is not None else 1), 0.0 if table else float(intercept or 0),
                None if slope is None else str(kind or ""), str(header.get("AcquisitionNumber") or ""),
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
    return tuple(float(v) for v in value) if np.size(value) == count else None


def _at_detector(header: Any) -> tuple[float, ...] | None:
    """How wide an X-ray's pixels are at the detector; None where nothing that can be read says so."""
    try:
        return _floats(header.get("ImagerPixelSpacing"), 2)
    except ValueError:
        return None


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
    doubles = doubled(frames)
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
                    pixels = (apply_color_lut(pixels, dataset)[..., :3] >> _spare_bits(dataset)).astype(np.uint8)
                elif dataset.get("ModalityLUTSequence"):
                    pixels = apply_modality_lut(pixels, dataset)
                yield pixels
        except (RuntimeError, NotImplementedError) as error:
            if "missing dependencies" not in str(error) and not isinstance(error, NotImplementedError):
                raise
            syntax = open_dicom(file, stop_before_pixels=True).file_meta.TransferSyntaxUID.name
            raise UnreadableFile(f"pixels compressed as {syntax} need a decoder that is not installed",
                                 file=file, fix="install it with: pip install 'vesalius[jpeg]'") from error  # fmt: skip


def _spare_bits(dataset: Any) -> int:
    """How far a palette's entries lie above 8 bits: some writers keep 8 in words of 16."""
    first, count = int(dataset.RedPaletteColorLookupTableDescriptor[1]), int(dataset.RedPaletteColorLookupTableDescriptor[0])
    colours = apply_color_lut(np.arange(first, first + (count or 2**16)), dataset)
    return 8 if colours.max() > 255 else 0


def _is_palette(header: Any) -> bool:
    return bool(header.get("PhotometricInterpretation") == "PALETTE COLOR")
