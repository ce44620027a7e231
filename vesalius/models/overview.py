"""What a model takes, gives and costs, at the sizes its config has by default: computed on PyTorch's meta device, never typed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from .catalog import entry, parameter_count
from .solid import Hints

PICTURE, VOLUME = (256, 256), (64, 128, 128)  # looked at where a config names no size of its own


@dataclass(frozen=True)
class Overview:
    """`input` and `output` in words; trainable numbers; 10^9 multiply-adds (one counts as 1) of one pass on `measured_on`.

    Of a promptable model the pass is that of its image encoder, which is run once an image.
    """

    input: str
    output: str
    parameters: int
    gflops: float
    measured_on: tuple[int, ...]


def overview(name: str) -> Overview:
    """The model `name` at its default config, without memory for its numbers; raises UnknownName."""
    found = entry(name)
    with torch.device("meta"):
        model: Any = found.builder(found.config()).eval().requires_grad_(False)  # the counter trips over views
        size = _size(model)
        image = torch.empty(1, getattr(model, "in_channels", 3), *size)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            hints = (Hints.nothing(image),) if found.kind == "solid" else ()
            result = model.embed(image) if found.kind == "prompts" else model(image, *hints)
    given = f"image (B, {image.shape[1]}, {_axes(size)}) float, prepared"
    if found.kind == "segmenter":
        given += f"; {_axes(model.divisor)} divide its sides, which are at least {_axes(model.smallest)}"
        more = len(result.auxiliary)
        said = f"logits (B, {result.main.shape[1]}, {_axes(result.main.shape[2:])})" + (f", {more} auxiliary" if more else "")
    elif found.kind == "prompts":
        given += ", and P prompts: points, boxes, masks" + (", text" if model.knows_text else "")
        said = "masks (P, 1 or 3, h, w) as logits of low resolution, and the IoU predicted for each (P, 1 or 3)"
    elif found.kind == "solid":
        given += ", and what is known of each: a box, points, masks on slices, an earlier mask"
        said = f"masks (B, 1, {_axes(size)}) as logits, and the IoU predicted for each (B, 1)"
    else:
        said = f"features (B, {', '.join(map(str, result.shape[1:]))})"
    return Overview(given, said, parameter_count(model), counter.get_total_flops() / 2e9, tuple(image.shape))


def _size(model: Any) -> tuple[int, ...]:
    """The size a config names, or a usual one that the network takes."""
    config = model.config
    if hasattr(model, "frame_size"):
        return (model.frame_size,) * getattr(model, "dims", 2)
    for holder in (config, getattr(config, "backbone", None)):
        size = getattr(holder, "image_size", None)
        if size is not None:
            return (size, size) if isinstance(size, int) else tuple(size)
    return tuple(model.nearest_size(PICTURE if model.dims == 2 else VOLUME))


def _axes(sizes: Any) -> str:
    return " x ".join(map(str, sizes))
