"""Predictions and references, paired by stem; the patients they come from; and the two masks of a pair."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..core.errors import DatasetError, UnreadableFile
from ..core.image import Image, Mask
from ..core.labels import Labels
from ..io.datasets import read_patients
from ..io.files import case_name, find_inputs, read_mask
from ..io.formats import is_dicom, is_placed
from ..io.segmentation import joint_grid
from ..metrics.overlap import values


@dataclass(frozen=True)
class Pair:
    """One case: where its prediction (None if missing) and its reference lie, and whose it is."""

    name: str
    pred: Path | None
    ref: Path
    patient: str


@dataclass(frozen=True)
class Pairs:
    """All cases in order of the references; predictions that have none; `single` if one file was compared with one file."""

    items: tuple[Pair, ...]
    extra: tuple[str, ...] = ()
    single: bool = False
    notes: tuple[str, ...] = ()


def find_pairs(pred: str | Path, ref: str | Path, patients: str | Path | None = None) -> Pairs:
    """Pair two files, or the cases of two folders by stem, nnU-Net's `_0000` on one side disregarded.

    `patients` is a table `case,patient`; without it, a cases.csv beside the references is read; without that each case is
    its own patient, and the notes say so. Raises UnreadableFile for what does not exist, DatasetError for stems that are
    not unique, that match nowhere, or for a file against a folder.
    """
    pred, ref = Path(pred), Path(ref)
    for path in (pred, ref):
        if not path.exists():
            raise UnreadableFile("there is no such file or folder", file=path, fix="check the path")
    references, single = find_masks(ref), ref.is_file() and pred.is_file()
    if single:
        found, extra = {case_name(ref): pred}, []
    elif pred.is_file():
        raise DatasetError("one prediction cannot be compared with a folder", file=pred, fix="name its reference, or a folder")
    else:
        stored = {case_name(path): path for path in find_masks(pred)}
        names = {case_name(path) for path in references}
        twins = {name: twin(name, stored) for name in names}
        found = {name: stored[each] for name, each in twins.items() if each and twin(each, names) == name}
        extra = sorted(stored.keys() - {case_name(path) for path in found.values()})
        if not found:
            fix = f"give both the same stem; here they are '{extra[0]}' and '{case_name(references[0])}'"
            raise DatasetError("no prediction has the stem of a reference", file=pred, fix=fix)
    whose, notes = _patients(ref, patients, [case_name(path) for path in references])
    items = [Pair(case_name(path), found.get(case_name(path)), path, whose[case_name(path)]) for path in references]
    return Pairs(tuple(items), tuple(extra), single, notes)


def twin(name: str, others: Container[str]) -> str | None:
    """The one of `others` that is the case `name`: the same, or the same but for nnU-Net's `_0000` of a first channel.

    Where there are further channels (or frames) of that name, nobody knows which one is meant: None.
    """
    if name in others:
        return name
    bare = name.removesuffix("_0000")
    other = f"{name}_0000" if bare == name else bare
    return other if other in others and f"{bare}_0001" not in others else None


def find_masks(path: Path) -> list[Path]:
    """The masks at `path`: one file, or those of a folder, by name. DICOM files are segmentations: each is a case of its own."""
    found = find_inputs(path)
    if found == [path] and path.is_dir():
        return sorted(file for file in path.iterdir() if not file.name.startswith(".") and is_dicom(file))
    return [each for each in found if isinstance(each, Path)]


def read_pair(pair: Pair, labels: Labels | None, instances: bool = False) -> tuple[Mask, Mask, tuple[str, ...]]:
    """Prediction and reference of a case, with notes. A missing prediction is an empty mask on the reference's grid.

    A mask of 0 and 255 alone is one of 0 and 1, unless `labels` give 255 a meaning, or are several: then nobody knows which.
    """
    ref, of_ref = _binary(read_mask(pair.ref), labels, "reference")
    if pair.pred is None:
        nothing = Mask(np.zeros(ref.grid.shape, np.uint8), ref.grid)
        return replace(nothing, labels=labels, instances=instances), replace(ref, labels=labels, instances=instances), of_ref
    pred = read_mask(pair.pred)
    pred, ref = _frame_by_frame(pred, ref, pair)
    pred, of_pred = _binary(pred, labels, "prediction")
    pred, of_grid = _on_picture(pred, ref)
    pred, ref = (replace(mask, labels=labels, instances=instances) for mask in (pred, ref))
    return pred, ref, of_ref + of_pred + of_grid


def _frame_by_frame(pred: Mask, ref: Mask, pair: Pair) -> tuple[Mask, Mask]:
    """Where either is a DICOM-SEG, which omits its empty frames, both on a grid that holds all frames. Raises GeometryError."""
    is_seg = [mask.source is not None and mask.source.format == "dicom-seg" for mask in (pred, ref)]
    if not any(is_seg) or pred.grid.same_as(ref.grid):
        return pred, ref
    grid = joint_grid(pred.grid, ref.grid) if all(is_seg) else pred.grid if is_seg[1] else ref.grid
    knows = next((mask for mask in (pred, ref) if all(is_seg) and mask.source and mask.source.header), None)
    grid = knows.grid if knows else grid  # of all slices, with a gap among them
    like = Image(np.broadcast_to(np.uint8(0), (1, *grid.shape)), grid, source=knows.source if knows else None)
    return (
        read_mask(pair.pred, like=like) if is_seg[0] and pair.pred else pred,
        read_mask(pair.ref, like=like) if is_seg[1] else ref,
    )


def is_binary(found: Sequence[set[int]]) -> bool:
    """Whether masks that hold these values are all of one class, written as 1 or as 255."""
    return all(one <= {0, 1} or one <= {0, 255} for one in found) and any(255 in one for one in found)


def _binary(mask: Mask, labels: Labels | None, which: str) -> tuple[Mask, tuple[str, ...]]:
    meant = labels is not None and (len(labels) > 1 or 255 in (*labels.values, labels.ignore))
    if meant or mask.array.max() != 255 or not set(values(mask.array).tolist()) <= {0, 255}:
        return mask, ()
    return replace(mask, array=(mask.array > 0).astype(np.uint8)), (f"the {which} holds 0 and 255 only: read as 0 and 1",)


def _on_picture(pred: Mask, ref: Mask) -> tuple[Mask, tuple[str, ...]]:
    """The prediction on the reference's grid where the files know less than that: only one the size of a pixel, such as a
    TIFF and a PNG, or one of them not where its voxels lie (TIFF), which then has to agree in sizes alone."""
    unplaced = any(mask.source is not None and not is_placed(mask.source.path) for mask in (pred, ref))
    if pred.grid.shape != ref.grid.shape or not (unplaced or pred.grid.dims == ref.grid.dims == 2):
        return pred, ()
    if (pred.grid.affine is None) == (ref.grid.affine is None):
        if not unplaced or pred.grid.same_as(ref.grid) or not pred.grid.same_sizes(ref.grid):
            return pred, ()
        return replace(pred, grid=ref.grid), ("a TIFF holds no origin and no orientation: the masks are compared voxel by voxel",)
    if ref.grid.affine is None:
        return replace(pred, grid=ref.grid), ("the reference carries no pixel size: measured in pixels",)
    return replace(pred, grid=ref.grid), ("the prediction carries no pixel size: the reference's is used",)


def _patients(ref: Path, table: str | Path | None, names: Sequence[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Patient of every case, and what has to be said about it."""
    folder = ref if ref.is_dir() else ref.parent
    beside = [place / "cases.csv" for place in (folder, folder.parent, folder.parent / "images")]
    path = Path(table) if table is not None else next((place for place in beside if place.is_file()), None)
    if path is None:
        return {name: name for name in names}, ("no patients are named: each case is its own patient",) if len(names) > 1 else ()
    known = read_patients(path)
    unknown = [name for name in names if name not in known]
    if unknown and table is not None:
        some = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        raise DatasetError(f"{len(unknown)} cases have no patient: {some}", file=path, fix="add a line for each")
    if unknown:
        return {name: name for name in names}, (f"{path.name} does not name every case: each case is its own patient",)
    return {name: known[name] for name in names}, (f"patients from {path.name}",)


def without(mask: Mask, others: Iterable[int]) -> Mask:
    """The mask with the values `others` as background."""
    drop = sorted(others)
    return replace(mask, array=np.where(np.isin(mask.array, drop), 0, mask.array).astype(mask.array.dtype)) if drop else mask
