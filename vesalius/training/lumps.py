"""Objects in three dimensions that nobody had to outline: blobs, tubes, plates, boxes and bananas, on drawn backgrounds."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter, zoom


def lump(size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A view (S, S, S) float32 in 0..255 of several bodies, and the mask (S, S, S) float32 of the one that counts."""
    spread = np.exp(rng.uniform(np.log(1.15), np.log(2.6)))
    radius = size / (2 * spread)
    room = max(0.0, size / 2 - radius) * 0.7
    mask = body(size, size / 2 + rng.uniform(-room, room, 3), radius, rng)
    view = texture(size, rng)
    for _ in range(rng.integers(0, 4)):  # others, in front of which it lies
        other = body(size, rng.uniform(0, size, 3), radius * rng.uniform(0.4, 1.1), rng)
        view = np.where(other, texture(size, rng), view)
    inner = texture(size, rng)
    if rng.random() < 0.5:  # little contrast: the same texture, a little brighter or darker
        inner = view + rng.choice([-1, 1]) * rng.uniform(15, 60)
    share = gaussian_filter(mask.astype(np.float32), 0.4)
    soft = gaussian_filter(mask.astype(np.float32), rng.uniform(0.4, 1.2))
    view = inner * soft + view * (1 - soft)
    return np.clip(view, 0, 255).astype(np.float32), share


def body(size: int, middle: np.ndarray, radius: float, rng: np.random.Generator) -> np.ndarray:
    """(S, S, S) boolean: an ellipsoid, cylinder or box, round-edged or sharp, mostly turned, often bent, with a wavy surface."""
    axes = np.eye(3) if rng.random() < 0.25 else np.linalg.qr(rng.standard_normal((3, 3)))[0]
    places = np.mgrid[:size, :size, :size].astype(np.float32) + 0.5 - middle.astype(np.float32)[:, None, None, None]
    ratios = np.exp(rng.uniform(np.log(0.18), 0, 3)) if rng.random() < 0.4 else rng.uniform(0.3, 1.0, 3)
    sides = radius * ratios / ratios.max()  # one side is as long as the body
    u, v, w = np.tensordot((axes / sides[:, None]).astype(np.float32), places, 1)
    if rng.random() < 0.5:
        v = v + rng.uniform(-1.2, 1.2) * (u**2 - 1 / 3) * np.float32(sides[0] / sides[1])
    across, along = (float(rng.uniform(3, 12)) if rng.random() < p else 2.0 for p in (0.25, 0.45))  # 2 is round
    waves = zoom(rng.normal(0, rng.uniform(0, 0.16), (5, 5, 5)).astype(np.float32), size / 5, order=1)
    flat = (np.abs(u) ** across + np.abs(v) ** across) ** (along / across)
    return np.asarray(flat + np.abs(w) ** along < np.maximum(1 + waves, 0) ** along)


def texture(size: int, rng: np.random.Generator) -> np.ndarray:
    """(S, S, S): a grey, mostly with a slope and waves of noise at up to three scales, else with fine noise alone."""
    if rng.random() < 0.2:
        return (rng.uniform(10, 245) + rng.normal(0, rng.uniform(0, 12), (size, size, size))).astype(np.float32)
    steps = np.linspace(-1, 1, size, dtype=np.float32)
    slopes = rng.normal(0, 20, 3).astype(np.float32)
    found = rng.uniform(10, 245) + slopes[0] * steps[:, None, None] + slopes[1] * steps[:, None] + slopes[2] * steps
    for coarse in (5, 10, size)[: rng.integers(1, 4)]:
        waves = rng.normal(0, rng.uniform(2, 25), (coarse, coarse, coarse)).astype(np.float32)
        found = found + (zoom(waves, size / coarse, order=1) if coarse < size else waves)
    return found
