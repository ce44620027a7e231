"""What `make demo` runs: segment the examples, compare with their references, and gather it all in one report.

    demo_out/TASK/CASE.*             masks, on the grids of their images
    demo_out/TASK/evaluation/        scores as CSV, JSON and HTML
    demo_out/overlays/TASK_CASE.png  mask over image, the reference as a white line
    demo_out/report.html             one file with everything in it
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from vesalius.io.files import case_name, find_inputs, read, read_mask
from vesalius.pipeline.overlay import overlay
from vesalius.pipeline.report import Section, figure, page, paragraph, table
from vesalius.tasks.catalog import TASKS

HERE = Path(__file__).resolve().parent
EXAMPLES = ("nuclei", "hippocampus")


def main() -> None:
    """Run both examples, print the Dice against the references and where everything lies."""
    parser = argparse.ArgumentParser(description="Segment the examples and compare them with their references.")
    parser.add_argument("--out", type=Path, default=Path("demo_out"), help="where to write (default: demo_out)")
    parser.add_argument("--data", type=Path, default=HERE, help="where the examples lie")
    arguments = parser.parse_args()
    start = time.perf_counter()
    sections, lines = [], []
    for name in EXAMPLES:
        scores = run_example(name, arguments.data / name, arguments.out / name)
        rows = [(label, found["mean"], found["low"], found["high"]) for label, found in dice_of(scores).items()]
        lines += [f"  {name:<12} {label:<12} Dice {mean:.3f}" for label, mean, *_ in rows]
        body = table(("label", "Dice", "low", "high"), rows, "Mean over the cases, with the 95 % interval.")
        body += "".join(picture_cases(name, arguments.data / name, arguments.out))
        sections.append(Section(f"{name}: {TASKS[name].title}", body))
    sections.append(Section("Where the examples come from", paragraph(attribution(arguments.data))))
    report = arguments.out / "report.html"
    report.write_text(page("Vesalius: the examples", sections, "No case here was used to train the weights."), encoding="utf-8")
    print("\nDice against the references, which no training has seen:", *lines, sep="\n")
    print(f"\nDone in {time.perf_counter() - start:.0f} s. Masks, overlays and scores: {arguments.out}/  Report: {report}")


def run_example(name: str, data: Path, out: Path) -> dict:
    """Segment and evaluate one example with the very commands a user types; the scores."""
    task = TASKS[name]
    names = ",".join(f"{label.value}={label.name}" for label in task.labels)
    kind = ["--instances"] if task.instances else ["--labels", names]
    vesalius("segment", data / "images", "-o", out, "--task", name, "--overwrite")
    return vesalius("evaluate", out, data / "labels", "-o", out / "evaluation", "--images", data / "images", *kind)


def vesalius(*words: str | Path) -> dict:
    """Run one command in a process of its own, show it, and return its result."""
    line = [str(word) for word in words]
    print("$ vesalius", shlex.join(line), flush=True)
    done = subprocess.run([sys.executable, "-m", "vesalius", *line, "--json"], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    return json.loads(done.stdout)


def dice_of(scores: dict) -> dict[str, dict[str, float]]:
    """Mean Dice and its interval, label by label."""
    return {label: metrics["dice"] for label, metrics in scores["summary"].items() if "dice" in metrics}


def picture_cases(name: str, data: Path, out: Path) -> list[str]:
    """An overlay of every case, written as PNG and returned as a figure of the report."""
    task, figures = TASKS[name], []
    (out / "overlays").mkdir(parents=True, exist_ok=True)
    for path in find_inputs(data / "images"):
        image, case = read(path), case_name(path)
        mask, reference = (
            replace(read_mask(found, like=image), labels=task.labels, instances=task.instances)
            for found in (one_file(out / name, case), one_file(data / "labels", case))
        )
        png = overlay(image, mask, reference=reference)
        (out / "overlays" / f"{name}_{case}.png").write_bytes(png)
        figures.append(figure(png, f"{case}: the mask over the image", f"{case}: what Vesalius found; white: the reference"))
    return figures


def one_file(folder: Path, case: str) -> Path:
    """The one file of `folder` that holds a case."""
    (found,) = [path for path in folder.iterdir() if path.is_file() and case_name(path) == case]
    return found


def attribution(data: Path) -> str:
    """Where the examples come from, as their README says."""
    return " ".join((data / "README.md").read_text(encoding="utf-8").split())


if __name__ == "__main__":
    main()
