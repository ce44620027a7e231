"""What a network will hold at once: counted on a small tile, since the maps of a network grow with its tile. And what is kept.

Whatever enters or leaves a module is counted from its birth to its end; what a layer needs inside, and what the convolution
library reorders, comes on top. (PyTorch's meta device would count a full tile, but takes a second to import.)
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
import weakref
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from ..core.errors import InputError
from ..core.image import Image
from ..transforms.restore import Restore

WORKSPACE = 1.25  # oneDNN's own copies, on top of live tensors; benchmarks/inference.py measures it
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # numbers of glibc's mallopt(3)
COUNTED: weakref.WeakKeyDictionary[nn.Module, dict[tuple[Any, ...], tuple[int, int]]] = weakref.WeakKeyDictionary()
KEPT, MAP = 512 << 20, 64 << 20  # bytes: freed memory kept at most; a feature map of a large tile, the largest block kept


class _LiveBytes:
    """Sums the bytes of the storages alive, and keeps the peak; while it is entered it sees what modules take and give."""

    def __init__(self) -> None:
        self.now = self.peak = 0
        self.seen: set[int] = set()

    def __enter__(self) -> _LiveBytes:
        self.hooks = (
            register_module_forward_pre_hook(lambda module, given: self._look(given)),
            register_module_forward_hook(lambda module, given, result: self._look(result)),
        )
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def _look(self, found: Any) -> None:
        if isinstance(found, torch.Tensor):
            self._count(found.untyped_storage())
        elif isinstance(found, tuple | list):
            for each in found:
                self._look(each)

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


def activation_bytes(model: nn.Module, shape: Sequence[int], *, dims: int, bf16: bool) -> tuple[int, int]:
    """Classes K, and the peak bytes of a forward pass with one tile of `shape` (C, Z, Y, X), which the model must take.

    Measured on `_probe`'s smaller tile and scaled by the voxels; once, since every page of a stack asks anew.
    """
    model = getattr(model, "network", model)  # of a compiled one: what PyTorch would take
    counted, key = COUNTED.setdefault(model, {}), (tuple(shape), dims, bf16, model.training)
    if key not in counted:
        counted[key] = _counted(model, shape, dims, bf16)
    return counted[key]


@torch.inference_mode()
def _counted(model: nn.Module, shape: Sequence[int], dims: int, bf16: bool) -> tuple[int, int]:
    channels, *size = shape
    probe = _probe(model, tuple(size[3 - dims :]))
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    casting = torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext()
    layout = torch.channels_last if dims == 2 else torch.channels_last_3d
    with _LiveBytes() as live, casting:
        x = torch.zeros((1, channels, *probe), device=device).contiguous(memory_format=layout)
        classes = model(x).main.shape[1]
    held = live.peak * math.prod(size[3 - dims :]) / math.prod(probe)
    ends = 4 * math.prod(size) * (channels + 2 * classes)  # the tile as read, and its scores in float32, twice while averaged
    return classes, int(WORKSPACE * held) + ends


def _probe(model: nn.Module, patch: tuple[int, ...]) -> tuple[int, ...]:
    """A small tile that the network takes, or `patch` itself where the network does not tell."""
    if not hasattr(model, "nearest_size"):
        return patch
    wanted = tuple(max(2 * step, least) for step, least in zip(model.divisor, model.smallest, strict=True))  # type: ignore[arg-type]
    small: tuple[int, ...] = model.nearest_size(wanted)  # type: ignore[assignment]
    return small if math.prod(small) < math.prod(patch) else patch


@cache
def keep_freed_memory() -> bool:
    """Have the C library keep freed blocks for the next tile, and say whether it does.

    glibc gives every freed feature map back to the system and has it zeroed again for the next: a sixth of a 3D network's time.
    Only blocks larger than MAP go back at once, and what is beyond KEPT. A user's own settings are left alone.
    """
    if not sys.platform.startswith("linux") or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    choose = getattr(ctypes.CDLL(None), "mallopt", None)
    return choose is not None and all([choose(MMAP_THRESHOLD, MAP), choose(TRIM_THRESHOLD, KEPT)])


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
