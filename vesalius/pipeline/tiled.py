"""Tiled inference: a network sees a volume patch by patch, and only the planes still being written are held.

    tiles, by their z      |--A--|
                              |--B--|          planes above B's first one are final once A is done:
                                 |--C--|       they leave as a slab before C is read
    held                      ======           (K, patch z, Y, X), never (K, Z, Y, X)

Scores of overlapping tiles are averaged with Gaussian weights (nnU-Net, Isensee et al. 2021). The map is a product of
one curve an axis, so its sum over the tiles is one too: the curves are normalised beforehand, and neither a
volume of weights nor a division afterwards is needed.

Pictures are volumes of one plane; 2D models walk through a volume plane by plane, and with `context` c they see the c planes
before and behind each one as further channels, the outermost plane repeated where there is none. Models of valid convolutions
give less than they see (Ronneberger et al. 2015, overlap-tile): their tiles step by what they give, and what they see
beyond the border is mirrored. For an image smaller than a patch the tile shrinks to the next size that the network
takes; what is still missing is made up as in training, pictures mirrored, volumes with zeros.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from ..core.errors import InputError, ShapeError, UnknownName
from ..transforms.tiles import gaussian, mirrored, starts
from .memory import activation_bytes, keep_freed_memory, readable

Precision = Literal["auto", "fp32", "bf16"]
Slab = tuple[int, np.ndarray]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class TilePlan:
    """How a volume is walked through, and the memory it takes beside image and weights, in bytes."""

    patch: Shape  # what the model sees, (Z, Y, X)
    gives: Shape  # what it gives, smaller for valid convolutions
    starts: tuple[tuple[int, ...], ...]  # first voxel of what the tiles give, per axis, on the padded lattice
    padded: Shape
    before: Shape  # padding in front, per axis
    mirrored: bool  # what lies beyond the border: the image mirrored, or zeros
    batch: int
    slab: int  # planes that leave together
    open: int  # planes being written at a time, at most
    dtype: torch.dtype  # of the held planes
    bf16: bool
    held_bytes: int
    context: int = 0  # planes seen before and behind the one that is segmented

    @property
    def tiles(self) -> int:
        return math.prod(len(axis) for axis in self.starts)


def tiled(
    models: nn.Module | Sequence[nn.Module],
    array: np.ndarray,
    *,
    patch: Sequence[int],
    overlap: float = 0.5,
    flips: Sequence[int] = (),
    batch: int | None = None,
    precision: Precision = "auto",
    ram_bytes: int | None = None,
    context: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Slab]:
    """Yield `(z0, logits (K, dz, Y, X) float32)` in order of z, covering `array` (C, Z, Y, X) once.

    The array may be a memmap: it is read tile by tile. Several `models` (folds) and all mirrorings along `flips`
    (0 = Z, 1 = Y, 2 = X) are averaged over their logits. `ram_bytes` bounds what this function holds, activations included.
    `context`: neighbouring planes on either side that a 2D model sees too, so that it takes C (2 context + 1) channels, plane
    after plane in order of z. `progress` is called with tiles done and tiles in all.
    Raises ShapeError, and InputError where the bound cannot be met.
    """
    models = [models] if isinstance(models, nn.Module) else list(models)
    plan = plan_tiles(
        models,
        array.shape,
        patch=patch,
        overlap=overlap,
        batch=batch,
        precision=precision,
        ram_bytes=ram_bytes,
        context=context,
    )
    return _walk(models, array, plan, _mirrorings(flips), progress)


def plan_tiles(
    models: Sequence[nn.Module],
    shape: Sequence[int],
    *,
    patch: Sequence[int],
    overlap: float = 0.5,
    batch: int | None = None,
    precision: Precision = "auto",
    ram_bytes: int | None = None,
    context: int = 0,
) -> TilePlan:
    """The walk for an array of `shape` (C, Z, Y, X); runs nothing. Raises ShapeError, and InputError for too little memory."""
    channels, *size = shape
    patch = tuple(int(n) for n in patch)
    if len(size) != 3 or len(patch) != 3:
        raise ShapeError(f"tiles need an array (C, Z, Y, X) and a patch (Z, Y, X), not {tuple(shape)} and {patch}")
    if context and _dims(models[0]) != 2:
        raise ShapeError("a model of volumes sees its neighbouring planes already", fix="give context to a 2D model alone")
    patch = _shrunk(models[0], patch, tuple(size))
    gives = _gives(models[0], patch)
    padded = tuple(max(n, p) for n, p in zip(size, gives, strict=True))
    walk = tuple(tuple(starts(n, p, overlap)) for n, p in zip(padded, gives, strict=True))
    bf16 = use_bf16(precision, device_of(models[0]))
    classes, each = activation_bytes(models[0], (channels * (2 * context + 1), *patch), dims=_dims(models[0]), bf16=bf16)
    plane = classes * padded[1] * padded[2]
    held = min(padded[0], gives[0])
    tiles = math.prod(len(axis) for axis in walk)
    for count, slab, dtype in _choices(batch, plane, padded[0], tiles, patch, bf16):
        ahead = max(each[-1][0] - each[0][0] for each in _batches(walk, count))  # short rows that go together
        planes = min(padded[0], held + ahead + slab)
        bytes_ = count * each + plane * (planes * dtype.itemsize + slab * 4)
        if ram_bytes is None or bytes_ <= ram_bytes:
            break
    else:
        have, want = readable(max(ram_bytes or 0, 0)), readable(bytes_)
        raise InputError(
            f"tiles of {patch} with {classes} classes need at least {want} beside image and weights, and {have} are left",
            fix="allow more memory with --max-ram",
        )
    before = tuple((p - n) // 2 for p, n in zip(padded, size, strict=True))
    mirrored = gives != patch or _dims(models[0]) == 2
    return TilePlan(patch, gives, walk, padded, before, mirrored, count, slab, planes, dtype, bf16, bytes_, context)


def use_bf16(precision: Precision, device: torch.device) -> bool:
    """Whether networks run in bfloat16: `auto` where the hardware multiplies it (AMX, AVX512-BF16, recent GPUs)."""
    if precision == "fp32":
        return False
    if precision == "bf16":
        return True
    if precision != "auto":
        raise UnknownName(f"there is no precision '{precision}'", fix="choose auto, fp32 or bf16")
    if device.type == "cpu":
        known = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
        return any(asked() for asked in known if asked)
    return device.type == "cuda" and torch.cuda.is_bf16_supported()


def device_of(model: nn.Module) -> torch.device:
    """Where the model's parameters lie."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _dims(model: nn.Module) -> int:
    return int(model.dims)  # type: ignore[arg-type]


def _shrunk(model: nn.Module, patch: Shape, size: Shape) -> Shape:
    """`patch`, no larger along any axis than the image needs: a wide empty border would change what norms and context see."""
    if _gives(model, patch) != patch or not hasattr(model, "divisor"):
        return patch
    front = (1,) if _dims(model) == 2 else ()
    steps, least = (*front, *model.divisor), (*front, *model.smallest)  # type: ignore[misc]
    rounded = (max(-(-n // step) * step, low) for n, step, low in zip(size, steps, least, strict=True))
    return tuple(min(p, n) for p, n in zip(patch, rounded, strict=True))


def _gives(model: nn.Module, patch: Shape) -> Shape:
    if not hasattr(model, "output_size"):
        return patch
    if _dims(model) == 2:
        return (1, *model.output_size(patch[1:]))
    return tuple(model.output_size(patch))


def _choices(
    batch: int | None, plane: int, depth: int, tiles: int, patch: Shape, bf16: bool
) -> Iterator[tuple[int, int, torch.dtype]]:
    """Batch, slab and precision of the held planes, from the comfortable to the thrifty.

    Scores from bfloat16 have 8 significant bits, so half precision, with 11, holds them.
    """
    comfortable = batch or max(1, min(tiles, 4 * 256 * 256 // math.prod(patch)))  # more gains nothing on a CPU
    slab = max(1, min(depth, 2**24 // (4 * plane)))  # about 16 MB
    dtype = torch.float16 if bf16 else torch.float32
    yield comfortable, slab, dtype
    for count in sorted({1, comfortable // 2} - {0, comfortable}, reverse=True):
        yield count, slab, dtype
    yield 1, 1, dtype
    yield 1, 1, torch.float16


def _batches(walk: tuple[tuple[int, ...], ...], batch: int) -> list[list[Shape]]:
    """All tiles in order of z, at most `batch` at a time. A row of tiles, all of one z, is finished before the next is opened,
    and shared out evenly; only rows shorter than a batch go together."""
    rows = max(1, batch // (len(walk[1]) * len(walk[2])))
    found = []
    for first in range(0, len(walk[0]), rows):
        tiles = list(itertools.product(walk[0][first : first + rows], *walk[1:]))
        size = -(-len(tiles) // -(-len(tiles) // batch))
        found += [tiles[at : at + size] for at in range(0, len(tiles), size)]
    return found


def _mirrorings(flips: Sequence[int]) -> list[tuple[int, ...]]:
    axes = sorted(set(flips))
    if any(axis not in (0, 1, 2) for axis in axes):
        raise UnknownName(f"there is no axis to mirror in {list(flips)}", fix="0 is Z, 1 is Y, 2 is X")
    return [chosen for n in range(len(axes) + 1) for chosen in itertools.combinations(axes, n)]


@torch.inference_mode()
def _walk(models: Sequence[nn.Module], array: np.ndarray, plan: TilePlan, mirrorings: list, progress: Any) -> Iterator[Slab]:
    device = device_of(models[0])
    if device.type == "cpu":
        keep_freed_memory()
    curves = [_curves(n, p, s) for n, p, s in zip(plan.padded, plan.gives, plan.starts, strict=True)]
    planes = _Planes(plan, array.shape[1:], device)
    batches, done = _batches(plan.starts, plan.batch), 0
    for index, chosen in enumerate(batches):
        x = torch.from_numpy(np.stack([_seen(array, tile, plan) for tile in chosen])).to(device)
        scores = _forward(models, x, mirrorings, plan.bf16)
        for tile, score in zip(chosen, scores, strict=True):
            planes.add(score, tile, [curve[start] for curve, start in zip(curves, tile, strict=True)])
        last = index == len(batches) - 1
        yield from planes.finished(plan.padded[0] if last else batches[index + 1][0][0], last)
        done += len(chosen)
        if progress:
            progress(done, plan.tiles)


def _curves(size: int, patch: int, walk: Sequence[int]) -> dict[int, torch.Tensor]:
    """The Gaussian of one axis for each start, divided by the sum of all of them where it lies."""
    curve = gaussian((patch,)).astype(np.float64)
    total = np.zeros(size)
    for start in walk:
        total[start : start + patch] += curve
    return {start: torch.from_numpy((curve / total[start : start + patch]).astype(np.float32)) for start in walk}


def _seen(array: np.ndarray, tile: Shape, plan: TilePlan) -> np.ndarray:
    """What the model sees (C (2 context + 1), *patch) float32 for the tile that gives from `tile` on."""
    if not plan.context:
        return _cut(array, tile, plan)
    planes = np.clip(np.arange(tile[0] - plan.context, tile[0] + plan.context + 1), 0, array.shape[1] - 1)
    return np.concatenate([_cut(array, (int(z), *tile[1:]), plan) for z in planes])


def _cut(array: np.ndarray, tile: Shape, plan: TilePlan) -> np.ndarray:
    """The image (C, *patch) float32 where the tile lies that gives from `tile` on."""
    low = [s - b - (p - g) // 2 for s, b, p, g in zip(tile, plan.before, plan.patch, plan.gives, strict=True)]
    inside = tuple(slice(max(a, 0), min(a + p, n)) for a, p, n in zip(low, plan.patch, array.shape[1:], strict=True))
    part = array[(slice(None), *inside)]
    if part.shape[1:] == plan.patch:
        return np.ascontiguousarray(part, dtype=np.float32)
    if plan.mirrored:
        index = (mirrored(np.arange(a, a + p), n) for a, p, n in zip(low, plan.patch, array.shape[1:], strict=True))
        z, y, x = np.ix_(*index)
        return np.ascontiguousarray(array[:, z, y, x], dtype=np.float32)
    whole = np.zeros((len(array), *plan.patch), np.float32)
    whole[(slice(None), *(slice(s.start - a, s.stop - a) for s, a in zip(inside, low, strict=True)))] = part
    return whole


def _forward(models: Sequence[nn.Module], x: torch.Tensor, mirrorings: list, bf16: bool) -> torch.Tensor:
    """Logits (B, K, *gives) float32 of `x` (B, C, Z, Y, X), averaged over models and mirrorings."""
    total = None
    flat = _dims(models[0]) == 2
    casting = torch.autocast(x.device.type, torch.bfloat16) if bf16 else nullcontext()
    with casting:
        for model, axes in itertools.product(models, mirrorings):
            turned = x.flip([axis + 2 for axis in axes]) if axes else x
            turned = turned.squeeze(2) if flat else turned
            turned = turned.contiguous(memory_format=torch.channels_last if flat else torch.channels_last_3d)
            scores = model(turned).main.contiguous().float()  # planes of it are added up: no channels_last
            scores = scores.unsqueeze(2) if flat else scores
            scores = scores.flip([axis + 2 for axis in axes]) if axes else scores
            total = scores if total is None else total.add_(scores)
    count = len(models) * len(mirrorings)
    return total if count == 1 else total.div_(count)  # type: ignore[union-attr, return-value]


class _Planes:
    """The planes still being written, each (K, Y, X), by their z on the padded lattice; finished ones are used again.

    All lie in one block: taken one by one between a network's short-lived maps, they would tear holes into the heap
    that the process keeps, a multiple of what it uses.
    """

    def __init__(self, plan: TilePlan, size: Shape, device: torch.device):
        self.plan, self.size, self.device = plan, size, device
        self.open: dict[int, torch.Tensor] = {}
        self.spare: list[torch.Tensor] = []
        self.next = plan.before[0]

    def add(self, scores: torch.Tensor, tile: Shape, curves: list[torch.Tensor]) -> None:
        """Add `scores` (K, *gives), weighted; planes of mere padding are left out."""
        z_weight, y_weight, x_weight = (curve.to(self.device) for curve in curves)
        weight = torch.outer(y_weight, x_weight)
        window = (slice(None), slice(tile[1], tile[1] + len(y_weight)), slice(tile[2], tile[2] + len(x_weight)))
        if self.plan.dtype == torch.float16:
            scores = scores.clamp_(-6e4, 6e4).mul_(weight)  # half precision ends at 65504
        for i, factor in enumerate(z_weight.tolist()):
            z = tile[0] + i
            if self.plan.before[0] <= z < self.plan.before[0] + self.size[0]:
                part = self._plane(z, len(scores))[window]
                if part.dtype == torch.float16:
                    part.add_(scores[:, i], alpha=factor)
                else:
                    part.addcmul_(scores[:, i], weight, value=factor)

    def finished(self, end: int, last: bool) -> Iterator[Slab]:
        """Slabs of the planes in front of `end`, which nobody will touch any more."""
        _, y, x = self.plan.before
        end = min(end, self.plan.before[0] + self.size[0])
        while end - self.next >= self.plan.slab or (last and self.next < end):
            count = min(self.plan.slab, end - self.next)
            ready = [self.open.pop(self.next + i) for i in range(count)]
            slab = np.empty((len(ready[0]), count, *self.size[1:]), np.float32)
            for i, plane in enumerate(ready):
                slab[:, i] = plane[:, y : y + self.size[1], x : x + self.size[2]].cpu().numpy()
            self.spare += ready
            self.next += count
            yield self.next - count - self.plan.before[0], slab

    def _plane(self, z: int, classes: int) -> torch.Tensor:
        if z not in self.open:
            if not self.spare and not self.open:  # the first tile tells the classes; the system gives a page once it is written
                shape = (self.plan.open, classes, *self.plan.padded[1:])
                self.spare = list(torch.empty(shape, dtype=self.plan.dtype, device=self.device))
            self.open[z] = self.spare.pop().zero_()
        return self.open[z]
