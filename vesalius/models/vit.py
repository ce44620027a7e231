"""The vision transformer: patches become tokens, and tokens look at each other.

    t = embed(x) + positions
    t = t + attention(norm1(t))        t = t + mlp(norm2(t))        layer by layer, then norm(t)

Paper    Dosovitskiy et al. 2021, arXiv:2010.11929, eq. 1 to 4
Shapes   map (B, C, H, W) -> tokens (B, H / patch * W / patch, D), row by row
Needs    H and W divisible by `patch`; positions are learned for `grid` and interpolated for any other
Differs  no class token: for segmentation there is nothing for it to say
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .blocks import MLP, DropPath, PatchEmbed, SelfAttention, resize_positions, tokens_of

EPS = 1e-6  # of every layer norm, as in the original


class Layer(nn.Module):
    """Attention, then an MLP, each behind a layer norm and beside a shortcut: (B, N, D) -> (B, N, D)."""

    def __init__(self, width: int, heads: int, mlp: int, dropout: float = 0.0, drop_path: float = 0.0):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, EPS), nn.LayerNorm(width, EPS)
        self.attention, self.mlp = SelfAttention(width, heads), MLP((width, mlp, width), dropout=dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attention(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class VisionTransformer(nn.Module):
    """`layers` layers of `width` channels on the patches of a map; `grid` = rows and columns that positions are learned for."""

    def __init__(
        self,
        in_channels: int,
        grid: tuple[int, int],
        patch: int,
        width: int,
        *,
        layers: int,
        heads: int,
        mlp: int,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.embed = PatchEmbed(in_channels, width, patch)
        self.positions = nn.Parameter(torch.empty(1, *grid, width))
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList([Layer(width, heads, mlp, dropout) for _ in range(layers)])
        self.norm = nn.LayerNorm(width, EPS)
        nn.init.normal_(self.positions, std=0.02)  # as the original
        for part in self.modules():
            if isinstance(part, MLP):
                for layer in part.layers:
                    nn.init.xavier_uniform_(layer.weight)  # type: ignore[arg-type]
                    nn.init.normal_(layer.bias, std=1e-6)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        positions = resize_positions(self.positions, (x.shape[2], x.shape[3]))
        x = self.dropout(tokens_of(x) + positions.flatten(1, 2))
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)
