"""`vesalius models` and `vesalius tasks`: what can be named, and what each name stands for."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from .console import terminal
from .options import HELP, Debug, Device, Json, Quiet, Where

models_app = typer.Typer(help="List the models, or show one: its paper, licence and input.", context_settings=HELP)
tasks_app = typer.Typer(help="List the tasks, or show one: its labels, steps, model and weights.", context_settings=HELP)


@models_app.callback(invoke_without_command=True)
def models(
    context: typer.Context, quiet: Quiet = False, json: Json = False, device: Where = Device.auto, debug: Debug = False
) -> None:
    """List the models, or show one: its paper, licence and input."""
    if context.invoked_subcommand is None:
        list_models(quiet=quiet, json=json, device=device, debug=debug)


@models_app.command("list")
def list_models(quiet: Quiet = False, json: Json = False, device: Where = Device.auto, debug: Debug = False) -> None:
    """Every model of the catalog."""
    with terminal(quiet=quiet, json=json, debug=debug) as screen:
        from ..models.catalog import CATALOG

        rows = [(name, "/".join(f"{d}D" for d in each.dims), each.description, each.licence) for name, each in CATALOG.items()]
        screen.table(("model", "dims", "what it is", "licence"), sorted(rows))
        screen.result([model_record(name) for name in sorted(CATALOG)])


@models_app.command("show")
def show_model(
    name: Annotated[str, typer.Argument(show_default=False)],
    quiet: Quiet = False,
    json: Json = False,
    device: Where = Device.auto,
    debug: Debug = False,
) -> None:
    """One model: paper, licence, input, configuration."""
    with terminal(quiet=quiet, json=json, debug=debug) as screen:
        screen.record(model_record(name))


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
    fields = ("description", "dims", "paper", "licence", "loss", "recipe", "weights")
    return {"name": name, **{field: getattr(found, field) for field in fields}, "config": plain(found.config())}


def task_record(name: str) -> dict[str, Any]:
    """A task as plain values; raises UnknownName."""
    from ..core.errors import unknown_name
    from ..tasks.catalog import TASKS

    if name not in TASKS:
        raise unknown_name("task", name, TASKS)
    return TASKS[name].model_dump(mode="json")
