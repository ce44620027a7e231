"""Where a run stands, on disk: written whole or not at all, read without running code.

No state of random generators is kept: every draw of step n is a function of (seed, n), see data.py and loop.py.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import IO, Any

import torch

from ..core.atomic import atomic
from ..core.errors import InputError, UnreadableFile

FORMAT = 1
CHECKPOINT = "checkpoint.pt"  # in the run folder
MAY_CHANGE = {"epochs", "steps", "minutes", "patience", "workers", "precision"}  # of a recipe, when its run goes on


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, and dicts and lists of them). Raises OutputError."""
    with atomic(path) as part, open(part, "wb") as file:
        target: Any = _Remembering(file)
        try:
            torch.save({"format": FORMAT, **state}, target)
        except RuntimeError as error:
            raise (target.failed or error) from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """What `save_checkpoint` wrote, on the CPU. Raises UnreadableFile for a missing, truncated or foreign file."""
    if not path.is_file():
        raise UnreadableFile("there is no checkpoint to go on from", file=path, fix="start anew without --resume")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, OSError) as error:
        raise UnreadableFile("this is no whole checkpoint", file=path, fix="start anew without --resume") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UnreadableFile("this checkpoint was written by another version", file=path, fix="start anew without --resume")
    return state


def state_of(run: Path, plan: Any) -> dict[str, Any] | None:
    """Where a run stands; None where it has made no step. Raises UnreadableFile, and InputError for an edited plan."""
    if not (run / CHECKPOINT).is_file():
        return None
    state = load_checkpoint(run / CHECKPOINT)
    require_unedited(plan, state, run / "plan.toml")
    return state


def settled(plan: Any) -> str:
    """What of a plan a run holds to from its first step to its last, as JSON: all but where the data lie and when it ends."""
    return json.dumps(plan.model_dump(mode="json", exclude={"data": True, "recipe": MAY_CHANGE}), sort_keys=True)


def require_unedited(plan: Any, state: dict[str, Any], file: Path) -> None:
    """Raises InputError where the plan in `file` is no longer the one that the checkpoint's run began with."""
    if "plan" not in state:  # of a version that did not remember it
        return
    then = type(plan).model_validate(json.loads(state["plan"]) | {"data": plan.data})  # with what plans have come to say since
    began, now = (flattened(json.loads(settled(each))) for each in (then, plan))
    if key := next((key for key in {**began, **now} if began.get(key) != now.get(key)), None):
        told = f"{key} was {began.get(key)} when this run began, and is {now.get(key)}"
        raise InputError(told, file=file, fix="set it back to go on, or start a new run from the edited plan with --plan")


def flattened(values: Any, key: str = "") -> dict[str, Any]:
    """The values of nested tables under names with dots; lists of plain values stay whole."""
    if not isinstance(values, dict):
        return {key: values}
    return {inner: one for name, each in values.items() for inner, one in flattened(each, f"{key}.{name}".lstrip(".")).items()}


class _Remembering:
    """A file for torch.save, which answers a full disk with an internal RuntimeError: it keeps what the disk itself said."""

    def __init__(self, file: IO[bytes]):
        self.file = file
        self.failed: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.failed = self.failed or error
            raise

    def flush(self) -> None:
        self.file.flush()
