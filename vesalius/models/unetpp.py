"""U-Net++: a U-Net whose skip connections are themselves small decoders, so that it holds the U-Nets of every depth.

    X(0,0) X(0,1) X(0,2) ... X(0,L)       X(i,0) = conv(down(X(i-1,0)))                        encoder column
    X(1,0) X(1,1) ...                     X(i,j) = conv(concat(X(i,0..j-1), up(X(i+1,j-1))))   every later column, j > 0
    X(2,0) ...                            main = head[L](X(0,L))   auxiliary = head[L-1](X(0,L-1)), ..., head[1](X(0,1))

Column j of the first row needs no level below j: `pruned(j)` is the network that answers with it (the paper's L1 to L4).

Paper    Zhou et al. 2018, arXiv:1807.10165, eq. 1 and fig. 1; pruning: Zhou et al. 2019, arXiv:1912.05074, section III-C
Shapes   image (B, C, *S) float -> logits (B, K, *S) float, those of every head at full resolution
Needs    sizes divisible by the product of the pools; otherwise ShapeError names the nearest size
Differs  `average` takes the mean of the heads' logits where the paper's accurate mode takes that of their sigmoids: a network
         does not know how its scores are decided. Dropout leaves out whole channels, Keras's single values
Parity   tests/parity/test_fixtures.py, folders unetpp_2d and unetpp_nested; the published layouts are in unetpp_layouts.py
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..core.errors import InputError
from .blocks import MAX_POOL, UPCONV, ConvUnit, LinearUp, ShuffleUp, conv, init_he
from .contract import Outputs
from .needs import Needs, bias_matters, levels_for
from .sizes import Axes, Multiples, TakesMultiples, check_levels, shrink

# Of a planned network: half the paper's 32 to 512, since five nodes at full resolution cost what a U-Net costs in all.
WIDTHS = {2: (16, 32, 64, 128, 256), 3: (12, 24, 48, 96, 192)}


@dataclass(frozen=True)
class UNetPPConfig:
    """Everything that tells one U-Net++ from another. An empty tuple means the usual choice.

    widths           channels per level, the finest first; as many levels as the longest way down
    pools            stride per transition and axis, usually 2 everywhere; 1 leaves an axis as it is
    kernels          convolution kernel per level and axis of the encoder, usually 3
    decoder_kernels  the same for the nodes X(i,j>0) of each level, usually those of the encoder
    up               'transpose' (kernel = stride, to the level's width) | 'linear' (no parameters)
    skip_first       concat(X(i,0), ..., X(i,j-1), up), or (up, X(i,0), ...) when False
    deep_supervision 'no' | 'training' | 'always': when the heads of X(0,1) to X(0,L-1) answer too
    average          in use, main is the mean of all heads (the paper's accurate mode)
    stem_stride      stride per axis of a first convolution in front of X(0,0), undone behind every head; ours, for CPUs
    """

    in_channels: int = 1
    classes: int = 2
    dims: Literal[2, 3] = 2
    widths: tuple[int, ...] = (32, 64, 128, 256, 512)
    pools: tuple[Axes, ...] = ()
    kernels: tuple[Axes, ...] = ()
    decoder_kernels: tuple[Axes, ...] = ()
    norm: Literal["batch", "instance", "group", "none"] = "instance"
    activation: Literal["relu", "leaky_relu", "gelu"] = "leaky_relu"
    down: Literal["max", "stride"] = "stride"
    up: Literal["transpose", "linear"] = "transpose"
    align_corners: bool = False
    skip_first: bool = True
    conv_bias: bool = True
    up_bias: bool = True
    head_bias: bool = True
    deep_supervision: Literal["no", "training", "always"] = "training"
    average: bool = False
    dropout: float = 0.0
    stem_stride: Axes = ()

    def __post_init__(self) -> None:
        transitions = len(self.widths) - 1
        lists = {
            "pools": (self.pools, transitions),
            "kernels": (self.kernels, transitions + 1),
            "decoder_kernels": (self.decoder_kernels, transitions),
            "stem_stride": ((self.stem_stride,) if self.stem_stride else (), 1),
        }
        check_levels("U-Net++", self.dims, self.widths, 2, lists)
        if self.average and self.deep_supervision == "no":
            raise InputError("a mean over heads needs heads", fix="set deep_supervision to 'training' or 'always'")

    @property
    def strides(self) -> tuple[Axes, ...]:
        """The pools, written out."""
        return self.pools or ((2,) * self.dims,) * (len(self.widths) - 1)

    @property
    def reduction(self) -> Axes:
        """How many times smaller the coarsest grid is than the image, per axis."""
        return shrink((self.stem_stride or (1,) * self.dims, *self.strides))

    def kernel(self, level: int, column: int) -> Axes:
        """The kernel of X(level, column), written out."""
        given = (column and self.decoder_kernels) or self.kernels
        return given[level] if given else (3,) * self.dims

    def pruned(self, column: int) -> UNetPPConfig:
        """The configuration that ends in X(0, column): its levels below are left out. Raises InputError."""
        last = len(self.widths) - 1
        if not 1 <= column <= last:
            raise InputError(f"there is no column {column} to end in", fix=f"give 1 to {last}")
        if column < last and self.deep_supervision == "no":
            raise InputError(
                f"column {column} of this U-Net++ has no head", fix="train it with deep_supervision='training', then prune"
            )
        return replace(
            self,
            widths=self.widths[: column + 1],
            pools=self.pools[:column],
            kernels=self.kernels[: column + 1],
            decoder_kernels=self.decoder_kernels[:column],
        )


def derive_unetpp(needs: Needs) -> dict[str, Any]:
    """A U-Net++ for a run: as many levels as the patch allows, thick slices pooled later than their plane."""
    return {
        **levels_for(needs, WIDTHS[needs.dims]),
        "conv_bias": bias_matters(needs.chosen.get("norm", "instance")),
        "deep_supervision": "training" if needs.deep_supervision else "no",
    }


class UNetPP(nn.Module, TakesMultiples):
    """The network of a UNetPPConfig. `(B, C, *S) -> Outputs`; raises ChannelError and ShapeError before computing."""

    def __init__(self, config: UNetPPConfig):
        super().__init__()
        c = self.config = config
        self.dims, self.in_channels, self.classes = c.dims, c.in_channels, c.classes
        self.levels = len(c.widths) - 1
        self.sizes = Multiples("U-Net++", c.reduction, voxels=2 if c.norm == "instance" else 1)
        self.pool = nn.ModuleList([MAX_POOL[c.dims](s, s) if c.down == "max" else nn.Identity() for s in c.strides])
        later = [(i, j) for j in range(1, self.levels + 1) for i in range(self.levels + 1 - j)]
        self.stem: nn.Module = nn.Identity()
        if c.stem_stride:
            self.stem = self._unit(c.in_channels, 0, tuple(2 * s - 1 for s in c.stem_stride), c.stem_stride)
        self.nodes = nn.ModuleDict({f"{i}_0": self._encoder(i) for i in range(self.levels + 1)})
        self.nodes.update({f"{i}_{j}": self._node(i, j) for i, j in later})
        self.up = nn.ModuleDict({f"{i}_{j}": self._up(i) for i, j in later})  # in front of X(i, j)
        heads = [self.levels] if c.deep_supervision == "no" else range(1, self.levels + 1)
        self.heads = nn.ModuleDict({str(j): self._head() for j in heads})
        init_he(self)

    def _unit(self, inputs: int, level: int, kernel: Axes, stride: Axes | None = None) -> ConvUnit:
        c = self.config
        return ConvUnit(
            inputs,
            c.widths[level],
            kernel,
            norm_kind=c.norm,
            act=c.activation,
            stride=stride,
            bias=c.conv_bias,
            dropout=c.dropout,
        )

    def _head(self) -> nn.Module:
        c = self.config
        if c.stem_stride:
            return ShuffleUp(c.widths[0], c.classes, c.stem_stride, bias=c.head_bias)
        return conv(c.widths[0], c.classes, (1,) * c.dims, bias=c.head_bias)

    def _two(self, inputs: int, level: int, column: int, stride: Axes | None = None) -> nn.Sequential:
        kernel = self.config.kernel(level, column)
        return nn.Sequential(self._unit(inputs, level, kernel, stride), self._unit(self.config.widths[level], level, kernel))

    def _encoder(self, level: int) -> nn.Sequential:
        c = self.config
        stride = c.strides[level - 1] if level and c.down == "stride" else None
        first = c.widths[0] if c.stem_stride else c.in_channels
        return self._two(c.widths[level - 1] if level else first, level, 0, stride)

    def _node(self, level: int, column: int) -> nn.Sequential:
        c = self.config
        below = c.widths[level + 1 if c.up == "linear" else level]
        return self._two(column * c.widths[level] + below, level, column)

    def _up(self, level: int) -> nn.Module:
        c = self.config
        stride = c.strides[level]
        if c.up == "linear":
            return LinearUp(stride, c.align_corners)
        return UPCONV[c.dims](c.widths[level + 1], c.widths[level], stride, stride, bias=c.up_bias)

    def forward(self, image: Tensor) -> Outputs:
        self.sizes.check_image(image, self.in_channels)
        c = self.config
        average = c.average and not self.training
        every = average or c.deep_supervision == "always" or (c.deep_supervision == "training" and self.training)
        answers: list[Tensor] = []  # of X(0,1), X(0,2), ...
        rows: list[list[Tensor]] = []  # rows[i] = X(i,0), X(i,1), ...
        for depth in range(self.levels + 1):  # an anti-diagonal after the other: X(depth,0), X(depth-1,1), ..., X(0,depth)
            x = self.nodes[f"{depth}_0"](self.pool[depth - 1](rows[-1][0]) if depth else self.stem(image))
            last = depth == self.levels
            if not last:
                rows.append([x])
            for j in range(1, depth + 1):
                i = depth - j
                row = rows.pop() if last else rows[i]  # nobody looks at it after the last anti-diagonal
                x = self.nodes[f"{i}_{j}"](self._joined(row, self.up[f"{i}_{j}"](x)))
                row.append(x)
            if depth and (every or last):
                answers.append(self.heads[str(depth)](x))
        main = torch.stack(answers).mean(0) if average else answers[-1]
        return Outputs(main, tuple(reversed(answers[:-1])) if self.training or c.deep_supervision == "always" else ())

    def _joined(self, row: list[Tensor], up: Tensor) -> Tensor:
        return torch.cat((*row, up) if self.config.skip_first else (up, *row), 1)

    def pruned(self, column: int) -> UNetPP:
        """The network that ends in X(0, column), with its share of the weights: faster, and equal to that head's answer.

        Raises InputError for a column that does not exist or was trained without a head.
        """
        small = UNetPP(self.config.pruned(column)).to(next(self.parameters()).device)
        state = self.state_dict()
        small.load_state_dict({name: state[name] for name in small.state_dict()})
        return small.train(self.training)
