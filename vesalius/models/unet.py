"""The U-Net, in 2D and 3D: plain or residual, padded or valid, with or without deep supervision.

    e[0] = enc[0](stem(x))         e[l] = enc[l](down(e[l-1]))
    d[L] = e[L]                    d[l] = dec[l](concat(e[l], up(d[l+1])))
    main = unstem(head[0](d[0]))   auxiliary = head[1](d[1]), head[2](d[2]), ...

Paper    Ronneberger et al. 2015, arXiv:1505.04597, fig. 1; 3D: Cicek et al. 2016, arXiv:1606.06650;
         deep supervision and residual encoder: Isensee et al., nnU-Net, 10.1038/s41592-020-01008-z and arXiv:2404.09556
Shapes   image (B, C, *S) float -> logits (B, K, *S) float; valid convolutions return less, see `output_size`
Needs    sizes divisible by `divisor` (unless odd_sizes='pad'); otherwise ShapeError names the nearest size
Differs  the strided stem is ours: on a CPU, few channels at full resolution cost most and say least
Parity   tests/parity/test_fixtures.py, folders unet_2d and unet_3d; the official layouts are in layouts.py
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, Literal

from torch import Tensor, nn

from ..core.errors import ChannelError, InputError, ShapeError
from .blocks import (
    MAX_POOL,
    UPCONV,
    ConvUnit,
    LinearUp,
    ResidualUnit,
    ShuffleUp,
    conv,
    crop_to,
    init_he,
    pad_to,
    with_skip,
)
from .contract import Outputs
from .needs import Needs, bias_matters, levels_for
from .sizes import Axes, cheapest, check_levels

WIDTHS = {2: (32, 64, 128, 192, 256, 256), 3: (16, 32, 96, 160, 192)}  # of a planned network


@dataclass(frozen=True)
class UNetConfig:
    """Everything that tells one U-Net from another. An empty tuple means the usual choice.

    widths           channels per level, the finest first; the last is the bottleneck
    pools            stride per transition and axis, usually 2 everywhere; 1 leaves an axis as it is
    kernels          convolution kernel per level and axis, usually 3
    decoder_kernels  the same for the decoder's levels, usually those of the encoder
    decoder_widths   channels that leave each decoder level, usually those of the encoder
    convs            convolutions (block='residual': residual units) per encoder level, usually 2
    decoder_convs    convolutions per decoder level, usually 2
    up               'transpose' (kernel = stride) | 'linear' | 'linear_conv' (linear, then 1x1 to the skip's width)
    skip_first       concat(skip, up), or (up, skip) when False
    odd_sizes        'refuse' | 'pad': the up-sampled map is padded to its skip, so that any size works
    deep_supervision 'no' | 'training' | 'always': when the coarser levels' heads answer
    stem_stride      stride per axis of a first convolution in front of level 0, undone behind head 0 by `stem_up`
    stem_up          'shuffle' (each voxel predicts its block) | 'transpose' (overlapping blocks: kernel 2 x stride)
    """

    in_channels: int = 1
    classes: int = 2
    dims: Literal[2, 3] = 2
    widths: tuple[int, ...] = (32, 64, 128, 256)
    pools: tuple[Axes, ...] = ()
    kernels: tuple[Axes, ...] = ()
    decoder_kernels: tuple[Axes, ...] = ()
    decoder_widths: tuple[int, ...] = ()
    convs: tuple[int, ...] = ()
    decoder_convs: tuple[int, ...] = ()
    block: Literal["plain", "residual"] = "plain"
    norm: Literal["batch", "instance", "group", "none"] = "instance"
    activation: Literal["relu", "leaky_relu", "gelu"] = "leaky_relu"
    down: Literal["max", "stride"] = "stride"
    up: Literal["transpose", "linear", "linear_conv"] = "transpose"
    align_corners: bool = False
    padding: Literal["same", "valid"] = "same"
    odd_sizes: Literal["refuse", "pad"] = "refuse"
    skip_first: bool = True
    conv_bias: bool = True
    up_bias: bool = True
    head_bias: bool = True
    deep_supervision: Literal["no", "training", "always"] = "no"
    dropout: float = 0.0
    stem_stride: Axes = ()
    stem_up: Literal["shuffle", "transpose"] = "shuffle"

    def __post_init__(self) -> None:
        levels = len(self.widths)
        check_levels(
            "U-Net",
            self.dims,
            self.widths,
            2,
            {
                "pools": (self.pools, levels - 1),
                "kernels": (self.kernels, levels),
                "decoder_kernels": (self.decoder_kernels, levels - 1),
                "decoder_widths": (self.decoder_widths, levels - 1),
                "convs": (self.convs, levels),
                "decoder_convs": (self.decoder_convs, levels - 1),
                "stem_stride": ((self.stem_stride,) if self.stem_stride else (), 1),
            },
        )
        if self.padding == "valid" and (self.block == "residual" or self.down == "stride" or self.odd_sizes == "pad"):
            raise InputError("valid convolutions need block='plain', down='max' and odd_sizes='refuse'", fix="change one of them")
        if self.odd_sizes == "pad" and self.stem_stride:
            raise InputError("odd sizes cannot be padded behind a strided stem", fix="set odd_sizes='refuse'")

    @property
    def strides(self) -> tuple[Axes, ...]:
        """The pools, written out."""
        return self.pools or ((2,) * self.dims,) * (len(self.widths) - 1)

    def kernel(self, level: int, side: Literal["encoder", "decoder"] = "encoder") -> Axes:
        """The kernel of a level, written out."""
        given = (side == "decoder" and self.decoder_kernels) or self.kernels
        return given[level] if given else (3,) * self.dims


def derive_unet(needs: Needs) -> dict[str, Any]:
    """A U-Net for a run: pooled along an axis while SMALLEST_EDGE voxels remain, thick slices later than their plane."""
    config = levels_for(needs, WIDTHS[needs.dims])
    depth = len(needs.chosen.get("widths", config["widths"]))
    if needs.dims == 3 and "widths" not in needs.chosen:  # full resolution is the dearest level: one convolution each way
        config |= {"convs": (1, *[2] * (depth - 1)), "decoder_convs": (1, *[2] * (depth - 2))}
    config["conv_bias"] = bias_matters(needs.chosen.get("norm", "instance"))
    config["deep_supervision"] = "training" if needs.deep_supervision and depth > 2 else "no"
    return config


class UNet(nn.Module):
    """The network of a UNetConfig. `(B, C, *S) -> Outputs`; raises ChannelError and ShapeError before computing."""

    def __init__(self, config: UNetConfig):
        super().__init__()
        c = self.config = config
        self.dims, self.in_channels, self.classes = c.dims, c.in_channels, c.classes
        self.levels = len(c.widths) - 1
        self.encoder = nn.ModuleList([self._encoder_level(level) for level in range(self.levels + 1)])
        self.pool = nn.ModuleList([MAX_POOL[c.dims](s, s) if c.down == "max" else nn.Identity() for s in c.strides])
        leaving = (*(c.decoder_widths or c.widths[:-1]), c.widths[-1])
        self.up = nn.ModuleList([self._up(level, leaving[level + 1]) for level in range(self.levels)])
        self.decoder = nn.ModuleList(
            [self._decoder_level(level, leaving[level + 1], leaving[level]) for level in range(self.levels)]
        )
        heads = self.levels if c.deep_supervision != "no" else 1
        self.heads = nn.ModuleList([conv(leaving[i], c.classes, (1,) * c.dims, bias=c.head_bias) for i in range(heads)])
        self.stem: nn.Module = nn.Identity()
        if c.stem_stride:
            self._put_stem(leaving[0])
        init_he(self)
        for part in self.modules():
            if isinstance(part, ResidualUnit) and c.norm != "none":
                nn.init.zeros_(part.second.norm.weight)  # type: ignore[arg-type]  # a residual unit begins as its shortcut

    def _unit(self, inputs: int, outputs: int, kernel: Axes, stride: Axes | None = None) -> ConvUnit:
        c = self.config
        return ConvUnit(
            inputs,
            outputs,
            kernel,
            norm_kind=c.norm,
            act=c.activation,
            stride=stride,
            bias=c.conv_bias,
            valid=c.padding == "valid",
            dropout=c.dropout,
        )

    def _encoder_level(self, level: int) -> nn.Sequential:
        c = self.config
        count, kernel, width = (c.convs or (2,) * len(c.widths))[level], c.kernel(level), c.widths[level]
        stride = c.strides[level - 1] if level and c.down == "stride" else None
        inputs = c.widths[level - 1] if level else (c.widths[0] if c.stem_stride else c.in_channels)
        if c.block == "plain":
            return nn.Sequential(
                *(self._unit(width if i else inputs, width, kernel, None if i else stride) for i in range(count))
            )
        units: list[nn.Module] = []
        if level == 0 and not c.stem_stride:  # nnU-Net's residual encoder: one plain convolution first
            units.append(self._unit(inputs, width, kernel))
            inputs = width
        for i in range(count):
            units.append(
                ResidualUnit(
                    width if i else inputs,
                    width,
                    kernel,
                    norm_kind=c.norm,
                    act=c.activation,
                    stride=None if i else stride,
                    bias=c.conv_bias,
                    dropout=c.dropout,
                )
            )
        return nn.Sequential(*units)

    def _decoder_level(self, level: int, below: int, leaving: int) -> nn.Sequential:
        c = self.config
        width, kernel = c.widths[level], c.kernel(level, "decoder")
        inputs = width + (below if c.up == "linear" else width)
        count = (c.decoder_convs or (2,) * self.levels)[level]
        outputs = [width] * (count - 1) + [leaving]
        return nn.Sequential(*(self._unit(a, b, kernel) for a, b in zip([inputs, *outputs], outputs, strict=False)))

    def _up(self, level: int, below: int) -> nn.Module:
        c = self.config
        factor, width = c.strides[level], c.widths[level]
        if c.up == "transpose":
            return UPCONV[c.dims](below, width, factor, factor, bias=c.up_bias)
        linear = LinearUp(factor, c.align_corners)
        return linear if c.up == "linear" else nn.Sequential(linear, conv(below, width, (1,) * c.dims, bias=c.up_bias))

    def _put_stem(self, width: int) -> None:
        """A strided convolution in front and its learned inverse as the first head."""
        c = self.config
        stride = c.stem_stride
        self.stem = self._unit(c.in_channels, c.widths[0], tuple(2 * s - 1 for s in stride), stride)
        if c.stem_up == "shuffle":
            self.heads[0] = ShuffleUp(width, c.classes, stride, bias=c.head_bias)
        else:
            kernel = tuple(2 * s if s % 2 == 0 else s for s in stride)
            edge = tuple((k - s) // 2 for k, s in zip(kernel, stride, strict=True))
            self.heads[0] = UPCONV[c.dims](width, c.classes, kernel, stride, edge, bias=c.head_bias)

    def forward(self, image: Tensor) -> Outputs:
        self._check(image)
        c = self.config
        x = self.stem(image)
        skips: list[Tensor] = []
        for level, part in enumerate(self.encoder):
            x = part(x if level == 0 else self.pool[level - 1](x))
            skips.append(x)
        coarse: list[Tensor] = []
        answer = c.deep_supervision == "always" or (c.deep_supervision == "training" and self.training)
        skips.pop()
        for level in reversed(range(self.levels)):
            up, skip = self.up[level](x), skips.pop()
            if c.padding == "valid":
                skip = crop_to(skip, tuple(up.shape[2:]))
            elif c.odd_sizes == "pad":
                up = pad_to(up, tuple(skip.shape[2:]))
            x = self.decoder[level](with_skip(up, skip, c.skip_first))
            if level and answer:
                coarse.append(self.heads[level](x))
        return Outputs(self.heads[0](x), tuple(reversed(coarse)))

    @property
    def divisor(self) -> Axes:
        """Input sizes step by this much per axis; 1 where any size works."""
        if self.config.odd_sizes == "pad":
            return (1,) * self.dims
        return tuple(self._shrink(axis) for axis in range(self.dims))

    @property
    def smallest(self) -> Axes:
        """The smallest input size per axis."""
        return self._roomy(tuple(self._search(1, axis, up_only=True) for axis in range(self.dims)))

    def nearest_size(self, size: Axes) -> Axes:
        """The nearest input size the network takes, the larger one when two are equally near."""
        return self._roomy(tuple(self._search(n, axis) for axis, n in enumerate(size)), size)

    def output_size(self, size: Axes) -> Axes:
        """The size of `Outputs.main` for an input of `size`: 572 -> 388 for the paper's network. Raises ShapeError."""
        if len(size) != self.dims:
            raise ShapeError(f"this U-Net takes {self.dims} axes, not {len(size)}", fix=f"give {self.dims} sizes")
        found = [self._walk(n, axis) for axis, n in enumerate(size)]
        whole = tuple(n for n in found if n is not None)
        if len(whole) < self.dims or self._roomy(size) != size:
            shapes = [" x ".join(map(str, s)) for s in (size, self.nearest_size(size))]
            raise ShapeError(f"this U-Net cannot take a size of {shapes[0]}", fix=f"use {shapes[1]}")
        return whole

    def _roomy(self, size: Axes, wanted: Axes | None = None) -> Axes:
        """`size`, longer along one axis where one voxel would be left at the bottom: it has no variance to divide by.

        That axis is the one of `wanted` which is nearest to it.
        """
        divisor = tuple(self._shrink(axis) for axis in range(self.dims))
        if self.config.norm == "instance" and all(n // d <= 1 for n, d in zip(size, divisor, strict=True)):
            axis = cheapest(wanted or size, divisor, 2)
            return (*size[:axis], self._search(2 * divisor[axis], axis, up_only=True), *size[axis + 1 :])
        return size

    def _shrink(self, axis: int) -> int:
        stem = self.config.stem_stride[axis] if self.config.stem_stride else 1
        return stem * prod(stride[axis] for stride in self.config.strides)

    def _walk(self, n: int, axis: int) -> int | None:
        """Follow one axis of size `n` through the network; None where it does not fit."""
        c = self.config
        if c.padding == "same" and c.odd_sizes == "refuse":
            return n if n > 0 and n % self._shrink(axis) == 0 else None
        if c.odd_sizes == "pad":
            return n if n >= self._shrink(axis) else None
        first, sizes = n, list[int]()
        if c.stem_stride:
            first = (n - (2 * c.stem_stride[axis] - 1)) // c.stem_stride[axis] + 1
        for level in range(self.levels + 1):
            if level:
                if sizes[-1] % c.strides[level - 1][axis]:
                    return None
                first = sizes[-1] // c.strides[level - 1][axis]
            sizes.append(first - (c.convs or (2,) * len(c.widths))[level] * (c.kernel(level)[axis] - 1))
        x = sizes.pop()
        for level in reversed(range(self.levels)):
            x = x * c.strides[level][axis] - (c.decoder_convs or (2,) * self.levels)[level] * (
                c.kernel(level, "decoder")[axis] - 1
            )
            if x < 1:
                return None
        return x * (c.stem_stride[axis] if c.stem_stride else 1)

    def _search(self, n: int, axis: int, up_only: bool = False) -> int:
        """The size nearest to `n` that fits along `axis`."""
        reach = 0
        while True:
            for candidate in (n + reach,) if up_only else (n + reach, n - reach):
                if candidate > 0 and self._walk(candidate, axis) is not None:
                    return candidate
            reach += 1

    def _check(self, image: Tensor) -> None:
        if image.ndim != self.dims + 2:
            raise ShapeError(f"this U-Net takes (batch, channels) and {self.dims} axes, not {tuple(image.shape)}")
        if image.shape[1] != self.in_channels:
            raise ChannelError(
                f"the image has {image.shape[1]} channels, this U-Net takes {self.in_channels}",
                fix="give the channels the model was trained with, in their order",
            )
        self.output_size(tuple(image.shape[2:]))
