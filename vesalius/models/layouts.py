"""The published U-Nets as configurations of ours, and how their files name the tensors.

A preset returns a UNetConfig. `official(config)` takes the config of a reference file and returns our configuration with
the conversion of its state dict to our names.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from ..core.errors import WeightsError, unknown_name
from .naming import Convert, Rename, State, renamed
from .unet import Axes, UNetConfig


def ronneberger(in_channels: int = 1, classes: int = 2, widths: tuple[int, ...] = (64, 128, 256, 512, 1024)) -> UNetConfig:
    """The paper's network, arXiv:1505.04597 fig. 1: valid convolutions, 572 x 572 -> 388 x 388, dropout 0.

    The paper drops out at the end of the contracting path without a rate; set `dropout` for that.
    """
    return UNetConfig(
        in_channels, classes, 2, widths, norm="none", activation="relu", down="max", padding="valid"
    )


def milesial(
    in_channels: int = 3,
    classes: int = 2,
    widths: tuple[int, ...] = (64, 128, 256, 512, 1024),
    upsampling: str = "transpose",
) -> UNetConfig:
    """milesial/Pytorch-UNet: batch norm, padded convolutions, any input size. Bilinear halves bottleneck and decoder."""
    if upsampling not in ("transpose", "bilinear"):
        raise unknown_name("upsampling", upsampling, ("transpose", "bilinear"))
    bilinear = upsampling == "bilinear"
    return UNetConfig(
        in_channels,
        classes,
        2,
        (*widths[:-1], widths[-1] // 2) if bilinear else widths,
        decoder_widths=(widths[0], *(w // 2 for w in widths[1:-1])) if bilinear else (),
        norm="batch",
        activation="relu",
        down="max",
        up="linear" if bilinear else "transpose",
        align_corners=bilinear,
        odd_sizes="pad",
        conv_bias=False,
    )


def nested(in_channels: int = 3, classes: int = 1, widths: tuple[int, ...] = (32, 64, 128, 256, 512)) -> UNetConfig:
    """The plain U-Net of 4uiiurz1/pytorch-nested-unet: batch norm after biased convolutions, bilinear up-sampling."""
    return UNetConfig(
        in_channels, classes, 2, widths, norm="batch", activation="relu", down="max", up="linear", align_corners=True
    )


def nnunet(
    in_channels: int = 1,
    classes: int = 2,
    base: int = 32,
    pools: tuple[Axes, ...] = ((2, 2, 2),) * 5,
    kernels: tuple[Axes, ...] = (),
    max_features: int | None = None,
    deep_supervision: str = "training",
) -> UNetConfig:
    """nnU-Net v1's generic U-Net, 10.1038/s41592-020-01008-z: strided convolutions, instance norm, widths base x 2^level.

    Widths end at 320 in 3D and 480 in 2D. A decoder level takes the kernel of the level below it, as the original does.
    """
    dims, levels = len(pools[0]), len(pools) + 1
    limit = max_features or (320 if dims == 3 else 480)
    kernels = kernels or ((3,) * dims,) * levels
    return UNetConfig(
        in_channels,
        classes,
        dims,  # type: ignore[arg-type]
        tuple(min(base * 2**level, limit) for level in range(levels)),
        pools,
        kernels,
        decoder_kernels=kernels[1:],
        skip_first=False,
        up_bias=False,
        head_bias=False,
        deep_supervision=deep_supervision,  # type: ignore[arg-type]
    )


def residual_encoder(
    in_channels: int = 1,
    classes: int = 2,
    widths: tuple[int, ...] = (32, 64, 128, 256, 320, 320),
    pools: tuple[Axes, ...] = ((2, 2, 2),) * 5,
    blocks: tuple[int, ...] = (1, 3, 4, 6, 6, 6),
) -> UNetConfig:
    """nnU-Net's ResEnc U-Net, arXiv:2404.09556: residual units in the encoder, one convolution a decoder level."""
    return UNetConfig(
        in_channels,
        classes,
        len(pools[0]),  # type: ignore[arg-type]
        widths,
        pools,
        convs=blocks,
        decoder_convs=(1,) * len(pools),
        block="residual",
        skip_first=False,
        deep_supervision="training",
    )


def official(config: dict[str, Any]) -> tuple[UNetConfig, Convert]:
    """Our configuration for a reference file's `config`, and the conversion of its tensors; raises UnknownName."""
    layout = config.get("layout", "")
    if layout not in LAYOUTS:
        raise unknown_name("U-Net layout", str(layout), LAYOUTS)
    given = arguments(config)
    preset, rename = LAYOUTS[layout]
    if layout == "nnunet":
        given.setdefault("deep_supervision", "always")  # the original answers with all its heads
    ours = preset(**given)
    return ours, renamed(rename(len(ours.widths) - 1))


def arguments(config: dict[str, Any]) -> dict[str, Any]:
    """What a preset takes of a reference file's config: lists become tuples, nnU-Net's `first_kernel` the kernels of all levels.

    The dimensions are left out: milesial and nested are 2D, and nnunet counts the axes of its pools.
    """
    given = {key: value for key, value in config.items() if key not in ("layout", "dims", "first_kernel")}
    for key in ("widths", "pools", "kernels"):
        if given.get(key) is not None:
            given[key] = tuple(tuple(each) if isinstance(each, list) else each for each in given[key])
    if (first := config.get("first_kernel")) and "kernels" not in given:
        given["kernels"] = (tuple(first), *((3,) * len(first),) * len(given["pools"]))
    return given


def nnunet_kernels(state: State) -> tuple[Axes, ...]:
    """The kernel of each level of nnU-Net's encoder, the finest first; of its U-Net++ too."""
    first = re.compile(r"conv_blocks_context\.(\d+)\.(?:0\.)?blocks\.0\.conv\.weight")  # the bottleneck is nested deeper
    found = {int(level[1]): tuple(tensor.shape[2:]) for name, tensor in state.items() if (level := first.fullmatch(name))}
    return tuple(found[level] for level in sorted(found))


def infer(state: State) -> dict[str, Any]:
    """The layout and the sizes of an official U-Net, read off its tensors, as `official` takes them.

    Raises WeightsError where the names belong to no layout that we know.
    """
    if "inc.double_conv.0.weight" in state:
        first = state["inc.double_conv.0.weight"]
        downs = [len(w) for i in range(1, 10) if (w := state.get(f"down{i}.maxpool_conv.1.double_conv.0.weight")) is not None]
        linear = "up1.up.weight" not in state
        widths = (len(first), *downs[:-1], downs[-1] * (2 if linear else 1))
        sizes: dict[str, Any] = {"widths": widths, "upsampling": "bilinear" if linear else "transpose"}
        return {"layout": "milesial", "in_channels": first.shape[1], "classes": len(state["outc.conv.weight"]), **sizes}
    if "conv0_0.conv1.weight" in state and "conv0_1.conv1.weight" not in state:  # with conv0_1 it is a U-Net++
        firsts = [w for i in range(10) if (w := state.get(f"conv{i}_0.conv1.weight")) is not None]
        sizes = {"in_channels": firsts[0].shape[1], "classes": len(state["final.weight"])}
        return {"layout": "nested", "widths": tuple(len(w) for w in firsts), **sizes}
    if "conv_blocks_context.0.blocks.0.conv.weight" in state:
        first = state["conv_blocks_context.0.blocks.0.conv.weight"]
        # The deepest first; the kernel of an up-sampling is that of its pool.
        ups = [w for i in range(10) if (w := state.get(f"tu.{i}.weight")) is not None]
        return {
            "layout": "nnunet",
            "in_channels": first.shape[1],
            "classes": len(state["seg_outputs.0.weight"]),
            "base": len(first),
            "pools": tuple(tuple(w.shape[2:]) for w in reversed(ups)),
            "kernels": nnunet_kernels(state),
            "max_features": max(w.shape[0] for w in ups),
        }
    raise WeightsError("these are the tensor names of no U-Net that we know", fix=f"known layouts: {', '.join(LAYOUTS)}")


def _milesial_names(levels: int) -> Rename:
    parts = {"0": "0.conv", "1": "0.norm", "3": "1.conv", "4": "1.norm"}

    def rename(name: str) -> str | None:
        if found := re.fullmatch(r"inc\.double_conv\.(\d)\.(\w+)", name):
            return f"encoder.0.{parts[found[1]]}.{found[2]}"
        if found := re.fullmatch(r"down(\d+)\.maxpool_conv\.1\.double_conv\.(\d)\.(\w+)", name):
            return f"encoder.{found[1]}.{parts[found[2]]}.{found[3]}"
        if found := re.fullmatch(r"up(\d+)\.up\.(\w+)", name):
            return f"up.{levels - int(found[1])}.{found[2]}"
        if found := re.fullmatch(r"up(\d+)\.conv\.double_conv\.(\d)\.(\w+)", name):
            return f"decoder.{levels - int(found[1])}.{parts[found[2]]}.{found[3]}"
        found = re.fullmatch(r"outc\.conv\.(\w+)", name)
        return f"heads.0.{found[1]}" if found else None

    return rename


def _nested_names(levels: int) -> Rename:
    def rename(name: str) -> str | None:
        if found := re.fullmatch(r"conv(\d)_(\d)\.(conv|bn)([12])\.(\w+)", name):
            side = "encoder" if found[2] == "0" else "decoder"
            return f"{side}.{found[1]}.{int(found[4]) - 1}.{'norm' if found[3] == 'bn' else 'conv'}.{found[5]}"
        found = re.fullmatch(r"final\.(\w+)", name)
        return f"heads.0.{found[1]}" if found else None

    return rename


def _nnunet_names(levels: int) -> Rename:
    parts = {"conv": "conv", "instnorm": "norm"}

    def rename(name: str) -> str | None:
        if found := re.fullmatch(r"conv_blocks_context\.(\d+)\.blocks\.(\d)\.(conv|instnorm)\.(\w+)", name):
            return f"encoder.{found[1]}.{found[2]}.{parts[found[3]]}.{found[4]}"
        # the bottleneck and the decoder are two stacks of one convolution each
        if found := re.fullmatch(r"conv_blocks_context\.(\d+)\.(\d)\.blocks\.0\.(conv|instnorm)\.(\w+)", name):
            return f"encoder.{found[1]}.{found[2]}.{parts[found[3]]}.{found[4]}"
        if found := re.fullmatch(r"conv_blocks_localization\.(\d+)\.(\d)\.blocks\.0\.(conv|instnorm)\.(\w+)", name):
            return f"decoder.{levels - 1 - int(found[1])}.{found[2]}.{parts[found[3]]}.{found[4]}"
        if found := re.fullmatch(r"tu\.(\d+)\.weight", name):
            return f"up.{levels - 1 - int(found[1])}.weight"
        found = re.fullmatch(r"seg_outputs\.(\d+)\.weight", name)
        return f"heads.{levels - 1 - int(found[1])}.weight" if found else None

    return rename


LAYOUTS: dict[str, tuple[Callable[..., UNetConfig], Callable[[int], Rename]]] = {
    "milesial": (milesial, _milesial_names),
    "nested": (nested, _nested_names),
    "nnunet": (nnunet, _nnunet_names),
}
