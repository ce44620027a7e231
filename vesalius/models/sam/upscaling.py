"""Fourfold upscaling on tokens, as SAM's mask decoder does it: a transposed convolution whose kernel is its stride is linear.

Shapes   tokens (P, N, D) -> (P, N, 4, 4, C): each cell's pixels in two levels of 2 x 2;  `in_order` brings them onto a map
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Spread(nn.Module):
    """A transposed convolution with kernel = stride = 2, on tokens: each becomes its four. (..., D) -> (..., 4, C)."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(4 * outputs, inputs)), nn.Parameter(torch.zeros(outputs))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias.repeat(4)).unflatten(-1, (4, -1))


class Upscale(nn.Module):
    """Spread, norm, GELU, spread: (P, N, D) -> (P, N, 4, 4, C), C = outputs."""

    def __init__(self, inputs: int, middle: int, outputs: int):
        super().__init__()
        self.up1, self.up2 = Spread(inputs, middle), Spread(middle, outputs)
        self.norm = nn.LayerNorm(middle, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return self.up2(F.gelu(self.norm(self.up1(x))))


def in_order(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """(P, M, h * w * 16), each cell's pixels in two levels of 2 x 2 -> (P, M, 4 h, 4 w)."""
    x = x.unflatten(2, (*grid, 2, 2, 4)).transpose(3, 4).flatten(4, 5).flatten(2, 3)  # (P, M, 2 h, 2 w, 4): two short copies
    return x.unflatten(4, (2, 2)).transpose(3, 4).flatten(4, 5).flatten(2, 3)  # take half the time of one of eight axes
