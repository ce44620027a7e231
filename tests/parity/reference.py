"""A reference folder: what to build, what to feed, what the official code made of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file
from torch import nn

from vesalius.models.contract import Outputs
from vesalius.models.weights import from_official

Found = Iterator[tuple[str, np.ndarray]]  # the name of an array, and our value for it


@dataclass(frozen=True)
class Folder:
    """One reference: what to build, what to feed, what to expect. `extra` is the whole config.json.

    `arrays` holds arrays.npz, and those of a `ref_loss.npz` beside it as `ref_loss_NAME`.
    """

    path: Path
    model: str
    config: dict[str, Any]
    extra: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @classmethod
    def open(cls, path: str | Path) -> Folder:
        record = json.loads((Path(path) / "config.json").read_text(encoding="utf-8"))
        arrays: dict[str, np.ndarray] = {}
        for part in (Path(path) / "arrays.npz", *sorted(Path(path).glob("ref_*.npz"))):
            with np.load(part) as file:
                arrays |= {name if part.stem == "arrays" else f"{part.stem}_{name}": file[name] for name in file.files}
        return cls(Path(path), record["model"], record.get("config", {}), record, arrays)

    def module(self) -> nn.Module:
        return from_official(self.model, load_file(self.path / "state.safetensors"), self.config)


def named_outputs(folder: Folder, suffix: str, outputs: Outputs) -> Found:
    """y or out: the main logits; y0.., out0.., ds0.. or y_0: main and auxiliary in the official order, the finest first."""
    every = (outputs.main, *outputs.auxiliary)
    for stem in ("y", "out", "ds", "logits"):
        yield f"{stem}{suffix}", outputs.main.numpy()
        for i, output in enumerate(every):
            yield f"{stem}{i}{suffix}", output.numpy()
            yield f"{stem}_{i}{suffix}", output.numpy()
