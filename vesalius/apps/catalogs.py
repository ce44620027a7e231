"""`vesalius models` and `vesalius tasks`: what can be named, and what each name stands for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .console import terminal
from .options import HELP, Debug, Device, Json, Quiet, Where
from .usage import Verbs

MODELS = "List the models, show one, or fetch and convert released weights."
models_app = typer.Typer(cls=Verbs, help=MODELS, context_settings=HELP)
SHIPPED = "List the tasks, or show one: its labels, steps, model and weights."
tasks_app = typer.Typer(cls=Verbs, help=SHIPPED, context_settings=HELP)


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
    """One model: paper, licence, recipe, input, output, weights, size and work, configuration; or released weights: where from,
    licence, preparation."""
    with terminal(quiet=quiet, json=json, debug=debug) as screen:
        from ..core.errors import unknown_name
        from ..models.catalog import CATALOG
        from ..models.checkpoints import CHECKPOINTS

        if name not in CATALOG and name not in CHECKPOINTS:
            raise unknown_name("model", name, [*CATALOG, *CHECKPOINTS])
        if name in CHECKPOINTS:
            screen.record(weights_record(name))
            return
        record = model_record(name)
        config = record.pop("config")
        screen.record(record | cost_record(name) | {"config": config})


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
        from ..core.errors import InputError
        from ..models.checkpoints import checkpoint, download
        from ..pipeline.glancer import IN_THE_BOX

        if name == IN_THE_BOX:
            raise InputError(f"'{name}' is in the package: there is nothing to download", fix=f"use it: --model {name}")
        entry = checkpoint(name)
        path = download(name, folder)
        checked = "its hash is the one known" if path.name in entry.sha256 else "no hash of this file is known to check it by"
        screen.say(f"{name}: {path}; {checked}. Licence {entry.licence}")
        screen.result({"name": name, "file": path, "licence": entry.licence, "verified": path.name in entry.sha256})


@models_app.command("import")
def import_weights(
    file: Annotated[Path, typer.Argument(help="An official .pth, .pt, .ckpt, .model or .safetensors file.", show_default=False)],
    name: Annotated[str, typer.Option("--as", help="Released weights such as medsam, or a model such as unet.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .safetensors file to write.")],
    config: Annotated[Path | None, typer.Option(help="TOML or JSON: sizes no tensor tells, such as heads.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Convert an official checkpoint to our names, and say which of its tensors matched."""
    with terminal(quiet=quiet, json=json, debug=debug) as screen:
        from ..models.checkpoints import import_file

        require_place(out, ".safetensors", overwrite)
        imported = import_file(file, name, read_sizes(config) if config else None, stated_in=config)
        imported.write(out, file)
        parts = [(part, count, "all") for part, count in imported.parts.items()]
        screen.table(("part of the network", "tensors", "matched"), parts)
        left = f"; not needed: {', '.join(imported.ignored)}" if imported.ignored else ""
        screen.say(f"{imported.used} of the file's {imported.used + len(imported.ignored)} tensors are used{left}")
        screen.say(f"{out}: {imported.model}, every tensor of the network found")
        record = {"model": imported.model, "checkpoint": imported.checkpoint, "file": out, "parts": imported.parts}
        screen.result(record | {"used": imported.used, "ignored": imported.ignored})


@models_app.command("export")
def export_model(
    what: Annotated[str, typer.Argument(help="A task, a run folder, a weights file.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="The .onnx file to write.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    quiet: Quiet = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a trained network as ONNX, one tile in and its scores out, and compare them with PyTorch's."""
    with terminal(quiet=quiet, json=json, debug=debug) as screen:
        from ..pipeline.deploy import export_predictor

        require_place(out, ".onnx", overwrite)
        done = export_predictor(what, out)
        off = "not compared, as onnxruntime is not installed" if done.difference is None else f"{done.difference:.1e} off at most"
        screen.say(f"{out}: {done.task}, image {tuple(done.image)} -> logits {tuple(done.logits)}; {off}")
        screen.say("its metadata carries the task as JSON: the steps before it, the decision and the cleaning behind it")
        for note in done.notes:
            screen.say(f"note: {note}")
        fields = ("task", "image", "logits", "difference", "notes")
        screen.result({"file": out, **{field: getattr(done, field) for field in fields}})


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


def read_sizes(path: Path) -> dict[str, Any]:
    """What a .toml or .json file says of a network's sizes; raises UnreadableFile."""
    import json
    import tomllib

    from ..core.errors import UnreadableFile

    try:
        text = path.read_text(encoding="utf-8-sig")
        found = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise UnreadableFile("the sizes cannot be read", file=path, fix="check the path") from error
    except ValueError as error:
        raise UnreadableFile(f"this is neither TOML nor JSON: {error}", file=path, fix="mend that line") from error
    if not isinstance(found, dict):
        raise UnreadableFile("this is no table of sizes", file=path, fix="write one value a name")
    return found.get("config", found) if isinstance(found.get("config", found), dict) else found


def model_record(name: str) -> dict[str, Any]:
    """What the catalog knows of a model, and its configuration with the defaults; raises UnknownName."""
    from ..models.catalog import entry, plain

    found = entry(name)
    fields = ("description", "kind", "dims", "paper", "licence", "loss", "recipe", "weights")
    return {"name": name, **{field: getattr(found, field) for field in fields}, "config": plain(found.config())}


def cost_record(name: str) -> dict[str, Any]:
    """What a model takes, gives and costs, and its released weights with their licences; raises UnknownName."""
    from ..models.checkpoints import CHECKPOINTS
    from ..models.overview import overview

    found = overview(name)
    released = {weights: each.licence for weights, each in CHECKPOINTS.items() if each.model == name}
    return {
        "input": found.input,
        "output": found.output,
        "parameters": found.parameters,
        "gflops": round(found.gflops, 3),  # one multiply-add is one
        "measured_on": found.measured_on,
        **({"released": released} if released else {}),
    }


def weights_record(name: str) -> dict[str, Any]:
    """What is known of released weights: where from, licence, preparation; raises UnknownName."""
    from ..models.catalog import plain
    from ..models.checkpoints import checkpoint

    found = checkpoint(name)
    names = ("about", "model", "licence", "repo", "files", "home", "sha256", "text", "learned", "rates")
    fields = {name: getattr(found, name) for name in names}
    return {"name": name, **fields, "greys": found.greys._asdict(), "frame": plain(found.frame), "config": plain(found.config)}


def task_record(name: str) -> dict[str, Any]:
    """A task as plain values; raises UnknownName."""
    from ..core.errors import unknown_name
    from ..tasks.catalog import TASKS

    if name not in TASKS:
        raise unknown_name("task", name, TASKS)
    return TASKS[name].model_dump(mode="json")


def require_place(out: Path, suffix: str, overwrite: bool) -> None:
    """Raises OutputError where `out` has another ending, or is there already and may not be replaced."""
    from ..core.errors import OutputError

    if out.suffix != suffix:
        raise OutputError(f"'{out.suffix}' is no ending of such a file", file=out, fix=f"name it {suffix}")
    if out.exists() and not overwrite:
        raise OutputError("the file exists already", file=out, fix="choose another name or give --overwrite")
