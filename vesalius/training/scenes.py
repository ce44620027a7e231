"""Objects that nobody had to outline: shapes drawn on drawn backgrounds, and patches of like grey in real pictures.

They teach what a box and a click mean whatever the picture shows, which is what carries to kinds of images never seen.
"""

from __future__ import annotations

import cc3d
import numpy as np
from scipy.ndimage import binary_fill_holes, gaussian_filter, zoom

POINTS = 96  # of an outline
LEVELS = (3, 9)  # grey levels that a view is cut into for its patches


def shape(size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A picture (3, size, size) float32 in 0..255 of several shapes, and the mask (size, size) float32 of the one that counts."""
    spread = np.exp(rng.uniform(np.log(1.1), np.log(5.0)))
    radius = size / (2 * spread)
    room = max(0.0, size / 2 - radius) * 0.8
    mask = blob(size, size / 2 + rng.uniform(-room, room), size / 2 + rng.uniform(-room, room), radius, rng)
    picture = texture(size, rng)
    for _ in range(rng.integers(0, 5)):  # others, in front of which it lies
        other = blob(size, rng.uniform(0, size), rng.uniform(0, size), radius * rng.uniform(0.4, 1.2), rng)
        picture = np.where(other, texture(size, rng), picture)
    inner = texture(size, rng)
    if rng.random() < 0.5:  # little contrast: the same texture, a little brighter or darker
        inner = picture + rng.choice([-1, 1]) * rng.uniform(15, 60, (3, 1, 1))
    soft = gaussian_filter(mask.astype(np.float32), rng.uniform(0.3, 2.5))
    picture = inner * soft + picture * (1 - soft)
    if rng.random() < 0.3:  # an outline
        picture += (soft * (1 - soft) * 4) * rng.uniform(-80, 80)
    return np.clip(picture, 0, 255).astype(np.float32), mask.astype(np.float32)


def blob(size: int, y: float, x: float, radius: float, rng: np.random.Generator) -> np.ndarray:
    """(size, size) boolean: r(angle) = radius (1 + a few waves), flattened and turned; some are boxes, some are bent."""
    rows, columns = np.mgrid[:size, :size].astype(np.float32)
    turn, flat = rng.uniform(0, np.pi), rng.uniform(0.35, 1.0)
    u, v = columns - x, rows - y
    u, v = u * np.cos(turn) + v * np.sin(turn), (v * np.cos(turn) - u * np.sin(turn)) / flat
    if rng.random() < 0.3:
        v = v + rng.uniform(-0.8, 0.8) * (u**2 / radius - radius / 3)
    if rng.random() < 0.12:
        return np.maximum(np.abs(u), np.abs(v)) < 0.8 * radius
    angle, edge = np.arctan2(v, u), np.ones_like(u)
    for wave in range(2, 8):
        edge += rng.normal(0, 0.22 / wave) * np.cos(wave * angle + rng.uniform(0, 2 * np.pi))
    return np.hypot(u, v) < radius * edge


def texture(size: int, rng: np.random.Generator) -> np.ndarray:
    """(3, size, size): a colour, a slope, and waves of noise at one or two scales."""
    grey = rng.random() < 0.5
    found = np.repeat(rng.uniform(10, 245, (1 if grey else 3, 1, 1)), 3 if grey else 1, 0) * np.ones((3, size, size))
    steps = np.linspace(-1, 1, size)
    found += rng.normal(0, 20) * steps[:, None] + rng.normal(0, 20) * steps
    for _ in range(rng.integers(1, 3)):
        coarse = int(rng.integers(4, size))
        waves = rng.normal(0, rng.uniform(2, 30), (coarse + 1, coarse + 1))
        found += zoom(waves, (size + 1) / (coarse + 1), order=1)[:size, :size]
    return found


def patch(view: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """A mask (S, S) float32: a connected patch of like grey in a view (3, S, S) of 0..255; None where none is of fair size."""
    mix = rng.dirichlet((1.0, 1.0, 1.0))
    grey = gaussian_filter(np.tensordot(mix, view, 1), rng.uniform(1.0, 4.0))
    edges = np.quantile(grey, np.sort(rng.uniform(0, 1, rng.integers(*LEVELS))))
    parts = cc3d.connected_components(np.digitize(grey, edges).astype(np.uint8) + 1, connectivity=4)
    counts = np.bincount(parts.ravel())
    area = view.shape[1] * view.shape[2]
    fitting = np.flatnonzero((counts > 0.01 * area) & (counts < 0.5 * area))
    fitting = fitting[fitting > 0]
    if not len(fitting):
        return None
    found = binary_fill_holes(parts == rng.choice(fitting))
    return gaussian_filter(found.astype(np.float32), 1.0) if found.mean() < 0.6 else None
