"""What `make demo` runs: segment the examples, compare with their references, and gather it all in one report.

    demo_out/TASK/CASE.*             masks, on the grids of their images
    demo_out/TASK/evaluation/        scores as CSV, JSON and HTML
    demo_out/prompted/PROMPT/CASE.*  what was pointed at: by a box, by a click, by a box on one slice of a volume
    demo_out/overlays/*.png          mask over image, the reference as a white line
    demo_out/report.html             one file with everything in it
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from vesalius.core.labels import Label, Labels
from vesalius.io.files import case_name, find_inputs, read, read_mask
from vesalius.metrics.overlap import confusion, dice
from vesalius.pipeline.overlay import overlay
from vesalius.pipeline.report import Section, figure, page, paragraph, table
from vesalius.tasks.catalog import TASKS

HERE = Path(__file__).resolve().parent
EXAMPLES = ("nuclei", "hippocampus")
WHOLE = None  # a volume's labels are one object


@dataclass(frozen=True)
class Pointed:
    """A prompt on one of the examples, as a user would type it, and the number of the object in the reference that is meant."""

    title: str
    name: str
    file: str
    words: tuple[str, ...]
    meant: int | None


POINTED = (
    Pointed("box", "nuclei", "stained.png", ("--box", "233,129,267,174"), 33),
    Pointed("click", "nuclei", "fluorescence.png", ("--point", "35,140"), 43),
    Pointed("slice", "hippocampus", "hippocampus_014.nii.gz", ("--slice", "19", "--axis", "axial", "--box", "7,13,27,38"), WHOLE),
)


def main() -> None:
    """Run the examples, print the Dice against the references and where everything lies."""
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
    body = ""
    for each in POINTED:
        score, picture = point(each, arguments.data / each.name, arguments.out)
        lines.append(f"  {each.name:<12} {each.title:<12} Dice {score:.3f}")
        said = f"{' '.join(each.words)}: Dice {score:.3f}; white: the reference"
        body += figure(picture, f"{each.file}: what was pointed at, over the image", f"{each.file}, {said}")
    sections.append(Section("Pointed at, with vesalius_mini", body))
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


def point(pointed: Pointed, data: Path, out: Path) -> tuple[float, bytes]:
    """Segment what is pointed at, with our own promptable model; its Dice against the object that is meant, and an overlay."""
    source, folder = data / "images" / pointed.file, out / "prompted" / pointed.title
    vesalius("segment", source, "-o", folder, *pointed.words, "--overwrite")
    image, case = read(source), case_name(source)
    found = read_mask(one_file(folder, case), like=image)
    labels = read_mask(one_file(data / "labels", case), like=image)
    meant = labels.array > 0 if pointed.meant is WHOLE else labels.array == pointed.meant
    object_ = Labels((Label(1, pointed.title),))
    reference = replace(labels, array=meant.astype("uint8"), labels=object_, instances=False)
    picture = overlay(image, replace(found, labels=object_), reference=reference)
    (out / "overlays" / f"prompted_{pointed.title}_{case}.png").write_bytes(picture)
    return dice(confusion(found.array, reference.array).foreground()), picture


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
