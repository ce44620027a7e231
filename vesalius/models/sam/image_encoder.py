"""SAM's image encoder: a plain ViT with windows, four global blocks and relative positions, and a convolutional neck.

    x = patches(image) + positions
    x = x + attention(window(norm(x)));  x = x + mlp(norm(x))               (B, h, w, D), h = H / patch
    features = norm(conv3x3(norm(conv1x1(x))))                              (B, 256, h, w)

    attention   softmax(q k^T / sqrt(d) + q . R[dy] + q . C[dx]) v          tables R, C of 2 S - 1 rows; q is not scaled there

Windows are filled up with zeros after the norm, and the filling takes part in the attention, as in the original. The relative
term never makes an (N x N) table for all heads at once: either it is folded into the product, q' = [q / sqrt(d), R q, C q] and
k' = [k, one-hot row, one-hot column], or it is a mask, one head at a time. `folds` says which, and why.

Paper    Kirillov et al. 2023, arXiv:2304.02643, section 3; Li et al. 2022 (ViTDet), arXiv:2203.16527, section 3 and appendix A.1
Shapes   image (B, 3, H, W) -> (B, 256, H / patch, W / patch)
Needs    H and W divisible by the patch; otherwise ShapeError names the nearest size. Positions are interpolated to any grid
Differs  scaled_dot_product_attention; positions interpolated bicubically where the original knows one size only
Parity   tests/parity/compare_sam.py, tests/parity/test_transformers_sam.py
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..blocks import MLP, LayerNorm2d, PatchEmbed, resize_positions, unwindows, windows


@dataclass(frozen=True)
class ViTConfig:
    """The image encoder of SAM; the defaults are ViT-B.

    image_size     side of the square whose positions are learned, in pixels
    global_blocks  the blocks that see the whole picture; the others see windows of `window` patches a side
    """

    image_size: int = 1024
    patch: int = 16
    width: int = 768
    depth: int = 12
    heads: int = 12
    global_blocks: tuple[int, ...] = (2, 5, 8, 11)
    window: int = 14
    mlp_ratio: float = 4.0
    channels: int = 256  # of the features
    kind: Literal["vit"] = "vit"


class ImageEncoder(nn.Module):
    """Patches, blocks, neck."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        grid = config.image_size // config.patch
        self.config, self.stride = config, config.patch
        self.patches = PatchEmbed(3, config.width, config.patch)
        self.positions = nn.Parameter(torch.zeros(1, grid, grid, config.width))
        self.blocks = nn.ModuleList(
            Block(config, grid, None if i in config.global_blocks else config.window) for i in range(config.depth)
        )
        self.neck = neck(config.width, config.channels)
        nn.init.trunc_normal_(self.positions, std=0.02)

    def forward(self, image: Tensor) -> Tensor:
        return self.looked(image)[0]

    def looked(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The features, and what leaves the first global block: (B, h, w, D)."""
        x = self.patches(image).movedim(1, -1)  # (B, h, w, D)
        x = x + resize_positions(self.positions, (x.shape[1], x.shape[2]))
        early = x
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i == min(self.config.global_blocks, default=0):
                early = x
        return self.neck(x.movedim(-1, 1)), early


def neck(width: int, channels: int) -> nn.Sequential:
    """(B, D, h, w) -> (B, channels, h, w): 1x1, norm, 3x3, norm."""
    return nn.Sequential(
        nn.Conv2d(width, channels, 1, bias=False),
        LayerNorm2d(channels),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        LayerNorm2d(channels),
    )


class Block(nn.Module):
    """Pre-norm attention, in windows unless `window` is None, and an MLP: (B, h, w, D) -> the same."""

    def __init__(self, config: ViTConfig, grid: int, window: int | None):
        super().__init__()
        self.window = window
        self.norm1, self.norm2 = (nn.LayerNorm(config.width, eps=1e-6) for _ in range(2))
        self.attention = RelativeAttention(config.width, config.heads, window or grid)
        self.mlp = MLP((config.width, int(config.width * config.mlp_ratio), config.width))

    def forward(self, x: Tensor) -> Tensor:
        shape, side = (x.shape[1], x.shape[2]), self.window
        y = self.norm1(x)
        if side is None:
            y = self.attention(y.flatten(1, 2), shape).unflatten(1, shape)
        else:
            y = unwindows(self.attention(windows(y, side), (side, side)), side, shape)
        x = x + y
        return x + self.mlp(self.norm2(x))


class RelativeAttention(nn.Module):
    """Self-attention over a grid; the queries are also matched with a learned vector a row offset and one a column offset."""

    def __init__(self, width: int, heads: int, side: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.rows, self.columns = (nn.Parameter(torch.zeros(2 * side - 1, width // heads)) for _ in range(2))

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, h * w, D), row by row, `size` = (h, w) -> the same."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.movedim(2, 0).transpose(2, 3)  # each (B, heads, N, d)
        grid = q.unflatten(2, size)  # (B, heads, h, w, d)
        rows = torch.einsum("bnhwd,hkd->bnhwk", grid, offsets(self.rows, size[0]).to(q.dtype)).flatten(2, 3)
        columns = torch.einsum("bnhwd,wkd->bnhwk", grid, offsets(self.columns, size[1]).to(q.dtype)).flatten(2, 3)
        attend = attend_folded if folds(q) else attend_by_head
        return self.proj(attend(q, k, v, rows, columns).transpose(1, 2).flatten(2))


def offsets(table: Tensor, side: int) -> Tensor:
    """The table's vector for each pair of positions on an axis: (2 S - 1, d) -> (side, side, d), interpolated if S is another."""
    if len(table) != 2 * side - 1:
        table = F.interpolate(table.float().T[None], size=2 * side - 1, mode="linear", align_corners=False)[0].T
    i = torch.arange(side, device=table.device)
    return table[i[:, None] - i[None, :] + side - 1]


def folds(q: Tensor) -> bool:
    """Whether to fold the relative term into the product.

    Measured, one global block of ViT-B (4,096 tokens, 12 heads), seconds of one process: in bf16 with AMX folded 0.12, mask 0.21;
    with AVX-512 only folded 1.77, mask by heads 0.98 (fp32: 1.84 and 1.10), since the longer product costs more than the mask.
    """
    if not q.is_cpu:
        return True  # no N x N mask in the card's memory
    amx = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return q.dtype == torch.bfloat16 and amx is not None and amx()


def attend_folded(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """One product does it all: q, k, v (B, heads, N, d), rows (B, heads, N, h), columns (B, heads, N, w) -> (B, heads, N, d)."""
    d, h, w = q.shape[-1], rows.shape[-1], columns.shape[-1]
    row = torch.eye(h, dtype=q.dtype, device=q.device).repeat_interleave(w, 0)
    column = torch.eye(w, dtype=q.dtype, device=q.device).repeat(h, 1)
    places = torch.cat((row, column), 1).expand(*k.shape[:2], -1, -1)
    q, k = torch.cat((q * d**-0.5, rows, columns), -1), torch.cat((k, places), -1)
    # The quick kernels want v as wide as q and k.
    return F.scaled_dot_product_attention(q, k, F.pad(v, (0, h + w)), scale=1.0)[..., :d]


def attend_by_head(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The same with a mask (B, 1, N, N), one head after another where it is large."""
    if q.shape[2] > 1024:
        parts = zip(*(t.split(1, dim=1) for t in (q, k, v, rows, columns)), strict=True)
        return torch.cat([_attend_masked(*part) for part in parts], 1)
    return _attend_masked(q, k, v, rows, columns)


def _attend_masked(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    mask = (rows[..., :, None] + columns[..., None, :]).flatten(-2)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
