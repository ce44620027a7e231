"""What a training run left behind: its weights, fold by fold, and which of them are those of a run that came to its end.

    RUN/weights.safetensors  metrics.jsonl                 one network
    RUN/fold_0/weights.safetensors  metrics.jsonl  ...     several, averaged: those that are finished

The last line of a finished run's metrics.jsonl says `"final": true`; a run that goes on (`train --resume`) takes it back.
Weights without a journal were brought there by somebody: nothing says that they are unfinished.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

RUN_WEIGHTS = "weights.safetensors"
FOLD = "fold_"


@dataclass(frozen=True)
class Run:
    """The weights files to use, one a fold; empty where there are none. `notes` say what is unfinished or left out."""

    weights: tuple[Path, ...]
    notes: tuple[str, ...] = ()


def find_run(path: Path) -> Run:
    """The weights that the run at `path` left: of several folds the finished ones, or all there are where none is finished."""
    whole = path / RUN_WEIGHTS
    if whole.is_file():
        return Run((whole,), () if is_finished(path) else ("this run is not finished: its weights are used as they stand",))
    folds = {fold.name.removeprefix(FOLD): fold for fold in path.glob(f"{FOLD}*") if fold.is_dir()}
    begun = {name: fold / RUN_WEIGHTS for name, fold in sorted(folds.items()) if (fold / RUN_WEIGHTS).is_file()}
    finished = {name: file for name, file in begun.items() if is_finished(file.parent)}
    used = finished or begun
    planned = max((planned_folds(fold) for fold in folds.values()), default=0)
    names = {str(number) for number in range(planned)} | set(folds)
    left_out = sorted(names - set(used), key=lambda name: (len(name), name))
    notes = []
    if used and not finished:
        notes.append(f"no fold of this run is finished: the weights of {_folds(list(used))} are used as they stand")
    elif used and left_out:
        told = f"{len(used)} of {len(names)} folds {'is' if len(used) == 1 else 'are'} finished"
        notes.append(f"{told}; {_folds(left_out)} {'is' if len(left_out) == 1 else 'are'} left out")
    return Run(tuple(used.values()), tuple(notes))


def is_finished(run: Path) -> bool:
    """Whether the run of one network came to its end, by the last line of its journal; one without a journal counts as whole."""
    journal = run / "metrics.jsonl"
    if not journal.is_file():
        return True
    lines = journal.read_text(encoding="utf-8", errors="replace").splitlines()
    try:
        return bool(json.loads(lines[-1]).get("final"))
    except (IndexError, ValueError, AttributeError):  # nothing yet, or cut off by a crash
        return False


def planned_folds(run: Path) -> int:
    """How many folds the plan of a fold speaks of; 0 where it has no plan that says so."""
    try:
        return int(tomllib.loads((run / "plan.toml").read_text(encoding="utf-8-sig"))["data"]["folds"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _folds(names: Sequence[str]) -> str:
    """fold 1; folds 1 and 4; folds 1, 2 and 4."""
    if len(names) == 1:
        return f"fold {names[0]}"
    return f"folds {', '.join(names[:-1])} and {names[-1]}"
