"""One prediction against its reference: every metric that the pair allows, under names that carry their unit.

    semantic    dice  iou  nsd  hd95_mm  assd_mm  volume_difference_mm3 (area_difference_mm2)  relative_volume_difference
    instances   dice  iou (all objects together)  f1  precision  recall  pq  sq  aji  objects_pred  objects_ref

Where nobody knows the size of a voxel, distances are `hd95_px` and `assd_px`, volumes `_px`, and
surface Dice is `nsd_px`, only if a tolerance in pixels was given: pixels are never called millimetres.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from scipy import ndimage

from ..core.errors import GeometryError, LabelError
from ..core.image import Grid, Mask
from ..core.labels import Label, Labels
from .instance import aji, match
from .overlap import Counts, Overlap, confusion, dice, iou, relative_volume_difference, volume_difference
from .summary import EmptyPolicy
from .surface import SurfaceDistances, bounding_box

NAN = float("nan")
OBJECTS = "objects"
PERFECT = ("dice", "iou", "nsd", "nsd_px", "f1", "precision", "recall", "pq", "sq", "aji")


@dataclass(frozen=True)
class Scoring:
    """What to measure: tolerances of NSD (`None`: not measured), objects instead of classes, the empty-mask policy.

    `regions` (name, values): unions of labels that are scored in place of the labels, such as the whole tumour.
    """

    nsd_tolerance_mm: float | None = 1.0
    nsd_tolerance_px: float | None = None
    instances: bool = False
    iou_threshold: float = 0.5
    policy: EmptyPolicy = field(default_factory=EmptyPolicy)
    regions: tuple[tuple[str, tuple[int, ...]], ...] = ()


class LabelScore(NamedTuple):
    """Metrics by name, and which mask was `empty` of this label."""

    metrics: dict[str, float]
    empty: Literal["neither", "both", "pred", "ref"]


def score_case(pred: Mask, ref: Mask, *, labels: Labels | None = None, scoring: Scoring | None = None) -> dict[str, LabelScore]:
    """Score one pair of masks: label name -> metrics. Without `labels`, every value of either is one.

    Regions, and labels that paint nested ones, are scored whole, under their own names. Voxels of the reference's ignore label
    are left out of both. Raises GeometryError for another grid, LabelError for values that no label declares. Grids are the
    same if no voxel is further off than a tenth of one.
    """
    scoring = scoring or Scoring()
    if not pred.grid.same_as(ref.grid, tolerance_mm=0.1 * min(ref.grid.spacing or (0.01,))):
        raise _other_grid(pred.grid, ref.grid)
    arrays = _cropped(*_without_ignored(pred.array, ref.array, labels))
    table = confusion(*arrays)
    if scoring.instances:
        return _score_objects(table, labels, scoring)
    labels = labels if labels is not None else labels_of(np.union1d(table.pred, table.ref))
    for which, values in (("prediction", table.pred), ("reference", table.ref)):
        undeclared(which, values, labels)
    regions = scoring.regions
    if not regions and labels.nested:
        regions = tuple((label.region or label.name, labels.values[i:]) for i, label in enumerate(labels))
    if regions:
        return {name: _score_region(inside, arrays, ref.grid, scoring) for name, inside in regions}
    boxes = [ndimage.find_objects(array) for array in arrays]
    return {label.name: _score_label(label, table, arrays, boxes, ref.grid, scoring) for label in labels}


def labels_of(values: np.ndarray) -> Labels:
    """Labels named after the values they stand for, background left out."""
    return Labels(tuple(Label(int(v), str(int(v))) for v in np.unique(values) if v))


def undeclared(which: str, values: np.ndarray, labels: Labels) -> None:
    """Raise LabelError if `values` (N,) of `which` mask hold one that `labels` do not."""
    extra = sorted(set(np.unique(values).tolist()) - {0, *labels.values})
    if extra:
        known = ", ".join(f"{label.value} {label.name}" for label in labels) or "none"
        some = ", ".join(map(str, extra[:10])) + (f" and {len(extra) - 10} more" if len(extra) > 10 else "")
        fix = f"declare them as labels, or score objects with --instances. Known: {known}"
        raise LabelError(f"the {which} holds values that no label declares: {some}", fix=fix)


def _score_label(
    label: Label, table: Overlap, arrays: tuple[np.ndarray, np.ndarray], boxes: list, grid: Grid, scoring: Scoring
) -> LabelScore:
    """All metrics of one label; surfaces are looked for inside the box that holds both masks."""
    counts = table.counts(label.value)
    unit = "mm" if grid.spacing else "px"
    tolerance = scoring.nsd_tolerance_mm if grid.spacing else scoring.nsd_tolerance_px
    extent = "area" if grid.dims == 2 else "volume"
    size_unit = ("mm2" if grid.dims == 2 else "mm3") if grid.spacing else "px"
    metrics = {"dice": dice(counts), "iou": iou(counts)}
    if counts.pred and counts.ref:
        box = _joint(boxes[0][label.value - 1], boxes[1][label.value - 1], arrays[0].shape)
        pred, ref = (array[box] == label.value for array in arrays)
        distances = SurfaceDistances.of(pred, ref, grid.spacing)
        surfaces = {f"hd95_{unit}": distances.hd95, f"assd_{unit}": distances.assd}
        share = distances.nsd(tolerance) if tolerance is not None else None
    else:
        worst = _diagonal(grid) if scoring.policy.one_empty == "diagonal" else NAN
        surfaces = dict.fromkeys((f"hd95_{unit}", f"assd_{unit}"), worst)
        share = 0.0 if tolerance is not None else None
    if share is not None:
        metrics["nsd" if unit == "mm" else "nsd_px"] = share
    metrics |= surfaces
    metrics[f"{extent}_difference_{size_unit}"] = volume_difference(counts, grid.voxel_mm3 or 1.0)
    metrics[f"relative_{extent}_difference"] = relative_volume_difference(counts)
    return _judged(metrics, counts, scoring.policy)


def _score_region(
    inside: tuple[int, ...], arrays: tuple[np.ndarray, np.ndarray], grid: Grid, scoring: Scoring
) -> LabelScore:
    """All metrics of a region: the labels whose values are `inside`, taken together."""
    pred, ref = (np.isin(array, inside).astype(np.uint8) for array in arrays)
    boxes = [ndimage.find_objects(array) for array in (pred, ref)]
    return _score_label(Label(1, "region"), confusion(pred, ref), (pred, ref), boxes, grid, scoring)


def _score_objects(table: Overlap, labels: Labels | None, scoring: Scoring) -> dict[str, LabelScore]:
    """Object metrics, and overlap of all objects together, as one label."""
    counts = table.foreground()
    found = match(table, iou=scoring.iou_threshold)
    metrics = {
        "dice": dice(counts),
        "iou": iou(counts),
        "f1": found.f1,
        "precision": found.precision,
        "recall": found.recall,
        "pq": found.pq,
        "sq": found.sq,
        "aji": aji(table),
        "objects_pred": float(found.tp + found.fp),
        "objects_ref": float(found.tp + found.fn),
    }
    name = labels.items[0].name if labels is not None and len(labels) == 1 else OBJECTS
    return {name: _judged(metrics, counts, scoring.policy)}


def _judged(metrics: dict[str, float], counts: Counts, policy: EmptyPolicy) -> LabelScore:
    """The metrics with the policy applied where neither mask holds the label."""
    if counts.pred or counts.ref:
        return LabelScore(metrics, "pred" if not counts.pred else "ref" if not counts.ref else "neither")
    if policy.both_empty == "exclude":
        return LabelScore(dict.fromkeys(metrics, NAN), "both")
    return LabelScore({name: 1.0 if name in PERFECT else 0.0 for name in metrics}, "both")


def _without_ignored(pred: np.ndarray, ref: np.ndarray, labels: Labels | None) -> tuple[np.ndarray, np.ndarray]:
    """Both arrays with 0 where the reference carries the ignore label."""
    if labels is None or labels.ignore is None:
        return pred, ref
    keep = ref != labels.ignore
    return pred * keep, ref * keep


def _cropped(pred: np.ndarray, ref: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both arrays where either holds anything, and a voxel around: elsewhere there is nothing to look for."""
    found = [box for array in (pred, ref) if (box := bounding_box(array))]
    box = _joint(found[0], found[-1], pred.shape) if found else ()
    return pred[box], ref[box]


def _joint(a: tuple[slice, ...], b: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
    """The box around two boxes, one voxel wider within the image, so that only an image without depth stays flat."""
    return tuple(
        slice(max(0, min(i.start, j.start) - 1), min(n, max(i.stop, j.stop) + 1)) for i, j, n in zip(a, b, shape, strict=True)
    )


def _diagonal(grid: Grid) -> float:
    """Length of the image's diagonal in mm, or in pixels; in the plane for a picture."""
    sizes = np.array(grid.shape) * (grid.spacing or (1.0, 1.0, 1.0))
    return float(np.linalg.norm(sizes[np.array(grid.shape) > 1]))


def _other_grid(pred: Grid, ref: Grid) -> GeometryError:
    if pred.shape != ref.shape:
        problem = f"the prediction has shape {pred.shape} (Z, Y, X), the reference {ref.shape}"
    elif (pred.affine is None) != (ref.affine is None):
        which = "prediction" if pred.affine is None else "reference"
        problem = f"the {which} carries no spacing, the other mask does"
    else:
        problem = f"prediction and reference lie elsewhere in space: spacing {pred.spacing} and {ref.spacing} mm, "
        problem += f"orientation {pred.orientation} and {ref.orientation}"
    return GeometryError(problem, fix="bring the prediction onto the reference's grid")
