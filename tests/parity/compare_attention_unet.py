"""Attention U-Net: the answer, what the gates see and let through, and its soft Dice in `ref_loss.npz`."""

from __future__ import annotations

import torch
from reference import Folder, Found, named_outputs
from torch import Tensor, nn

from vesalius.training.losses import dice

INPUTS = ("x", "x_*", "ref_loss_logits", "ref_loss_target")
NOT_COMPARED: dict[str, str] = {}


def compare(folder: Folder) -> Found:
    """`y`; `g_convN` and `attN`: the gated skip of level N - 1 and its attention maps."""
    model = folder.module()
    seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}
    for skip in model.skips.values():
        skip.register_forward_hook(lambda skip, _, gated_and_maps: seen.update({skip: gated_and_maps}))
    for name in [n for n in folder.arrays if n == "x" or n.startswith("x_")]:
        with torch.inference_mode():
            yield from named_outputs(folder, name[1:], model(torch.from_numpy(folder.arrays[name])))
        for level, skip in model.skips.items():
            for stem, array in zip(("g_conv", "att"), seen[skip], strict=True):
                yield f"{stem}{int(level) + 1}{name[1:]}", array.numpy()
    if "ref_loss_logits" in folder.arrays:
        logits, target = (torch.from_numpy(folder.arrays[f"ref_loss_{n}"]) for n in ("logits", "target"))
        yield "ref_loss_soft_dice", dice(logits, target[:, 0].long()).numpy()
