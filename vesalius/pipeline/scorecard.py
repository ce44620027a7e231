"""The page of an evaluation: figures with their intervals, what they mean, and the worst cases pictured."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from ..core.errors import InputError
from ..core.image import Image, Mask
from ..io.files import case_name, find_inputs, read
from .evaluation import CaseResult, Evaluation
from .overlay import overlay
from .pairs import read_pair, twin, without
from .report import Section, figure, page, paragraph, table

PICTURED = 6
LISTED = 500
TITLES = {
    "dice": "Dice", "iou": "IoU", "nsd": "NSD", "nsd_px": "NSD (px)", "hd95_mm": "HD95 (mm)", "assd_mm": "ASSD (mm)",
    "hd95_px": "HD95 (px)", "assd_px": "ASSD (px)", "f1": "F1", "precision": "precision", "recall": "recall",
    "pq": "PQ", "sq": "SQ", "aji": "AJI", "objects_pred": "objects found", "objects_ref": "objects in reference",
    "volume_difference_mm3": "volume difference (mm³)", "area_difference_mm2": "area difference (mm²)",
    "volume_difference_px": "volume difference (voxels)", "area_difference_px": "area difference (px)",
    "relative_volume_difference": "relative volume difference", "relative_area_difference": "relative area difference",
}  # fmt: skip


def scorecard(evaluation: Evaluation, images: Path | None = None) -> str:
    """The whole HTML page; the worst cases are drawn on the `images` of the same stem, or on black."""
    sections = [_summary(evaluation), Section("How to read this", "".join(paragraph(line) for line in evaluation.describe()))]
    sections += _troubles(evaluation)
    found = _images(images)
    sections += [_pictured(case, evaluation, found) for case in evaluation.worst(PICTURED)]
    return page("Evaluation", [*sections, _all_cases(evaluation)])


def _summary(evaluation: Evaluation) -> Section:
    rows = []
    for name, estimates in evaluation.summary.items():
        rows += [[name, TITLES.get(metric, metric), *_numbers(estimate)] for metric, estimate in estimates.items()]
    if len(evaluation.summary) > 1:
        rows += [["mean of labels", TITLES.get(metric, metric), *_numbers(e)] for metric, e in evaluation.overall.items()]
    columns = ("label", "metric", "mean", "low", "high", "median", "cases", "excluded")
    return Section("Summary", table(columns, rows, caption="Mean over cases with its 95 % interval"))


def _numbers(estimate: dict[str, float]) -> list[float]:
    return [estimate[key] for key in ("mean", "low", "high", "median", "cases", "excluded")]


def _troubles(evaluation: Evaluation) -> list[Section]:
    body = ""
    if evaluation.missing:
        body += paragraph(f"No prediction, scored as an empty one: {', '.join(evaluation.missing)}", "bad")
    for name, problem in evaluation.failed.items():
        body += paragraph(f"{name} was not scored: {problem}", "bad")
    if evaluation.extra:
        body += paragraph(f"Predictions without a reference: {', '.join(evaluation.extra)}", "quiet")
    return [Section("What is missing", body)] if body else []


def _images(folder: Path | None) -> dict[str, Path]:
    """Images by stem."""
    if folder is None:
        return {}
    paths = [path for path in find_inputs(folder) if isinstance(path, Path)]
    return {case_name(path): path for path in paths}


def _pictured(case: CaseResult, evaluation: Evaluation, images: dict[str, Path]) -> Section:
    """The prediction in colour, the reference as a white line."""
    pred, ref, _ = read_pair(case.pair, evaluation.labels, evaluation.scoring.instances)
    pred, ref = without(pred, case.unnamed), without(ref, case.unnamed)
    image, told = _beneath(case.pair.name, ref, images)
    metric = "f1" if evaluation.scoring.instances else "dice"
    title = f"{case.pair.name}: {TITLES[metric]} {case.mean(metric):.3f}"
    alt = f"Prediction in colour and reference as a white line, case {case.pair.name}"
    caption = f"Prediction in colour, reference as a white line. {told}"
    return Section(title, figure(overlay(image, pred, reference=ref), alt, caption))


def _beneath(name: str, ref: Mask, images: dict[str, Path]) -> tuple[Image, str]:
    """The image of a case, or black, and what to say about it."""
    black = Image(np.zeros((1, *ref.grid.shape), np.uint8), ref.grid)
    found = f"{name}_0000" if name not in images and f"{name}_0000" in images else twin(name, images)  # the first channel
    if found is None:
        return black, "" if not images else "There is no image of this name."
    try:
        image = read(images[found])
    except InputError as error:
        return black, f"Its image cannot be shown: {error.problem}."
    if image.grid.shape != ref.grid.shape:
        return black, "Its image has another shape."
    return image, ""


def _all_cases(evaluation: Evaluation) -> Section:
    """A row for every case and label, the worst cases first; the CSV has those beyond the limit."""
    metrics = evaluation.metrics
    first = "f1" if evaluation.scoring.instances else "dice"
    order = sorted(evaluation.cases, key=lambda case: (math.isnan(case.mean(first)), case.mean(first)))
    rows = [
        [case.pair.name, name, case.status, *(score.metrics.get(metric) for metric in metrics)]
        for case in order
        for name, score in case.scores.items()
    ]
    more = paragraph(f"{len(rows) - LISTED} rows more are in the CSV.", "quiet") if len(rows) > LISTED else ""
    columns = ["case", "label", "status", *(TITLES.get(metric, metric) for metric in metrics)]
    return Section("All cases", table(columns, rows[:LISTED]) + more)
