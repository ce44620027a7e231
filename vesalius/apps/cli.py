"""The command line: each verb fills one options record and calls the pipeline or the training room.

Nothing heavy is imported before a verb runs, so that `--help` is immediate. What is printed, and
where, is `console.py`'s business.

    exit 0   done
    exit 1   some cases failed: they are listed, the others are done
    exit 2   the user's input: one line `error: FILE: problem. Fix.`, nothing half-written
    exit 3   ours; `--debug` shows the traceback
"""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from ..core.errors import UnreadableFile
from . import tables
from .catalogs import models_app, tasks_app
from .console import terminal
from .options import HELP, PROMPTS, Axis, Debug, Device, Engine, Format, Json, Precision, Quiet, Where
from .pointing import Pointing
from .usage import Verbs

LABELS = "Which values count, and their names; 1+2=NAME makes a region of several. Or a dataset.json that declares them."
app = typer.Typer(name="vesalius", cls=Verbs, no_args_is_help=True, pretty_exceptions_enable=False, context_settings=HELP)
app.add_typer(models_app, name="models")
app.add_typer(tasks_app, name="tasks")


def show_version(wanted: bool) -> None:
    """Print the version and stop."""
    if wanted:
        from importlib.metadata import version

        typer.echo(f"vesalius {version('vesalius')}")
        raise typer.Exit


@app.callback()
def vesalius(
    version: Annotated[bool, Option("--version", help="Print the version.", callback=show_version, is_eager=True)] = False,
) -> None:
    """Segment medical images with U-Nets and with foundation models, behind one interface."""


@app.command()
def segment(
    input: Annotated[Path, Argument(help="An image, a DICOM folder, a folder of cases; a video.", show_default=False)],
    out: Annotated[Path, Option("--out", "-o", help="A folder; for one case also a file.", show_default=False)],
    task: Annotated[str | None, Option(help="A task that Vesalius ships; `vesalius tasks` lists them.")] = None,
    model: Annotated[str | None, Option(help="A run of `vesalius train`, or a model of the catalog with --weights.")] = None,
    weights: Annotated[Path | None, Option(help="A weights file (.safetensors).")] = None,
    format: Annotated[Format | None, Option(help="What to write the masks as; by default as the image came.")] = None,
    overwrite: Annotated[bool, Option("--overwrite", help="Replace masks that other options made.")] = False,
    explain: Annotated[bool, Option("--explain", help="Only show each step, with your shapes and mm.")] = False,
    series: Annotated[str | None, Option(metavar="UID", help="Which series of a DICOM folder that holds several.")] = None,
    save_probabilities: Annotated[bool, Option("--save-probabilities", help="Write the probabilities too.")] = False,
    max_ram: Annotated[str | None, Option(metavar="SIZE", help="Memory for tiles and scores, such as 1.5GB.")] = None,
    precision: Annotated[Precision, Option(help="bf16 is chosen by auto where the processor gains.")] = Precision.auto,
    engine: Annotated[Engine, Option(help="openvino: an extra, for many tiles on a CPU.")] = Engine.torch,
    flips: Annotated[bool | None, Option("--flips/--no-flips", help="Average over mirrored images; default: the task's.")] = None,
    overlap: Annotated[float | None, Option(min=0.0, max=0.9, help="Of neighbouring tiles; default: the task's.")] = None,
    overlays: Annotated[bool, Option("--overlays", help="Write OUT/overlays/CASE.png too.")] = False,
    report: Annotated[bool, Option("--report/--no-report", help="Write OUT/report.html with overlays.")] = True,
    point: Annotated[list[str] | None, Option(metavar="X,Y", help="A point on the object.", rich_help_panel=PROMPTS)] = None,
    not_point: Annotated[list[str] | None, Option(metavar="X,Y", help="A point beside it.", rich_help_panel=PROMPTS)] = None,
    box: Annotated[
        list[str] | None, Option(metavar="X0,Y0,X1,Y1", help="A box; several are several objects.", rich_help_panel=PROMPTS)
    ] = None,
    mask_prompt: Annotated[Path | None, Option(help="An earlier mask to build on.", rich_help_panel=PROMPTS)] = None,
    text: Annotated[str | None, Option(help="Words, for weights that know them.", rich_help_panel=PROMPTS)] = None,
    text_encoder: Annotated[
        Path | None, Option(metavar="FOLDER", help="The CLIP that those weights read words with.", rich_help_panel=PROMPTS)
    ] = None,
    everything: Annotated[bool, Option("--everything", help="All objects of a picture.", rich_help_panel=PROMPTS)] = False,
    set: Annotated[
        list[str] | None,
        Option(metavar="NAME=VALUE", help="Of --everything, such as points_per_side=16.", rich_help_panel=PROMPTS),
    ] = None,
    prompts: Annotated[Path | None, Option(metavar="FILE.json", help="A list of objects.", rich_help_panel=PROMPTS)] = None,
    slice: Annotated[int | None, Option(metavar="K", help="Where in a volume or video x,y lie.", rich_help_panel=PROMPTS)] = None,
    axis: Annotated[Axis | None, Option(help="Along which K counts; default: axial.", rich_help_panel=PROMPTS)] = None,
    window: Annotated[
        str | None, Option(metavar="LOW,HIGH", help="Grey values shown as black and white.", rich_help_panel=PROMPTS)
    ] = None,
    separate: Annotated[bool, Option("--separate", help="Write a mask an object too.", rich_help_panel=PROMPTS)] = False,
    all_masks: Annotated[bool, Option("--all-masks", help="Write a click's three masks.", rich_help_panel=PROMPTS)] = False,
    video: Annotated[bool, Option("--video", help="A folder's pictures are frames for sure.", rich_help_panel=PROMPTS)] = False,
    no_propagate: Annotated[bool, Option("--no-propagate", help="Stay on slice K.", rich_help_panel=PROMPTS)] = False,
    slice_by_slice: Annotated[
        bool, Option("--slice-by-slice", help="Through a volume from slice to slice.", rich_help_panel=PROMPTS)
    ] = False,
    device: Where = Device.auto,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Segment images, by a task, a trained model, or what you point at; every mask lies on the very grid its image came from."""
    with terminal(quiet=quiet, json=json, debug=debug) as screen:
        pointing = Pointing(
            point=point,
            not_point=not_point,
            box=box,
            mask_prompt=mask_prompt,
            text=text,
            text_encoder=text_encoder,
            everything=everything,
            set=set,
            prompts=prompts,
            slice=slice,
            axis=axis and axis.value,
            window=window,
            separate=separate,
            all_masks=all_masks,
            video=video,
            no_propagate=no_propagate,
            slice_by_slice=slice_by_slice,
        )
        if pointing.pointed:
            other = engine.value if engine is not Engine.torch else None
            refused = {"task": task, "explain": explain, "save_probabilities": save_probabilities, "max_ram": max_ram}
            asked = pointing.options(
                refused | {"flips": flips, "overlap": overlap, "engine": other},
                model=model,
                weights=weights,
                format=format and format.value,
                overwrite=overwrite,
                overlays=overlays,
                series=series,
                device=device.value,
                precision=precision.value,
            )
            from ..pipeline.prompted import segment_prompted

            with screen.progress("segment") as bar:
                tables.show_prompted(screen, segment_prompted(input, out, asked, progress=bar))
            return
        from ..pipeline.explain import explain as tell
        from ..pipeline.outputs import parse_size
        from ..pipeline.segment import SegmentOptions
        from ..pipeline.segment import segment as walk

        options = SegmentOptions(
            task=task,
            model=model,
            weights=weights,
            format=format and format.value,
            overwrite=overwrite,
            device=device.value,
            precision=precision.value,
            engine=engine.value,
            max_ram=parse_size(max_ram) if max_ram else None,
            series=series,
            flips=flips,
            overlap=overlap,
            save_probabilities=save_probabilities,
            report=report,
            overlays=overlays,
        )
        if explain:
            said = tell(input, out, options)
            screen.say(said)
            screen.result({"explain": said.splitlines()})
            return
        with screen.progress("segment") as bar:
            summary = walk(input, out, options, progress=lambda now: bar(now.index + now.done, now.count, now.case))
        tables.show_segmented(screen, summary)


@app.command()
def train(
    dataset: Annotated[Path, Argument(help="Paired images/ and masks/ or labels/, nnU-Net v2, or MSD.", show_default=False)],
    out: Annotated[Path, Option("--out", "-o", help="The run's folder.", show_default=False)],
    model: Annotated[str, Option(metavar="NAME|A,B|all", help="Of the catalog, or several to compare.")] = "unet",
    task: Annotated[str | None, Option(help="Take labels, decision and cleaning from a task that Vesalius ships.")] = None,
    recipe: Annotated[str | None, Option(metavar="NAME|FILE", help="How to train; default: what suits the model.")] = None,
    weights: Annotated[Path | None, Option(help="Begin with weights of this network, or a pretrained encoder.")] = None,
    plan: Annotated[Path | None, Option(help="Start from an edited plan.toml.")] = None,
    plan_only: Annotated[bool, Option("--plan-only", help="Inspect the data, write plan.toml and stop.")] = False,
    instances: Annotated[bool, Option("--instances", help="The masks number objects, not classes.")] = False,
    patients: Annotated[Path | None, Option(help="A table case,patient; default: cases.csv beside the images.")] = None,
    folds: Annotated[int | None, Option(min=2, help="Cross-validate with so many folds.")] = None,
    fold: Annotated[int | None, Option(min=0, help="Train this fold only, counted from 0.")] = None,
    resample: Annotated[bool, Option("--resample/--no-resample", help="Resample mixed spacings, or refuse them.")] = True,
    minutes: Annotated[float | None, Option(min=0.01, help="Train so long; the schedule ends with the time.")] = None,
    epochs: Annotated[int | None, Option(min=1, help="Stop after so many epochs.")] = None,
    steps: Annotated[int | None, Option(min=1, help="Stop after so many steps (batches).")] = None,
    patience: Annotated[int | None, Option(min=1, help="Stop after so many epochs without improvement.")] = None,
    resume: Annotated[bool, Option("--resume", help="Go on where the run in OUT stopped.")] = False,
    seed: Annotated[int | None, Option(help="Of the split, the weights and the augmentation; default: the recipe's.")] = None,
    workers: Annotated[int | None, Option(min=0, help="Processes that read and augment.")] = None,
    precision: Annotated[Precision | None, Option(help="Arithmetic of the training; default: the recipe's.")] = None,
    half: Annotated[bool, Option("--half", help="Store the weights in 16 bit: half the size.")] = False,
    device: Where = Device.auto,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train on your own data: inspect it, write the plan, then follow it."""
    with terminal(quiet=quiet, json=json, debug=debug) as screen:
        from ..training.loop import TrainOptions
        from ..training.loop import train as run

        options = TrainOptions(
            model=model,
            task=task,
            recipe=recipe,
            weights=weights,
            plan=plan,
            plan_only=plan_only,
            instances=instances,
            patients=patients,
            folds=folds,
            fold=fold,
            resample=resample,
            minutes=minutes,
            epochs=epochs,
            steps=steps,
            patience=patience,
            resume=resume,
            seed=seed,
            workers=workers,
            precision=precision and precision.value,
            half=half,
            device=device.value,
            quiet=quiet or json,
        )
        if options.several:
            from ..training.shootout import shoot_out

            tables.show_shoot_out(screen, shoot_out(dataset, out, options, say=screen.say))
            return
        tables.show_trained(screen, run(dataset, out, options, say=screen.say), out)


@app.command()
def evaluate(
    predictions: Annotated[Path, Argument(help="A mask, or a folder of masks.", show_default=False)],
    references: Annotated[Path, Argument(help="The reference, or a folder of them, paired by stem.", show_default=False)],
    out: Annotated[Path | None, Option("--out", "-o", help="A folder for scores.csv, summary.json and report.html.")] = None,
    labels: Annotated[str | None, Option(metavar="1=NAME,2=NAME", help=LABELS)] = None,
    instances: Annotated[bool, Option("--instances", help="The masks number objects: F1, AJI, PQ.")] = False,
    tolerance: Annotated[float | None, Option(min=0.0, help="Of the surface Dice (NSD), in mm; default 1.")] = None,
    tolerance_px: Annotated[float | None, Option(min=0.0, help="The same in pixels, for masks without spacing.")] = None,
    patients: Annotated[Path | None, Option(help="A table case,patient: intervals are clustered by patient.")] = None,
    images: Annotated[Path | None, Option(help="The images, to picture the worst cases on.")] = None,
    device: Where = Device.auto,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare masks with references: per case, per label, with 95 % intervals."""
    with terminal(quiet=quiet, json=json, debug=debug) as screen:
        if images is not None and not images.exists():
            raise UnreadableFile("there is no such file or folder", file=images, fix="check --images, or leave it out")
        from ..pipeline.evaluate import evaluate as compare

        with screen.progress("evaluate") as bar:
            evaluation = compare(
                predictions,
                references,
                labels=tables.read_labels(labels),
                instances=instances,
                nsd_tolerance_mm=tolerance,
                nsd_tolerance_px=tolerance_px,
                patients=patients,
                progress=bar,
            )
        tables.show_evaluated(screen, evaluation, out, images)


@app.command()
def doctor(quiet: Quiet = False, json: Json = False, device: Where = Device.auto, debug: Debug = False) -> None:
    """Look at this machine and this installation, and segment a tiny example."""
    with terminal(quiet=quiet, json=json, debug=debug) as screen:
        from . import doctor as room

        checks = list(room.examine_all(device.value))
        marks = {"ok": "ok", "absent": "-", "broken": "BROKEN"}
        screen.table(
            ("check", "", "found"),
            [(check.name, marks[check.state], check.found + (f" -> {check.fix}" if check.fix else "")) for check in checks],
        )
        screen.result({"checks": checks, "healthy": all(check.state != "broken" for check in checks)})
        for check in checks:
            if check.state == "broken":
                screen.code = 1
                screen.complain(f"broken: {check.name}: {check.found}. {check.fix or ''}")


def main() -> None:
    """The entry point of the `vesalius` command. SIGTERM, by which schedulers end a program, is heard as Ctrl-C is."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app()


if __name__ == "__main__":
    main()
