"""The files in which SAM's weights come: the original's names, those of transformers, and how to read the sizes off the shapes.

    transformers  --to_original-->  original  --to_ours-->  ours            config_of(original or transformers) -> SAMConfig

SAM, SAM-HQ, MedSAM and MobileSAM use the original's names; facebook/sam-vit-* and the MedSAM of the hub those of transformers.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from ...core.errors import WeightsError
from ..naming import Convert, State
from .image_encoder import ViTConfig
from .sam import SAMConfig
from .tiny_encoder import TinyViTConfig

# Of the released MobileSAM: a classification head that is never used, and indices that we derive.
UNUSED = ("image_encoder.head.", "image_encoder.norm_head.", "attention_bias_idxs")

TO_ORIGINAL = (  # transformers -> original
    (r"^vision_encoder\.", "image_encoder."),
    (r"^image_encoder\.patch_embed\.projection\.", "image_encoder.patch_embed.proj."),
    (r"^image_encoder\.layers\.(\d+)\.layer_norm(\d)\.", r"image_encoder.blocks.\1.norm\2."),
    (r"^image_encoder\.layers\.(\d+)\.(attn|mlp)\.", r"image_encoder.blocks.\1.\2."),
    (r"^image_encoder\.neck\.conv1\.", "image_encoder.neck.0."),
    (r"^image_encoder\.neck\.layer_norm1\.", "image_encoder.neck.1."),
    (r"^image_encoder\.neck\.conv2\.", "image_encoder.neck.2."),
    (r"^image_encoder\.neck\.layer_norm2\.", "image_encoder.neck.3."),
    (r"^shared_image_embedding\.positional_embedding$", "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"),
    (r"^prompt_encoder\.shared_embedding\.positional_embedding$", "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"),
    (r"^prompt_encoder\.point_embed\.", "prompt_encoder.point_embeddings."),
    (r"^prompt_encoder\.mask_embed\.conv1\.", "prompt_encoder.mask_downscaling.0."),
    (r"^prompt_encoder\.mask_embed\.layer_norm1\.", "prompt_encoder.mask_downscaling.1."),
    (r"^prompt_encoder\.mask_embed\.conv2\.", "prompt_encoder.mask_downscaling.3."),
    (r"^prompt_encoder\.mask_embed\.layer_norm2\.", "prompt_encoder.mask_downscaling.4."),
    (r"^prompt_encoder\.mask_embed\.conv3\.", "prompt_encoder.mask_downscaling.6."),
    (r"^mask_decoder\.transformer\.layers\.(\d+)\.layer_norm(\d)\.", r"mask_decoder.transformer.layers.\1.norm\2."),
    (r"^mask_decoder\.transformer\.layer_norm_final_attn\.", "mask_decoder.transformer.norm_final_attn."),
    (r"^mask_decoder\.upscale_conv1\.", "mask_decoder.output_upscaling.0."),
    (r"^mask_decoder\.upscale_layer_norm\.", "mask_decoder.output_upscaling.1."),
    (r"^mask_decoder\.upscale_conv2\.", "mask_decoder.output_upscaling.3."),
    (r"^mask_decoder\.hq_token\.", "mask_decoder.hf_token."),
    (r"^mask_decoder\.hq_mask_mlp\.", "mask_decoder.hf_mlp."),
    (r"^mask_decoder\.compress_vit_conv1\.", "mask_decoder.compress_vit_feat.0."),
    (r"^mask_decoder\.compress_vit_norm\.", "mask_decoder.compress_vit_feat.1."),
    (r"^mask_decoder\.compress_vit_conv2\.", "mask_decoder.compress_vit_feat.3."),
    (r"^mask_decoder\.encoder_conv1\.", "mask_decoder.embedding_encoder.0."),
    (r"^mask_decoder\.encoder_norm\.", "mask_decoder.embedding_encoder.1."),
    (r"^mask_decoder\.encoder_conv2\.", "mask_decoder.embedding_encoder.3."),
    (r"^mask_decoder\.mask_conv1\.", "mask_decoder.embedding_maskfeature.0."),
    (r"^mask_decoder\.mask_norm\.", "mask_decoder.embedding_maskfeature.1."),
    (r"^mask_decoder\.mask_conv2\.", "mask_decoder.embedding_maskfeature.3."),
    (r"^(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head|hf_mlp))\.layers\.0\.", r"\1.layers.1."),
    (r"^(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head|hf_mlp))\.proj_in\.", r"\1.layers.0."),
    (r"^(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head|hf_mlp))\.proj_out\.", r"\1.layers.2."),
)

TO_OURS = (  # original -> ours, ViT, prompts and decoder; what is joined or reshaped comes in `to_ours`
    (r"^image_encoder\.patch_embed\.proj\.", "image_encoder.patches.conv."),
    (r"^image_encoder\.pos_embed$", "image_encoder.positions"),
    (r"^(image_encoder\.blocks\.\d+)\.attn\.rel_pos_h$", r"\1.attention.rows"),
    (r"^(image_encoder\.blocks\.\d+)\.attn\.rel_pos_w$", r"\1.attention.columns"),
    (r"^(image_encoder\.blocks\.\d+)\.attn\.", r"\1.attention."),
    (r"\.mlp\.lin1\.", ".mlp.layers.0."),
    (r"\.mlp\.lin2\.", ".mlp.layers.1."),
    (r"^prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix$", "prompt_encoder.gaussian"),
    (r"^prompt_encoder\.mask_downscaling\.", "prompt_encoder.masks."),
    (r"^mask_decoder\.transformer\.layers\.(\d+)\.norm1\.", r"mask_decoder.transformer.blocks.\1.norms.0."),
    (r"^mask_decoder\.transformer\.layers\.(\d+)\.norm2\.", r"mask_decoder.transformer.blocks.\1.norms.1."),
    (r"^mask_decoder\.transformer\.layers\.(\d+)\.norm3\.", r"mask_decoder.transformer.blocks.\1.norms.2."),
    (r"^mask_decoder\.transformer\.layers\.(\d+)\.norm4\.", r"mask_decoder.transformer.blocks.\1.norms.3."),
    (r"^mask_decoder\.transformer\.layers\.(\d+)\.self_attn\.", r"mask_decoder.transformer.blocks.\1.among."),
    (r"^mask_decoder\.transformer\.layers\.(\d+)\.cross_attn_token_to_image\.", r"mask_decoder.transformer.blocks.\1.to_image."),
    (r"^mask_decoder\.transformer\.layers\.(\d+)\.cross_attn_image_to_token\.", r"mask_decoder.transformer.blocks.\1.to_tokens."),
    (r"^mask_decoder\.transformer\.layers\.(\d+)\.mlp\.", r"mask_decoder.transformer.blocks.\1.mlp."),
    (r"^mask_decoder\.transformer\.final_attn_token_to_image\.", "mask_decoder.transformer.last."),
    (r"^mask_decoder\.transformer\.norm_final_attn\.", "mask_decoder.transformer.norm."),
    (r"^(mask_decoder\.transformer\..*)\.([qkv])_proj\.", r"\1.\2."),
    (r"^(mask_decoder\.transformer\..*)\.out_proj\.", r"\1.proj."),
    (r"^mask_decoder\.output_upscaling\.", "mask_decoder.upscale."),
    (r"^mask_decoder\.compress_vit_feat\.", "mask_decoder.hq.early."),
    (r"^mask_decoder\.embedding_encoder\.", "mask_decoder.hq.late."),
    (r"^mask_decoder\.(upscale|hq\.early|hq\.late)\.0\.", r"mask_decoder.\1.up1."),
    (r"^mask_decoder\.(upscale|hq\.early|hq\.late)\.1\.", r"mask_decoder.\1.norm."),
    (r"^mask_decoder\.(upscale|hq\.early|hq\.late)\.3\.", r"mask_decoder.\1.up2."),
    (r"^mask_decoder\.embedding_maskfeature\.", "mask_decoder.hq.refine."),
    (r"^mask_decoder\.hf_mlp\.", "mask_decoder.hq.hyper."),
    (r"^mask_decoder\.output_hypernetworks_mlps\.", "mask_decoder.hyper."),
    (r"^mask_decoder\.iou_prediction_head\.", "mask_decoder.quality."),
)

TINY_TO_OURS = (  # original TinyViT, without a prefix -> ours
    (r"^patch_embed\.seq\.0\.", "stem.0."),
    (r"^patch_embed\.seq\.2\.", "stem.1."),
    (r"^layers\.(\d+)\.downsample\.conv1\.", r"merges.\1.0."),
    (r"^layers\.(\d+)\.downsample\.conv2\.", r"merges.\1.1."),
    (r"^layers\.(\d+)\.downsample\.conv3\.", r"merges.\1.2."),
    (r"^layers\.(\d+)\.blocks\.(\d+)\.conv1\.", r"stages.\1.\2.units.0."),
    (r"^layers\.(\d+)\.blocks\.(\d+)\.conv2\.", r"stages.\1.\2.units.1."),
    (r"^layers\.(\d+)\.blocks\.(\d+)\.conv3\.", r"stages.\1.\2.units.2."),
    (r"^layers\.(\d+)\.blocks\.(\d+)\.attn\.norm\.", r"stages.\1.\2.norm1."),
    (r"^layers\.(\d+)\.blocks\.(\d+)\.attn\.attention_biases$", r"stages.\1.\2.bias"),
    (r"^layers\.(\d+)\.blocks\.(\d+)\.attn\.", r"stages.\1.\2.attention."),
    (r"^layers\.(\d+)\.blocks\.(\d+)\.local_conv\.", r"stages.\1.\2.local."),
    (r"^layers\.(\d+)\.blocks\.(\d+)\.mlp\.norm\.", r"stages.\1.\2.norm2."),
    (r"^layers\.(\d+)\.blocks\.(\d+)\.mlp\.fc1\.", r"stages.\1.\2.mlp.layers.0."),
    (r"^layers\.(\d+)\.blocks\.(\d+)\.mlp\.fc2\.", r"stages.\1.\2.mlp.layers.1."),
    (r"\.c\.weight$", ".conv.weight"),
    (r"\.bn\.", ".norm."),
)


def _named(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for pattern, ours in rules:
        name = re.sub(pattern, ours, name)
    return name


def to_original(state: State) -> State:
    """From the names of transformers, or of the original, to the original's."""
    rules = TO_ORIGINAL if any(k.startswith("vision_encoder.") for k in state) else ()
    return {_named(k, rules): v for k, v in state.items() if not any(part in k for part in UNUSED)}


def to_ours(state: State) -> State:
    """From either layout to our SAM; the embeddings of points and the decoder's tokens are joined."""
    state = to_original(state)
    tiny = {k.removeprefix("image_encoder."): v for k, v in state.items() if _is_tiny(state) and k.startswith("image_encoder.")}
    rest = {k: v for k, v in state.items() if not (tiny and k.startswith("image_encoder."))}
    ours = {f"image_encoder.{k}": v for k, v in tiny_to_ours(tiny).items()} | {_named(k, TO_OURS): v for k, v in rest.items()}
    _join(ours, [f"prompt_encoder.point_embeddings.{i}.weight" for i in range(4)], "prompt_encoder.kinds")
    hq = [name for name in ["mask_decoder.hf_token.weight"] if name in ours]
    _join(ours, ["mask_decoder.iou_token.weight", "mask_decoder.mask_tokens.weight", *hq], "mask_decoder.tokens")
    for official, name in (("not_a_point_embed", "absent"), ("no_mask_embed", "no_mask")):
        if (vector := ours.pop(f"prompt_encoder.{official}.weight", None)) is not None:
            ours[f"prompt_encoder.{name}"] = vector[0]
    for name in ours:
        if re.match(r"mask_decoder\..*\.up[12]\.weight$", name):  # transposed (in, out, 2, 2) -> linear (2 * 2 * out, in)
            ours[name] = ours[name].permute(2, 3, 1, 0).flatten(0, 2)
    return ours


def tiny_to_ours(state: State) -> State:
    """From the original TinyViT, without a prefix, to our TinyEncoder; q, k and v leave their heads and stand together."""
    ours = {_named(k, TINY_TO_OURS): v for k, v in state.items()}
    for name in [k for k in ours if ".attention.qkv." in k]:
        heads = len(ours[name.split(".attention.")[0] + ".bias"])
        ours[name] = ours[name].unflatten(0, (heads, 3, -1)).transpose(0, 1).flatten(0, 2)
    return ours


def _join(state: State, parts: list[str], name: str) -> None:
    if all(part in state for part in parts):
        state[name] = torch.cat([state.pop(part) for part in parts])


def _is_tiny(state: State) -> bool:
    return "image_encoder.patch_embed.seq.0.c.weight" in state


def official(config: dict[str, Any]) -> tuple[SAMConfig, Convert]:
    """For `weights.from_official`: the sizes as a reference file states them."""
    encoder = ViTConfig(
        image_size=config["image_size"],
        patch=config.get("patch_size", 16),
        width=config["embed_dim"],
        depth=config["depth"],
        heads=config["heads"],
        global_blocks=tuple(config["global_attention"]),
        window=config.get("window", 14),
        mlp_ratio=config.get("mlp_ratio", 4.0),
        channels=config.get("out_channels", 256),
    )
    decoder = {
        "mask_channels": config.get("mask_in_channels", 16),
        "decoder_depth": config.get("decoder_depth", 2),
        "decoder_heads": config.get("decoder_heads", 8),
        "decoder_mlp": config.get("decoder_mlp", 2048),
        "iou_width": config.get("iou_hidden", 256),
    }
    return SAMConfig(encoder, **decoder), to_ours


def official_tiny(config: dict[str, Any]) -> tuple[TinyViTConfig, Convert]:
    """The same for the encoder of MobileSAM alone."""
    sizes = TinyViTConfig(
        image_size=config["image_size"],
        widths=tuple(config["embed_dims"]),
        depths=tuple(config["depths"]),
        heads=tuple(config["heads"]),
        windows=tuple(config["windows"]),
        mlp_ratio=config.get("mlp_ratio", 4.0),
        expand=config.get("mbconv_expand", 4.0),
        channels=config.get("out_channels", 256),
    )
    return sizes, tiny_to_ours


def config_of(state: State) -> SAMConfig:
    """The architecture that a state dict in either layout is made for, read off its shapes.

    What no shape shows is as in every released file: eight decoder heads, and MobileSAM's 1024 px. Raises WeightsError for a
    state dict that is no SAM's.
    """
    state = to_original(state)
    try:
        encoder = _tiny_of(state) if _is_tiny(state) else _vit_of(state)
        decoder = "mask_decoder.transformer.layers."
        return SAMConfig(
            encoder,
            mask_channels=len(state["prompt_encoder.mask_downscaling.3.weight"]),
            decoder_depth=_count(state, decoder),
            decoder_mlp=len(state[f"{decoder}0.mlp.lin1.weight"]) if _count(state, decoder) else 2048,
            iou_width=len(state["mask_decoder.iou_prediction_head.layers.0.weight"]),
            hq="mask_decoder.hf_token.weight" in state,
        )
    except KeyError as error:
        raise WeightsError(f"this is no SAM: there is no tensor {error}", fix="check that the file is the right one") from error


def _count(state: State, prefix: str) -> int:
    """How many numbered parts there are below a prefix."""
    return len({k[len(prefix) :].split(".")[0] for k in state if k.startswith(prefix)})


def _vit_of(state: State) -> ViTConfig:
    blocks = "image_encoder.blocks."
    patch, positions = state["image_encoder.patch_embed.proj.weight"], state["image_encoder.pos_embed"]
    depth, grid, width = _count(state, blocks), positions.shape[1], positions.shape[3]
    tables: list[Tensor] = [state[f"{blocks}{i}.attn.rel_pos_h"] for i in range(depth)]
    sides = [(len(table) + 1) // 2 for table in tables]
    windows = {side for side in sides if side != grid}
    return ViTConfig(
        image_size=grid * patch.shape[-1],
        patch=patch.shape[-1],
        width=width,
        depth=depth,
        heads=width // tables[0].shape[1],
        global_blocks=tuple(i for i, side in enumerate(sides) if side == grid),
        window=windows.pop() if windows else grid,
        mlp_ratio=len(state[f"{blocks}0.mlp.lin1.weight"]) / width,
        channels=len(state["image_encoder.neck.0.weight"]),
    )


def _tiny_of(state: State) -> TinyViTConfig:
    stages = [f"image_encoder.layers.{i}.blocks." for i in range(_count(state, "image_encoder.layers."))]
    biases = [state[f"{stage}0.attn.attention_biases"] for stage in stages[1:]]
    first, middle = state[f"{stages[0]}0.conv1.c.weight"], state[f"{stages[1]}0.mlp.fc1.weight"]
    return TinyViTConfig(
        widths=(first.shape[1], *(len(state[f"{stage}0.attn.proj.weight"]) for stage in stages[1:])),
        depths=tuple(_count(state, stage) for stage in stages),
        heads=(TinyViTConfig.heads[0], *(len(b) for b in biases)),  # the first stage has no attention
        windows=(TinyViTConfig.windows[0], *(round(b.shape[1] ** 0.5) for b in biases)),
        mlp_ratio=middle.shape[0] / middle.shape[1],
        expand=first.shape[0] / first.shape[1],
        channels=len(state["image_encoder.neck.0.weight"]),
    )
