"""SegViT: features, every stage's class logits and masks, the prediction, the loss terms, and the sliding window."""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from reference import Folder, Found
from torch import Tensor, nn

from vesalius.models.blocks import map_of
from vesalius.training.losses import IGNORED, atm_terms

INPUTS = ("x", "label", "slide_x", "small_x")
NOT_COMPARED: dict[str, str] = {}
UNKNOWN = 255  # the label that the original leaves out


@torch.inference_mode()
def compare(folder: Folder) -> Found:
    """Our value for every output array of a SegViT's folder."""
    model = folder.module()
    image = torch.from_numpy(folder.arrays["x"])
    size = (image.shape[2], image.shape[3])
    stages, features = model.stages(image)
    for i, (tokens, at) in enumerate(zip(features.tokens, features.sizes, strict=True)):
        yield f"feat{i}", as_stored(folder, f"feat{i}", tokens, at)
    prediction = model(image).main.exp()
    yield "pred_eval", prediction.numpy()
    yield "pred_train", prediction.numpy()  # made without dropout: equal to pred_eval
    logits, masks = stages[-1]
    yield "pred_logits", logits.numpy()
    yield "pred_masks", torch.nn.functional.interpolate(masks, size, mode="bilinear").numpy()
    for i, (logits, masks) in enumerate(stages[:-1]):
        yield f"aux{i}_logits", logits.numpy()
        yield f"aux{i}_masks", masks.numpy()
    yield from losses(folder, stages)
    if "small_x" in folder.arrays:
        small = model.stages(torch.from_numpy(folder.arrays["small_x"]))[1]
        yield "small_feat", as_stored(folder, "small_feat", small.tokens[0], small.sizes[0])
    if "slide_x" in folder.arrays:
        yield "slide_logits", slide(model, torch.from_numpy(folder.arrays["slide_x"]))


def as_stored(folder: Folder, name: str, tokens: Tensor, size: tuple[int, int] | None) -> np.ndarray:
    """Tokens (B, N, D), or the map (B, D, H, W) where the reference holds one."""
    theirs = folder.arrays.get(name)
    return (map_of(tokens, size) if theirs is not None and theirs.ndim == 4 and size else tokens).numpy()


def losses(folder: Folder, stages: list[tuple[Tensor, Tensor]]) -> Found:
    """Cross-entropy, focal and Dice of each stage, weighted as in the original, and their sum."""
    if "label" not in folder.arrays:
        return
    label = torch.from_numpy(folder.arrays["label"]).long()
    label = torch.where(label == UNKNOWN, IGNORED, label)
    total = 0.0
    for i, (logits, masks) in enumerate((stages[-1], *stages[:-1])):
        behind = f"_{i - 1}" if i else ""
        for name, term in atm_terms(logits, masks, label, unknown_is_outside=True)._asdict().items():
            yield f"loss__loss_{name}{behind}", term.numpy()
            total = total + term
    yield "loss_total", np.asarray(total)


def slide(model: nn.Module, image: Tensor) -> np.ndarray:
    """The original's scores (B, K, H, W), averaged over crops every two thirds of one; the last ones end at the border."""
    crop = model.config.backbone.image_size
    rows, columns = (
        [min(i * (2 * c // 3), max(n - c, 0)) for i in range(max(-(-(n - c) // (2 * c // 3)), 0) + 1)]
        for n, c in zip(image.shape[2:], crop, strict=True)
    )
    total, count = image.new_zeros(len(image), model.classes, *image.shape[2:]), image.new_zeros(image.shape[2:])
    for y, x in product(rows, columns):
        window = (slice(y, y + crop[0]), slice(x, x + crop[1]))
        total[:, :, *window] += model(image[:, :, *window]).main.exp()
        count[window] += 1
    return (total / count).numpy()
