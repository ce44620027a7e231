"""Who is trained on and who is looked at: patients are on one side, but where a dataset's own split has them on both."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.atomic import atomic
from ..core.errors import DatasetError
from .inspect import count


@dataclass(frozen=True)
class Split:
    """Case names on either side."""

    train: tuple[str, ...]
    validation: tuple[str, ...]


def split_cases(
    cases: Sequence[Any],
    *,
    fraction: float,
    seed: int,
    folds: int | None,
    fold: int,
    say: Callable[[str], None],
    own: Sequence[Any] = (),
) -> Split:
    """A fixed split where the dataset brings one, else patients drawn with `seed`; fold `fold` of `folds`, or a `fraction`.

    `own` are folds that the dataset brings, (train, validation) each: without `folds`, the first is its split.
    Raises DatasetError where there are too few patients, and for another number of folds than its own.
    """
    if own and folds not in (None, len(own)):
        ask = f"ask for --folds {len(own)}" if len(own) > 1 else "leave out --folds"
        told = f"the dataset brings {count(len(own), 'fold')} of its own (splits_final.json), not {folds}"
        raise DatasetError(told, fix=f"{ask}, or move that file away")
    if own and 0 <= fold < len(own):
        train, validation = own[fold]
        left = len(cases) - len(train) - len(validation)
        rest = f"; {count(left, 'case')} on neither side" if left else ""
        sides = f"{count(len(train), 'case')} to train, {len(validation)} to validate"
        say(f"fold {fold} of the dataset's own {len(own)}: {sides}{rest}{shared(cases, train, validation)}")
        return Split(tuple(train), tuple(validation))
    fixed = [case for case in cases if case.split == "validation"]
    if folds is not None and folds < 2:
        raise DatasetError(f"{folds} folds leave nobody to train on", fix="ask for 2 or more")
    if fixed and folds is None:
        if len(fixed) == len(cases):
            raise DatasetError("every case is in the dataset's validation split", fix="put cases into its train folder")
        train, validation = tuple(c.name for c in cases if c.split != "validation"), tuple(c.name for c in fixed)
        say(f"the dataset's own split: {len(train)} to train, {len(fixed)} to validate{shared(cases, train, validation)}")
        return Split(train, validation)
    patients = sorted({case.patient for case in cases})
    if len(patients) < max(2, folds or 2):
        raise DatasetError(f"{len(patients)} patients cannot be split", fix="add cases of other patients, or ask for fewer folds")
    order = np.random.default_rng(seed).permutation(len(patients))
    if folds is None:
        some = min(max(1, round(fraction * len(patients))), len(patients) - 1)  # someone on either side
        held = {patients[i] for i in order[:some]}
    else:
        if not 0 <= fold < folds:
            raise DatasetError(f"there is no fold {fold} among {folds}", fix=f"choose 0 to {folds - 1}")
        held = {patients[i] for i in order[fold::folds]}
    train = tuple(case.name for case in cases if case.patient not in held)
    validation = tuple(case.name for case in cases if case.patient in held)
    say(f"{count(len(train), 'case')} to train, {len(validation)} to validate, split by patient with seed {seed}")
    return Split(train, validation)


def shared(cases: Sequence[Any], train: Sequence[str], validation: Sequence[str]) -> str:
    """What to say of patients that a dataset's own split has on both sides; nothing where there is none."""
    ours, theirs = ({case.patient for case in cases if case.name in names} for names in (set(train), set(validation)))
    both = sorted(ours & theirs)
    return f"; {count(len(both), 'patient')} on BOTH sides ({both[0]}), which flatters the scores" if both else ""


def write_split(split: Split, path: Path) -> None:
    with atomic(path) as part:
        part.write_text(json.dumps({"train": split.train, "validation": split.validation}, indent=1), encoding="utf-8")


def read_split(path: Path) -> Split:
    """The split a run began with. Raises DatasetError where the file is gone."""
    if not path.is_file():
        raise DatasetError("the split of this run is missing", file=path, fix="start anew without --resume")
    both = json.loads(path.read_text(encoding="utf-8"))
    return Split(tuple(both["train"]), tuple(both["validation"]))
