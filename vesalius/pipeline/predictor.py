"""Models ready to use: a task and its weights found by name, run folder or file, on the device that was asked for.

    'nuclei'                      a task: its weights come with the package
    runs/hippocampus              a training run: weights.safetensors, or fold_0 ... fold_4, the finished of which are averaged
    unet + weights=FILE           the task travels inside the weights file
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import nn

from ..core.errors import InputError, UnknownName, WeightsError, unknown_name
from ..models.catalog import CATALOG, build
from ..models.checkpoints import MODEL_KEY
from ..models.compiled import Compiled, require_openvino
from ..models.weights import file_hash, load_into, load_state
from ..tasks.catalog import TASKS
from ..tasks.task import Task, read_task
from .runs import RUN_WEIGHTS, Run, find_run
from .tiled import Precision, use_bf16

Engine = Literal["torch", "openvino"]
DEVICES = ("auto", "cpu", "cuda", "mps")
TASK_KEY = "vesalius"  # in the metadata of a weights file


@dataclass(frozen=True, eq=False)
class Predictor:
    """`task` and the `models` that solve it, in eval mode on `device`; several models are folds, averaged.

    `notes` say which folds are left out, or that the run is not finished.
    """

    task: Task
    models: tuple[nn.Module, ...]
    weights_hash: str
    device: torch.device
    precision: Precision
    weights: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()
    engine: Engine = "torch"

    @property
    def bf16(self) -> bool:
        """Whether `precision` comes to bfloat16 on this device."""
        return use_bf16(self.precision, self.device)

    @property
    def arithmetic(self) -> str:
        """What computes, in words: 'bf16', 'fp32', or either by OpenVINO."""
        return ("bf16" if self.bf16 else "fp32") + (f" by OpenVINO {require_openvino()}" if self.engine == "openvino" else "")


def load(
    what: str | Path | None = None,
    *,
    weights: str | Path | None = None,
    device: str = "auto",
    precision: Precision = "auto",
    engine: Engine = "torch",
) -> Predictor:
    """The predictor for a task name, a run folder, a weights file, or a catalog model together with `weights`.

        >>> predictor = vesalius.load("hippocampus", device="cpu")
        >>> [label.name for label in predictor.task.labels]
        ['anterior', 'posterior']

    Raises UnknownName with the nearest name, WeightsError for weights that are missing, altered or made for something else,
    and InputError for a device or an engine that is not there.

    The engine `openvino` compiles the network for each size of tile, for seconds, and is then faster on a CPU for some networks.
    """
    place = choose_device(device) if engine == "torch" else choose_openvino(engine, device)
    use_bf16(precision, place)  # an unknown precision is told before anything is read
    task, paths, sha256, notes = _find(what, weights)
    loaded = [_load_one(path, task, sha256) for path in paths]
    first = loaded[0][0]
    if what in CATALOG and what != first.model.name:
        told = f"these are weights of a '{first.model.name}', not of a '{what}'"
        raise WeightsError(told, file=paths[0], fix=f"give --model {first.model.name}, or leave it out")
    for path, (other, _) in zip(paths, loaded, strict=True):
        if any(getattr(other, key) != getattr(first, key) for key in ("labels", "channels", "decide", "steps", "slices")):
            raise WeightsError("this fold was trained for other labels, channels, steps or slices than the first", file=path)
    hashes = "".join(file_hash(path) for path in paths)
    digest = hashes if len(paths) == 1 else hashlib.sha256(hashes.encode()).hexdigest()
    models = tuple(_settle(model, place) for _, model in loaded)
    models = models if engine == "torch" else tuple(Compiled(model) for model in models)
    return Predictor(first, models, digest, place, precision, paths, notes, engine)


def choose_device(name: str) -> torch.device:
    """The device called `name`; 'auto' takes the best there is. One that was asked for and is absent is an error."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if there[kind]))
    if name not in there:
        raise unknown_name("device", name, DEVICES)
    if not there[name]:
        raise InputError(f"PyTorch finds no {name} device on this computer", fix="use --device auto or --device cpu")
    return torch.device(name)


def choose_openvino(engine: str, device: str) -> torch.device:
    """The CPU, which is where OpenVINO computes for us. Raises UnknownName, and InputError for another device or no OpenVINO."""
    if engine != "openvino":
        raise unknown_name("engine", engine, get_args(Engine))
    if device not in ("auto", "cpu"):
        raise InputError(f"the engine openvino computes on the CPU, not on {device}", fix="leave out --device, or --engine")
    require_openvino()
    return torch.device("cpu")


Found = tuple[Task | None, tuple[Path, ...], str | None, tuple[str, ...]]


def _find(what: str | Path | None, weights: str | Path | None) -> Found:
    """The task, if its name says it already; the weights files; the hash they must have, if known; and what must be said."""
    if what is None and weights is None:
        raise UnknownName("neither a task nor a model was named", fix=_choices())
    name = str(what) if what is not None else None
    if name in TASKS:
        task = TASKS[name]
        if weights is not None:
            return task, (_existing(weights),), None, ()
        return task, (_shipped(task),), task.weights.sha256 if task.weights else None, ()
    if name in CATALOG or name is None:
        if weights is None:
            using = sorted(task.name for task in TASKS.values() if task.model.name == name)
            raise WeightsError(
                f"the model '{name}' has no weights of its own",
                fix=f"give --weights FILE or a run folder, or name a task{' that uses it: ' + ', '.join(using) if using else ''}",
            )
        return None, (_existing(weights),), None, ()
    run = _in_place(Path(name), name, weights)
    return None, run.weights, None, run.notes


def _in_place(path: Path, name: str, weights: str | Path | None) -> Run:
    """The weights that lie at `path`, a run folder or a file."""
    if weights is not None and path.exists():
        raise WeightsError("a run folder brings its own weights", file=path, fix="leave out --weights, or name a model")
    if path.is_file():
        return Run((path,))
    if path.is_dir():
        if (found := find_run(path)).weights:
            return found
        fix = "name a folder that `vesalius train` wrote"
        raise WeightsError(f"this folder holds no {RUN_WEIGHTS}, nor folds with one", file=path, fix=fix)
    raise unknown_name("task, model or run", name, [*TASKS, *CATALOG])


def _existing(weights: str | Path) -> Path:
    path = Path(weights)
    if not path.is_file():
        raise WeightsError("there is no such weights file", file=path, fix="check the path")
    return path


def _shipped(task: Task) -> Path:
    """The weights of `task` inside the installed package."""
    if task.weights is None:
        raise WeightsError(f"the task '{task.name}' ships no weights", fix="give --weights FILE, or train it")
    path = Path(str(files("vesalius") / "weights" / task.weights.file))
    if not path.is_file():
        raise WeightsError(f"the installation lacks the weights of '{task.name}'", file=path, fix="install vesalius again")
    return path


def _load_one(path: Path, named: Task | None, sha256: str | None) -> tuple[Task, nn.Module]:
    """The task and the model of one weights file. The file's own record wins; a task named beside it must agree."""
    state, metadata = load_state(path, sha256=sha256)
    own = read_task(metadata[TASK_KEY], str(path)) if TASK_KEY in metadata else None
    task = named if sha256 is not None else own or named
    if task is None:
        raise WeightsError("this file does not say what it was trained for", file=path, fix=_use_of(path, metadata))
    if named is not None and named.labels.values != task.labels.values:
        raise WeightsError(f"these weights were trained for '{task.name}', not for '{named.name}'", file=path)
    model = build(task.model.name, task.model.config)
    load_into(model, state, file=path)
    return task, model


def _use_of(path: Path, metadata: dict[str, str]) -> str:
    """What can be done with a weights file that carries no task; `vesalius models import` writes such files."""
    if MODEL_KEY not in metadata:
        return "name the task with --task"
    record = json.loads(metadata[MODEL_KEY])
    if record["frame"] is not None:
        return "point at objects with it: --model FILE, and prompts"
    train = f"vesalius train DATASET --model {record['model']} --weights {path}"
    return f"teach it one: {train}; or name the task that it knows with --task"


def _settle(model: nn.Module, device: torch.device) -> nn.Module:
    """In eval mode, on its device, with kernels laid out as the channels_last input wants them."""
    layout = torch.channels_last if model.dims == 2 else torch.channels_last_3d
    return model.eval().requires_grad_(False).to(device).to(memory_format=layout)  # type: ignore[call-overload]


def _choices() -> str:
    return f"give --task ({', '.join(sorted(TASKS))}) or --model ({', '.join(sorted(CATALOG))}, or a run folder)"
