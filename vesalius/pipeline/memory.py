"""What a network will hold at once, counted without running it.

The forward pass runs on PyTorch's meta device, where tensors have shapes and no memory, and every storage is
counted from its birth to its end. That is the exact peak of live tensors; what the convolution library
reorders and pads comes on top, measured at about a fifth.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence

import torch
from torch import nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

WORKSPACE = 1.25  # oneDNN's own copies, on top of live tensors; benchmarks/inference.py measures it


class _LiveBytes(TorchDispatchMode):
    """Sums the bytes of storages alive, and keeps the peak."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.seen:
            return
        self.seen.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.now -= size


@torch.inference_mode()
def activation_bytes(model: nn.Module, shape: Sequence[int], *, dims: int, bf16: bool) -> tuple[int, int]:
    """Classes K, and the peak bytes of a forward pass with one tile of `shape` (C, Z, Y, X).

    Raises what the model raises for a size it cannot take (ShapeError).
    """
    dtype = torch.bfloat16 if bf16 else torch.float32
    state = {name: t.detach().to("meta", dtype if t.is_floating_point() else t.dtype) for name, t in model.state_dict().items()}
    channels, *size = shape
    x = torch.empty((1, channels, *size[3 - dims :]), dtype=dtype, device="meta")
    with _LiveBytes() as live:
        classes = functional_call(model, state, (x,)).main.shape[1]
    ends = 4 * math.prod(size) * (channels + 2 * classes)  # the tile as read, and its scores in float32, twice while averaged
    return classes, int(WORKSPACE * live.peak) + ends


def readable(size: float) -> str:
    """Bytes as people say them: 1.4 GB."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
