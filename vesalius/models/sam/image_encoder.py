"""SAM's image encoder: a plain ViT with windows, four global blocks and relative positions, and a convolutional neck.

    x = patches(image) + positions
    x = x + attention(window(norm(x)));  x = x + mlp(norm(x))               (B, h, w, D), h = H / patch
    features = norm(conv3x3(norm(conv1x1(x))))                              (B, 256, h, w)

    attention   softmax(q k^T / sqrt(d) + q . R[dy] + q . C[dx]) v          tables R, C of 2 S - 1 rows; q is not scaled there

Windows are filled up with zeros after the norm, and the filling takes part in the attention, as in the original; its q, k and v
are the bias alone, so nothing is computed for it. No (N x N) table is ever made for all heads at once: either the relative term
is folded into the product, q' = [q / sqrt(d), R q, C q] and k' = [k, one-hot row, one-hot column], or a few scores at a time are
made with it already in them, and are used while they are in the cache. `folds` says which, and why.

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

SCORES = 1 << 20  # made at once, for each thread
SHORT = 32  # adding along rows shorter than this is slower than a product with one-hot vectors


@dataclass(frozen=True)
class ViTConfig:
    """The image encoder of SAM; the defaults are ViT-B.

    image_size     side of the square whose positions are learned, in pixels
    global_blocks  the blocks that see the whole picture; the others see windows of `window` patches a side (0: as global ones)
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
            Block(config, grid, None if i in config.global_blocks else config.window or None) for i in range(config.depth)
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
        x = x + self.attention(self.norm1(x), self.window)
        return x + self.mlp(self.norm2(x))


class RelativeAttention(nn.Module):
    """Self-attention over a grid; the queries are also matched with a learned vector a row offset and one a column offset."""

    def __init__(self, width: int, heads: int, side: int):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.rows, self.columns = (nn.Parameter(torch.zeros(2 * side - 1, width // heads)) for _ in range(2))

    def forward(self, x: Tensor, window: int | None) -> Tensor:
        """(B, h, w, D) -> the same; within windows of `window` tokens a side, or all over the grid."""
        shape, qkv = (x.shape[1], x.shape[2]), self.qkv(x)
        q, k, v = qkv.chunk(3, -1)
        if window is None:
            return self.proj(self.attend(q.flatten(1, 2), k.flatten(1, 2), v.flatten(1, 2), shape).unflatten(1, shape))
        fillings = self.qkv.bias.to(qkv.dtype).chunk(3)  # of a token of zeros
        q, k, v = (windows(t, window, filling) for t, filling in zip((q, k, v), fillings, strict=True))
        whole = unwindows(self.attend(q, k, v, (window, window)), window, shape)
        return self.proj(whole.contiguous())  # on a map whose filling is cut off, the product takes four times as long

    def attend(self, q: Tensor, k: Tensor, v: Tensor, size: tuple[int, int]) -> Tensor:
        """Each (B, h * w, D), row by row, `size` = (h, w) -> (B, h * w, D)."""
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2).contiguous() for t in (q, k, v))
        grid = q.unflatten(2, size)  # of (B, heads, N, d), which products want contiguous: (B, heads, h, w, d)
        rows = torch.einsum("bnhwd,hkd->bnhwk", grid, offsets(self.rows, size[0]).to(q.dtype)).flatten(2, 3)
        columns = torch.einsum("bnhwd,wkd->bnhwk", grid, offsets(self.columns, size[1]).to(q.dtype)).flatten(2, 3)
        attend = attend_folded if folds(q) else attend_in_parts
        return attend(q, k, v, rows, columns).transpose(1, 2).flatten(2)


def offsets(table: Tensor, side: int) -> Tensor:
    """The table's vector for each pair of positions on an axis: (2 S - 1, d) -> (side, side, d), interpolated if S is another."""
    if len(table) != 2 * side - 1:
        table = F.interpolate(table.float().T[None], size=2 * side - 1, mode="linear", align_corners=False)[0].T
    i = torch.arange(side, device=table.device)
    return table[i[:, None] - i[None, :] + side - 1]


def folds(q: Tensor) -> bool:
    """Whether to fold the relative term into the product.

    Measured, one global block of ViT-B (4,096 tokens, 12 heads), seconds of one process. In bf16 with AMX: folded 0.12, a mask
    for scaled_dot_product_attention 0.21. With AVX-512 only: folded 1.77, mask 1.08 (0.75 even without one), in parts 0.53; in
    fp32 1.84, 1.10 and 1.02, since the longer product costs more than the additions.
    """
    if not q.is_cpu:
        return True  # no N x N mask in the card's memory
    amx = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return q.dtype == torch.bfloat16 and amx is not None and amx()


def attend_folded(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """One product does it all: q, k, v (B, heads, N, d), rows (B, heads, N, h), columns (B, heads, N, w) -> (B, heads, N, d)."""
    d, h, w = q.shape[-1], rows.shape[-1], columns.shape[-1]
    places = one_hot(h, w, q).expand(*k.shape[:2], -1, -1)
    q, k = torch.cat((q * d**-0.5, rows, columns), -1), torch.cat((k, places), -1)
    # The quick kernels want v as wide as q and k.
    return F.scaled_dot_product_attention(q, k, F.pad(v, (0, h + w)), scale=1.0)[..., :d]


def attend_in_parts(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """The same by plain products, SCORES at a time: several heads (and windows), or some queries of one head."""
    shape, n = q.shape, q.shape[2]
    each = max(1, SCORES * torch.get_num_threads() // n)  # queries
    heads = [t.flatten(0, 1).split(max(1, each // n)) for t in (q, k, v, rows, columns)]
    found = []
    for q, k, v, rows, columns in zip(*heads, strict=True):
        asking = zip(*(t.split(each, 1) for t in (q, rows, columns)), strict=True)
        found.append(torch.cat([_attend_biased(q, k, v, rows, columns) for q, rows, columns in asking], 1))
    return torch.cat(found).view(shape)


def _attend_biased(q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """q (b, n, d), k and v (b, N, d), rows (b, n, h), columns (b, n, w), h w = N -> (b, n, d)."""
    h, w = rows.shape[-1], columns.shape[-1]
    if w < SHORT:
        bias = torch.cat((rows, columns), -1) @ one_hot(h, w, q).T
    else:
        bias = (rows[..., :, None] + columns[..., None, :]).flatten(-2)
    return torch.baddbmm(bias, q, k.transpose(1, 2), alpha=q.shape[-1] ** -0.5).softmax(-1) @ v


def one_hot(h: int, w: int, like: Tensor) -> Tensor:
    """(h * w, h + w): which row and which column each place of a grid has."""
    row, column = (torch.eye(n, dtype=like.dtype, device=like.device) for n in (h, w))
    return torch.cat((row.repeat_interleave(w, 0), column.repeat(h, 1)), 1)
