"""The scale of what a click means is not known: views of every scale are tried, and what they agree about is believed.

    rungs      square views around the clicks, from the whole picture down by halves
    agreement  how far a mask seen on one rung is seen on the next larger or smaller one too: what only fills its view is not
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .glances import carry

LEAST_PX = 32  # side of the smallest view
ROOM = 0.45  # of a view's side: how far from its middle clicks may lie


def rungs(size: tuple[int, int], points: np.ndarray, on: np.ndarray) -> np.ndarray:
    """(R, 3) x, y, side of views in a picture of `size` (H, W) that hold all `points` (n, 2), around those `on` the object."""
    height, width = size
    aim = on if len(on) else points
    middle, found = (aim.min(0) + aim.max(0)) / 2, [(width / 2, height / 2, float(max(width, height)))]
    while (side := found[-1][2] / 2) >= LEAST_PX and np.abs(points - middle).max() < ROOM * side:
        x, y = (np.clip(m, min(side, n) / 2, n - min(side, n) / 2) for m, n in zip(middle, (width, height), strict=True))
        found.append((float(x), float(y), side))
    return np.array(found)


def agreement(logits: Tensor, views: np.ndarray) -> Tensor:
    """(R, M): the IoU of each mask, logits (R, M, h, w) above 0 in its view, with the likest one on the rung above or below."""
    best = torch.zeros(logits.shape[:2])
    for upper in range(len(views) - 1):
        large = (logits[upper] > 0).flatten(1).float()
        small = torch.stack([carry(each, views[upper + 1], views[upper]) for each in logits[upper + 1]])
        small = (small > 0).flatten(1).float()
        both = large @ small.T
        iou = both / (large.sum(1)[:, None] + small.sum(1) - both).clamp(min=1)
        best[upper] = torch.maximum(best[upper], iou.amax(1))
        best[upper + 1] = torch.maximum(best[upper + 1], iou.amax(0))
    return best
