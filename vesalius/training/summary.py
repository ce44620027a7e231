"""The report of a run: its curves, and how every kept-back case came out."""

from __future__ import annotations

import io
import json
import math
from dataclasses import dataclass
from pathlib import Path

from ..core.atomic import atomic
from ..pipeline.report import Section, figure, page, paragraph, table
from .journal import read_metrics
from .plan import Plan
from .validate import Scores, means

SCORES = "scores.json"  # of a run that has come to its end


@dataclass(frozen=True)
class Scored:
    """A finished run: its steps, its seconds of training, and the scores of every kept-back case and label."""

    steps: int
    seconds: float
    cases: dict[str, Scores]


def write_scores(run: Path, scored: Scored) -> None:
    """RUN/scores.json; a value that is not defined is null."""
    cases = {
        case: {label: {m: v if math.isfinite(v) else None for m, v in metrics.items()} for label, metrics in labels.items()}
        for case, labels in scored.cases.items()
    }
    with atomic(run / SCORES) as part:
        text = json.dumps({"steps": scored.steps, "seconds": round(scored.seconds, 1), "cases": cases}, indent=1)
        part.write_text(text, encoding="utf-8")


def read_scores(run: Path) -> Scored | None:
    """What `write_scores` wrote; None for a run that has not come to its end."""
    if not (run / SCORES).is_file():
        return None
    found = json.loads((run / SCORES).read_text(encoding="utf-8"))
    cases = {
        case: {label: {m: math.nan if v is None else v for m, v in metrics.items()} for label, metrics in labels.items()}
        for case, labels in found["cases"].items()
    }
    return Scored(found["steps"], found["seconds"], cases)


def write_report(run: Path, plan: Plan, scores: dict[str, Scores]) -> Path:
    """RUN/report.html, self-contained: curves, means per label, one row per case and label. Raises OutputError."""
    lines = read_metrics(run)
    sections = [Section("Curves", figure(curves(lines), "loss and validation Dice over the steps"))] if lines else []
    found = means(scores)
    metrics = list(dict.fromkeys(m for label in found.values() for m in label))
    if metrics:
        mean_rows = [[label, *[rounded(values.get(m)) for m in metrics]] for label, values in found.items()]
        case_rows = [
            [case, label, *[rounded(v.get(m)) for m in metrics]] for case, labels in scores.items() for label, v in labels.items()
        ]
        sections.append(Section("Means over the kept-back cases", table(["label", *metrics], mean_rows)))
        sections.append(Section("Case by case", table(["case", "label", *metrics], case_rows)))
    recipe = plan.recipe
    sizes = f"Patch {plan.patch}, batch {recipe.batch}, {recipe.optimiser}, seed {recipe.seed}"
    about = f"{plan.title}. {sizes}; all of it in plan.toml."
    with atomic(run / "report.html") as part:
        part.write_text(page(f"Training of {plan.name}", [Section("Plan", paragraph(about)), *sections]), encoding="utf-8")
    return run / "report.html"


def rounded(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4f}"


def curves(lines: list[dict]) -> bytes:
    """Loss and Dice over the steps, as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    plot = Figure(figsize=(8, 3.5), layout="constrained")
    left = plot.subplots()
    trained = [line for line in lines if "loss" in line]  # the last line may hold the final scores only
    left.plot([line["step"] for line in trained], [line["loss"] for line in trained], color="tab:blue", marker=".", label="loss")
    left.set_xlabel("step")
    left.set_ylabel("training loss", color="tab:blue")
    seen = [line for line in lines if "dice" in line]
    if seen:
        right = left.twinx()
        right.plot([line["step"] for line in seen], [line["dice"] for line in seen], color="tab:orange", marker=".")
        right.set_ylabel("validation Dice", color="tab:orange")
    picture = io.BytesIO()
    plot.savefig(picture, format="png", dpi=110)
    return picture.getvalue()
