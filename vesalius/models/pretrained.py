"""Encoders that others trained on photographs, put into our models: `load_backbone(model, file)`, and `train --weights FILE`.

    google         .npz of the vision transformer, alone or behind its ResNet          Dosovitskiy et al. 2021
    timm_vit       blocks.0.attn.qkv..., the ResNet under patch_embed.backbone
    hf_vit         encoder.layer.0.attention.attention.query..., of transformers; its hybrid's ResNet, a BiT, under
                   embeddings.patch_embeddings.backbone.bit
    beit           blocks.0.attn.q_bias...; Microsoft's checkpoints of BEiT and BEiT v2, and timm's
    hf_beit        encoder.layer.0.lambda_1..., of transformers
    swin           layers.0.blocks.0.attn.qkv...; Microsoft's checkpoints, and timm's
    hf_swin        encoder.layers.0.blocks.0.attention.self.query..., of transformers

A layout is known by its names. Each is brought to the names of our models, then fitted: positions are resized (TransUNet:
linear, outermost tokens held; SegViT: bicubic), a Swin encoder is copied a second time, mirrored, into the decoder of
Swin-Unet, and a kernel for three channels is summed for one where that is the same as repeating the grey image.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..core.errors import WeightsError, unknown_name
from . import catalog
from .beit import for_reach
from .blocks import resize_positions
from .naming import State, unwrapped
from .resnet_v2 import unit_name
from .segvit import SegViT
from .swin_unet import SwinUnet
from .swin_unet import rename as swin_name
from .transunet import TransUNet
from .weights import KeyReport, load_into, load_state, match_keys


@dataclass(frozen=True)
class Layout:
    """A way of naming tensors: the name that gives it away, and the way to our names."""

    sign: str
    family: str
    convert: Callable[[State], State]


@dataclass(frozen=True)
class Place:
    """Where a model takes a backbone: of which family, into which of its parts, and how its tensors are made to fit."""

    family: str
    parts: tuple[str, ...]
    fit: Callable[..., State]


def load_backbone(model: nn.Module, file: str | Path) -> KeyReport:
    """Fill `model`'s encoder from a pretrained file (.npz, .safetensors, .pth) of any layout named above.

    Returns what was not found in the file (the decoder, usually), what the model has no use for (a classifier's head) and
    what has another shape; all of those stay as they are. Raises WeightsError for a file that cannot be read or trusted, is
    of no known layout, or mostly of other sizes than the model; UnknownName for a model that takes no backbone.
    """
    return _fill(model, read_weights(file), Path(file))


def begin_with(model: nn.Module, file: str | Path, head: Collection[str] = ()) -> str:
    """Fill `model` from a file in our names, all of it, or its encoder from a backbone; returns what was done, in words.

    Tensors of the `head` stay as they are where the file has them in another shape: it was of other classes.
    Raises WeightsError where the file does not fit, or is not to be read; UnknownName as `load_backbone`.
    """
    state = read_weights(file)
    if family_of(state) is None:
        anew = {name for name, *_ in match_keys(model, state).misshapen if name in head}
        load_into(model, {**state, **{name: ours for name, ours in model.state_dict().items() if name in anew}}, file=file)
        told = f", and a new head ({', '.join(sorted(anew))}): its classes are others" if anew else ""
        return f"the weights in {file}{told}"
    return f"the encoder in {file}; {_fill(model, state, Path(file))}"


def head_of(model: str, config: Mapping[str, Any]) -> frozenset[str]:
    """The tensors of a network whose shape follows from how many classes it tells apart; none where it counts none."""
    if "classes" not in config:
        return frozenset()
    with torch.device("meta"):
        ours, other = (catalog.build(model, {**config, "classes": config["classes"] + more}).state_dict() for more in (0, 1))
    return frozenset(name for name, tensor in ours.items() if name not in other or other[name].shape != tensor.shape)


def read_weights(file: str | Path) -> State:
    """The tensors of a weights file, Google's .npz included; raises WeightsError."""
    file = Path(file)
    return _read_npz(file) if file.suffix == ".npz" else unwrapped(load_state(file)[0])


def family_of(state: State) -> str | None:
    """Of which family these tensors are a pretrained backbone, by their names; None where they are none."""
    names = {_bare(name) for name in state}
    if "norm_up.weight" in names:  # a whole Swin-Unet, as its authors call the tensors
        return None
    return next((layout.family for layout in LAYOUTS.values() if layout.sign in names), None)


def _bare(name: str) -> str:
    """Without what transformers puts in front of a backbone's names where a classifier stands above it."""
    return re.sub(r"^(vit|swin|beit)\.", "", name)


def _fill(model: nn.Module, state: State, file: Path) -> KeyReport:
    place = place_of(model)
    state = {_bare(name): tensor for name, tensor in state.items()}
    layout = find_layout(state, file)
    if layout.family != place.family:
        raise WeightsError(
            f"these weights are of a {layout.family}, the model is built on a {place.family}",
            file=file,
            fix=f"give those of a {place.family}",
        )
    try:
        state = place.fit(model, layout.convert(state))
    except (LookupError, TypeError, ValueError, RuntimeError) as error:  # tensors of other shapes than their names say
        problem = f"this is no whole {layout.family}: {error}"
        raise WeightsError(problem, file=file, fix="fetch or copy it again") from error
    apart = "of the file: "  # their head is not our head, whatever its name
    state = {name if name.split(".")[0] in place.parts else apart + name: tensor for name, tensor in state.items()}
    report = match_keys(model, state)
    wanted, bad = model.state_dict(), {name for name, *_ in report.misshapen}
    good = {name: tensor for name, tensor in state.items() if name in wanted and name not in bad}
    if len(good) <= len(bad):
        told = f"{len(good) or 'none'} of these tensors fit the model"
        fix = "build it with the sizes of the file; in a recipe they stand under [model]"
        raise WeightsError(f"{told}: {report}", file=file, fix=fix)
    model.load_state_dict(good, strict=False)
    return replace(report, unused=tuple(name.removeprefix(apart) for name in report.unused))


def find_layout(state: State, file: Path) -> Layout:
    """The layout whose sign is among the names; raises WeightsError."""
    for layout in LAYOUTS.values():
        if layout.sign in state:
            return layout
    raise WeightsError("this is no backbone of a layout we know", file=file, fix=f"give one of {', '.join(LAYOUTS)}")


def _read_npz(file: Path) -> State:
    if not file.is_file():
        raise WeightsError("there is no such weights file", file=file, fix="check the path")
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name].astype(np.float32)) for name in arrays.files}
    except (OSError, ValueError, TypeError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise WeightsError("this is no whole .npz of plain numbers", file=file, fix="fetch or copy it again") from error


# Layouts. A rule is a pattern for a whole name, and what it becomes. The ResNet's units are not always counted from 0: apart.

Rules = tuple[tuple[str, str], ...]

_BLOCK, _HEADS = r"Transformer/encoderblock_(\d+)/", "MultiHeadDotProductAttention_1/"
GOOGLE: Rules = (
    (_BLOCK + r"LayerNorm_0/(\w+)", r"vit.layers.\1.norm1.\2"),
    (_BLOCK + r"LayerNorm_2/(\w+)", r"vit.layers.\1.norm2.\2"),
    (_BLOCK + _HEADS + r"(query|key|value)/(\w+)", r"vit.layers.\1.attention.\2.\3"),
    (_BLOCK + _HEADS + r"out/(\w+)", r"vit.layers.\1.attention.proj.\2"),
    (_BLOCK + r"MlpBlock_3/Dense_(\d)/(\w+)", r"vit.layers.\1.mlp.layers.\2.\3"),
    (r"Transformer/encoder_norm/(\w+)", r"vit.norm.\1"),
    (r"Transformer/posembed_input/pos_embedding", "vit.positions"),
    (r"embedding/(\w+)", r"vit.embed.conv.\1"),
    (r"conv_root/(\w+)", r"resnet.root.conv.\1"),
    (r"gn_root/(\w+)", r"resnet.root.norm.\1"),
)
_STEM = r"patch_embed\.backbone\.stem\."
TIMM_VIT: Rules = (
    (r"blocks\.(\d+)\.(norm[12])\.(\w+)", r"vit.layers.\1.\2.\3"),
    (r"blocks\.(\d+)\.attn\.(qkv|proj)\.(\w+)", r"vit.layers.\1.attention.\2.\3"),
    (r"blocks\.(\d+)\.mlp\.fc1\.(\w+)", r"vit.layers.\1.mlp.layers.0.\2"),
    (r"blocks\.(\d+)\.mlp\.fc2\.(\w+)", r"vit.layers.\1.mlp.layers.1.\2"),
    (r"norm\.(\w+)", r"vit.norm.\1"),
    (r"pos_embed", "vit.positions"),
    (r"patch_embed\.proj\.(\w+)", r"vit.embed.conv.\1"),
    (_STEM + r"(conv|norm)\.(\w+)", r"resnet.root.\1.\2"),
)
TIMM_UNIT = r"patch_embed\.backbone\.stages\.(\d)\.blocks\.(\d+)\."
_BIT = r"embeddings\.patch_embeddings\.backbone\.bit\."
HF_UNIT = _BIT + r"encoder\.stages\.(\d)\.layers\.(\d+)\."
_LAYER = r"encoder\.layer\.(\d+)\."
HF_VIT: Rules = (
    (_LAYER + r"layernorm_before\.(\w+)", r"vit.layers.\1.norm1.\2"),
    (_LAYER + r"layernorm_after\.(\w+)", r"vit.layers.\1.norm2.\2"),
    (_LAYER + r"attention\.attention\.(query|key|value)\.(\w+)", r"vit.layers.\1.attention.\2.\3"),
    (_LAYER + r"attention\.output\.dense\.(\w+)", r"vit.layers.\1.attention.proj.\2"),
    (_LAYER + r"intermediate\.dense\.(\w+)", r"vit.layers.\1.mlp.layers.0.\2"),
    (_LAYER + r"output\.dense\.(\w+)", r"vit.layers.\1.mlp.layers.1.\2"),
    (r"layernorm\.(\w+)", r"vit.norm.\1"),
    (r"embeddings\.position_embeddings", "vit.positions"),
    (r"embeddings\.patch_embeddings\.projection\.(\w+)", r"vit.embed.conv.\1"),
    (_BIT + r"embedder\.convolution\.(\w+)", r"resnet.root.conv.\1"),
    (_BIT + r"embedder\.norm\.(\w+)", r"resnet.root.norm.\1"),
)
_BLOCKS = r"blocks\.(\d+)\."
BEIT: Rules = (
    (_BLOCKS + r"gamma_([12])", r"vit.layers.\1.gamma.\2"),
    (_BLOCKS + r"attn\.([qv]_bias)", r"vit.layers.\1.attention.\2"),
    (_BLOCKS + r"attn\.relative_position_bias_table", r"vit.biases.\1.table"),
    (r"cls_token", "vit.cls_token"),
    *TIMM_VIT,
)
HF_BEIT: Rules = (
    (_LAYER + r"lambda_([12])", r"vit.layers.\1.gamma.\2"),
    (_LAYER + r"attention\.attention\.(query|value)\.bias", r"vit.layers.\1.attention.\2_bias"),
    (_LAYER + r"attention\.attention\.relative_position_bias\.relative_position_bias_table", r"vit.biases.\1.table"),
    (r"embeddings\.cls_token", "vit.cls_token"),
    *HF_VIT,
)
_STAGE = r"encoder\.layers\.(\d+)\.blocks\.(\d+)\."
HF_SWIN: Rules = (  # to the names of Microsoft's own files
    (_STAGE + r"layernorm_before\.(\w+)", r"layers.\1.blocks.\2.norm1.\3"),
    (_STAGE + r"layernorm_after\.(\w+)", r"layers.\1.blocks.\2.norm2.\3"),
    (_STAGE + r"attention\.self\.(query|key|value)\.(\w+)", r"layers.\1.blocks.\2.attn.\3.\4"),
    (_STAGE + r"attention\.self\.(relative_position_bias_table)", r"layers.\1.blocks.\2.attn.\3"),
    (_STAGE + r"attention\.output\.dense\.(\w+)", r"layers.\1.blocks.\2.attn.proj.\3"),
    (_STAGE + r"intermediate\.dense\.(\w+)", r"layers.\1.blocks.\2.mlp.fc1.\3"),
    (_STAGE + r"output\.dense\.(\w+)", r"layers.\1.blocks.\2.mlp.fc2.\3"),
    (r"encoder\.layers\.(\d+)\.downsample\.(norm|reduction)\.(\w+)", r"layers.\1.downsample.\2.\3"),
    (r"embeddings\.patch_embeddings\.projection\.(\w+)", r"patch_embed.proj.\1"),
    (r"embeddings\.norm\.(\w+)", r"patch_embed.norm.\1"),
    (r"layernorm\.(\w+)", r"norm.\1"),
)


def by_rules(name: str, rules: Rules) -> str:
    """What the first rule that fits makes of `name`; `name` itself where none does."""
    return next((found.expand(new) for pattern, new in rules if (found := re.fullmatch(pattern, name))), name)


def joined(state: State) -> State:
    """Three tensors .query., .key. and .value. become one, .qkv., in this order."""
    state = dict(state)
    for name in [n for n in state if ".query." in n]:
        parts = [name.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
        if all(part in state for part in parts):
            state[name.replace(".query.", ".qkv.")] = torch.cat([state.pop(part) for part in parts])
    return state


def from_google(state: State) -> State:
    """Kernels are (height, width, in, out) or (in, out), attention's (D, heads, d) and (heads, d, D), norms' (1, 1, 1, C)."""
    ours = State()
    for name, tensor in state.items():
        kind = name.rsplit("/", 1)[-1]
        if kind == "kernel" and tensor.ndim == 4:
            tensor = tensor.permute(3, 2, 0, 1)
        elif kind == "kernel":
            tensor = (tensor.flatten(0, -2) if name.endswith("out/kernel") else tensor.flatten(1)).T
        elif kind in ("scale", "bias"):
            tensor = tensor.flatten()
        new = by_rules(name, GOOGLE)
        if found := re.fullmatch(r"block(\d)/unit(\d+)/(conv|gn)(\d|_proj)/(\w+)", name):
            new = unit_name(int(found[1]) - 1, int(found[2]) - 1, found[3], found[4], found[5])
        ours[re.sub(r"\.(kernel|scale)$", ".weight", new)] = tensor
    return joined(ours)


def from_timm_vit(state: State) -> State:
    """timm's ViT; of its hybrid the ResNet too."""
    return {hybrid_name(name, TIMM_UNIT) or by_rules(name, TIMM_VIT): tensor for name, tensor in state.items()}


def hybrid_name(name: str, unit: str) -> str | None:
    """Our name of a tensor in a unit of the hybrid's ResNet; `unit` is how the names of block and unit begin."""
    found = re.fullmatch(unit + r"(?:(conv|norm)(\d)|downsample\.(conv|norm))\.(\w+)", name)
    return found and unit_name(int(found[1]), int(found[2]), found[3] or found[5], found[4] or "_proj", found[6])


def from_hf_vit(state: State) -> State:
    """transformers' ViT; of its hybrid the ResNet too."""
    return joined({hybrid_name(name, HF_UNIT) or by_rules(name, HF_VIT): tensor for name, tensor in state.items()})


def from_beit(state: State) -> State:
    """Microsoft's BEiT, and timm's. While pretraining all layers share one table of positions: each gets a copy."""
    shared = state.get("rel_pos_bias.relative_position_bias_table")
    ours = {by_rules(name, BEIT): tensor for name, tensor in state.items() if not name.startswith("rel_pos_bias.")}
    return _scaled(ours, shared)


def from_hf_beit(state: State) -> State:
    """transformers' BEiT."""
    shared = state.get("encoder.relative_position_bias.relative_position_bias_table")
    ours = joined({by_rules(name, HF_BEIT): tensor for name, tensor in state.items() if "encoder.relative_pos" not in name})
    return _scaled({re.sub(r"\.(q|v)(?:uery|alue)_bias$", r".\1_bias", name): tensor for name, tensor in ours.items()}, shared)


def _scaled(state: State, shared: Tensor | None) -> State:
    """Layer scales .gamma.1 and .gamma.2 become one (2, D), and a shared table of positions one a layer."""
    for name in [n for n in state if n.endswith(".gamma.1")]:
        layer = name.removesuffix(".gamma.1")
        state[f"{layer}.gamma"] = torch.stack([state.pop(f"{layer}.gamma.{i}") for i in (1, 2)])
        if shared is not None:
            state[f"{layer.replace('layers', 'biases')}.table"] = shared
    return state


def from_swin(state: State) -> State:
    """Microsoft's Swin, and timm's: since 0.9 timm counts a merge to the stage behind it."""
    late = not any(name.startswith("layers.0.downsample.") for name in state)
    stage = re.compile(r"layers\.(\d+)\.downsample\.")
    earlier = {n: stage.sub(lambda found: f"layers.{int(found[1]) - 1}.downsample.", n) if late else n for n in state}
    return {swin_name(earlier[name], 0) or name: tensor for name, tensor in state.items()}


def from_hf_swin(state: State) -> State:
    """transformers' Swin."""
    return from_swin(joined({by_rules(name, HF_SWIN): tensor for name, tensor in state.items()}))


LAYOUTS: dict[str, Layout] = {
    "beit": Layout("blocks.0.attn.q_bias", "BEiT", from_beit),  # its other names are those of a ViT: asked first
    "hf_beit": Layout("encoder.layer.0.lambda_1", "BEiT", from_hf_beit),
    "google": Layout("Transformer/encoder_norm/scale", "ViT", from_google),
    "timm_vit": Layout("blocks.0.attn.qkv.weight", "ViT", from_timm_vit),
    "hf_vit": Layout("encoder.layer.0.attention.attention.query.weight", "ViT", from_hf_vit),
    "swin": Layout("layers.0.blocks.0.attn.qkv.weight", "Swin", from_swin),
    "hf_swin": Layout("encoder.layers.0.blocks.0.attention.self.query.weight", "Swin", from_hf_swin),
}


# Models


def into_transunet(model: TransUNet, state: State) -> State:
    """Positions on the model's grid; three channels for one."""
    state = dict(state)
    if "vit.positions" in state:
        state["vit.positions"] = on_grid(state["vit.positions"], model.config.grid)
    return for_grey(state, "vit.embed.conv.weight", model.in_channels)


def into_swin_unet(model: SwinUnet, state: State) -> State:
    """The encoder's blocks in the decoder too, where it has such; three channels for one."""
    wanted = model.state_dict()
    mirrored = {re.sub("^encoder", "decoder", n): t for n, t in state.items() if n.startswith("encoder.")}
    return for_grey(state | {n: t for n, t in mirrored.items() if n in wanted}, "embed.conv.weight", model.in_channels)


def into_segvit(model: SegViT, state: State) -> State:
    """Positions on the model's grid, bicubic as in the original, the class token's in front; three channels for one."""
    grid, ours = model.backbone.config.grid, State()
    for name, tensor in state.items():
        if name == "vit.positions":
            tensor = behind_token(tensor, grid)
        elif name.startswith("vit.biases."):
            tensor = for_reach(tensor, grid)
        ours[re.sub(r"^vit\.(?!norm\.)", "backbone.", name)] = tensor  # the norm at the end has no place
    return for_grey(ours, "backbone.embed.conv.weight", model.in_channels)


def behind_token(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """(1, 1 + N, D) or, of a ViT without a class token, (1, N, D), of a square image -> (1, 1 + H W, D), `grid` = (H, W).

    Where there was no token, zeros stand for its position. Where N is no square number it comes back as it is.
    """
    first = positions[:, :1]
    if (side := isqrt(positions.shape[1])) ** 2 == positions.shape[1] > 1:
        first = torch.zeros_like(first)
    elif (side := isqrt(positions.shape[1] - 1)) ** 2 == positions.shape[1] - 1:
        positions = positions[:, 1:]
    else:
        return positions
    return torch.cat((first, resize_positions(positions.unflatten(1, (side, side)), grid).flatten(1, 2)), 1)


def on_grid(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """(1, N, D), of a square image, perhaps with a class token in front -> (1, H, W, D), `grid` = (H, W).

    Linear between the outermost tokens, which stay where they are. Where N is no square number it comes back as it is.
    """
    count = positions.shape[1]
    if count == grid[0] * grid[1]:
        return positions.unflatten(1, grid)
    positions = positions[:, 1:] if isqrt(count - 1) ** 2 == count - 1 or count == grid[0] * grid[1] + 1 else positions
    if positions.shape[1] == grid[0] * grid[1]:
        return positions.unflatten(1, grid)
    side = isqrt(positions.shape[1])
    if side * side != positions.shape[1]:
        return positions
    return resize_positions(positions.unflatten(1, (side, side)), grid, "bilinear", align_corners=True)


def for_grey(state: State, name: str, in_channels: int) -> State:
    """The kernel `name` summed over colours where the model takes one channel: what repeating a grey image comes to."""
    if in_channels == 1 and name in state and state[name].shape[1] == 3:
        return {**state, name: state[name].sum(1, keepdim=True)}
    return state


def takers(family: str) -> list[str]:
    """The models of the catalog that a backbone of this family can begin."""
    models = {name: one.builder(one.tiny[0]) for name, one in catalog.CATALOG.items() if one.kind == "segmenter"}
    return [name for name, model in models.items() if isinstance(model, tuple(PLACES)) and place_of(model).family == family]


def place_of(model: nn.Module) -> Place:
    """Where `model` takes a backbone; raises UnknownName."""
    for kind, place in PLACES.items():
        if isinstance(model, kind):
            relative = isinstance(model, SegViT) and model.backbone.relative
            return replace(place, family="BEiT") if relative else place
    raise unknown_name("model with a backbone", type(model).__name__, [kind.__name__ for kind in PLACES])


PLACES: dict[type[nn.Module], Place] = {
    SegViT: Place("ViT", ("backbone",), into_segvit),  # or a BEiT, where its positions are relative
    TransUNet: Place("ViT", ("resnet", "vit"), into_transunet),
    SwinUnet: Place("Swin", ("embed", "embed_norm", "encoder", "merge", "norm", "decoder"), into_swin_unet),
}
