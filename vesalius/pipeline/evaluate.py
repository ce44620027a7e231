"""Masks against references: every case by itself, then all of them together.

pairs = find_pairs(pred, ref)           by stem; a missing prediction is an empty one
scores = score_case(pred, ref)          overlap, surfaces, objects; one case in memory at a time
summary = bootstrap(scores, patients)   mean with a 95 % interval, clustered by patient
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from ..core.errors import InputError, LabelError
from ..core.image import Mask
from ..core.labels import VALUE_MOST, Label, Labels
from ..io.files import read_mask
from ..metrics.overlap import values
from ..metrics.score import Scoring, score_case
from ..metrics.summary import EmptyPolicy
from .evaluation import CaseResult, Evaluation
from .pairs import Pair, Pairs, find_pairs, is_binary, read_pair, without

NSD_TOLERANCE_MM = 1.0  # the Medical Segmentation Decathlon's for the hippocampus; stated with every result
MANY_LABELS = 50  # more distinct values than this look like objects, not classes


def evaluate(
    pred: str | Path,
    ref: str | Path,
    *,
    labels: Mapping[int | tuple[int, ...], str] | Labels | None = None,
    instances: bool = False,
    nsd_tolerance_mm: float | None = None,
    nsd_tolerance_px: float | None = None,
    patients: str | Path | None = None,
    policy: EmptyPolicy | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Evaluation:
    """Compare a mask with its reference, or a folder of masks with a folder of references, paired by stem.

    `labels` (value -> name) are the values that count, others are background, which is said; by default all count that
    references or predictions hold. Of Labels, as a dataset.json declares them, none may be left out: another value is an error.
    Several values in place of one make a region, {(1, 2, 4): "whole tumour", (1, 4): "core", 4: "enhancing"}: regions are
    scored whole. With `instances` the
    masks number objects. Surface Dice uses `nsd_tolerance_mm` (1 mm by default); on images without spacing it is
    measured only with `nsd_tolerance_px`. `progress(done, total, case)` is called after every case.

    In a folder a case that fails is listed and the rest is done (`exit_code` 1). Raises InputError for a single pair that
    fails, DatasetError for folders that do not fit together, LabelError for labels that cannot be.

        >>> reference = "examples/hippocampus/labels"
        >>> evaluation = vesalius.evaluate(reference, reference, labels={1: "anterior", 2: "posterior"})
        >>> evaluation.summary["anterior"]["dice"]["mean"]
        1.0
    """
    for name, tolerance in (("mm", nsd_tolerance_mm), ("px", nsd_tolerance_px)):
        if tolerance is not None and not 0 <= tolerance < float("inf"):
            raise InputError(f"the NSD tolerance cannot be {tolerance} {name}", fix="give a length of 0 or more")
    pairs = find_pairs(pred, ref, patients)
    scoring = Scoring(
        nsd_tolerance_mm=NSD_TOLERANCE_MM if nsd_tolerance_mm is None else nsd_tolerance_mm,
        nsd_tolerance_px=nsd_tolerance_px,
        instances=instances,
        policy=policy or EmptyPolicy(),
    )
    known = declared(labels) if labels is not None else None if instances else found_in(pairs)
    chosen = labels is not None and not isinstance(labels, Labels) and not instances
    scoring = replace(scoring, regions=regions_of(labels))
    notes = pairs.notes
    if labels is None and known is not None and len(known) > MANY_LABELS:
        notes = (*notes, f"the masks hold {len(known)} different values: if they number objects, use --instances")
    cases = []
    for done, pair in enumerate(pairs.items, 1):
        cases.append(_result(pair, known, scoring, chosen=chosen, must_work=pairs.single))
        if progress is not None:
            progress(done, len(pairs.items), pair.name)
    if unnamed := sorted({value for case in cases for value in case.unnamed}):
        told = ", ".join(map(str, unnamed[:10])) + (f" and {len(unnamed) - 10} more" if len(unnamed) > 10 else "")
        notes = (*notes, f"the masks also hold {told}: not among the labels named, and counted as background")
    counts = [score.metrics["objects_ref"] for case in cases for score in case.scores.values()] if instances else []
    if len(counts) > 1 and max(counts) == 1:
        notes = (*notes, "no reference numbers more than one object: are these masks of classes, not of objects?")
    return Evaluation(tuple(cases), scoring, known, extra=pairs.extra, notes=notes)


def regions_of(labels: Mapping[int | tuple[int, ...], str] | Labels | None) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """(name, values) of each entry, in the order given, where any entry is of several values; else nothing."""
    if labels is None or isinstance(labels, Labels) or not any(isinstance(key, tuple) for key in labels):
        return ()
    found = tuple((str(name), key if isinstance(key, tuple) else (key,)) for key, name in labels.items())
    if len({name for name, _ in found}) < len(found):
        raise LabelError("two regions share a name", fix="give each its own")
    return found


def declared(labels: Mapping[int | tuple[int, ...], str] | Labels) -> Labels:
    """Labels from a plain mapping value -> name, in order of value; of regions, the values in them. Raises LabelError."""
    if isinstance(labels, Labels):
        return labels
    if regions := regions_of(labels):
        inside = sorted({value for _, numbers in regions for value in numbers} - {0})
        return Labels(tuple(Label(value, str(value)) for value in inside))
    named = sorted((int(value), str(name)) for value, name in labels.items())  # type: ignore[arg-type]  # no key is a tuple
    found = Labels(tuple(Label(value, name) for value, name in named if value))
    if not len(found):
        raise LabelError("no label was named", fix="name at least one value above 0")
    return found


def found_in(pairs: Pairs) -> Labels:
    """Labels named after the values that the masks hold; those that cannot be read fail later, with their case."""
    held = _held([pair.ref for pair in pairs.items], must_work=pairs.single)
    binary = is_binary(held)
    found = {1} if binary else set().union(*held) - {0}
    own = found
    for one in [] if binary else _held([pair.pred for pair in pairs.items if pair.pred], must_work=pairs.single):
        if not one <= {0, 255}:
            found = found | (one - {0})
        elif 255 in one and not found:  # 255 stands for 1, where that is all there is
            found = {1}
    if len(found) > MANY_LABELS >= len(own) > 0:  # grey values, scores or objects: told case by case, as undeclared labels
        found = own
    return Labels(tuple(Label(value, str(value)) for value in sorted(found) if value <= VALUE_MOST))  # more: told with the case


def _held(paths: Iterable[Path], must_work: bool) -> list[set[int]]:
    """The values that each mask holds; with `must_work` one that cannot be read is an error, else passed over."""
    held: list[set[int]] = []
    for path in paths:
        try:
            held.append({int(value) for value in values(read_mask(path).array)})
        except InputError:
            if must_work:
                raise
    return held


def _result(pair: Pair, labels: Labels | None, scoring: Scoring, chosen: bool, must_work: bool) -> CaseResult:
    """The scores of one case, or its problem; with `must_work` it is raised. Of `chosen` labels, other values do not count."""
    try:
        pred, ref, notes = read_pair(pair, labels, scoring.instances)
        unnamed: set[int] = set()
        if chosen and labels is not None:
            (pred, of_pred), (ref, of_ref) = (_chosen(mask, labels) for mask in (pred, ref))
            unnamed = of_pred | of_ref
        scores = score_case(pred, ref, labels=labels, scoring=scoring)
        return CaseResult(pair, scores, notes=notes, unnamed=tuple(sorted(unnamed)))
    except InputError as error:
        told = error if error.file else type(error)(error.problem, file=pair.pred or pair.ref, fix=error.fix)
        if must_work:
            raise told from error
        return CaseResult(pair, {}, problem=str(told))


def _chosen(mask: Mask, labels: Labels) -> tuple[Mask, set[int]]:
    """The mask without the values that `labels` do not name, and those. Where all it holds is 255, it stays: nobody knows what
    that means, and `score_case` refuses it."""
    held = {int(value) for value in values(mask.array)} - {0}
    others = held - set(labels.values)
    if not others or held == {255}:
        return mask, set()
    return without(mask, others), others
