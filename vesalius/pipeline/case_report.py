"""The report of a `segment` run: what was done to which case, how much of each structure was found, and how it looks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..core.atomic import atomic
from .outputs import Outputs
from .report import Section, figure, page, paragraph, table

if TYPE_CHECKING:
    from .segment import Case, Summary

MOST_PICTURES = 24  # so that a folder of thousands still gives a page that opens
STATES = {"done": "done", "skipped": "done before", "failed": "failed"}


def write_report(summary: Summary, outputs: Outputs) -> Path:
    """Write OUT/report.html (MASK.report.html beside a single file) and return its path."""
    sections = [Section("Cases", _cases(summary))]
    if summary.failed:
        rows = [(case.name, case.error) for case in summary.failed]
        sections.insert(0, Section("Failed", table(("Case", "Why"), rows, "These cases have no mask.")))
    pictured = [case for case in summary.cases if case.state != "failed" and outputs.picture(case.name).is_file()]
    sections += [Section(case.name, _case(case, outputs.picture(case.name).read_bytes())) for case in pictured[:MOST_PICTURES]]
    if left := len(pictured[MOST_PICTURES:]):
        sections.append(Section("Further cases", paragraph(f"{left} more cases are not pictured here.", "quiet")))
    sections.append(Section("How", _how(summary)))
    path = outputs.beside("report.html")
    with atomic(path) as part:
        part.write_text(page(f"Segmentation: {summary.task}", sections, _lead(summary)), encoding="utf-8")
    return path


def _lead(summary: Summary) -> str:
    counts = {state: sum(case.state == state for case in summary.cases) for state in STATES}
    parts = [f"{count} {STATES[state]}" for state, count in counts.items() if count]
    cases = "1 case" if len(summary.cases) == 1 else f"{len(summary.cases)} cases"
    return f"{cases}: {', '.join(parts)}, in {summary.seconds:.1f} s. For research, not for diagnosis."


def _cases(summary: Summary) -> str:
    """One row a case: size, what was found, seconds."""
    known = [case for case in summary.cases if case.state != "failed"]
    if not known:
        return paragraph("No case could be segmented.", "bad")
    columns = ["Case", "State", "Size (z, y, x)", "Voxel, mm"]
    if any(case.objects is not None for case in known):
        columns.append("Objects")
    names = [(amount.label, amount.unit) for case in known for amount in case.amounts]
    names = list(dict.fromkeys(names))
    rows = []
    for case in known:
        found = {(amount.label, amount.unit): amount.size for amount in case.amounts}
        row: list[object] = [case.name, STATES[case.state], _shape(case), _spacing(case)]
        row += [case.objects] if "Objects" in columns else []
        rows.append([*row, *(found.get(name) for name in names), sum(case.seconds.values()) or None])
    return table([*columns, *(f"{label}, {unit}" for label, unit in names), "Seconds"], rows)


def _case(case: Case, png: bytes) -> str:
    found = ", ".join(map(str, case.amounts))
    count = "" if case.objects is None else f"{case.objects} object{'' if case.objects == 1 else 's'}; "
    notes = "".join(paragraph(f"Note: {note}.", "quiet") for note in case.notes)
    alt = f"The mask of {case.name} drawn over its image. {count}{found}"
    return figure(png, alt, f"{count}{found}") + notes


def _how(summary: Summary) -> str:
    rows = [("Task", summary.task), ("Device", summary.device), ("Arithmetic", summary.precision)]
    rows.append(("Weights, sha256", summary.weights_hash[:16]))
    if summary.agreement:
        rows.append(("bf16 against fp32, measured", str(summary.agreement)))
    stages: dict[str, float] = {}
    for case in summary.cases:
        for stage, seconds in case.seconds.items() if case.state == "done" else ():
            stages[stage] = stages.get(stage, 0.0) + seconds
    rows += [(f"Seconds, {stage}", f"{seconds:.2f}") for stage, seconds in stages.items()]
    return "".join(paragraph(f"Note: {note}.") for note in summary.notes) + table(("What", "Value"), rows)


def _shape(case: Case) -> str:
    size = case.shape[1:] if case.shape[0] == 1 else case.shape
    return " x ".join(map(str, size))


def _spacing(case: Case) -> str | None:
    return " x ".join(f"{s:.3g}" for s in case.spacing_mm) if case.spacing_mm else None
