"""How else the same view might have looked: tones, colours, light, noise and sharpness, for (3, S, S) float32 in 0..255.

Strong but for `varied`, so that what is learned holds for kinds of images never seen: an object may be brighter or darker
than what is around it, of any colour or none.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def varied(view: Tensor, rng: np.random.Generator) -> Tensor:
    """The view (..., S, S) of 0..255 as the same device might have seen it another day."""
    x = 255 * (view / 255).clamp(0, 1) ** float(np.exp(rng.uniform(-0.25, 0.25))) if rng.random() < 0.4 else view
    if rng.random() < 0.3:
        noise = torch.from_numpy(rng.standard_normal(x.shape, np.float32))
        x = x + float(rng.uniform(1, 10)) * noise
    return x.clamp(0, 255)


def recoloured(view: Tensor, rng: np.random.Generator) -> Tensor:
    """A changed copy; every draw is from `rng`."""
    x = view
    if rng.random() < 0.3:
        x = x.mean(0, keepdim=True).expand(3, -1, -1) if rng.random() < 0.6 else x[rng.permutation(3)]
    if rng.random() < 0.35:
        x = toned(x, rng)
    if rng.random() < 0.2:
        x = 255 - x
    if rng.random() < 0.5:
        gain = torch.from_numpy(rng.uniform(0.6, 1.5, (3, 1, 1) if rng.random() < 0.4 else (1, 1, 1)).astype(np.float32))
        x = (x - x.mean()) * gain + x.mean() + float(rng.uniform(-40, 40))
    if rng.random() < 0.2:
        x = x * lit(view.shape[-1], rng)
    if rng.random() < 0.2:
        x = blurred(x, rng)
    if rng.random() < 0.3:
        coarse = 1 if rng.random() < 0.7 else 2
        size = (3 if rng.random() < 0.5 else 1, view.shape[-1] // coarse, view.shape[-1] // coarse)
        noise = torch.from_numpy(rng.standard_normal(size, np.float32))
        x = x + float(rng.uniform(1, 25)) * F.interpolate(noise[None], x.shape[1:])[0]
    return x.clamp(0, 255)


def toned(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Gamma, or a curve through random heights: mostly rising, sometimes not, as another modality would have it."""
    if rng.random() < 0.6:
        return 255 * (x / 255).clamp(0, 1) ** float(np.exp(rng.uniform(-0.8, 0.8)))
    heights = rng.uniform(0, 255, 6)
    if rng.random() < 0.7:
        heights = np.sort(heights)
    table = torch.from_numpy(np.interp(np.arange(256), np.linspace(0, 255, 6), heights).astype(np.float32))
    return table[x.clamp(0, 255).long()]


def lit(size: int, rng: np.random.Generator) -> Tensor:
    """(1, S, S): light that falls off smoothly."""
    nodes = torch.from_numpy(rng.uniform(0.5, 1.4, (1, 1, 3, 3)).astype(np.float32))
    return F.interpolate(nodes, (size, size), mode="bicubic", align_corners=True)[0]


def blurred(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Out of focus, or taken at a lower resolution."""
    if rng.random() < 0.5:
        return F.avg_pool2d(x[None], 3, 1, 1, count_include_pad=False)[0]
    small = F.interpolate(x[None], scale_factor=float(rng.uniform(0.25, 0.7)), mode="bilinear", antialias=True)
    return F.interpolate(small, x.shape[1:], mode="bilinear")[0]
