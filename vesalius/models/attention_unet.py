"""The Attention U-Net: before a skip connection is used, a gate from the coarser level says where to look.

    a = up(sigmoid(psi(relu(theta(x) + phi(g)))))     x skip of a level, g the map one level below, theta strides down to it
    gated = combine(concat(out_1(a_1 x), ...))        one gate a skip, or two side by side
    d[l] = dec[l](concat(gated(e[l], d[l+1]), up(d[l+1])))     level 0 is not gated; at the bottom g = gating(e[L])
    main = final(concat(up(head[0](d[0])), up(head[1](d[1])), ...))

Paper    Oktay et al. 2018, arXiv:1804.03999, eq. 1 and 2, fig. 1 and 2; two gates: Schlemper et al. 2019, arXiv:1808.08114
Shapes   image (B, C, *S) float -> logits (B, K, *S) float; deep supervision lies inside the network: no auxiliary outputs
Needs    sizes divisible by the product of the pools; otherwise ShapeError names the nearest size
Differs  theta strides as its level is pooled, so that thick slices work too; the original has 2 everywhere
Parity   tests/parity/test_fixtures.py, folder attention_unet; `official` reads the layout of ozan-oktay/Attention-Gated-Networks
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..core.errors import unknown_name
from .blocks import MAX_POOL, ConvUnit, LinearUp, ShuffleUp, conv, init_he, with_skip
from .contract import Outputs
from .naming import Convert, renamed
from .needs import Needs, bias_matters, levels_for
from .sizes import Axes, Multiples, TakesMultiples, check_levels, shrink

WIDTHS = {2: (32, 64, 128, 192, 256), 3: (16, 32, 64, 128, 256)}  # of a planned network; 3D: the original's
GATES = {"multi": 2, "single": 1, "none": 0}


@dataclass(frozen=True)
class AttentionUNetConfig:
    """Everything that tells one Attention U-Net from another. An empty tuple means the usual choice.

    widths           channels per level, the finest first; the last is the bottleneck
    pools            stride per transition and axis, usually 2 everywhere; 1 leaves an axis as it is
    gates            'multi' (two gates a skip) | 'single' | 'none' (the original's network without attention)
    deep_supervision heads of all levels, up-sampled and joined by `final`; without it one head at level 0 answers
    stem_stride      stride per axis of a first convolution in front of level 0, undone by every head; ours, for CPUs
    """

    in_channels: int = 1
    classes: int = 2
    dims: Literal[2, 3] = 2
    widths: tuple[int, ...] = (16, 32, 64, 128, 256)
    pools: tuple[Axes, ...] = ()
    gates: Literal["multi", "single", "none"] = "multi"
    norm: Literal["batch", "instance", "group", "none"] = "batch"
    activation: Literal["relu", "leaky_relu", "gelu"] = "relu"
    conv_bias: bool = True
    deep_supervision: bool = True
    dropout: float = 0.0
    stem_stride: Axes = ()

    def __post_init__(self) -> None:
        stem = ((self.stem_stride,) if self.stem_stride else (), 1)
        lists = {"pools": (self.pools, len(self.widths) - 1), "stem_stride": stem}
        check_levels("Attention U-Net", self.dims, self.widths, 3, lists)

    @property
    def strides(self) -> tuple[Axes, ...]:
        """The pools, written out."""
        return self.pools or ((2,) * self.dims,) * (len(self.widths) - 1)

    @property
    def reduction(self) -> Axes:
        """How many times smaller the coarsest grid is than the image, per axis."""
        return shrink((self.stem_stride or (1,) * self.dims, *self.strides))


def derive_attention_unet(needs: Needs) -> dict[str, Any]:
    """An Attention U-Net for a run: as many levels as the patch allows, at least three, or no skip would be gated."""
    return {
        **levels_for(needs, WIDTHS[needs.dims], least=2),
        "conv_bias": bias_matters(needs.chosen.get("norm", "batch")),
        "deep_supervision": needs.deep_supervision,
    }


class GridGate(nn.Module):
    """Additive attention on a grid, eq. 1: x (B, C, *S), g (B, G, *S / stride) -> gated (B, C, *S), map (B, 1, *S) in 0..1."""

    def __init__(self, width: int, gating: int, stride: Axes, norm_kind: str, conv_bias: bool):
        super().__init__()
        dims, ones = len(stride), (1,) * len(stride)
        self.theta = conv(width, width, stride, stride=stride, bias=False, valid=True)
        self.phi = conv(gating, width, ones)
        self.psi = conv(width, 1, ones)
        self.up = LinearUp(stride)
        self.out = ConvUnit(width, width, (1,) * dims, norm_kind=norm_kind, act=None, bias=conv_bias)

    def forward(self, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        where = self.up(torch.sigmoid(self.psi(torch.relu(self.theta(x) + self.phi(g)))))
        return self.out(where * x), where


class GatedSkip(nn.Module):
    """One or more gates side by side, joined by a 1x1 unit: gated (B, C, *S), maps (B, gates, *S)."""

    def __init__(self, width: int, gating: int, stride: Axes, config: AttentionUNetConfig):
        super().__init__()
        c, gates = config, GATES[config.gates]
        self.gates = nn.ModuleList([GridGate(width, gating, stride, c.norm, c.conv_bias) for _ in range(gates)])
        ones = (1,) * c.dims
        self.combine = ConvUnit(gates * width, width, ones, norm_kind=c.norm, act=c.activation, bias=c.conv_bias)

    def forward(self, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        gated, maps = zip(*(gate(x, g) for gate in self.gates), strict=True)
        return self.combine(torch.cat(gated, 1)), torch.cat(maps, 1)


class AttentionUNet(nn.Module, TakesMultiples):
    """The network of an AttentionUNetConfig. `(B, C, *S) -> Outputs`; raises ChannelError and ShapeError before computing."""

    def __init__(self, config: AttentionUNetConfig):
        super().__init__()
        c = self.config = config
        self.dims, self.in_channels, self.classes = c.dims, c.in_channels, c.classes
        w, ones, self.levels = c.widths, (1,) * c.dims, len(c.widths) - 1
        self.sizes = Multiples("Attention U-Net", c.reduction, voxels=2 if c.norm == "instance" else 1)
        self.stem: nn.Module = nn.Identity()
        if c.stem_stride:
            kernel = tuple(2 * s - 1 for s in c.stem_stride)
            self.stem = self._unit(c.in_channels, w[0], kernel, c.stem_stride)
        first = w[0] if c.stem_stride else c.in_channels
        self.encoder = nn.ModuleList([self._two(w[i - 1] if i else first, w[i]) for i in range(self.levels + 1)])
        self.pool = nn.ModuleList([MAX_POOL[c.dims](s, s) for s in c.strides])
        self.gating: nn.Module = nn.Identity()
        self.skips = nn.ModuleDict()
        if c.gates != "none":
            self.gating = ConvUnit(w[-1], w[-1], ones, norm_kind=c.norm, act=c.activation, bias=c.conv_bias)
            gated = range(1, self.levels)
            self.skips = nn.ModuleDict({str(i): GatedSkip(w[i], w[i + 1], c.strides[i], c) for i in gated})
        self.up = nn.ModuleList([LinearUp(s) for s in c.strides])
        self.decoder = nn.ModuleList([self._two(w[i] + w[i + 1], w[i]) for i in range(self.levels)])
        heads = self.levels if c.deep_supervision else 1
        self.heads = nn.ModuleList([self._head(w[i]) for i in range(heads)])
        self.head_up = nn.ModuleList([LinearUp(shrink((ones, *c.strides[:i]))) for i in range(heads)])
        self.final = conv(heads * c.classes, c.classes, ones) if c.deep_supervision else nn.Identity()
        init_he(self, slope=0.0)

    def _unit(self, inputs: int, outputs: int, kernel: Axes, stride: Axes | None = None) -> ConvUnit:
        c = self.config
        given: dict[str, Any] = {"norm_kind": c.norm, "act": c.activation, "bias": c.conv_bias, "dropout": c.dropout}
        return ConvUnit(inputs, outputs, kernel, stride=stride, **given)

    def _two(self, inputs: int, outputs: int) -> nn.Sequential:
        kernel = (3,) * self.dims
        return nn.Sequential(self._unit(inputs, outputs, kernel), self._unit(outputs, outputs, kernel))

    def _head(self, width: int) -> nn.Module:
        c = self.config
        return ShuffleUp(width, c.classes, c.stem_stride) if c.stem_stride else conv(width, c.classes, (1,) * c.dims)

    def forward(self, image: Tensor) -> Outputs:
        return Outputs(self._walk(image)[0])

    def attention(self, image: Tensor) -> tuple[Tensor, ...]:
        """Where each gate looks, the coarsest skip first: maps (B, gates, *S of the skip) in 0..1; () without gates."""
        return self._walk(image)[1]

    def _walk(self, image: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        self.sizes.check_image(image, self.in_channels)
        skips, maps, answers = list[Tensor](), list[Tensor](), list[Tensor]()
        x = self.stem(image)
        for level, part in enumerate(self.encoder):
            x = part(self.pool[level - 1](x) if level else x)
            skips.append(x)
        x = skips.pop()
        for level in reversed(range(self.levels)):
            skip = skips.pop()
            if str(level) in self.skips:
                skip, where = self.skips[str(level)](skip, self.gating(x) if level == self.levels - 1 else x)
                maps.append(where)
            x = self.decoder[level](with_skip(self.up[level](x), skip, skip_first=True))
            if level < len(self.heads):
                answers.append(self.head_up[level](self.heads[level](x)))
        return self.final(torch.cat(answers[::-1], 1)), tuple(maps)


def official(config: dict[str, Any]) -> tuple[AttentionUNetConfig, Convert]:
    """Our configuration for a reference file's `config`, and the conversion of its tensors; raises UnknownName."""
    gates = config.get("gates", "multi")
    if gates not in GATES:
        raise unknown_name("kind of gates", str(gates), GATES)
    widths = config.get("widths") or [n // config.get("feature_scale", 4) for n in (64, 128, 256, 512, 1024)]
    ours = AttentionUNetConfig(
        config.get("in_channels", 1), config.get("classes", 2), config.get("dims", 3), tuple(widths), gates=gates
    )
    levels = len(widths) - 1
    unit = {"conv1.0": "0.conv", "conv1.1": "0.norm", "conv2.0": "1.conv", "conv2.1": "1.norm"}
    part = {"0": "conv", "1": "norm"}

    def rename(name: str) -> str | None:
        if found := re.fullmatch(r"(conv\d+|center)\.(conv[12]\.[01])\.(\w+)", name):
            level = levels if found[1] == "center" else int(found[1][4:]) - 1
            return f"encoder.{level}.{unit[found[2]]}.{found[3]}"
        if found := re.fullmatch(r"up_concat(\d+)\.conv\.(conv[12]\.[01])\.(\w+)", name):
            return f"decoder.{int(found[1]) - 1}.{unit[found[2]]}.{found[3]}"
        if found := re.fullmatch(r"gating\.conv1\.([01])\.(\w+)", name):
            return f"gating.{part[found[1]]}.{found[2]}"
        if found := re.fullmatch(r"attentionblock(\d+)\.gate_block_(\d)\.W\.([01])\.(\w+)", name):
            return f"skips.{int(found[1]) - 1}.gates.{int(found[2]) - 1}.out.{part[found[3]]}.{found[4]}"
        if found := re.fullmatch(r"attentionblock(\d+)\.gate_block_(\d)\.(theta|phi|psi)\.(\w+)", name):
            return f"skips.{int(found[1]) - 1}.gates.{int(found[2]) - 1}.{found[3]}.{found[4]}"
        if found := re.fullmatch(r"attentionblock(\d+)\.combine_gates\.([01])\.(\w+)", name):
            return f"skips.{int(found[1]) - 1}.combine.{part[found[2]]}.{found[3]}"
        found = re.fullmatch(r"dsv(\d+)(?:\.dsv\.0)?\.(\w+)", name)
        return f"heads.{int(found[1]) - 1}.{found[2]}" if found else None

    return ours, renamed(rename)
