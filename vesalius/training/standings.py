"""What a shoot-out has come to: its files, written anew after every model.

    OUT/shootout.json  what was asked, every score, every pair     OUT/shootout.md  the table and the ranking in words
    OUT/pareto.png     Dice against GFLOPs and against images a second
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..core.atomic import atomic
from ..core.errors import OutputError, UnreadableFile
from ..models.catalog import CATALOG
from ..pipeline.pareto import pareto
from ..pipeline.ranking import Ranking, table
from .inspect import by
from .plan import Plan
from .split import Split

RESULT, TABLE, PICTURE = "shootout.json", "shootout.md", "pareto.png"


@dataclass(frozen=True)
class ShootOut:
    """What has come out so far: the ranking of the finished models, why others failed, and which are still to come."""

    path: Path
    ranking: Ranking
    failures: Mapping[str, str] = field(default_factory=dict)
    pending: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def record(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {**self.ranking.record(), "failures": dict(self.failures), "pending": self.pending, "notes": self.notes}


def write(result: ShootOut, asked: Mapping[str, Any], title: str) -> None:
    """The three files, as things stand; no picture before there is a model to show. Raises OutputError."""
    write_json(result.path / RESULT, {"asked": asked, **finite(result.record())})
    with atomic(result.path / TABLE) as part:
        part.write_text(document(result, title), encoding="utf-8")
    if result.ranking.entrants:
        with atomic(result.path / PICTURE) as part:
            part.write_bytes(pareto(result.ranking, title))


def remembered(out: Path, *, resume: bool) -> dict[str, Any]:
    """What OUT/shootout.json says was asked when the shoot-out began; empty for a new one.

    Raises OutputError, and UnreadableFile for one that is damaged.
    """
    path = out / RESULT
    if out.is_file():
        raise OutputError("a file stands where the shoot-out should go", file=out, fix="choose another folder")
    if not path.is_file():
        if resume:
            raise OutputError("there is no shoot-out to resume here", file=out, fix="start it without --resume")
        return {}
    if not resume:
        raise OutputError("a shoot-out lies here already", file=out, fix="go on with --resume, or choose another folder")
    asked = read_json(path, fix := "put a whole one back, or start a new shoot-out in another folder").get("asked")
    asked = asked if isinstance(asked, dict) else {}
    models, recipe = asked.get("models"), asked.get("recipe")
    if not isinstance(models, list) or not all(name in CATALOG for name in models) or not isinstance(recipe, dict):
        raise UnreadableFile("this does not say what was asked", file=path, fix=fix)
    return asked


def notes_on(runs: Mapping[str, tuple[Plan, Split]], ends: str, device: torch.device) -> tuple[str, ...]:
    """What a reader must know: where it ran, what all had in common, and who was not given quite the same."""
    threads = torch.get_num_threads()
    place = {"cpu": f"{threads} thread{'' if threads == 1 else 's'}", "cuda": "a GPU"}.get(device.type, device.type)
    if device.type == "cuda":
        place = torch.cuda.get_device_name(device)
    notes = [f"PyTorch {torch.__version__} on {place}. Each model began with random weights and ended after {ends}."]
    if runs:
        plan, split = next(iter(runs.values()))
        patches = [by(plan.patch[3 - plan.dims :]) for plan, _ in runs.values()]
        batches = [plan.recipe.batch for plan, _ in runs.values()]
        patch, batch = max(patches, key=patches.count), max(batches, key=batches.count)
        cases = f"{len(split.train)} cases to train, {len(split.validation)} kept back"
        notes.append(f"The same for all: {cases}, patch {patch}, batch {batch}, seed {plan.recipe.seed}, augmentation.")
        notes += [f"{name} takes no such patch: it was given {p}." for name, p in zip(runs, patches, strict=True) if p != patch]
        notes += [f"{name} was trained in batches of {b}." for name, b in zip(runs, batches, strict=True) if b != batch]
    notes.append(
        "Dice and HD95: means over the kept-back cases at full size, 95 % bootstrap intervals over patients. Memory: of one "
        "tile, and of a training step, beyond what the process held before. images/s: whole cases, from image to mask."
    )
    return tuple(notes)


def document(result: ShootOut, title: str) -> str:
    """shootout.md: the table, the ranking in words, what failed, what is still to come."""
    parts = [f"# Shoot-out: {title}"]
    if result.ranking.entrants:
        parts += [table(result.ranking), "Models that share a letter under *alike* do not differ significantly."]
        parts.append(f"![Dice against cost]({PICTURE})")
    parts.append("\n".join(f"- {line}" for line in (*result.ranking.sentences(), *result.notes)))
    if result.failures:
        parts.append("Failed:\n\n" + "\n".join(f"- {name}: {problem}" for name, problem in result.failures.items()))
    if result.pending:
        parts.append(f"Still to come: {', '.join(result.pending)}.")
    return "\n\n".join(parts) + "\n"


def finite(value: Any) -> Any:
    """`value` with null for what is no number: JSON knows no NaN."""
    if isinstance(value, Mapping):
        return {str(key): finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path, fix: str) -> dict[str, Any]:
    """The record in a file of ours; raises UnreadableFile with the `fix`."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnreadableFile("this file is damaged", file=path, fix=fix) from error
    if not isinstance(found, dict):
        raise UnreadableFile("this file is damaged", file=path, fix=fix)
    return found


def write_json(path: Path, value: Any) -> None:
    with atomic(path) as part:
        part.write_text(json.dumps(value, indent=1), encoding="utf-8")
