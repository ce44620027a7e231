"""MobileSAM's image encoder: TinyViT, convolutions first and small windows after, a twelfth of ViT-B's work.

    stem      two 3x3 convolutions of stride 2                                           1/4
    stage 0   MBConv: x + conv1x1(dw3x3(conv1x1(x)))                                     1/4
    stage i   x = x + attention(norm(window(x)));  x = dw3x3(x);  x = x + mlp(norm(x))   1/8, 1/16, 1/16
    between   1x1, depthwise 3x3 of stride 2 (1 where the width becomes 320, 448 or 576), 1x1
    neck      as in SAM

The windows are filled with zeros before the norm, so the filling takes part as the norm's bias. A learned number a head for each
(|dy|, |dx|) is added to the scores.

Paper    Wu et al. 2022 (TinyViT), arXiv:2207.10666; Zhang et al. 2023 (MobileSAM), arXiv:2306.14289
Shapes   image (B, 3, H, W) -> (B, 256, H / 16, W / 16)
Needs    H and W divisible by 16; nothing depends on the size, so nothing is interpolated
Differs  the unused classification head of the released file is left out
Parity   tests/parity/compare_tiny_vit.py
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from ..blocks import MLP, ConvUnit, SelfAttention, map_of, tokens_of, unwindows, windows
from .image_encoder import neck

UNSTRIDED = (320, 448, 576)  # widths before which the original does not halve the map


@dataclass(frozen=True)
class TinyViTConfig:
    """The encoder of MobileSAM; each tuple has one value a stage."""

    image_size: int = 1024
    widths: tuple[int, ...] = (64, 128, 160, 320)
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (2, 4, 5, 10)
    windows: tuple[int, ...] = (7, 7, 14, 7)
    mlp_ratio: float = 4.0
    expand: float = 4.0
    channels: int = 256  # of the features
    kind: Literal["tiny"] = "tiny"


class TinyEncoder(nn.Module):
    """Stem, stages, neck."""

    def __init__(self, config: TinyViTConfig):
        super().__init__()
        widths = config.widths
        strides = [1 if width in UNSTRIDED else 2 for width in widths[1:]]
        self.config, self.stride = config, 4 * 2 ** strides.count(2)
        self.stem = nn.Sequential(
            ConvUnit(3, widths[0] // 2, (3, 3), stride=(2, 2), act="gelu", bias=False),
            ConvUnit(widths[0] // 2, widths[0], (3, 3), stride=(2, 2), act=None, bias=False),
        )
        self.stages = nn.ModuleList([nn.Sequential(*(MBConv(widths[0], config.expand) for _ in range(config.depths[0])))])
        for i in range(1, len(widths)):
            self.stages.append(nn.Sequential(*(WindowBlock(config, i) for _ in range(config.depths[i]))))
        self.merges = nn.ModuleList([merge(a, b, stride) for (a, b), stride in zip(pairwise(widths), strides, strict=True)])
        self.neck = neck(widths[-1], config.channels)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stages[0](self.stem(image))
        for merging, stage in zip(self.merges, self.stages[1:], strict=True):  # type: ignore[arg-type]
            x = stage(merging(x))
        return self.neck(x)


def merge(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """To the next stage's width, and to half the size with stride 2."""
    return nn.Sequential(
        ConvUnit(inputs, outputs, (1, 1), act="gelu", bias=False),
        ConvUnit(outputs, outputs, (3, 3), stride=(stride, stride), act="gelu", bias=False, groups=outputs),
        ConvUnit(outputs, outputs, (1, 1), act=None, bias=False),
    )


class MBConv(nn.Module):
    """gelu(x + convolutions(x)), wide in between."""

    def __init__(self, width: int, expand: float):
        super().__init__()
        inner = int(width * expand)
        self.units = nn.Sequential(
            ConvUnit(width, inner, (1, 1), act="gelu", bias=False),
            ConvUnit(inner, inner, (3, 3), act="gelu", bias=False, groups=inner),
            ConvUnit(inner, width, (1, 1), act=None, bias=False),
        )
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x + self.units(x))


class WindowBlock(nn.Module):
    """Attention in windows, a depthwise convolution across their borders, an MLP: (B, D, H, W) -> the same."""

    distance: Tensor

    def __init__(self, config: TinyViTConfig, stage: int):
        super().__init__()
        width, self.side = config.widths[stage], config.windows[stage]
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = SelfAttention(width, config.heads[stage])
        self.bias = nn.Parameter(torch.zeros(config.heads[stage], self.side**2))  # a number for each |dy| * side + |dx|
        self.local = ConvUnit(width, width, (3, 3), act=None, bias=False, groups=width)
        self.mlp = MLP((width, int(width * config.mlp_ratio), width))
        self.register_buffer("distance", distances(self.side), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        size = (x.shape[2], x.shape[3])
        y = self.norm1(windows(x.movedim(1, -1), self.side))
        y = unwindows(self.attention(y, self.bias[:, self.distance][None].to(y.dtype)), self.side, size)
        x = tokens_of(self.local(x + y.movedim(-1, 1)))
        return map_of(x + self.mlp(self.norm2(x)), size)


def distances(side: int) -> Tensor:
    """|dy| * side + |dx| for every two places of a window: (side^2, side^2)."""
    place = torch.arange(side * side)
    y, x = place // side, place % side
    return (y[:, None] - y).abs() * side + (x[:, None] - x).abs()
