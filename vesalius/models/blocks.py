"""The layers that models share, in two and three dimensions: each exists once, here.

Shapes: (B, C, *S) with S = (Y, X) or (Z, Y, X). Nothing here reshapes a map, so channels_last memory stays channels_last.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.errors import unknown_name

# Any: torch declares sizes as int or 2-tuples and takes tuples of any length.
CONV: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
UPCONV: dict[int, Any] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
MAX_POOL = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
BATCH_NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
LINEAR_MODE = {2: "bilinear", 3: "trilinear"}
POOL = {2: F.avg_pool2d, 3: F.avg_pool3d}

ACTIVATIONS = {
    "relu": lambda: nn.ReLU(inplace=True),
    "leaky_relu": lambda: nn.LeakyReLU(0.01, inplace=True),  # slope of nnU-Net
    "gelu": nn.GELU,
}


def activation(kind: str) -> nn.Module:
    """One of ACTIVATIONS; raises UnknownName."""
    if kind not in ACTIVATIONS:
        raise unknown_name("activation", kind, ACTIVATIONS)
    return ACTIVATIONS[kind]()


def norm(kind: str, channels: int, dims: int) -> nn.Module:
    """A normalisation over `channels` with learned scale and shift; raises UnknownName."""
    if kind == "batch":
        return BATCH_NORM[dims](channels)
    if kind == "instance":
        return InstanceNorm(channels)
    if kind == "group":
        return nn.GroupNorm(next(g for g in (8, 4, 2, 1) if channels % g == 0), channels)
    if kind == "none":
        return nn.Identity()
    raise unknown_name("norm", kind, ("batch", "instance", "group", "none"))


class InstanceNorm(nn.Module):
    """Each channel of each image to mean 0, variance 1, then a learned scale and shift; names as in nn.InstanceNorm.

    PyTorch's own leaves channels_last (4 times slower on a CPU), and its group norm with one channel a group keeps it, but
    takes variance as E[x^2] - E[x]^2 (at mean 100 and deviation 1 off by 0.14) and is 20 times slower backward.
    Batch norm of one image is the same thing, exact and quick in that layout.
    """

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.weight, self.bias, self.eps = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels)), eps

    def forward(self, x: Tensor) -> Tensor:
        if x.is_contiguous():
            return F.group_norm(x, x.shape[1], self.weight, self.bias, self.eps)
        parts = [F.batch_norm(i, None, None, self.weight, self.bias, True, 0.0, self.eps) for i in x.split(1)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)  # cat copies even one


def conv(
    inputs: int,
    outputs: int,
    kernel: tuple[int, ...],
    *,
    stride: tuple[int, ...] | None = None,
    bias: bool = True,
    valid: bool = False,
) -> nn.Module:
    """A convolution in len(kernel) dimensions; odd kernels are padded to keep the size unless `valid`."""
    padding = (0,) * len(kernel) if valid else tuple(k // 2 for k in kernel)
    return CONV[len(kernel)](inputs, outputs, kernel, stride or (1,) * len(kernel), padding, bias=bias)


class ConvUnit(nn.Module):
    """conv -> dropout -> norm -> activation."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, ...],
        *,
        norm_kind: str = "batch",
        act: str | None = "relu",
        stride: tuple[int, ...] | None = None,
        bias: bool = True,
        valid: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.conv = conv(inputs, outputs, kernel, stride=stride, bias=bias, valid=valid)
        self.dropout = (nn.Dropout2d, nn.Dropout3d)[len(kernel) - 2](dropout) if dropout else nn.Identity()
        self.norm = norm(norm_kind, outputs, len(kernel))
        self.act = activation(act) if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.dropout(self.conv(x))))


class ResidualUnit(nn.Module):
    """act( norm(conv(unit(x))) + shortcut(x) ); the shortcut averages where the unit strides, and widens by a 1x1 conv."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, ...],
        *,
        norm_kind: str = "batch",
        act: str = "relu",
        stride: tuple[int, ...] | None = None,
        bias: bool = True,
        dropout: float = 0.0,
    ):
        super().__init__()
        dims = len(kernel)
        self.stride = stride if stride and max(stride) > 1 else None
        self.first = ConvUnit(inputs, outputs, kernel, norm_kind=norm_kind, act=act, stride=stride, bias=bias, dropout=dropout)
        self.second = ConvUnit(outputs, outputs, kernel, norm_kind=norm_kind, act=None, bias=bias)
        self.widen: nn.Module = nn.Identity()
        if inputs != outputs:
            self.widen = ConvUnit(inputs, outputs, (1,) * dims, norm_kind=norm_kind, act=None, bias=False)
        self.act = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        short = x if self.stride is None else POOL[len(self.stride)](x, self.stride, self.stride)
        return self.act(self.second(self.first(x)) + self.widen(short))


class LinearUp(nn.Module):
    """Bi- or trilinear up-sampling by whole factors; no parameters."""

    def __init__(self, factor: tuple[int, ...], align_corners: bool = False):
        super().__init__()
        self.factor, self.align_corners = factor, align_corners

    def forward(self, x: Tensor) -> Tensor:
        size = [s * f for s, f in zip(x.shape[2:], self.factor, strict=True)]
        return F.interpolate(x, size=size, mode=LINEAR_MODE[len(size)], align_corners=self.align_corners)


class ShuffleUp(nn.Module):
    """1x1 conv to prod(factor) values a channel, laid out as a block of `factor`: a transposed conv with kernel = stride."""

    def __init__(self, inputs: int, outputs: int, factor: tuple[int, ...], bias: bool = True):
        super().__init__()
        self.factor, self.outputs = factor, outputs
        self.conv = conv(inputs, outputs * prod(factor), (1,) * len(factor), bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        dims = len(self.factor)
        x = self.conv(x)
        batch, size = x.shape[0], x.shape[2:]
        x = x.reshape(batch, self.outputs, *self.factor, *size)  # (B, K, *factor, *S)
        order = [axis for i in range(dims) for axis in (2 + dims + i, 2 + i)]  # S0, f0, S1, f1, ...
        return x.permute(0, 1, *order).reshape(batch, self.outputs, *(s * f for s, f in zip(size, self.factor, strict=True)))


def crop_to(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """The central part of x (B, C, *S) of `size`: a view. Odd differences leave the extra voxel at the end."""
    for axis, (have, want) in enumerate(zip(x.shape[2:], size, strict=True), start=2):
        x = x.narrow(axis, (have - want) // 2, want)
    return x


def pad_to(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """x (B, C, *S) with zeros around it up to `size`; odd differences put the extra voxel at the end."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    edges: list[int] = []
    for have, want in zip(reversed(x.shape[2:]), reversed(size), strict=True):
        edges += [(want - have) // 2, want - have - (want - have) // 2]
    return F.pad(x, edges)


def init_he(module: nn.Module, slope: float = 0.01) -> None:
    """He initialisation of every convolution, zero biases (He et al. 2015, eq. 14; slope as in nnU-Net)."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            nn.init.kaiming_normal_(part.weight, a=slope)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def with_skip(up: Tensor, skip: Tensor, skip_first: bool) -> Tensor:
    """Concatenate along channels: (B, C1 + C2, *S)."""
    return torch.cat((skip, up) if skip_first else (up, skip), dim=1)
