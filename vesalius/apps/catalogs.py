"""`vesalius models` and `vesalius tasks`: what can be named, and what each name stands for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .console import terminal
from .options import HELP, Debug, Device, Json, Quiet, Where

MODELS = "List the models, show one, or fetch and convert released weights."
models_app = typer.Typer(help=MODELS, context_settings=HELP)
tasks_app = typer.Typer(help="List the tasks, or show one: its labels, steps, model and weights.", context_settings=HELP)


@models_app.callback(invoke_without_command=True)
def models(
    context: typer.Context, quiet: Quiet = False, json: Json = False, device: Where = Device.auto, debug: Debug = False
) -> None:
    """List the models, show one, or fetch and convert released weights."""
    if context.invoked_subcommand is None:
        list_models(quiet=quiet, json=json, device=device, debug=debug)


@models_app.command("list")
def list_models(quiet: Quiet = False, json: Json = False, device: Where = Device.auto, debug: Debug = False) -> None:
    """Every model of the catalog."""
    with terminal(quiet=quiet, json=json, debug=debug) as screen:
        from ..models.catalog import CATALOG
        from ..models.checkpoints import CHECKPOINTS

        rows = [(name, "/".join(f"{d}D" for d in each.dims), each.description, each.licence) for name, each in CATALOG.items()]
        screen.table(("model", "dims", "what it is", "licence"), sorted(rows))
        released = [(name, each.model, each.about, each.licence) for name, each in CHECKPOINTS.items()]
        screen.say("")
        screen.table(("released weights", "model", "what they are", "licence"), released)
        screen.result([*(model_record(name) for name in sorted(CATALOG)), *(weights_record(name) for name in CHECKPOINTS)])


@models_app.command("show")
def show_model(
    name: Annotated[str, typer.Argument(show_default=False)],
    quiet: Quiet = False,
    json: Json = False,
    device: Where = Device.auto,
    debug: Debug = False,
) -> None:
    """One model: paper, licence, input, configuration; or released weights: where from, licence, preparation."""
    with terminal(quiet=quiet, json=json, debug=debug) as screen:
        from ..core.errors import unknown_name
        from ..models.catalog import CATALOG
        from ..models.checkpoints import CHECKPOINTS

        if name not in CATALOG and name not in CHECKPOINTS:
            raise unknown_name("model", name, [*CATALOG, *CHECKPOINTS])
        screen.record(weights_record(name) if name in CHECKPOINTS else model_record(name))


@models_app.command("download")
def download_weights(
    name: Annotated[str, typer.Argument(help="Released weights; `vesalius models` lists them.", show_default=False)],
    folder: Annotated[Path | None, typer.Option(help="Where to keep them; default: ~/.cache/vesalius/weights.")] = None,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Fetch released weights from the Hugging Face hub, once."""
    with terminal(quiet=quiet, json=json, debug=debug) as screen:
        from ..models.checkpoints import checkpoint, download

        entry = checkpoint(name)
        path = download(name, folder)
        checked = "its hash is the one known" if path.name in entry.sha256 else "no hash of this file is known to check it by"
        screen.say(f"{name}: {path}; {checked}. Licence {entry.licence}")
        screen.result({"name": name, "file": path, "licence": entry.licence, "verified": path.name in entry.sha256})


@models_app.command("import")
def import_weights(
    file: Annotated[Path, typer.Argument(help="An official checkpoint: .pth, .pt, .safetensors.", show_default=False)],
    name: Annotated[str, typer.Option("--as", help="Released weights such as medsam, or a model such as unet.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .safetensors file to write.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Convert an official checkpoint to our names, and say which of its tensors matched."""
    with terminal(quiet=quiet, json=json, debug=debug) as screen:
        from ..core.errors import OutputError
        from ..models.checkpoints import import_file

        if out.suffix != ".safetensors":
            raise OutputError(f"'{out.suffix}' is no format that weights are written in", file=out, fix="name it .safetensors")
        if out.exists() and not overwrite:
            raise OutputError("the file exists already", file=out, fix="choose another name or give --overwrite")
        imported = import_file(file, name)
        imported.write(out, file)
        parts = [(part, count, "all") for part, count in imported.parts.items()]
        screen.table(("part of the network", "tensors", "matched"), parts)
        left = f"; not needed: {', '.join(imported.ignored)}" if imported.ignored else ""
        screen.say(f"{imported.used} of the file's {imported.used + len(imported.ignored)} tensors are used{left}")
        screen.say(f"{out}: {imported.model}, every tensor of the network found")
        record = {"model": imported.model, "checkpoint": imported.checkpoint, "file": out, "parts": imported.parts}
        screen.result(record | {"used": imported.used, "ignored": imported.ignored})


@tasks_app.callback(invoke_without_command=True)
def tasks(
    context: typer.Context, quiet: Quiet = False, json: Json = False, device: Where = Device.auto, debug: Debug = False
) -> None:
    """List the tasks, or show one: its labels, steps, model and weights."""
    if context.invoked_subcommand is None:
        list_tasks(quiet=quiet, json=json, device=device, debug=debug)


@tasks_app.command("list")
def list_tasks(quiet: Quiet = False, json: Json = False, device: Where = Device.auto, debug: Debug = False) -> None:
    """Every task that Vesalius ships."""
    with terminal(quiet=quiet, json=json, debug=debug) as screen:
        from ..tasks.catalog import TASKS

        columns = ("task", "dims", "labels", "model", "weights")
        rows = [
            (name, f"{task.dims}D", ", ".join(x.name for x in task.labels), task.model.name, task.weights and task.weights.file)
            for name, task in sorted(TASKS.items())
        ]
        screen.table(columns, rows)
        screen.result([task_record(name) for name in sorted(TASKS)])


@tasks_app.command("show")
def show_task(
    name: Annotated[str, typer.Argument(show_default=False)],
    quiet: Quiet = False,
    json: Json = False,
    device: Where = Device.auto,
    debug: Debug = False,
) -> None:
    """One task: labels, steps, decision and cleaning, model, weights."""
    with terminal(quiet=quiet, json=json, debug=debug) as screen:
        screen.record(task_record(name))


def model_record(name: str) -> dict[str, Any]:
    """What the catalog knows of a model, and its configuration with the defaults; raises UnknownName."""
    from ..models.catalog import entry, plain

    found = entry(name)
    fields = ("description", "kind", "dims", "paper", "licence", "loss", "recipe", "weights")
    return {"name": name, **{field: getattr(found, field) for field in fields}, "config": plain(found.config())}


def weights_record(name: str) -> dict[str, Any]:
    """What is known of released weights: where from, licence, preparation; raises UnknownName."""
    from ..models.catalog import plain
    from ..models.checkpoints import checkpoint

    found = checkpoint(name)
    fields = {field: getattr(found, field) for field in ("about", "model", "licence", "repo", "files", "home", "sha256", "text")}
    return {"name": name, **fields, "frame": plain(found.frame), "config": plain(found.config)}


def task_record(name: str) -> dict[str, Any]:
    """A task as plain values; raises UnknownName."""
    from ..core.errors import unknown_name
    from ..tasks.catalog import TASKS

    if name not in TASKS:
        raise unknown_name("task", name, TASKS)
    return TASKS[name].model_dump(mode="json")
