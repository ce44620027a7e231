"""How published ViT and SegViT files name their tensors, and from a reference file's config to ours."""

from __future__ import annotations

import re
from typing import Any

from ..core.errors import unknown_name
from .naming import Convert, State
from .segvit import HeadConfig, SegViTConfig
from .vit_backbone import ViTConfig

KINDS = ("atm", "atm_shrunk", "atm_single")


def official_segvit(config: dict[str, Any]) -> tuple[SegViTConfig, Convert]:
    """Our configuration for a reference file's `config` {backbone, head}, and the conversion of its tensors; raises UnknownName.

    Sizes may be one number or (H, W). A single head has its projection unless `use_proj` is false, as in the original.
    The Shrink form must say `shrink_at`: no tensor's name or shape depends on it.
    """
    trunk, head = config["backbone"], config["head"]
    kind = head.get("kind", "atm")
    if kind not in KINDS:
        raise unknown_name("SegViT head", str(kind), KINDS)
    size = trunk.get("image_size", 512)
    ours = SegViTConfig(
        in_channels=trunk.get("in_channels", 3),
        classes=head["classes"],
        backbone=ViTConfig(
            image_size=(size, size) if isinstance(size, int) else tuple(size),
            patch=trunk.get("patch_size", 16),
            width=trunk["embed_dim"],
            depth=trunk["layers"],
            heads=trunk["heads"],
            out_layers=tuple(trunk["out_layers"]),
            # Left out of a Shrink form it would be another network.
            shrink_at=-1 if kind != "atm_shrunk" and trunk.get("shrink_at") is None else trunk["shrink_at"],
        ),
        head=HeadConfig(kind, head["embed_dim"], head["heads"], head.get("layers", 3), projection=head.get("use_proj", True)),
    )
    return ours, lambda state: segvit_names(state, kind == "atm_shrunk")


TRUNK = (
    (r"backbone\.pos_embed", "backbone.positions"),
    (r"backbone\.patch_embed\.projection\.(\w+)", r"backbone.embed.conv.\1"),
    (r"backbone\.layers\.(\d+)\.ln([12])\.(\w+)", r"backbone.layers.\1.norm\2.\3"),
    (r"backbone\.layers\.(\d+)\.attn\.attn\.in_proj_(\w+)", r"backbone.layers.\1.attention.qkv.\2"),
    (r"backbone\.layers\.(\d+)\.attn\.attn\.out_proj\.(\w+)", r"backbone.layers.\1.attention.proj.\2"),
    (r"backbone\.layers\.(\d+)\.ffn\.layers\.0\.0\.(\w+)", r"backbone.layers.\1.mlp.layers.0.\2"),
    (r"backbone\.layers\.(\d+)\.ffn\.layers\.1\.(\w+)", r"backbone.layers.\1.mlp.layers.1.\2"),
)
LAYER = (  # behind the name of a decoder's layer
    (r"self_attn\.in_proj_(\w+)", r"among.qkv.\1"),
    (r"self_attn\.out_proj\.(\w+)", r"among.proj.\1"),
    (r"multihead_attn\.out_proj\.(\w+)", r"cross.proj.\1"),
    (r"multihead_attn\.(q|k|v|proj)\.(\w+)", r"cross.\1.\2"),
    (r"linear([12])\.(\w+)", lambda m: f"mlp.layers.{int(m[1]) - 1}.{m[2]}"),
    (r"norm([123])\.(\w+)", lambda m: f"norms.{int(m[1]) - 1}.{m[2]}"),
)
HEAD = (
    (r"q\.weight", "queries"),
    (r"class_embed\.(\w+)", r"classify.\1"),
    (r"input_proj_(\d+)\.(\w+)", lambda m: f"laterals.{int(m[1]) - 1}.0.{m[2]}"),
    (r"proj_norm_(\d+)\.(\w+)", lambda m: f"laterals.{int(m[1]) - 1}.1.{m[2]}"),
)


def segvit_names(state: State, shrunk: bool) -> State:
    """An official SegViT state dict in our names; the fused q, k, v of QueryUp's stock attention come apart."""
    found: State = {}
    for name, tensor in state.items():
        if fused := re.fullmatch(r"(decode_head\.decoder_\d+\.layers\.\d+)\.multihead_attn\.in_proj_(\w+)", name):
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                found[_segvit_name(f"{fused[1]}.multihead_attn.{letter}.{fused[2]}", shrunk)] = part
        else:
            found[_segvit_name(name, shrunk)] = tensor
    return found


def _segvit_name(name: str, shrunk: bool) -> str:
    if not name.startswith("decode_head."):
        return _first(TRUNK, name) or name
    rest = name.removeprefix("decode_head.")
    where = "up" if shrunk and not rest.startswith("atm.") else "head"
    rest = rest.removeprefix("atm.") if shrunk else rest
    if found := re.fullmatch(r"decoder_(\d+)\.layers\.(\d+)\.(.+)", rest):
        ours = _first(LAYER, found[3])
        return f"{where}.decoders.{int(found[1]) - 1}.{found[2]}.{ours}" if ours else name
    ours = _first(HEAD, rest)
    return f"{where}.{ours}" if ours else name


def _first(rules: Any, name: str) -> str | None:
    """The name that the first fitting rule makes of `name`."""
    for pattern, ours in rules:
        if found := re.fullmatch(pattern, name):
            return ours(found) if callable(ours) else found.expand(ours)
    return None
