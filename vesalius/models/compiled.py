"""A Segmenter run by OpenVINO on the CPU: the same calls and sizes, the same scores but for rounding.

    tiles (B, C, *S)  ->  for each tile: the network compiled for C, *S and the arithmetic of the moment  ->  Outputs (B, K, *S)

Compiling takes the processor 2 to 12 s, 80 for the largest, for every new tile size, of which SIZES are kept: it pays for many
tiles of one size, and docs/benchmarks.md says for which networks. The network goes there as ONNX.
"""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import InputError
from .contract import Outputs
from .export import Scores, capture, export_onnx

TELEMETRY = "openvino_telemetry"
SIZES = 4  # compiled networks kept at a time: a folder's cases have few tile sizes


class Compiled(nn.Module):
    """`network`, a Segmenter in eval mode, as OpenVINO runs it. What it tells of sizes and channels is the network's.

    Under torch.autocast to bfloat16 it computes in bf16, otherwise in float32.
    Raises InputError where OpenVINO, or what writes ONNX for it, is not installed.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        require_openvino()
        self.network = network
        self.compiled: OrderedDict[tuple, Any] = OrderedDict()

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("network"), name)

    def forward(self, image: Tensor) -> Outputs:
        bf16 = torch.is_autocast_enabled("cpu")
        run = self._request(tuple(image.shape[1:]), bf16)
        tiles = (tile[None].contiguous(memory_format=torch.contiguous_format) for tile in image.float())
        return Outputs(torch.cat([torch.from_numpy(run.infer([tile.numpy()])[0].copy()) for tile in tiles]))

    def _request(self, shape: tuple[int, ...], bf16: bool) -> Any:
        key = (shape, bf16, torch.get_num_threads())
        if key not in self.compiled:
            self.network.output_size(shape[1:])  # a size that it does not take is told as ever
            self.compiled[key] = compiled(self.network, shape, bf16)
            if len(self.compiled) > SIZES:
                self.compiled.popitem(last=False)
        self.compiled.move_to_end(key)
        return self.compiled[key]


def compiled(network: nn.Module, shape: tuple[int, ...], bf16: bool) -> Any:
    """OpenVINO's request that takes one tile (1, *shape) and gives its scores, on as many threads as PyTorch has."""
    core = openvino_alone().Core()
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "ENABLE_CPU_PINNING": False,
    }
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode(False), torch.autocast("cpu", enabled=False):
        file = export_onnx(capture(Scores(network), (torch.zeros(1, *shape),)), Path(folder) / "network.onnx")
        return core.compile_model(core.read_model(file), "CPU", settings).create_infer_request()


def require_openvino() -> str:
    """The version of OpenVINO. Raises InputError where the extra is not installed."""
    try:
        import onnxscript  # noqa: F401

        return str(openvino_alone().__version__).split("-")[0]
    except ImportError as error:
        raise InputError("the engine openvino is not installed", fix="pip install 'vesalius[openvino]'") from error


def require_no_openvino() -> None:
    """Raises InputError where OpenVINO is loaded: training in the same process has ended in a segmentation fault (2026.4)."""
    if sys.modules.get("openvino") is not None:
        raise InputError("this process has loaded OpenVINO, beside which training crashes", fix="train in a process of its own")


def openvino_alone() -> ModuleType:
    """The module openvino, imported without its telemetry, which would report the very import over the network."""
    if "openvino" not in sys.modules:
        kept = sys.modules.pop(TELEMETRY, None)
        sys.modules[TELEMETRY] = None  # type: ignore[assignment]  # as if it were not installed: openvino has a stub for that
        try:
            importlib.import_module("openvino")
        finally:
            del sys.modules[TELEMETRY]
            if kept is not None:
                sys.modules[TELEMETRY] = kept
    return importlib.import_module("openvino")
