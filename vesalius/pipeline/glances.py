"""Square views of a picture, at any scale and place, and the way back of what was found in them.

    picture (H, W, C)  --take-->  view (C, S, S)  --model-->  logits (h, w) of the view  --put-->  logits (H, W)

A glance is x, y, side: the view's middle and its side, in the picture's pixel edges, so that pixel i reaches from i to i + 1 and
has its middle at i + 0.5. Fine detail is averaged away where a view is coarser than the picture (from halved pictures), and
where the picture is coarser than the view (every pixel takes the mean over its own extent). Beyond the picture is nothing: 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor

Place = Sequence[float] | np.ndarray  # x, y, side
OUTSIDE = -10.0  # the logit of what a view does not reach
STRIP = 512  # rows that are halved at once: of large pictures no float copy is held
SHARE = 0.25  # of a picture: to see more of it at another size, all of it is brought to that size and kept
EVEN = 1.0  # grey levels added to a view's deviation, so that noise in a flat view stays small


class Mips:
    """A picture and its halves, made when first needed: pixel j of level k is the mean of pixels 2^k j to 2^k (j + 1) - 1."""

    def __init__(self, picture: np.ndarray):
        """(H, W, C) uint8."""
        self.size = (picture.shape[0], picture.shape[1])
        self.levels = [torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)))]

    def level(self, k: int) -> Tensor:
        """(C, H / 2^k, W / 2^k) uint8, rounded up; the far edges count as often as it takes to fill a whole pixel."""
        while len(self.levels) <= k:
            self.levels.append(torch.cat([_halved(rows) for rows in self.levels[-1].split(STRIP, 1)], 1))
        return self.levels[k]

    def part(self, k: int, low: np.ndarray, high: np.ndarray) -> Tensor:
        """Of level k the pixels from `low` to `high` (x, y), the last exclusive; a level is made where much of it is wanted."""
        if len(self.levels) > k or (high - low).prod() << (2 * k) > SHARE * self.size[0] * self.size[1]:
            return self.level(k)[:, low[1] : high[1], low[0] : high[0]]
        (x0, y0), (x1, y1) = low << k, high << k
        found = self.levels[0][:, y0:y1, x0:x1]
        for _ in range(k):
            found = _halved(found)
        return found


def _halved(fine: Tensor) -> Tensor:
    """(C, h, w) uint8 -> (C, h / 2, w / 2), rounded up: the means of 2 x 2 pixels."""
    full = F.pad(fine[None].float(), (0, fine.shape[2] % 2, 0, fine.shape[1] % 2), mode="replicate")
    return F.avg_pool2d(full, 2)[0].round().to(torch.uint8)


def take(mips: Mips, glances: ArrayLike, size: int, turns: np.ndarray | None = None) -> tuple[Tensor, Tensor]:
    """Views (n, C, S, S) float32 of the picture's values, and what of them is picture: (n, 1, S, S) boolean.

    glances (n, 3) x, y, side; `turns` (n, 2, 2) turn or mirror a view: matrices from the view's x, y to the picture's.
    """
    places = np.asarray(glances, np.float64)
    steps = (np.arange(size) + 0.5) / size - 0.5
    own = np.stack(np.broadcast_arrays(steps[None, :], steps[:, None]), -1)  # (S, S, 2) x, y, from -1/2 to 1/2
    views, known = [], []
    for i, (x, y, side) in enumerate(places):
        spots = (own if turns is None else own @ turns[i].T) * side + (x, y)
        across, down = spots[..., 0], spots[..., 1]
        inside = (across >= 0) & (across <= mips.size[1]) & (down >= 0) & (down <= mips.size[0])
        views.append(_sampled(mips, spots, side / size))
        known.append(torch.from_numpy(inside))
    inside = torch.stack(known)[:, None]
    return torch.stack(views) * inside, inside


def _sampled(mips: Mips, spots: np.ndarray, scale: float) -> Tensor:
    """(C, S, S) at the spots (S, S, 2), from the level whose pixels are up to half as wide as `scale`, the view's."""
    k = min(max(0, int(np.floor(np.log2(max(scale, 1.0))))), max(0, int(np.log2(max(mips.size)))))
    spots = spots / 2**k
    h, w = (-(-n // 2**k) for n in mips.size)
    corners = spots[[0, 0, -1, -1], [0, -1, 0, -1]]  # a view is a parallelogram
    low = np.clip(np.floor(corners.min(0)).astype(int) - 1, 0, np.maximum(np.array([w, h]) - 1, 0))
    high = np.clip(np.ceil(corners.max(0)).astype(int) + 2, low + 1, [w, h])
    crop = mips.part(k, low, high).float()
    grid = torch.from_numpy((2 * (spots - low) / (high - low) - 1).astype(np.float32))
    return F.grid_sample(crop[None], grid[None], padding_mode="border", align_corners=False)[0]


def normalised(views: Tensor, inside: Tensor) -> Tensor:
    """Each view's channels to mean 0, all together to deviation 1, over what is picture; the rest 0. (n, C, S, S) float32."""
    count = inside.sum((2, 3), keepdim=True).clamp(min=1)
    centred = (views - (views * inside).sum((2, 3), keepdim=True) / count) * inside
    variance = (centred**2).sum((1, 2, 3), keepdim=True) / (count * views.shape[1])
    return centred / (variance.sqrt() + EVEN)


def put(logits: Tensor, glance: Place, size: tuple[int, int], outside: float = OUTSIDE) -> Tensor:
    """Logits (h, w) of a view on the pixels of a picture of `size` (H, W), float32; `outside` where it does not reach."""
    x, y, side = (float(v) for v in glance)
    found = torch.full(size, outside)
    (y0, y1), (x0, x1) = (_within(middle - side / 2, middle + side / 2, n) for middle, n in ((y, size[0]), (x, size[1])))
    if y0 < y1 and x0 < x1:
        rows, columns = np.arange(y0, y1) + 0.5, np.arange(x0, x1) + 0.5
        found[y0:y1, x0:x1] = _resampled(logits, (x, y, side), rows, columns, 1.0)
    return found


def carry(logits: Tensor, source: Place, target: Place, outside: float = OUTSIDE) -> Tensor:
    """Logits (h, w) of one view on the cells of another, (h, w): `outside` where the first did not reach."""
    x, y, side = (float(v) for v in target)
    steps = (np.arange(logits.shape[0]) + 0.5) / logits.shape[0] - 0.5
    rows, columns = y + side * steps, x + side * steps
    found = _resampled(logits, source, rows, columns, side / logits.shape[0])
    half = source[2] / 2
    known = (np.abs(rows - source[1]) <= half)[:, None] & (np.abs(columns - source[0]) <= half)
    return torch.where(torch.from_numpy(known), found, torch.tensor(outside))


def box_of(logits: Tensor, glance: Place) -> tuple[float, float, float, float] | None:
    """x0, y0, x1, y1 in the picture of what is above 0 in a view (h, w); None where nothing is."""
    found = (logits > 0).numpy()
    if not found.any():
        return None
    cell = float(glance[2]) / found.shape[0]
    rows, columns = np.flatnonzero(found.any(1)), np.flatnonzero(found.any(0))
    left, top = float(glance[0]) - float(glance[2]) / 2, float(glance[1]) - float(glance[2]) / 2
    return left + cell * columns[0], top + cell * rows[0], left + cell * (columns[-1] + 1), top + cell * (rows[-1] + 1)


def around(boxes: ArrayLike, spread: float, least: float = 8.0) -> np.ndarray:
    """Glances (n, 3) around boxes (n, 4): `spread` times the longer side, and no less than `least` pixels."""
    corners = np.asarray(boxes, np.float64)
    sides = (corners[:, 2:] - corners[:, :2]).max(1)
    return np.column_stack([(corners[:, :2] + corners[:, 2:]) / 2, np.maximum(spread * sides, least)])


def _within(low: float, high: float, n: int) -> tuple[int, int]:
    """The pixels i of n whose middles lie between `low` and `high`: first, last + 1."""
    return max(0, int(np.ceil(low - 0.5))), min(n, int(np.floor(high - 0.5)) + 1)


def _resampled(logits: Tensor, source: Place, rows: np.ndarray, columns: np.ndarray, wide: float) -> Tensor:
    """A view's logits at the middles `rows` and `columns` of cells `wide` across, all in the picture's pixels."""
    x, y, side = (float(v) for v in source)
    h, w = logits.shape
    up = weights((rows - y + side / 2) * h / side, h, wide * h / side)
    along = weights((columns - x + side / 2) * w / side, w, wide * w / side)
    return up @ logits.float() @ along.T


def weights(middles: np.ndarray, count: int, wide: float) -> Tensor:
    """(n, count): the mean over `wide` cells around each middle; over one cell, linear interpolation, where that is more."""
    reach, first = max(wide, 1.0) / 2, np.arange(count)
    middles = np.clip(middles, 0.5, count - 0.5)[:, None]  # beyond the outermost middles the edge value holds
    shared = np.clip(np.minimum(first + 1, middles + reach) - np.maximum(first, middles - reach), 0, None)
    return torch.from_numpy((shared / shared.sum(1, keepdims=True)).astype(np.float32))
