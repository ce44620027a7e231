"""What a network will hold at once, counted without running it.

The forward pass runs on PyTorch's meta device, where tensors have shapes and no memory, and every storage is
counted from its birth to its end. That is the exact peak of live tensors; what the convolution library
reorders and pads comes on top, measured at about a fifth.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..core.errors import InputError
from ..core.image import Image
from ..transforms.restore import Restore

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


@dataclass(frozen=True)
class Budget:
    """What `--max-ram` leaves: `tiles` bytes for tiled inference (None: unbounded), and `slices` to carry home at a time."""

    tiles: int | None
    slices: int = 8

    @staticmethod
    def of(max_ram: int | None, image: Image, small: Image, restore: Restore, classes: int) -> Budget:
        """Split `max_ram` bytes between the image, its prepared form, label maps, the way home, and the tiles.

        Raises InputError where nothing is left for tiles.
        """
        if max_ram is None:
            return Budget(None)
        fixed = image.array.nbytes if image.array.strides[0] else image.array[0].nbytes  # a repeated channel is held once
        if not np.shares_memory(image.array, small.array):
            fixed += small.array.nbytes
        fixed += math.prod(restore.lattice) + 2 * math.prod(image.grid.shape)
        plane = 4 * classes * restore.lattice[1] * restore.lattice[2]
        moved = restore.lattice != restore.prepared.shape
        for slices in (8, 4, 2, 1):
            home = plane * (3 * slices + 2) if moved else 0
            if slices == 1 or home < max_ram // 6:
                break
        left = max_ram - fixed - home
        if left <= 0:
            raise InputError(
                f"the image and its way home hold {readable(fixed + home)} already, {readable(max_ram)} are allowed",
                fix="allow more memory with --max-ram",
            )
        return Budget(left, slices)
