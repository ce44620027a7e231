"""The command line: each verb fills one options record and calls the pipeline or the training room.

Nothing heavy is imported before a verb runs, so that `--help` is immediate. What is printed, and
where, is `console.py`'s business.

    exit 0   done
    exit 1   some cases failed: they are listed, the others are done
    exit 2   the user's input: one line `error: FILE: problem. Fix.`, nothing half-written
    exit 3   ours; `--debug` shows the traceback
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from .console import terminal

HELP = {"help_option_names": ["-h", "--help"]}
app = typer.Typer(name="vesalius", no_args_is_help=True, pretty_exceptions_enable=False, context_settings=HELP)
models_app = typer.Typer(help="List the models, or show one: its paper, licence and input.", context_settings=HELP)
tasks_app = typer.Typer(help="List the tasks, or show one: its labels, steps, model and weights.", context_settings=HELP)
app.add_typer(models_app, name="models")
app.add_typer(tasks_app, name="tasks")


class Device(StrEnum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class Format(StrEnum):
    """What a mask is written as."""

    png = "png"
    tiff = "tiff"
    nifti = "nifti"
    dicom_seg = "dicom-seg"


class Precision(StrEnum):
    """Arithmetic of the model."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout, everything else on stderr.")]
Where = Annotated[Device, typer.Option("--device", help="Where to compute; auto takes the best there is.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def show_version(wanted: bool) -> None:
    """Print the version and stop."""
    if wanted:
        from importlib.metadata import version

        typer.echo(f"vesalius {version('vesalius')}")
        raise typer.Exit


@app.callback()
def vesalius(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", callback=show_version, is_eager=True)] = False,
) -> None:
    """Segment medical images with U-Nets and with foundation models, behind one interface."""


@app.command()
def segment(
    input: Annotated[Path, typer.Argument(help="An image, a DICOM folder, or a folder of cases.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="A folder; or, for one case, a file with a known suffix.", show_default=False)],
    task: Annotated[str | None, typer.Option(help="A task that Vesalius ships; `vesalius tasks` lists them.")] = None,
    model: Annotated[str | None, typer.Option(help="A folder that `vesalius train` made, or a catalog model with --weights.")] = None,
    weights: Annotated[Path | None, typer.Option(help="A weights file (.safetensors).")] = None,
    format: Annotated[Format | None, typer.Option(help="What to write the masks as; by default as the image came.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace masks that other options made.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Show the way of the image through the house, with its shapes and mm.")] = False,
    series: Annotated[str | None, typer.Option(metavar="UID", help="Which series of a DICOM folder that holds several.")] = None,
    save_probabilities: Annotated[bool, typer.Option("--save-probabilities", help="Also write each class's probability.")] = False,
    max_ram: Annotated[str | None, typer.Option(metavar="SIZE", help="Memory for tiles and scores, such as 1.5GB.")] = None,
    precision: Annotated[Precision, typer.Option(help="bf16 is chosen by auto where the processor gains.")] = Precision.auto,
    flips: Annotated[bool | None, typer.Option("--flips/--no-flips", help="Average over mirrored images; default: as the task says.")] = None,
    overlap: Annotated[float | None, typer.Option(min=0.0, max=0.9, help="Of neighbouring tiles; default: as the task says.")] = None,
    report: Annotated[bool, typer.Option("--report/--no-report", help="Write OUT/report.html with overlays.")] = True,
    device: Where = Device.auto,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Segment images; every mask lies on the very grid its image came from."""
    with terminal(quiet=quiet, json=json, debug=debug) as screen:
        raise NotImplementedError


@app.command()
def train(
    dataset: Annotated[Path, typer.Argument(help="Paired folders images/ and masks/ or labels/; nnU-Net v2; or MSD.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="The run's folder.", show_default=False)],
    model: Annotated[str, typer.Option(help="A model of the catalog; `vesalius models` lists them.")] = "unet",
    task: Annotated[str | None, typer.Option(help="Take labels, decision and cleaning from a task that Vesalius ships.")] = None,
    recipe: Annotated[str | None, typer.Option(metavar="NAME|FILE", help="How to train; default: what suits the model.")] = None,
    plan: Annotated[Path | None, typer.Option(help="Start from an edited plan.toml.")] = None,
    plan_only: Annotated[bool, typer.Option("--plan-only", help="Inspect the data, write plan.toml and stop.")] = False,
    instances: Annotated[bool, typer.Option("--instances", help="The masks number objects, not classes.")] = False,
    patients: Annotated[Path | None, typer.Option(help="A table case,patient; default: cases.csv beside the images.")] = None,
    folds: Annotated[int | None, typer.Option(min=2, help="Cross-validate with so many folds.")] = None,
    fold: Annotated[int | None, typer.Option(min=0, help="Train this fold only, counted from 0.")] = None,
    resample: Annotated[bool, typer.Option("--resample/--no-resample", help="Bring mixed spacings to the plan's; else they are an error.")] = True,
    minutes: Annotated[float | None, typer.Option(min=0.01, help="Stop after so many minutes; the schedule ends with them.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Stop after so many epochs.")] = None,
    patience: Annotated[int | None, typer.Option(min=1, help="Stop when validation has not improved for so many epochs.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run in OUT stopped.")] = False,
    seed: Annotated[int, typer.Option(help="Of the split, the weights and the augmentation.")] = 0,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that read and augment.")] = None,
    device: Where = Device.auto,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train on your own data: inspect it, write the plan, then follow it."""
    with terminal(quiet=quiet, json=json, debug=debug) as screen:
        raise NotImplementedError


@app.command()
def evaluate(
    predictions: Annotated[Path, typer.Argument(help="A mask, or a folder of masks.", show_default=False)],
    references: Annotated[Path, typer.Argument(help="The reference mask, or a folder of them; paired by stem.", show_default=False)],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A folder for cases.csv, summary.json and report.html.")] = None,
    labels: Annotated[str | None, typer.Option(metavar="1=NAME,2=NAME", help="Which values count, and their names.")] = None,
    instances: Annotated[bool, typer.Option("--instances", help="The masks number objects: F1, AJI, PQ.")] = False,
    tolerance: Annotated[float | None, typer.Option(min=0.0, help="Of the surface Dice (NSD), in mm; without spacing, in pixels.")] = None,
    patients: Annotated[Path | None, typer.Option(help="A table case,patient: intervals are clustered by patient.")] = None,
    images: Annotated[Path | None, typer.Option(help="The images, to picture the worst cases on.")] = None,
    device: Where = Device.auto,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare masks with references: per case, per label, with 95 % intervals."""
    with terminal(quiet=quiet, json=json, debug=debug) as screen:
        raise NotImplementedError


def main() -> None:
    """The entry point of the `vesalius` command."""
    app()


if __name__ == "__main__":
    main()
