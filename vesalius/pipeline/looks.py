"""A picture that a promptable model has looked at. It answers prompts in the picture's own pixels.

    picture (H, W, 3) uint8  --look-->  Look  --ask(prompts)-->  Proposals  --full-->  logits (n, H, W)

Sessions and everything mode know models through this protocol alone. `state` is whatever full-size logits are made from: SAM's
low-resolution logits, or the parameters of a stand-in. Where full size comes from low resolution by interpolation, `taps`
say which cells a pixel is a mean of, and so what low resolution proves about it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Asked:
    """P prompts, one object each, in the picture's pixels, x then y; what is not prompted is None.

    points (P, N, 2), labels (P, N) with 1, 0 and -1 for none; boxes (P, 4) x0, y0, x1, y1, the last two exclusive;
    states (P, *): the earlier answers to build on; text (P, T) embeddings
    least_iou: what a mask must be predicted better than to be of use; of prompts without such a mask `state` may be anything
    """

    points: np.ndarray | None = None
    labels: np.ndarray | None = None
    boxes: np.ndarray | None = None
    states: Tensor | None = None
    text: Tensor | None = None
    least_iou: float = -math.inf


class Proposals(NamedTuple):
    """Answers to P prompts: `iou` (P, M) as the model predicts it, and `state` (P, M, *) of each mask."""

    iou: Tensor
    state: Tensor


class Taps(NamedTuple):
    """Along one axis, runs of neighbouring full-size pixels that are means of the same low-resolution cells.

    pixel i with starts[r] <= i < starts[r + 1] is a mean, with weights >= 0, of the cells first[r] .. last[r]
    starts (R + 1,), first (R,), last (R,), int64
    """

    starts: Tensor
    first: Tensor
    last: Tensor

    @property
    def pixels(self) -> Tensor:
        """(R,) how many pixels a run has."""
        return self.starts.diff()


class Look(Protocol):
    """One picture, or a crop of one, as a model sees it."""

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the picture."""
        ...

    @property
    def taps(self) -> tuple[Taps, Taps] | None:
        """Of rows and of columns; None where `state` is no low-resolution image (n, h, w) of logits."""
        ...

    def ask(self, asked: Asked, *, multimask: bool) -> Proposals:
        """P prompts -> M masks each: 3 with `multimask`, else 1. Raises InputError for prompts that the weights do not know."""
        ...

    def full(self, state: Tensor) -> Tensor:
        """States (n, *), of this picture or another of its size -> float32 logits (n, H, W); above 0 is the object."""
        ...

    def believed(self, mask: np.ndarray) -> Tensor:
        """A mask (H, W), boolean, as the state (1, *) of an earlier answer."""
        ...


Looker = Callable[[np.ndarray], Look]  # a picture (H, W, C) -> what the model sees in it


def taps_of(weights: Tensor) -> Taps:
    """The runs in a matrix (pixels, cells) of interpolation weights, all >= 0 and none of its rows empty."""
    used = weights > 0
    first, last = used.to(torch.uint8).argmax(1), used.shape[1] - 1 - used.flip(1).to(torch.uint8).argmax(1)
    begins = torch.ones(len(weights), dtype=torch.bool)
    begins[1:] = (first.diff() != 0) | (last.diff() != 0)
    starts = begins.nonzero()[:, 0]
    return Taps(torch.cat([starts, torch.tensor([len(weights)])]), first[starts], last[starts])
