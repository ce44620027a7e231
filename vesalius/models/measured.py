"""The sizes of official segmenters, measured on the tensors of a checkpoint: what `official` of their entries takes.

A number of attention heads leaves no trace in a matrix: it is the width over 64, as in every released file, and left out
where that is no whole number. Which layers of a ViT SegViT looks at is known for the depths that its authors released.
Whoever trained with other numbers says them beside the file.
"""

from __future__ import annotations

import re
from math import isqrt
from typing import Any

from torch import Tensor

from ..core.errors import WeightsError
from .layouts import nnunet_kernels
from .naming import State

PER_HEAD = 64  # channels of a head in ViT-B, ViT-L and what is built on them
LOOKED_AT: dict[int, tuple[int, ...]] = {12: (5, 7, 11), 24: (7, 15, 23)}  # SegViT's out_indices by depth, as released
SHRUNK_AT: dict[int, tuple[int, tuple[int, ...]]] = {24: (8, (7, 23))}  # its Shrink form: the block, out_indices


def infer_unetpp(state: State) -> dict[str, Any]:
    """`nested` of the 2D port, or `nnunet` of the authors; raises WeightsError."""
    if "conv0_1.conv1.weight" in state:
        firsts = _numbered(state, "conv{}_0.conv1.weight")
        several = "final1.weight" in state
        sizes = {"in_channels": firsts[0].shape[1], "classes": len(state["final1.weight" if several else "final.weight"])}
        return {"layout": "nested", "widths": tuple(len(w) for w in firsts), "deep_supervision": several, **sizes}
    first = state.get("conv_blocks_context.0.blocks.0.conv.weight")
    if first is None or "up0.0.weight" not in state:
        raise _strange("U-Net++", "nested, nnunet")
    ups = _numbered(state, "up0.{}.weight")  # from the bottom to the top; the kernel of an up-sampling is that of its pool
    return {
        "layout": "nnunet",
        "in_channels": first.shape[1],
        "classes": len(state["seg_outputs.0.weight"]),
        "base": len(first),
        "pools": tuple(tuple(w.shape[2:]) for w in reversed(ups)),
        "kernels": nnunet_kernels(state),
        "max_features": ups[0].shape[0],
    }


def infer_attention_unet(state: State) -> dict[str, Any]:
    """Of Attention-Gated-Networks; raises WeightsError."""
    levels = _numbered(state, "conv{}.conv1.0.weight", first=1)
    centre, head = state.get("center.conv1.0.weight"), state.get("dsv1.weight")
    if not levels or centre is None or head is None:
        raise _strange("Attention U-Net", "that of Attention-Gated-Networks")
    return {
        "dims": centre.ndim - 2,
        "in_channels": levels[0].shape[1],
        "classes": len(head),
        "widths": (*(len(w) for w in levels), len(centre)),
        "gates": "multi" if any(".gate_block_2." in name for name in state) else "single",
    }


def infer_transunet(state: State) -> dict[str, Any]:
    """The hybrid, or the plain ViT; raises WeightsError."""
    start = "transformer.embeddings."
    embed, positions = state.get(f"{start}patch_embeddings.weight"), state.get(f"{start}position_embeddings")
    if embed is None or positions is None or "segmentation_head.0.weight" not in state:
        raise _strange("TransUNet", "that of the original")
    root = state.get(f"{start}hybrid_model.root.conv.weight")
    side, step = isqrt(positions.shape[1]), 16 if root is not None else embed.shape[-1]
    units = [
        len({m[1] for n in state if (m := re.search(rf"hybrid_model\.body\.block{block}\.unit(\d+)\.conv1\.", n))})
        for block in (1, 2, 3)
    ]
    stages = _numbered(state, "decoder.blocks.{}.conv1.0.weight")
    before = [len(state["decoder.conv_more.0.weight"]), *(len(w) for w in stages)]
    return {
        "image_size": side * step * (embed.shape[-1] if root is not None else 1),
        "hidden": len(embed),
        "mlp": len(state["transformer.encoder.layer.0.ffn.fc1.weight"]),
        "layers": _count(state, r"transformer\.encoder\.layer\.(\d+)\..+"),
        "resnet_layers": units if root is not None else None,
        "width_factor": len(root) / 64 if root is not None else None,
        "grid": [side, side] if root is not None else None,
        "patch_size": None if root is not None else step,
        "decoder_channels": [len(w) for w in stages],
        "skips": sum(w.shape[1] > have for w, have in zip(stages, before, strict=False)),
        "classes": len(state["segmentation_head.0.weight"]),
        **_heads(len(embed)),
    }


def infer_swin_unet(state: State) -> dict[str, Any]:
    """With or without the original's prefix; the image's size is that of its masks of shifted windows. Raises WeightsError."""
    state = {name.removeprefix("swin_unet."): tensor for name, tensor in state.items()}
    embed = state.get("patch_embed.proj.weight")
    if embed is None or "output.weight" not in state:
        raise _strange("Swin-Unet", "that of the original")
    tables = _numbered(state, "layers.{}.blocks.0.attn.relative_position_bias_table")
    window, mask = (isqrt(len(tables[0])) + 1) // 2, state.get("layers.0.blocks.1.attn_mask")
    return {
        "in_channels": embed.shape[1],
        "image_size": isqrt(len(mask)) * window * embed.shape[-1] if mask is not None else 224,  # the released size
        "patch_size": embed.shape[-1],
        "embed_dim": len(embed),
        "depths": [_count(state, rf"layers\.{i}\.blocks\.(\d+)\..+") for i in range(len(tables))],
        "heads": [table.shape[1] for table in tables],
        "window": window,
        "classes": len(state["output.weight"]),
    }


def infer_segvit(state: State) -> dict[str, Any]:
    """SegViT, its single head and its Shrink form; raises WeightsError."""
    embed, positions = state.get("backbone.patch_embed.projection.weight"), state.get("backbone.pos_embed")
    if embed is None or positions is None or "decode_head.q.weight" not in state:
        raise _strange("SegViT", "that of its authors")
    shrunk = "decode_head.atm.q.weight" in state
    root = "decode_head.atm." if shrunk else "decode_head."
    stages = _count(state, r"decode_head\.decoder_(\d+)\..+")
    depth, queries = _count(state, r"backbone\.layers\.(\d+)\..+"), state[f"{root}q.weight"]
    kind = "atm_shrunk" if shrunk else "atm" if stages > 1 else "atm_single"
    known = LOOKED_AT if not shrunk else {layers: looked for layers, (_, looked) in SHRUNK_AT.items()}
    looked = known.get(depth, ())[-1 if kind == "atm_single" else 0 :]
    trunk = {
        "in_channels": embed.shape[1],
        "image_size": isqrt(positions.shape[1] - 1) * embed.shape[-1],
        "patch_size": embed.shape[-1],
        "embed_dim": len(embed),
        "layers": depth,
        **_heads(len(embed)),
        **({"out_layers": looked} if looked and len(looked) == stages else {}),
        **({"shrink_at": SHRUNK_AT[depth][0]} if shrunk and depth in SHRUNK_AT else {}),
    }
    head: dict[str, Any] = {"kind": kind, "classes": len(queries), "embed_dim": queries.shape[1], "stages": stages}
    head |= {"heads": trunk["heads"]} if "heads" in trunk else {}
    head |= {"layers": _count(state, re.escape(root) + r"decoder_1\.layers\.(\d+)\..+")}
    return {"backbone": trunk, "head": head | {"use_proj": "decode_head.input_proj_1.weight" in state}}


def _numbered(state: State, name: str, first: int = 0) -> list[Tensor]:
    """The tensors called `name` with the numbers from `first` on, as far as they go."""
    found: list[Tensor] = []
    while (tensor := state.get(name.format(first + len(found)))) is not None:
        found.append(tensor)
    return found


def _count(state: State, pattern: str) -> int:
    """How many numbers fill the pattern's group."""
    return len({found[1] for name in state if (found := re.fullmatch(pattern, name))})


def _heads(width: int) -> dict[str, int]:
    return {} if width % PER_HEAD else {"heads": width // PER_HEAD}


def _strange(what: str, known: str) -> WeightsError:
    return WeightsError(f"these are the tensor names of no {what} that we know", fix=f"known layouts: {known}")
