"""The published U-Net++ networks as configurations of ours, and how their files name the tensors.

A preset returns a UNetPPConfig. `official(config)` takes the config of a reference file and returns our configuration with
the conversion of its state dict to our names. The Keras network is a preset alone: its files are no state dicts.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from ..core.errors import unknown_name
from . import layouts
from .naming import Convert, Rename, renamed
from .sizes import Axes
from .unetpp import UNetPPConfig


def keras(
    in_channels: int = 1, classes: int = 1, widths: tuple[int, ...] = (32, 64, 128, 256, 512), deep_supervision: str = "no"
) -> UNetPPConfig:
    """The paper's network, arXiv:1807.10165: no norm, dropout 0.5 after every convolution, the up-sampled map first."""
    return UNetPPConfig(
        in_channels,
        classes,
        2,
        widths,
        norm="none",
        activation="relu",
        down="max",
        skip_first=False,
        deep_supervision=deep_supervision,  # type: ignore[arg-type]
        dropout=0.5,
    )


def nested(
    in_channels: int = 3,
    classes: int = 1,
    widths: tuple[int, ...] = (32, 64, 128, 256, 512),
    deep_supervision: str = "no",
) -> UNetPPConfig:
    """4uiiurz1/pytorch-nested-unet: batch norm after biased convolutions, bilinear up-sampling without parameters."""
    return UNetPPConfig(
        in_channels,
        classes,
        2,
        widths,
        norm="batch",
        activation="relu",
        down="max",
        up="linear",
        align_corners=True,
        deep_supervision=deep_supervision,  # type: ignore[arg-type]
    )


def nnunet(
    in_channels: int = 1,
    classes: int = 2,
    base: int = 32,
    pools: tuple[Axes, ...] = ((2, 2, 2),) * 5,
    kernels: tuple[Axes, ...] = (),
    max_features: int | None = None,
    deep_supervision: str = "training",
) -> UNetPPConfig:
    """The authors' PyTorch network, in a fork of nnU-Net v1: its encoder and widths, a decoder for each depth.

    The original has exactly five pools. Its trainer teaches X(0,1) alone; ours teaches every head.
    """
    plain = layouts.nnunet(in_channels, classes, base, pools, kernels, max_features)
    return UNetPPConfig(
        in_channels,
        classes,
        plain.dims,
        plain.widths,
        plain.pools,
        plain.kernels,
        plain.decoder_kernels,
        up_bias=False,
        head_bias=False,
        deep_supervision=deep_supervision,  # type: ignore[arg-type]
    )


def official(config: dict[str, Any]) -> tuple[UNetPPConfig, Convert]:
    """Our configuration for a reference file's `config`, and the conversion of its tensors; raises UnknownName."""
    layout = config.get("layout", "")
    if layout not in LAYOUTS:
        raise unknown_name("U-Net++ layout", str(layout), LAYOUTS)
    given = layouts.arguments(config)
    asked = given.pop("deep_supervision", layout == "nnunet")  # nnunet always answers with all its heads
    preset, rename = LAYOUTS[layout]
    ours = preset(**given, deep_supervision="always" if asked else "no")
    return ours, renamed(rename(len(ours.widths) - 1))


def _nested_names(levels: int) -> Rename:
    def rename(name: str) -> str | None:
        if found := re.fullmatch(r"conv(\d)_(\d)\.(conv|bn)([12])\.(\w+)", name):
            part = "norm" if found[3] == "bn" else "conv"
            return f"nodes.{found[1]}_{found[2]}.{int(found[4]) - 1}.{part}.{found[5]}"
        found = re.fullmatch(r"final(\d?)\.(\w+)", name)
        return f"heads.{found[1] or levels}.{found[2]}" if found else None

    return rename


def _nnunet_names(levels: int) -> Rename:
    parts = {"conv": "conv", "instnorm": "norm"}

    def node(nest: str, step: str) -> str:
        """`loc{z}` and `up{z}` climb from level L - 1 - z to the top: their step k makes X(L - 1 - z - k, k + 1)."""
        return f"{levels - 1 - int(nest) - int(step)}_{int(step) + 1}"

    def rename(name: str) -> str | None:
        if found := re.fullmatch(r"conv_blocks_context\.(\d+)\.blocks\.(\d)\.(conv|instnorm)\.(\w+)", name):
            return f"nodes.{found[1]}_0.{found[2]}.{parts[found[3]]}.{found[4]}"
        # the bottleneck and the later nodes are two stacks of one convolution each
        if found := re.fullmatch(r"conv_blocks_context\.(\d+)\.(\d)\.blocks\.0\.(conv|instnorm)\.(\w+)", name):
            return f"nodes.{found[1]}_0.{found[2]}.{parts[found[3]]}.{found[4]}"
        if found := re.fullmatch(r"loc(\d+)\.(\d+)\.(\d)\.blocks\.0\.(conv|instnorm)\.(\w+)", name):
            return f"nodes.{node(found[1], found[2])}.{found[3]}.{parts[found[4]]}.{found[5]}"
        if found := re.fullmatch(r"up(\d+)\.(\d+)\.weight", name):
            return f"up.{node(found[1], found[2])}.weight"
        found = re.fullmatch(r"seg_outputs\.(\d+)\.weight", name)
        return f"heads.{levels - int(found[1])}.weight" if found else None

    return rename


LAYOUTS: dict[str, tuple[Callable[..., UNetPPConfig], Callable[[int], Rename]]] = {
    "nested": (nested, _nested_names),
    "nnunet": (nnunet, _nnunet_names),
}
