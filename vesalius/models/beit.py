"""BEiT's relative positions: each head adds to the score of two patches a number learned for how they lie to each other.

    score(i, j) = q_i k_j / sqrt(d) + table[y_i - y_j, x_i - x_j]

Paper    Bao et al. 2022, BEiT, arXiv:2106.08254; Peng et al. 2022, BEiT v2, arXiv:2208.06366
Shapes   places (B or 1, N) and (B or 1, M) -> bias (B or 1, heads, N, M)
Differs  For another grid the table is resized by bicubic interpolation when it is used; the original resizes it once, when a
         checkpoint is loaded, and on geometrically spaced nodes
"""

from __future__ import annotations

from math import isqrt

import torch
from torch import Tensor, nn

from .blocks import entries, resize_positions

CLASS_PAIRS = 3  # class token to patch, patch to class token, class token to itself


def pairs_of(grid: tuple[int, int], rows: Tensor, columns: Tensor) -> Tensor:
    """Which entry of a table for `grid` (H, W) holds for who looks and who is seen: (B or 1, N, M).

    `rows` (B or 1, N) and `columns` (B or 1, M) are places in the sequence of the class token and then the patches, row by row.
    """
    high, wide = 2 * grid[0] - 1, 2 * grid[1] - 1
    a, b = rows[:, :, None] - 1, columns[:, None, :] - 1  # patches count from 0; the class token is -1
    down, right = a // grid[1] - b // grid[1] + grid[0] - 1, a % grid[1] - b % grid[1] + grid[1] - 1
    index = torch.where(a < 0, high * wide, down * wide + right)
    index = torch.where(b < 0, high * wide + 1, index)
    return torch.where((a < 0) & (b < 0), high * wide + 2, index)


def resized(table: Tensor, reach: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """A table of displacements (rows, columns) = `reach` for patches in a `grid` (H, W); the same tensor where it fits."""
    wanted = (2 * grid[0] - 1, 2 * grid[1] - 1)
    if wanted == tuple(reach):
        return table
    learned = table[:-CLASS_PAIRS].unflatten(0, reach)[None]
    return torch.cat((resize_positions(learned, wanted)[0].flatten(0, 1), table[-CLASS_PAIRS:]))


def for_reach(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """A table from a file, learned on a square grid, for patches in a `grid` (H, W); as it is where it is no such table."""
    side = isqrt(table.shape[0] - CLASS_PAIRS)
    fits = side * side + CLASS_PAIRS == table.shape[0] != (2 * grid[0] - 1) * (2 * grid[1] - 1) + CLASS_PAIRS
    return resized(table, (side, side), grid) if fits else table


class RelativePositions(nn.Module):
    """The bias of all pairs of tokens, per head.

    table  ((2 H - 1) (2 W - 1) + 3, heads): displacements from -(H - 1), -(W - 1) on, then CLASS_PAIRS
    """

    def __init__(self, grid: tuple[int, int], heads: int):
        super().__init__()
        self.reach = (2 * grid[0] - 1, 2 * grid[1] - 1)
        self.table = nn.Parameter(torch.zeros(self.reach[0] * self.reach[1] + CLASS_PAIRS, heads))
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, grid: tuple[int, int], pairs: Tensor) -> Tensor:
        """`pairs` (B or 1, N, M) of `pairs_of` -> (B or 1, heads, N, M)."""
        return entries(resized(self.table, self.reach, grid), pairs).transpose(0, 1)
