"""DICOM-SEG: a mask as the hospital archive stores it, referring to the very slices it was made from.

Every label is one segment, numbered 1..n in order of value; the value itself, should it differ, is kept in the
segment's description ("label value 3"). Codes come from the label; without them category and type are the generic
SNOMED CT 85756007 "Tissue". FrameOfReferenceUID and source UIDs are the image's own; empty frames are omitted, but of
unevenly spaced slices, whose grid closes the gaps: only where every slice has its frame can that grid be told again.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.uid import SegmentationStorage

from ..core.atomic import atomic
from ..core.errors import GeometryError, LabelError, OutputError, UnreadableFile
from ..core.image import Grid, Image, Mask, Source
from ..core.labels import Code, Label, Labels
from .decoding import decoding
from .dicom import open_dicom
from .stacks import Frame, Stack, laid

TISSUE = Code("85756007", "Tissue")
VALUE = re.compile(r"label value (\d+)$")
NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
MAY_BE_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime",
)  # fmt: skip
MODEL = "Vesalius"  # what a SEG of ours says that it was written by


def fit_segmentation(grid: Grid, source: Source | None, path: Path) -> None:
    """Raises OutputError where the image is no DICOM, or knows no patient space; the latter only once it was read."""
    if source is None or source.format != "dicom":
        raise OutputError("DICOM-SEG refers to the DICOM slices of its image, and this image is no DICOM",
                          file=path, fix="write nifti, png or tiff")  # fmt: skip
    stack: Stack | None = source.header
    if stack is None:
        return
    files = _files(stack)
    with decoding(files[0], "DICOM"):
        first = open_dicom(files[0], stop_before_pixels=True, specific_tags=["FrameOfReferenceUID", *NEEDED])
    if "FrameOfReferenceUID" not in first or stack.frames[0].position is None:
        raise OutputError("the image knows no patient space (no FrameOfReferenceUID or position): DICOM-SEG cannot hold its mask",
                          file=path, fix="write nifti or png")  # fmt: skip
    missing = [name for name in NEEDED if not first.get(name)]
    if missing or len({(frame.uid, frame.index) for frame in stack.frames}) < len(stack.frames):
        told = f"the image has no {' and no '.join(missing)}" if missing else "several slices share one SOPInstanceUID"
        fix = "write nifti, or give the series as it was exported"
        raise OutputError(f"{told}: DICOM-SEG cannot refer to it", file=path, fix=fix)
    if len(files) > 1 and len(files) != len(stack.frames):
        raise OutputError("the image is spread over several multi-frame files", file=path, fix="write nifti")


def write_segmentation(mask: Mask, path: Path, source: Source | None) -> None:
    """Write the mask of a DICOM image. Raises as `fit_segmentation`."""
    import highdicom as hd

    fit_segmentation(mask.grid, source, path)
    assert source is not None  # or it would not fit
    stack: Stack = source.header
    files = _files(stack)
    with decoding(files[0], "DICOM"):
        datasets = [_complete(open_dicom(file, stop_before_pixels=True), mask.grid) for file in files]
    labels = _segments(mask)
    numbers = np.zeros(max(label.value for label in labels) + 1, np.uint8 if len(labels) <= 255 else np.uint16)
    numbers[[label.value for label in labels]] = range(1, len(labels) + 1)
    frames = numbers[mask.array]
    if len(files) == 1:  # a multi-frame object keeps its own order of frames
        total = int(datasets[0].get("NumberOfFrames") or 1)
        own = np.zeros((total, *frames.shape[1:]), frames.dtype)
        own[[frame.index for frame in stack.frames]] = frames
        frames = own
    with _made(path):
        segmentation = hd.seg.Segmentation(
            source_images=datasets, pixel_array=frames, segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[_described(number, label) for number, label in enumerate(labels, start=1)],
            series_instance_uid=hd.UID(), series_number=int(datasets[0].get("SeriesNumber") or 0) + 1000,
            sop_instance_uid=hd.UID(), instance_number=1, manufacturer="Vesalius", manufacturer_model_name=MODEL,
            software_versions=version("vesalius"), device_serial_number="0", content_label="SEGMENTATION",
            omit_empty_frames=not laid(files[0], stack.frames, datasets[0])[2],
        )  # fmt: skip
    segmentation.SeriesDescription = "Segmentation by Vesalius"
    with atomic(path) as part:
        segmentation.save_as(part)


@contextmanager
def _made(path: Path) -> Iterator[None]:
    """OutputError where highdicom cannot make a SEG; not its text, which could carry what a header says of the patient."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        told = f"a DICOM-SEG of this series cannot be made: its header lacks or garbles something ({type(error).__name__})"
        raise OutputError(told, file=path, fix="write nifti") from error


def _complete(dataset: Any, grid: Grid) -> Any:
    """The header of a slice with what a SEG copies from it and tools that remove names take out: empty, as DICOM allows.

    Its texts are UTF-8 from here on: the SEG's labels may need letters that the slice's own character set lacks.
    """
    dataset.decode()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    for name in MAY_BE_EMPTY:
        if name not in dataset:
            setattr(dataset, name, "")
    if "SharedFunctionalGroupsSequence" not in dataset and not dataset.get("SliceThickness") and grid.spacing:
        dataset.SliceThickness = f"{grid.spacing[0]:.6g}"
    return dataset


def _files(stack: Stack) -> list[Path]:
    return list(dict.fromkeys(frame.file for frame in stack.frames))


def read_segmentation(path: Path, name: str, like: Image | None = None) -> Mask:
    """A DICOM-SEG file (or a folder with just one) as a label map with its labels.

    With `like`, on that image's grid, frame by frame where the SEG names its slices; without, on the grid from the
    first to the last stored frame, as empty ones are omitted; where none is and the slices are unevenly spaced, on the
    grid that their image is read on. Raises LabelError where segments overlap or the object is fractional, GeometryError
    where the frames do not lie on `like`'s grid or nobody can tell where, UnreadableFile.
    """
    import highdicom as hd

    file = _only_file(path)
    with decoding(file, "DICOM"):
        dataset = open_dicom(file)
        if dataset.get("SOPClassUID") != SegmentationStorage:
            raise UnreadableFile("this DICOM file is no segmentation (SEG)", file=file, fix="give a SEG file as mask")
        segmentation = hd.seg.Segmentation.from_dataset(dataset, copy=False)
        if str(segmentation.segmentation_type.value) == "FRACTIONAL":
            raise LabelError("the segmentation is fractional: scores, not labels", file=file, fix="give a binary SEG")
        labels, values = _declared(segmentation)
        try:
            slices = _slices(segmentation, file)
            whole = _whole(segmentation, slices, file)
            numbers, grid = _numbers(segmentation, like, slices, whole, file)
        except RuntimeError as error:
            if "overlap" not in str(error).lower():
                raise
            raise LabelError("its segments overlap: no label map can hold them", file=file, fix="write them apart") from error
    array = values[numbers]
    return Mask(array, grid, labels, Source(file, "dicom-seg", name, whole[0] if whole else None))


def joint_grid(a: Grid, b: Grid) -> Grid:
    """The grid from the first to the last frame of two segmentations, each of which omits the empty frames at its ends."""
    base, other = (a, b) if a.shape[0] >= b.shape[0] else (b, a)
    if base.affine is None or other.affine is None:
        return base
    start = round(float((np.linalg.inv(base.affine) @ other.affine[:, 3])[0]))
    first, last = min(0, start), max(base.shape[0], start + other.shape[0])
    affine = base.affine.copy()
    affine[:3, 3] += first * affine[:3, 0]
    return Grid((last - first, *base.shape[1:]), affine, 2 if last - first == 1 else 3)


def _slices(segmentation: Any, file: Path) -> dict[tuple[str, int], Frame]:
    """The slices that have a frame, each once, by UID and number; none where the frames do not name them."""
    frames: dict[tuple[str, int], Frame] = {}
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    for item in segmentation.PerFrameFunctionalGroupsSequence:
        try:
            source = item.DerivationImageSequence[0].SourceImageSequence[0]
            measures = (shared if "PixelMeasuresSequence" in shared else item).PixelMeasuresSequence[0]
            turned = (shared if "PlaneOrientationSequence" in shared else item).PlaneOrientationSequence[0]
            position = item.PlanePositionSequence[0].ImagePositionPatient
        except (AttributeError, IndexError):  # it names no slices, or not where they lie
            return {}
        number = source.get("ReferencedFrameNumber") or 1
        if not isinstance(number, int):  # several frames of its source in one of its own
            return {}
        index = int(number) - 1
        frames[source.ReferencedSOPInstanceUID, index] = Frame(
            file, index, str(source.ReferencedSOPInstanceUID), tuple(map(float, position)),
            tuple(map(float, turned.ImageOrientationPatient)), tuple(map(float, measures.PixelSpacing)),
            thickness=None, stored=np.dtype(np.uint8), bits=1,
        )  # fmt: skip
    return frames


def _whole(segmentation: Any, frames: dict[tuple[str, int], Frame], file: Path) -> tuple[Stack, Grid] | None:
    """The slices it was made from and the grid they are read on, where each has its frame and they are unevenly spaced.

    None where it may name those slices alone that something lies on: then the gaps between them are its own, not its image's.
    """
    sources = {uid for *_, uid in segmentation.get_source_image_uids()}
    indices = sorted(index for _, index in frames)
    omits = indices != list(range(len(indices))) if len(sources) == 1 else len(frames) < len(sources)
    if omits or len(frames) < 2:
        return None
    try:
        stack, grid, uneven = laid(file, list(frames.values()), segmentation)
    except GeometryError:  # slices of no series: its own choice of them
        return None
    if not uneven:
        return None
    ours = segmentation.get("ManufacturerModelName") == MODEL
    return (stack, grid) if ours or not segmentation.pixel_array.any(axis=(1, 2)).all() else None


def _by_slice(segmentation: Any, stack: Stack) -> np.ndarray | None:
    """Segment numbers (Z, Y, X) of the slices in `stack`; None where the SEG names others."""
    uids = [frame.uid for frame in stack.frames]
    known = {uid for *_, uid in segmentation.get_source_image_uids()}
    if not known or not known <= set(uids):
        return None
    options = {"combine_segments": True, "ignore_spatial_locations": True, "assert_missing_frames_are_empty": True}
    if len(set(uids)) == len(uids):
        return np.asarray(segmentation.get_pixels_by_source_instance(uids, **options))
    frames = [frame.index + 1 for frame in stack.frames]
    return np.asarray(segmentation.get_pixels_by_source_frame(uids[0], frames, **options))


def _numbers(
    segmentation: Any, like: Image | None, slices: dict[tuple[str, int], Frame], whole: tuple[Stack, Grid] | None, file: Path
) -> tuple[np.ndarray, Grid]:
    """Segment numbers (Z, Y, X) and their grid."""
    stack = like.source.header if like is not None and like.source else None
    if like is not None and isinstance(stack, Stack) and (array := _by_slice(segmentation, stack)) is not None:
        if array.shape != like.grid.shape:
            raise GeometryError(f"the segmentation {array.shape} and its image {like.grid.shape} differ in shape", file=file)
        return array, like.grid
    if whole and (array := _by_slice(segmentation, whole[0])) is not None:
        return (array, whole[1]) if like is None else (_embedded(array, whole[1], like, file), like.grid)
    try:
        volume = segmentation.get_volume(combine_segments=True)
    except RuntimeError as error:
        if "overlap" in str(error).lower():
            raise
        told = "its frames are unevenly spaced with empty ones omitted, or sheared: no volume holds them"
        raise GeometryError(told, file=file, fix="give its DICOM image with it") from error
    affine = np.array(volume.affine, dtype=np.float64)  # columns already follow slice, row, column
    affine[:2] *= -1  # LPS -> RAS
    array = np.asarray(volume.array)
    if np.linalg.det(affine[:3, :3]) > 0:  # turned to run along row x column, as `dicom` sorts slices
        affine[:3, 3] += affine[:3, 0] * (len(array) - 1)
        affine[:3, 0] *= -1
        array = array[::-1]
    grid = Grid(array.shape, affine, 2 if len(array) == 1 else 3)
    if like is None:
        return array, grid
    embedded = _embedded(array, grid, like, file)
    _require_even(segmentation, slices, like, file)
    return embedded, like.grid


def _require_even(segmentation: Any, slices: dict[tuple[str, int], Frame], like: Image, file: Path) -> None:
    """Raise GeometryError where the SEG omits frames and the order of its sources tells that slices are missing among them.

    Then `like`, which is no DICOM, has its slices elsewhere than the frames: reading closes gaps, and nobody knows which.
    """
    listed = [str(one.ReferencedSOPInstanceUID) for series in segmentation.get("ReferencedSeriesSequence", ())
              for one in series.get("ReferencedInstanceSequence", ())]  # fmt: skip
    if len(slices) < 2 or len(listed) < 2 or like.grid.affine is None or not {uid for uid, _ in slices} < set(listed):
        return
    to_index = np.linalg.inv(like.grid.affine)
    places = {listed.index(frame.uid): to_index[:3] @ [*(np.array(frame.position) * (-1, -1, 1)), 1] for frame in slices.values()}
    order = np.array(sorted(places))
    moved = np.array([places[n] for n in order])
    axis = int(np.abs(moved[-1] - moved[0]).argmax())
    there, steps = np.rint(moved[:, axis]), np.diff(np.rint(moved[:, axis]))
    if not (np.abs(steps) >= np.diff(order)).all() or len(set(np.sign(steps))) > 1:
        return  # the list is in no order along the slices, and tells nothing
    expected = order if steps[0] > 0 else like.grid.shape[axis] - 1 - order
    gap = (np.abs(steps) != np.diff(order)).any()
    if gap or (len(listed) == like.grid.shape[axis] and not np.array_equal(there, expected)):
        told = "slices are missing in the series it was made from, and it omits empty frames: where it lies here cannot be told"
        raise GeometryError(told, file=file, fix="write it again, or give its DICOM image")


def _embedded(array: np.ndarray, grid: Grid, like: Image, file: Path) -> np.ndarray:
    """The part that was stored, put where it lies in `like`'s grid; GeometryError if it lies between its voxels."""
    if like.grid.affine is None or grid.affine is None:
        raise GeometryError("the image has no affine: a DICOM segmentation cannot be laid on it", file=file)
    move = np.linalg.inv(like.grid.affine) @ grid.affine
    axes = np.rint(move[:3, :3])
    start = np.rint(move[:3, 3]).astype(int)
    if len(array) == 1:
        move[:3, 0] = axes[:, 0] = (1, 0, 0)  # the step of a single slice means nothing
    fits = np.abs(move[:3, :3] - axes).max() * max(array.shape) < 0.1 and np.abs(move[:3, 3] - start).max() < 0.1
    if not fits or np.abs(axes).sum() != 3:
        raise GeometryError("the segmentation lies on another grid than its image", file=file, fix="resample it first")
    order = [int(np.abs(axes[row]).argmax()) for row in range(3)]
    signs = [int(axes[row, order[row]]) for row in range(3)]
    turned = array.transpose(order)[tuple(slice(None, None, sign) for sign in signs)]
    begin = [s if sign > 0 else s - n + 1 for s, sign, n in zip(start, signs, turned.shape, strict=True)]
    ends = [b + n for b, n in zip(begin, turned.shape, strict=True)]
    if min(begin) < 0 or any(end > size for end, size in zip(ends, like.grid.shape, strict=True)):
        raise GeometryError("the segmentation reaches out of its image", file=file, fix="give the image it was made from")
    whole = np.zeros(like.grid.shape, array.dtype)
    whole[tuple(slice(b, e) for b, e in zip(begin, ends, strict=True))] = turned
    return whole


def _segments(mask: Mask) -> tuple[Label, ...]:
    """The labels to write: those declared (objects: those present), and an unnamed one for any other value present."""
    present = np.flatnonzero(np.bincount(mask.array.ravel()))[1 if (mask.array == 0).any() else 0 :]
    kind = "object" if mask.instances else "label"
    labels = {int(value): Label(int(value), f"{kind} {value}") for value in present}
    if mask.labels and not mask.instances:
        labels |= {label.value: label for label in mask.labels}
    if mask.labels and mask.instances and len(mask.labels) == 1:
        parent = mask.labels.items[0]
        labels = {v: replace(each, category=parent.category, type=parent.type) for v, each in labels.items()}
    if not labels:
        raise OutputError("the mask is empty and declares no label: a DICOM-SEG needs one segment", fix="write nifti")
    return tuple(labels[value] for value in sorted(labels))


def _described(number: int, label: Label) -> Any:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    category, kind = label.category or TISSUE, label.type or label.category or TISSUE
    described = hd.seg.SegmentDescription(
        segment_number=number, segment_label=label.name.replace("\\", "/")[:64],  # a backslash parts values in DICOM
        segmented_property_category=hd.sr.CodedConcept(category.value, category.scheme, category.meaning[:64]),
        segmented_property_type=hd.sr.CodedConcept(kind.value, kind.scheme, kind.meaning[:64]),
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name="Vesalius", version=version("vesalius"), family=codes.DCM.ArtificialIntelligence),
        display_color=hd.color.CIELabColor.from_rgb(*label.rgb),
    )  # fmt: skip
    described.SegmentDescription = f"label value {label.value}"
    return described


def _declared(segmentation: Any) -> tuple[Labels, np.ndarray]:
    """Labels of the segments, and a table from segment number to label value."""
    numbers = list(segmentation.segment_numbers)
    found = []
    for number in numbers:
        item = segmentation.get_segment_description(number)
        match = VALUE.search(str(item.get("SegmentDescription") or ""))
        category, kind = item.segmented_property_category, item.segmented_property_type
        found.append(Label(
            int(match[1]) if match else number, str(item.segment_label) or f"segment {number}", None,
            Code(category.value, category.meaning, category.scheme_designator),
            Code(kind.value, kind.meaning, kind.scheme_designator),
        ))  # fmt: skip
    if len({label.value for label in found}) < len(found) or len({label.name for label in found}) < len(found):
        found = [replace(label, value=n, name=f"{label.name} {n}") for n, label in zip(numbers, found, strict=True)]
    top = max(label.value for label in found)
    values = np.zeros(max(numbers) + 1, np.uint8 if top <= 255 else np.uint16)
    values[numbers] = [label.value for label in found]
    return Labels(tuple(sorted(found, key=lambda label: label.value))), values


def _only_file(path: Path) -> Path:
    if path.is_file():
        return path
    files = [each for each in sorted(path.iterdir()) if each.is_file() and not each.name.startswith(".")]
    if len(files) != 1:
        raise UnreadableFile(f"a mask is one SEG file, this folder holds {len(files)}", file=path, fix="give the file")
    return files[0]
