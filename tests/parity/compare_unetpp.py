"""U-Net++: every head, and the losses and scores of the `nested` layout in `ref_loss.npz`."""

from __future__ import annotations

import numpy as np
import torch
from reference import Folder, Found, named_outputs
from torch.nn import functional as F

from vesalius.metrics.overlap import confusion, iou
from vesalius.training.losses import soft_dice

INPUTS = ("x", "x_*", "ref_loss_logits", "ref_loss_target")
NOT_COMPARED: dict[str, str] = {}


def compare(folder: Folder) -> Found:
    """The heads: `out0` is the deepest in the layout nnunet; in nested, `outJ` is that of X(0,J)."""
    model = folder.module()
    for name in [n for n in folder.arrays if n == "x" or n.startswith("x_")]:
        with torch.inference_mode():
            outputs = model(torch.from_numpy(folder.arrays[name]))
        if folder.config["layout"] == "nested":
            every = (outputs.main, *outputs.auxiliary)
            for column, output in enumerate(reversed(every), start=1):
                yield f"out{column}{name[1:]}", output.numpy()
            yield from ((f"{stem}{name[1:]}", outputs.main.numpy()) for stem in ("y", "out", "out0"))
        else:
            yield from named_outputs(folder, name[1:], outputs)
    yield from losses(folder)


def losses(folder: Folder) -> Found:
    """Half the BCE + 1 - the mean Dice of the pictures; IoU at 0.5 and soft Dice over the whole batch."""
    if "ref_loss_logits" not in folder.arrays:
        return
    logits, target = (torch.from_numpy(folder.arrays[f"ref_loss_{n}"]).flatten(1)[:, None] for n in ("logits", "target"))
    found = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, target)
    yield "ref_loss_bce_dice", (0.5 * entropy + soft_dice(found, target, batch=False)).numpy()
    yield "ref_loss_dice", (1 - soft_dice(found, target)).numpy()
    masks = [(array > 0.5).numpy().astype(np.uint8) for array in (found, target)]
    yield "ref_loss_iou", np.array(iou(confusion(*masks).foreground()))
