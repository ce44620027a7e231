"""What everything mode measures on masks, and its clean-up of small regions.

Paper  Kirillov et al. 2023, arXiv:2304.02643, section 5 (stability) and appendix B (small regions)
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..transforms.clean import components


def stability(logits: Tensor, offset: float) -> Tensor:
    """(n,) float32: pixels above `offset` by pixels above -`offset` of logits (n, H, W), 1 for a mask whose edge is steep.

    A mask with no pixel above -`offset` has 0 here, where the original has NaN: no threshold lets either pass.
    """
    inner = (logits > offset).sum(dim=(1, 2), dtype=torch.int32)
    outer = (logits > -offset).sum(dim=(1, 2), dtype=torch.int32)
    return torch.where(outer > 0, inner / outer, 0.0)


def mask_boxes(masks: Tensor) -> Tensor:
    """(n, 4) int64 x0, y0, x1, y1 of boolean masks (n, H, W), x1 and y1 the last pixels; four zeros for an empty mask."""
    ends, held = [], masks.view(torch.uint8)
    for dim in (1, 2):  # along y: the columns that hold something; along x: the rows
        ends.append(first_and_last(held.amax(dim)))  # amax of bytes is ten times as quick as any
    (x0, x1), (y0, y1) = ends
    return torch.stack([x0, y0, x1, y1], dim=1) * held.amax((1, 2))[:, None]


def first_and_last(held: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) indices of the first and the last 1 in each row of (n, m) bytes; the ends of the row where there is none."""
    return held.argmax(1), held.shape[1] - 1 - held.flip(1).argmax(1)


def drop_small(mask: np.ndarray, least_px: float, kind: Literal["holes", "islands"]) -> tuple[np.ndarray, bool]:
    """The mask (H, W) without holes, or islands, below `least_px` (8-connected), and whether that changed it.

    Of islands that are all small the largest stays.
    """
    regions = components(~mask if kind == "holes" else mask, 8)
    sizes = np.bincount(regions.ravel())
    small = sizes < least_px
    small[0] = False
    if not small.any():
        return mask, False
    if kind == "holes":
        return mask | small[regions], True
    stays = ~small
    stays[0] = False
    if not stays.any():
        stays[1 + np.argmax(sizes[1:])] = True
    return stays[regions], True
