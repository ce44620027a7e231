"""What low-resolution logits prove about full-size masks, before any is made.

A full-size pixel is a mean of a few low-resolution cells, so it lies between their least and their greatest value:

    surely above t   where the least of its cells is        (at least so many pixels, at least this box)
    perhaps above t  where the greatest of its cells is     (at most so many pixels, at most this box)

Float32 interpolation may step outside by rounding; `SLACK` x the largest |logit| of a mask covers that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .looks import Taps
from .regions import first_and_last

# Interpolating twice along two axes takes four lerps of at most 4 roundings each, 16 x 2^-24 = 1e-6 of the largest value.
SLACK = 4e-6
PART = 16  # masks looked at together: more fall out of the cache


class BoxBounds(NamedTuple):
    """Every full-size box lies within `outer` and contains `inner` (n, 4), last pixels inclusive; `sure` (n,): `inner` exists."""

    outer: Tensor
    inner: Tensor
    sure: Tensor


class Window(NamedTuple):
    """Low-resolution masks `low` (n, h, w) in the cells from `corner` (y, x) on; `taps` of their rows and columns, which are
    numbered by these cells, and by all pixels."""

    low: Tensor
    corner: tuple[int, int]
    taps: tuple[Taps, Taps]


def window(low: Tensor, taps: tuple[Taps, Taps], floor: float) -> Window:
    """Where any of the masks (n, h, w) may have a pixel above `floor`: elsewhere nothing has to be looked at."""
    top = low.amax(0)
    hot = top > floor - SLACK * float(torch.maximum(top.amax(), -low.amin()))
    cells, near = list[slice](), list[Taps]()
    for axis, runs in enumerate(taps):
        lit = hot.any(1 - axis).nonzero()[:, 0]
        first, last = (int(lit[0]), int(lit[-1])) if len(lit) else (0, 0)
        touched = ((runs.first <= last) & (runs.last >= first)).nonzero()[:, 0]
        a, b = (int(touched[0]), int(touched[-1]) + 1) if len(touched) else (0, 1)  # none: they lie beside the picture
        begin = int(runs.first[a])
        cells.append(slice(begin, int(runs.last[b - 1]) + 1))
        near.append(Taps(runs.starts[a : b + 1], runs.first[a:b] - begin, runs.last[a:b] - begin))
    return Window(low[:, cells[0], cells[1]], (cells[0].start, cells[1].start), (near[0], near[1]))


def extremes(low: Tensor, taps: tuple[Taps, Taps]) -> tuple[Tensor, Tensor]:
    """The least and greatest value (n, R, S) of the cells behind each run of rows and columns; `low` is (n, h, w)."""
    least = greatest = low.float()
    slack = SLACK * greatest.abs().amax((1, 2), keepdim=True)
    for dim, runs in ((1, taps[0]), (2, taps[1])):
        below, above = least.index_select(dim, runs.first), greatest.index_select(dim, runs.first)
        for step in range(1, int((runs.last - runs.first).max()) + 1):
            cells = torch.minimum(runs.first + step, runs.last)
            below = torch.minimum(below, least.index_select(dim, cells))
            above = torch.maximum(above, greatest.index_select(dim, cells))
        least, greatest = below, above
    return least - slack, greatest + slack


def stability_at_most(least: Tensor, greatest: Tensor, taps: tuple[Taps, Taps], offset: float) -> Tensor:
    """(n,) float64, no less than the stability of the full-size masks: most pixels above `offset` by fewest above -`offset`."""
    inner, outer = _pixels(greatest > offset, taps), _pixels(least > -offset, taps)
    # With none surely in the outer mask nothing is known, unless none is perhaps in the inner one: then it is 0.
    return torch.where(outer > 0, inner / outer.clamp_min(1), torch.where(inner > 0, torch.inf, 0.0))


def box_bounds(least: Tensor, greatest: Tensor, taps: tuple[Taps, Taps]) -> BoxBounds:
    """Within which box, and around which, the full-size mask above 0 lies."""
    perhaps, surely = greatest > 0, least > 0
    sure = surely.flatten(1).any(1)
    return BoxBounds(_box(perhaps, taps), _box(surely, taps), sure)


@dataclass(frozen=True, eq=False)
class Cut:
    """A low-resolution mask (h, w) but for what surely lies below: its `cells`, at `corner` (y, x), and `fill` around them.

    At full size all that may lie above is in the `rows` and `columns`; `bounds` are of its box (n = 1).
    """

    cells: Tensor
    corner: tuple[int, int]
    shape: tuple[int, int]
    rows: slice
    columns: slice
    bounds: BoxBounds
    fill: float

    @property
    def nbytes(self) -> int:
        return self.cells.numel() * self.cells.element_size()

    def whole(self) -> Tensor:
        """(h, w): at full size above the threshold where the mask is, by the same values."""
        (top, left), (height, width) = self.corner, self.cells.shape
        full = self.cells.new_full(self.shape, self.fill)
        full[top : top + height, left : left + width] = self.cells
        return full


def cut(near: Window, i: int, greatest: Tensor, bounds: BoxBounds, threshold: float, shape: tuple[int, int]) -> Cut:
    """Mask i of a window by its bound (R, S), cut to the cells of all pixels that are perhaps above `threshold`; the whole has
    `shape` (h, w).

    Every other pixel is a mean of cells that lie below it, here as there: the fill does too.
    """
    perhaps = greatest > threshold
    cells, pixels = list[slice](), list[slice]()
    for axis, runs in enumerate(near.taps):
        which = perhaps.any(1 - axis).nonzero()[:, 0]
        first, last = (int(which[0]), int(which[-1])) if len(which) else (0, 0)
        cells.append(slice(int(runs.first[first]), int(runs.last[last]) + 1))
        pixels.append(slice(int(runs.starts[first]), int(runs.starts[last + 1])))
    corner = (near.corner[0] + cells[0].start, near.corner[1] + cells[1].start)
    return Cut(near.low[i, cells[0], cells[1]].clone(), corner, shape, pixels[0], pixels[1], bounds, threshold - 1.0)


def iou_at_least(bounds: BoxBounds, others: np.ndarray) -> np.ndarray:
    """(n, m) float64: no box within the bounds has less IoU with one of `others` (m, 4); 0 where nothing is sure."""
    inner, outer = (b.numpy().astype(np.float64)[:, None] for b in (bounds.inner, bounds.outer))
    theirs = others.astype(np.float64)[None]
    sides = np.minimum(inner[..., 2:], theirs[..., 2:]) - np.maximum(inner[..., :2], theirs[..., :2])
    shared = sides.clip(min=0).prod(-1) * bounds.sure.numpy()[:, None]
    union = (outer[..., 2:] - outer[..., :2]).prod(-1) + (theirs[..., 2:] - theirs[..., :2]).prod(-1) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)


def _pixels(holds: Tensor, taps: tuple[Taps, Taps]) -> Tensor:
    """(n,) full-size pixels in the runs (n, R, S) that hold."""
    rows, columns = (runs.pixels for runs in taps)
    return (holds.float() @ columns.float()).double() @ rows.double()  # exact: a row has fewer than 2^24 pixels


def _box(holds: Tensor, taps: tuple[Taps, Taps]) -> Tensor:
    """(n, 4) x0, y0, x1, y1 around the pixels of the runs (n, R, S) that hold; of no use where none does."""
    ends = []
    for dim, runs in ((1, taps[1]), (2, taps[0])):
        first, last = first_and_last(holds.view(torch.uint8).amax(dim))
        ends.append((runs.starts[first], runs.starts[last + 1] - 1))
    (x0, x1), (y0, y1) = ends
    return torch.stack([x0, y0, x1, y1], dim=1)
