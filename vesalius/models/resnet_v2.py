"""The residual network of Big Transfer, cut behind its third block: the eyes of the hybrid vision transformer.

    root   7x7, stride 2, norm, ReLU                                               1/2   width      a skip
    pool   3x3, stride 2, nothing padded                                           1/4
    block1, 2, 3   units of 1x1, 3x3, 1x1 with their norms, beside a shortcut      1/4, 1/8, 1/16   4, 8, 16 x width
    unit(x) = relu( norm3(conv3( relu(norm2(conv2( relu(norm1(conv1(x))) ))) )) + shortcut(x) )

Paper    Kolesnikov et al. 2020, arXiv:1912.11370; weight standardisation: Qiao et al. 2019, arXiv:1903.10520
Shapes   image (B, C, H, W) -> map (B, 16 width, H / 16, W / 16) and the maps at 1/8, 1/4 and 1/2
Needs    H and W divisible by 16, more than 16 px; width divisible by 32 (groups of the norms)
Differs  ReLU comes last, as in the code of TransUNet, whatever the "V2"; the pool pads nothing, so its map is one pixel
         short (55 for 56): the skip is filled up with zeros at its end, the map that goes on is not
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import InstanceNorm

GROUPS, EPS = 32, 1e-6


class StandardConv(nn.Conv2d):
    """A convolution whose weights have mean 0 and variance 1 per output channel; no bias."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1):
        super().__init__(inputs, outputs, kernel, stride, kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(self.weight, (1, 2, 3), correction=0, keepdim=True)
        return F.conv2d(x, (self.weight - mean) * (variance + 1e-5).rsqrt(), None, self.stride, self.padding)


class NormedConv(nn.Module):
    """StandardConv, then a norm over 32 groups of channels; `apart` gives every channel a group of its own."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, apart: bool = False):
        super().__init__()
        self.conv = StandardConv(inputs, outputs, kernel, stride)
        self.norm = InstanceNorm(outputs, 1e-5) if apart else nn.GroupNorm(GROUPS, outputs, EPS)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class Bottleneck(nn.Module):
    """relu(1x1, 3x3, 1x1 + shortcut); the middle has a quarter of the channels, and the stride."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__()
        inner = outputs // 4
        self.first, self.second = NormedConv(inputs, inner, 1), NormedConv(inner, inner, 3, stride)
        self.third = NormedConv(inner, outputs, 1)
        straight = stride == 1 and inputs == outputs
        self.shortcut: nn.Module = nn.Identity() if straight else NormedConv(inputs, outputs, 1, stride, apart=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.third(F.relu(self.second(F.relu(self.first(x)))))
        return F.relu(y + self.shortcut(x))


class ResNetV2(nn.Module):
    """`units` per block, three blocks; returns the map at 1/16 and the skips at 1/8, 1/4, 1/2."""

    def __init__(self, in_channels: int, width: int, units: tuple[int, int, int]):
        super().__init__()
        self.root, self.pool = NormedConv(in_channels, width, 7, 2), nn.MaxPool2d(3, 2)
        self.blocks = nn.ModuleList()
        inputs = width
        for i, count in enumerate(units):
            outputs = 4 * width * 2**i
            parts = [Bottleneck(outputs if j else inputs, outputs, 2 if i and not j else 1) for j in range(count)]
            self.blocks.append(nn.Sequential(*parts))
            inputs = outputs
        self.skip_widths = (8 * width, 4 * width, width)

    def forward(self, image: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        height, width = image.shape[2:]
        half = F.relu(self.root(image))
        quarter = self.blocks[0](self.pool(half))
        eighth = self.blocks[1](quarter)
        skips = (eighth, fill(quarter, (height // 4, width // 4)), half)
        return self.blocks[2](eighth), skips


def fill(x: Tensor, size: tuple[int, int]) -> Tensor:
    """`x` (B, C, H, W) with zeros behind its last row and column, up to `size`."""
    return F.pad(x, (0, size[1] - x.shape[3], 0, size[0] - x.shape[2]))


PARTS = {"1": "first", "2": "second", "3": "third", "_proj": "shortcut"}


def unit_name(block: int, unit: int, kind: str, part: str, tensor: str) -> str:
    """Our name of a unit's tensor; blocks and units count from 0, `kind` 'conv' or a norm, `part` '1', '2', '3' or '_proj'."""
    return f"resnet.blocks.{block}.{unit}.{PARTS[part]}.{'conv' if kind == 'conv' else 'norm'}.{tensor}"
