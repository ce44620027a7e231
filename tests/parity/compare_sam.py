"""SAM: preparation, encoder, every kind of prompt, masks on the original picture, and everything mode."""

from __future__ import annotations

from typing import Any

import compare_everything
import numpy as np
import torch
from reference import Folder, Found
from torch import Tensor

from vesalius.models.contract import Prompts
from vesalius.models.sam.frame import Frame
from vesalius.pipeline.prompter import FramePrompter

INPUTS = ("image_u8", "enc_in", "points_xy", "labels", "boxes_xyxy", "mask_in", *compare_everything.INPUTS)
NOT_COMPARED = {"api_*": "the prompt behind it is not recorded"}
# With these random weights the decoder turns a difference of 3e-6 in the features into one of 5e-4 in logits between -17 and 17.
# In float64 our network and transformers' are equal (test_transformers_sam.py); in float32, with these weights on the machine on
# which ours was 5e-4 away from this reference, transformers' own, with the original's order of operations, was 6e-4 away.
AMPLIFIED = "float32 rounding, amplified by the decoder"
ROUNDED = dict.fromkeys(("*_low", "*_logits"), AMPLIFIED)
# What each case of the reference prompts with.
CASES = {
    "pt": ("points",),
    "box": ("boxes",),
    "ptbox": ("points", "boxes"),
    "mask": ("masks",),
    "all": ("points", "boxes", "masks"),
}


def compare(folder: Folder) -> Found:
    """Our value for every array of a SAM's folder."""
    model: Any = folder.module()
    arrays, frame = folder.arrays, Frame(folder.config["image_size"])
    shape = arrays["image_u8"].shape[:2]
    with torch.inference_mode():
        yield "resized_u8", frame.resize(arrays["image_u8"]).transpose(2, 0, 1)
        features = model.embed(frame.prepare(arrays["image_u8"]))
        yield "features", features.numpy()
        yield "enc_out", model.embed(torch.from_numpy(arrays["enc_in"])).numpy()
        grid = (features.shape[2], features.shape[3])
        yield "dense_pe", model.prompt_encoder.positions(grid)[0].T.unflatten(1, grid)[None].numpy()
        given = {
            "points": frame.points(arrays["points_xy"], shape),
            "boxes": frame.boxes(arrays["boxes_xyxy"], shape),
            "masks": torch.from_numpy(arrays["mask_in"]),
        }
        yield "points_in", given["points"].numpy()
        yield "boxes_in", given["boxes"].numpy()
        labels = torch.from_numpy(arrays["labels"])
        for case, kinds in CASES.items():
            parts = {kind: given[kind] for kind in kinds} | ({"labels": labels} if "points" in kinds else {})
            yield from answers(case, model, frame, features, Prompts(**parts), shape)
        boxes = model.decode(features, Prompts(boxes=given["boxes"]))
        yield "fwd_low", boxes.logits.numpy()
        yield "fwd_iou", boxes.iou.numpy()
        yield "fwd_masks", (frame.restore(boxes.logits, shape) > frame.threshold).numpy()
    yield from compare_everything.compare(folder, FramePrompter("reference", model, frame, "reference"))


def answers(case: str, model: Any, frame: Frame, features: Tensor, prompts: Prompts, shape: tuple[int, int]) -> Found:
    """Tokens, a corner of the map, and the masks of one case, with and without multimask."""
    grid = (features.shape[2], features.shape[3])
    tokens, dense = model.prompt_encoder(prompts, grid, (frame.size, frame.size))
    yield f"{case}_sparse", tokens.numpy()
    whole = dense.expand(len(prompts), -1, *(grid if dense.shape[-1] == 1 else (-1, -1)))
    yield f"{case}_dense_corner", whole[:, :, :4, :4].numpy()
    for name, multimask in (("multi", True), ("single", False)):
        logits, iou = model.decode(features, prompts, multimask)
        yield f"{case}_{name}_low", logits.numpy()
        yield f"{case}_{name}_iou", iou.numpy()
        yield f"{case}_{name}_logits", np.asarray(frame.restore(logits, shape))
