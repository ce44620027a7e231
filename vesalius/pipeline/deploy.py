"""A trained network as an ONNX file: one tile in, its scores out, and the task in the metadata for what lies around it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from ..core.errors import VesaliusError
from ..models.export import Scores, capture, difference, export_onnx
from .predictor import TASK_KEY, load

AGREES = 1e-4  # of the largest score: what other kernels round differently stays well below it


@dataclass(frozen=True)
class Deployed:
    """What was written. `image` (1, C, *S) and `logits` (1, K, *S) are the shapes; `difference` None: not compared.

    `notes` are those of the predictor: folds left out, a run that is not finished.
    """

    path: Path
    task: str
    image: tuple[int, ...]
    logits: tuple[int, ...]
    difference: float | None
    notes: tuple[str, ...] = ()


def export_predictor(what: str | Path, path: Path) -> Deployed:
    """Write the network of a task, run or weights file to `path`, folds averaged, for tiles of the task's own size.

    Raises what `load` raises, InputError where the extra `onnx` is not installed, and VesaliusError where onnxruntime, if it
    is installed, does not give the scores that PyTorch gives.
    """
    predictor = load(what, device="cpu", precision="fp32")
    task, network = predictor.task, Scores(*predictor.models).eval()
    first = predictor.models[0]
    size = first.nearest_size(task.inference.patch[3 - task.model_dims :])
    shape = (1, len(task.channels) * (2 * task.context + 1), *size)
    image = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = tuple(network(image).shape)
    export_onnx(capture(network, (image,)), path, metadata={TASK_KEY: task.model_dump_json()})
    off = difference(path, network, {"image": image})
    if off is not None and off > AGREES:
        path.unlink()
        raise VesaliusError(f"onnxruntime is off by {off:.1e} of the largest score, so {path} was not kept")
    return Deployed(path, task.name, shape, logits, off, predictor.notes)
