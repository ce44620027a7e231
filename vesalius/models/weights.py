"""Weights: save, verify, load, and take over from official files. A file is data, never code: no unsafe pickle is opened."""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..core.atomic import atomic
from ..core.errors import WeightsError
from . import catalog
from .naming import Convert, unwrapped
from .sam.upscaling import Spread

log = logging.getLogger(__name__)

PICKLED = (".pth", ".pt", ".ckpt", ".bin", ".model")
# Buffers that official files carry and we derive or do not need: ignored by name, not by accident.
IGNORED = ("num_batches_tracked", "relative_position_index", "attn_mask", "mask_values", "empty_weight")
NUMPY = (np.float64(0).__reduce__()[0], np.empty(0).__reduce__()[0])  # the makers of a number and of an array
# What training scripts save beside the weights, and opening may make: NumPy's numbers and arrays (nnU-Net's losses), under
# the name of either NumPy, and the options of a command line. None of it runs anything.
PLAIN: list[Any] = [
    *((f, f"numpy.{core}.multiarray.{f.__name__}") for f in NUMPY for core in ("core", "_core")),
    *(np.ndarray, np.dtype, *(type(np.dtype(code)) for code in "?bhilqBHILQefdU"), argparse.Namespace),
]


@dataclass(frozen=True)
class KeyReport:
    """How a state dict and a module fit. `misshapen` holds (name, shape in the file, shape in the module)."""

    missing: tuple[str, ...]
    unused: tuple[str, ...]
    misshapen: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]

    @property
    def fits(self) -> bool:
        return not (self.missing or self.unused or self.misshapen)

    def __str__(self) -> str:
        shapes = [f"{name} {have} instead of {want}" for name, have, want in self.misshapen]
        parts = [("not found", self.missing), ("not used", self.unused), ("of another shape", tuple(shapes))]
        return "; ".join(f"{len(names)} {what}: {_few(names)}" for what, names in parts if names) or "every key fits"


def keep_bf16(model: nn.Module) -> nn.Module:
    """The model with the weights of linear layers and convolutions in bfloat16, as autocast would make them at each call.

    For inference under autocast: the same numbers, half the memory, and a small network no longer waits for its weights.
    """
    for part in model.modules():
        if isinstance(part, nn.Linear | nn.Conv2d | nn.Conv3d | Spread):
            part.to(torch.bfloat16)
    return model


def save(path: str | Path, model: nn.Module, metadata: dict[str, str], *, half: bool = False) -> Path:
    """Write the model's state to a .safetensors file, whole or not at all; returns the path.

    `half` stores float32 as float16, except tensors that would overflow; `load_state` gives float32 back.
    Raises OutputError for a full disk or a place that may not be written.
    """
    state = {name: _stored(tensor, half) for name, tensor in model.state_dict().items()}
    with atomic(path) as part:
        try:
            save_file(state, part, metadata=metadata)
        except SafetensorError as error:  # it puts into words what the disk said; `atomic` knows it by its number
            said = re.search(r"os error (\d+)", str(error))
            raise (OSError(int(said[1]), os.strerror(int(said[1]))) if said else error) from error
    return Path(path)


def load_state(path: str | Path, *, sha256: str | None = None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors (floating ones as float32, on the CPU) and the metadata of a .safetensors, .pth, .pt or .ckpt file.

    A pickled file is opened with weights_only, which runs no code. Raises WeightsError for a missing, truncated, altered
    or unsafe file.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError("there is no such weights file", file=path, fix="check the path")
    if sha256 is not None and file_hash(path) != sha256:
        raise WeightsError("the file is not the one expected (sha256 differs)", file=path, fix="fetch it again")
    state, metadata = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    return {k: v.float() if v.dtype in (torch.float16, torch.bfloat16) else v for k, v in state.items()}, metadata


def read_metadata(path: str | Path) -> dict[str, str]:
    """What a .safetensors file says of itself, none of its tensors read; raises WeightsError for one that is damaged."""
    try:
        with safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise WeightsError("this is no whole safetensors file", file=path, fix="fetch or copy it again") from error


def file_hash(path: str | Path) -> str:
    """The sha256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def load_into(model: nn.Module, state: dict[str, Tensor], *, file: str | Path | None = None) -> None:
    """Fill `model` from our own `state`, every key of it; raises WeightsError that lists what does not fit."""
    report = match_keys(model, state)
    if not report.fits:
        raise WeightsError(f"the weights do not fit this model: {report}", file=file, fix="use the model they were trained for")
    model.load_state_dict(state, strict=False)  # strictness was ours: IGNORED names may be absent


def match_keys(model: nn.Module, state: dict[str, Tensor]) -> KeyReport:
    """Compare names and shapes of a state dict, in our names, with a module; IGNORED names do not count."""
    have, want = state, model.state_dict()
    missing = tuple(k for k in want if k not in have and not is_ignored(k))
    unused = tuple(k for k in have if k not in want and not is_ignored(k))
    shapes = tuple((k, tuple(have[k].shape), tuple(want[k].shape)) for k in have if k in want and have[k].shape != want[k].shape)
    return KeyReport(missing, unused, shapes)


def from_official(model: str, state: dict[str, Any], config: dict[str, Any], *, strict: bool = True) -> nn.Module:
    """Our module, in eval mode, with the weights of an official state dict; `config` as in the reference files.

    Raises WeightsError that lists keys not used, not found or of another shape; with strict=False they are logged as a
    warning instead and stay at their initial values. Raises UnknownName for a model or layout that does not exist.
    """
    found = catalog.entry(model)
    if found.official is None:
        raise WeightsError(f"there are no official weights for '{model}'", fix="use load_state for our own files")
    ours, convert = found.official(config)
    return converted(found.builder(ours), state, convert, strict=strict)


def converted(module: nn.Module, state: dict[str, Any], convert: Convert, *, strict: bool = True) -> nn.Module:
    """The module, in eval mode, with an official state dict after its conversion; errors as in `from_official`."""
    ours = convert({k: v for k, v in unwrapped(state).items() if not is_ignored(k)})
    report = match_keys(module, ours)
    if not report.fits and strict:
        raise WeightsError(f"the official weights do not fit: {report}", fix="check the config against the file")
    if not report.fits:
        log.warning("official weights: %s", report)
    bad = {name for name, *_ in report.misshapen}
    module.load_state_dict({k: v for k, v in ours.items() if k not in bad}, strict=False)
    return module.eval()


def is_ignored(name: str) -> bool:
    """Whether official files carry this tensor and we derive or do not need it."""
    return name.rsplit(".", 1)[-1] in IGNORED


def _few(names: tuple[str, ...], most: int = 3) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _stored(tensor: Tensor, half: bool) -> Tensor:
    tensor = tensor.detach().cpu().contiguous()
    if half and tensor.dtype == torch.float32:
        small = tensor.half()
        if bool(torch.isfinite(small).all()):
            return small
    return tensor


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError("this is no whole safetensors file", file=path, fix="fetch or copy it again") from error


def _read_pickle(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if path.suffix not in PICKLED:
        known = ", ".join((".safetensors", *PICKLED))
        raise WeightsError(f"'{path.suffix}' is no kind of weights file", file=path, fix=f"give one of {known}")
    try:
        with open(path, "rb") as file:
            if file.read(2)[:1] not in (b"P", b"\x80"):  # a zip archive, or a pickle of old
                raise EOFError
        with torch.serialization.safe_globals(PLAIN):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            "this checkpoint is damaged, or would run code when opened",
            file=path,
            fix="convert it to safetensors where you trust it",
        ) from error
    except Exception as error:  # a cut or altered archive fails in any way it likes
        raise WeightsError("this is no whole PyTorch checkpoint", file=path, fix="fetch or copy it again") from error
    for wrapper in ("state_dict", "model_state_dict", "model"):  # where training scripts put the weights
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict):
        raise WeightsError("this checkpoint holds no state dict", file=path, fix="save model.state_dict()")
    if unnamed := [key for key in content if not isinstance(key, str)]:
        raise WeightsError(f"{unnamed[0]!r} is no name of a tensor", file=path, fix="save model.state_dict()")
    state = {k: v for k, v in content.items() if isinstance(v, Tensor)}
    if odd := [k for k in content if k not in state and not is_ignored(k)]:
        more = _few(tuple(odd))
        raise WeightsError(f"this checkpoint holds more than tensors: {more}", file=path, fix="save model.state_dict() alone")
    return state, {}
