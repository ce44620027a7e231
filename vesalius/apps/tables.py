"""What `segment`, `train` and `evaluate` show of their results: tables for people, records for programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..core.atomic import atomic
from ..core.errors import InputError
from .console import SOME_FAILED, Terminal

if TYPE_CHECKING:
    from ..core.labels import Labels
    from ..pipeline.evaluation import Evaluation
    from ..pipeline.prompted import Prompted
    from ..pipeline.segment import Case, Summary
    from ..training.loop import RunSummary
    from ..training.standings import ShootOut

SHOWN_CASES = 40  # rows of a table on the screen; files and JSON hold all
SHOWN_COLUMNS = 7  # of a shoot-out, up to images/s; its files hold all
SHOWN_METRICS = ("dice", "nsd", "nsd_px", "hd95_mm", "hd95_px", "f1", "aji", "pq")


def show_segmented(screen: Terminal, summary: Summary) -> None:
    """The cases and what was found in them; failures one by one on stderr, and exit code 1."""
    rows = [(case.name, case.state, found_in(case), f"{sum(case.seconds.values()):.1f} s") for case in summary.cases]
    screen.table(("case", "", "found", "time"), rows[:SHOWN_CASES])
    if len(rows) > SHOWN_CASES:
        screen.say(f"... and {len(rows) - SHOWN_CASES} more")
    for note in dict.fromkeys([*summary.notes, *(note for case in summary.cases for note in case.notes)]):
        screen.say(f"note: {note}")
    if summary.agreement:
        screen.say(f"{summary.precision} on {summary.device}; {summary.agreement}")
    if done := [case.mask for case in summary.cases if case.mask]:
        place = done[0] if len(rows) == 1 else done[0].parent
        screen.say(f"{len(done)} of {len(rows)} masks: {place}")
    if summary.report:
        screen.say(f"report: {summary.report}")
    screen.result(summary)
    for case in summary.failed:
        screen.complain(f"failed: {case.error}")
        screen.code = SOME_FAILED


def show_prompted(screen: Terminal, done: Prompted) -> None:
    """The objects in the order given, and where their label map lies."""
    rows = [(found.value, found.name, f"{found.voxels:,}", _trust(found.predicted_iou)) for found in done.objects]
    screen.table(("label", "object", "voxels", "predicted IoU"), rows[:SHOWN_CASES])
    if len(rows) > SHOWN_CASES:
        screen.say(f"... and {len(rows) - SHOWN_CASES} more")
    for note in (*done.notes, f"seen through: {done.view}"):
        screen.say(f"note: {note}")
    for path, iou in done.alternatives:
        screen.say(f"{path}: predicted IoU {iou:.3f}")
    screen.say(f"{done.model}, {done.seconds:.1f} s: {done.mask}")
    if done.records:
        screen.say(f"records: {done.records}")
    screen.result(done)


def _trust(iou: float | None) -> str:
    return "-" if iou is None else f"{iou:.3f}"


def found_in(case: Case) -> str:
    """The structures of a mask, in words."""
    if case.error:
        return case.error
    if case.objects is not None:
        return f"{case.objects} object{'' if case.objects == 1 else 's'}"
    return ", ".join(map(str, case.amounts))


def show_trained(screen: Terminal, runs: list[RunSummary], out: Path) -> None:
    """Where each run lies and how well it did."""
    for run in runs:
        screen.say(f"{run.path}: validation Dice {run.dice:.4f} after {run.steps} steps; report: {run.path / 'report.html'}")
    if runs:
        screen.say(f"use it: vesalius segment INPUT -o OUT --model {out}")
    screen.result(runs)


def show_shoot_out(screen: Terminal, result: ShootOut) -> None:
    """The table and the ranking in words; models that failed one by one on stderr, and exit code 1."""
    from ..pipeline.ranking import COLUMNS

    if result.ranking.entrants:
        screen.table(COLUMNS[:SHOWN_COLUMNS], [row[:SHOWN_COLUMNS] for row in result.ranking.rows()])
        for line in (*result.ranking.sentences(), *result.notes):
            screen.say(line)
    screen.say(f"shootout.json, shootout.md and pareto.png: {result.path}")
    screen.result(result.record())
    for name, problem in result.failures.items():
        screen.complain(f"failed: {name}: {problem}")
        screen.code = SOME_FAILED


def show_evaluated(screen: Terminal, evaluation: Evaluation, out: Path | None, images: Path | None) -> None:
    """The summary; the files in `out`; exit code 1 where a prediction is missing or a case failed."""
    rows = []
    for label, metrics in evaluation.summary.items():
        for metric in (name for name in SHOWN_METRICS if name in metrics):
            found = metrics[metric]
            known = found["low"] == found["low"]  # not NaN: one patient allows no interval
            interval = f"{found['low']:.3f} to {found['high']:.3f}" if known else "-"
            rows.append((label, metric, f"{found['mean']:.3f}", interval, int(found["cases"])))
    screen.table(("label", "metric", "mean", "95 % interval", "cases"), rows)
    for line in evaluation.describe():
        screen.say(line)
    if extra := evaluation.extra:
        more = f" and {len(extra) - 10} more (all are in the JSON)" if len(extra) > 10 else ""
        screen.say(f"Predictions without a reference, in no mean: {', '.join(extra[:10])}{more}.")
    if out is not None:
        write_evaluation(evaluation, out, images)
        screen.say(f"scores.csv, summary.json and report.html: {out}")
    screen.result(evaluation.record())
    for name in evaluation.missing:
        screen.complain(f"missing: {name} has no prediction; it was scored as an empty one")
    for name, problem in evaluation.failed.items():
        screen.complain(f"failed: {name}: {problem}")
    screen.code = evaluation.exit_code


def write_evaluation(evaluation: Evaluation, out: Path, images: Path | None) -> None:
    """The evaluation as CSV, JSON and one HTML page; raises OutputError."""
    from ..pipeline.scorecard import scorecard

    evaluation.to_csv(out / "scores.csv")  # cases.csv is the name of the patient table
    evaluation.to_json(out / "summary.json")
    with atomic(out / "report.html") as part:
        part.write_text(scorecard(evaluation, images), encoding="utf-8")


def read_labels(text: str | None) -> dict[int | tuple[int, ...], str] | Labels | None:
    """`1=anterior,2=posterior` as a mapping, `1+2=both` with several values as one region; or the labels and regions of a
    dataset.json. A value alone is its own name. Raises InputError.
    """
    if text is None:
        return None
    if text.endswith(".json"):
        from ..io.layouts import read_dataset_labels

        return read_dataset_labels(Path(text))
    found: dict[int | tuple[int, ...], str] = {}
    for part in text.split(","):
        value, _, name = (piece.strip() for piece in part.partition("="))
        numbers = [number.strip() for number in value.split("+")]
        if not all(number.isdecimal() for number in numbers):
            raise _no_labels(text)
        key = int(numbers[0]) if len(numbers) == 1 else tuple(map(int, numbers))
        if key in found:
            raise _no_labels(text)
        found[key] = name or value
    return found


def _no_labels(text: str) -> InputError:
    fix = "write it as 1=anterior,2=posterior, with + for regions (1+2=whole,2=core), or name a dataset.json"
    return InputError(f"'{text}' is no list of labels", fix=fix)
