"""Networks as ONNX files, for runtimes that know no PyTorch: one input `image`, one output `logits`, every size fixed.

    capture(network, images)   torch.export: the computation as a graph, of these very shapes
    export_onnx(...)           that graph as ONNX, with metadata in the file
    difference(...)            how far onnxruntime is from PyTorch on the same image

Attention is written out as matrix products: what PyTorch's fused kernels leave in memory, no other runtime promises.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..core.atomic import atomic
from ..core.errors import InputError

OPSET = 20  # onnxruntime 1.17 and later


class Scores(nn.Module):
    """The main scores of Segmenters, averaged over several of them: what a runtime wants of a network, or of its folds."""

    def __init__(self, *models: nn.Module):
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, image: Tensor) -> Tensor:
        scores = [model(image).main for model in self.models]
        return scores[0] if len(scores) == 1 else torch.stack(scores).mean(0)


def capture(network: nn.Module, inputs: Sequence[Tensor]) -> torch.export.ExportedProgram:
    """The computation of `network`, in eval mode, on `inputs` of these shapes."""
    with sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        return torch.export.export(network.eval(), tuple(inputs))


def export_onnx(
    program: torch.export.ExportedProgram,
    path: Path,
    *,
    inputs: Sequence[str] = ("image",),
    outputs: Sequence[str] = ("logits",),
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a captured network to `path`. Raises InputError where the packages of the extra `onnx` are absent."""
    try:
        import onnxscript  # noqa: F401  # torch's exporter is built on it
    except ImportError as error:
        raise InputError("ONNX files need onnx and onnxscript", fix="pip install 'vesalius[onnx]'") from error
    with _quiet():
        found = torch.onnx.export(
            program, input_names=list(inputs), output_names=list(outputs), opset_version=OPSET, dynamo=True, verbose=False
        )
        assert found is not None  # it is None where a file is named
        found.model.metadata_props.update(metadata or {})
        with atomic(path) as part:
            found.save(part)
    return path


def difference(path: Path, network: nn.Module, inputs: Mapping[str, Tensor]) -> float | None:
    """How far onnxruntime's first output is from the network's, over the largest value; None where it is not installed."""
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    got = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})[0]
    with torch.no_grad():
        wanted: Any = network(*inputs.values())
    wanted = (wanted if isinstance(wanted, Tensor) else wanted[0]).numpy()
    return float(np.abs(got - wanted).max() / max(1.0, np.abs(wanted).max()))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's own remarks, which are about torch and not about the network."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
