"""The plain Vision Transformer as a backbone: tokens of several layers, optionally fewer of them from one layer on.

    x = patches(image) + positions             z = x + attention(norm(x))      x = z + mlp(norm(z))      (vit.py)
    layer `shrink_at`:  z = x[kept] + attention(queries norm(x)[kept], keys and values norm(x))

`kept` is every second token of every second row (SegViT's query-based down-sampling), and with `edges` some more: those a
light head takes for class boundaries (SegViTv2's edge-aware one).

Paper    Dosovitskiy et al. 2021, arXiv:2010.11929; BEiT v2: Peng et al. 2022, arXiv:2208.06366; shrinking: Zhang et al. 2022,
         arXiv:2210.05844, and Zhang et al. 2023, arXiv:2306.06289
Shapes   image (B, C, H, W) float -> Features of tokens (B, N, D)
Needs    H and W divisible by the patch; positions are resized (bicubic) from the grid they were learned on
Differs  No norm at the end, as in the original. The class token of the plain ViT is carried for the files alone: the original
         adds it and takes it away again before the first layer. BEiT's takes part. The edge head and its selection are our own
         design, see `choose`
Parity   tests/parity/test_fixtures.py, folders segvit and segvit_shrunk; BEiT: tests/unit/models/test_segvit.py
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..core.errors import InputError
from .beit import RelativePositions, pairs_of
from .blocks import MLP, PatchEmbed, resize_positions, tokens_of
from .vit import Layer

Grid = tuple[int, int]


@dataclass(frozen=True)
class ViTConfig:
    """Everything that tells one ViT from another.

    image_size  pixels (H, W) of the grid on which the positions are learned; other sizes resize them
    patch       pixels a token covers, along each edge
    out_layers  the layers whose tokens leave, counted from 0
    positions   'absolute': one vector a token is added | 'relative': a bias on each head's scores, as in BEiT
    scale       layer scale of BEiT: what each residual branch is multiplied by at the start; 0 for none
    shrink_at   the layer that keeps a quarter of the tokens; -1 for none
    edges       part of all tokens that this block keeps besides, where class boundaries are expected
    drop_path   probability of leaving out a residual branch in training, rising linearly up to this at the last layer
    """

    image_size: Grid = (512, 512)
    patch: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    out_layers: tuple[int, ...] = (5, 7, 11)
    positions: Literal["absolute", "relative"] = "absolute"
    scale: float = 0.0
    shrink_at: int = -1
    edges: float = 0.0
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        if min(self.patch, self.depth, self.heads) < 1 or self.width < 1 or self.width % self.heads:
            raise InputError(f"{self.heads} heads do not share a width of {self.width}", fix="use a multiple of the heads")
        if any(n < 1 or n % self.patch for n in self.image_size):
            raise InputError(f"image_size {self.image_size} is no number of patches", fix=f"use multiples of {self.patch}")
        if not self.out_layers or list(self.out_layers) != sorted(set(self.out_layers)):
            raise InputError(f"out_layers {self.out_layers} are not in order", fix="name each layer once, from first to last")
        for layer in (*self.out_layers, max(self.shrink_at, 0)):
            if not 0 <= layer < self.depth:
                raise InputError(f"there is no layer {layer} of {self.depth}", fix=f"use 0 to {self.depth - 1}")
        if not 0 <= self.edges <= 0.75:
            raise InputError(f"edges = {self.edges} of the tokens cannot be kept", fix="use 0 to 0.75: a quarter is kept anyway")
        if self.edges and self.shrink_at < 0:
            raise InputError("edges are kept by the layer that shrinks", fix="set shrink_at")

    @property
    def grid(self) -> Grid:
        """Tokens (rows, columns) of `image_size`."""
        return self.image_size[0] // self.patch, self.image_size[1] // self.patch


def vit_base(image_size: Grid = (512, 512), out_layers: tuple[int, ...] = (5, 7, 11)) -> ViTConfig:
    """ViT-B/16: SegViT's smaller backbone; the paper's layers 6, 8, 12."""
    return ViTConfig(image_size, out_layers=out_layers)


def vit_large(image_size: Grid = (640, 640), out_layers: tuple[int, ...] = (7, 15, 23), shrink_at: int = -1) -> ViTConfig:
    """ViT-L/16; SegViT's Shrink form takes layers (7, 23) and shrinks at layer 8."""
    return ViTConfig(image_size, 16, 1024, 24, 16, out_layers, shrink_at=shrink_at)


def beit_large(
    image_size: Grid = (640, 640),
    out_layers: tuple[int, ...] = (7, 15, 23),
    shrink_at: int = -1,
    edges: float = 0.0,
) -> ViTConfig:
    """BEiTv2-L/16: relative positions, layer scale 1e-5."""
    return ViTConfig(image_size, 16, 1024, 24, 16, out_layers, "relative", 1e-5, shrink_at, edges)


class Features(NamedTuple):
    """What a backbone gives: per out layer the tokens (B, N, D), and where on the grid they lie.

    places  (B or 1, N) each, counted row by row
    sizes   (rows, columns) that the tokens fill; None where they lie scattered
    grid    (rows, columns) of all patches
    edges   (B, 1, rows, columns) logits of class boundaries, or None
    """

    tokens: tuple[Tensor, ...]
    places: tuple[Tensor, ...]
    sizes: tuple[Grid | None, ...]
    grid: Grid
    edges: Tensor | None


class Backbone(nn.Module):
    """The backbone of a ViTConfig. (B, C, H, W) -> Features; H and W are multiples of the patch, the caller sees to it."""

    def __init__(self, config: ViTConfig, in_channels: int = 3):
        super().__init__()
        c = self.config = config
        self.embed = PatchEmbed(in_channels, c.width, c.patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, c.width))
        self.relative = c.positions == "relative"
        if not self.relative:
            self.positions = nn.Parameter(torch.zeros(1, 1 + c.grid[0] * c.grid[1], c.width))  # the class token's comes first
            nn.init.trunc_normal_(self.positions, std=0.02)
            self.cls_token.requires_grad_(False)  # carried, not used
        drops = [c.drop_path * i / max(1, c.depth - 1) for i in range(c.depth)]
        self.layers = nn.ModuleList(
            [Layer(c.width, c.heads, 4 * c.width, 0.0, drop, scale=c.scale, k_bias=not self.relative) for drop in drops]
        )
        self.biases = nn.ModuleList([RelativePositions(c.grid, c.heads) for _ in drops if self.relative])
        self.edges = MLP((c.width, max(1, c.width // 4), 1)) if c.edges else None
        self.apply(init_linear)

    def forward(self, image: Tensor) -> Features:
        c = self.config
        x = self.embed(image)
        grid = (x.shape[2], x.shape[3])
        x = tokens_of(x)
        if self.relative:
            x = torch.cat((self.cls_token.expand(len(x), -1, -1), x), dim=1)
        else:
            x = x + resize_positions(self.positions[:, 1:].unflatten(1, c.grid), grid).flatten(1, 2)
        first = int(self.relative)  # where the patches begin
        places = torch.arange(x.shape[1], device=x.device)[None]  # in the full sequence, class token included
        pairs = pairs_of(grid, places, places) if self.relative else None
        size: Grid | None = grid
        edges, found = None, list[tuple[Tensor, Tensor, Grid | None]]()
        for i, layer in enumerate(self.layers):
            if i == c.shrink_at:
                patches, edges = self.choose(x[:, first:], grid)
                kept = torch.cat((torch.zeros_like(patches[:, :first]), patches + first), dim=1)
                x = layer(x, self._bias(i, grid, pairs_of(grid, kept, places) if self.relative else None), kept)
                places, size = kept, None if c.edges else (-(-grid[0] // 2), -(-grid[1] // 2))
                pairs = pairs_of(grid, places, places) if self.relative else None
            else:
                x = layer(x, self._bias(i, grid, pairs))
            if i in c.out_layers:
                found.append((x[:, first:], places[:, first:] - first, size))
        tokens, where, sizes = zip(*found, strict=True)
        return Features(tokens, where, sizes, grid, edges)

    def _bias(self, i: int, grid: Grid, pairs: Tensor | None) -> Tensor | None:
        """What layer `i` adds to its scores."""
        return None if pairs is None else self.biases[i](grid, pairs)

    def choose(self, tokens: Tensor, grid: Grid) -> tuple[Tensor, Tensor | None]:
        """The patches (B or 1, n) that stay, and the logits (B, 1, rows, columns) of boundaries if there is a head for them.

        Every second one of every second row; with `edges` also the round(edges x N) likeliest boundaries among the others:
        a fixed number, so that images of a batch stay of one length and the work is known. The choice itself has no
        gradient: the head, a two-layer MLP on each token, learns from the boundaries of the down-sampled label.
        """
        number = torch.arange(grid[0] * grid[1], device=tokens.device).view(grid)
        regular = number[::2, ::2].flatten()[None]
        if self.edges is None:
            return regular, None
        logits = self.edges(tokens).squeeze(-1)  # (B, N)
        taken = torch.zeros_like(number, dtype=torch.bool)
        taken[::2, ::2] = True
        others = logits.detach().float().masked_fill(taken.flatten(), -torch.inf)
        count = min(round(self.config.edges * number.numel()), number.numel() - regular.shape[1])
        likeliest = others.topk(count, dim=1).indices
        return torch.cat((regular.expand(len(tokens), -1), likeliest), dim=1), logits.unflatten(1, grid)[:, None]


def init_linear(part: nn.Module) -> None:
    """Truncated normal of 0.02 for matrices, zero biases: every ViT's start."""
    if isinstance(part, nn.Linear):
        nn.init.trunc_normal_(part.weight, std=0.02)
        if part.bias is not None:
            nn.init.zeros_(part.bias)
