"""Everything mode: its small parts (`u_*`); its records with an analytic stand-in for the network (`f*`), and with SAM (`amg`).

The order of `f0` to `f2` is the original's; `amg` is sorted by predicted IoU and box.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from discs import Discs
from reference import Folder, Found

from vesalius.pipeline import rle
from vesalius.pipeline.crops import crop_boxes, point_grid
from vesalius.pipeline.everything import EverythingOptions, Record, everything
from vesalius.pipeline.prompter import FramePrompter
from vesalius.pipeline.regions import drop_small, mask_boxes, stability

INPUTS = ("u_logits", "u_small_in")
SMALL_PX = 10  # below which the reference dropped holes and islands: 10 to 12 give its arrays
STAND_IN = EverythingOptions(8, 5, 0.88, 0.8403, box_nms_thresh=0.6)
OPTIONS = {
    "f0": STAND_IN,
    "f1": EverythingOptions(8, 5, 0.88, 0.8403, box_nms_thresh=0.6, crop_n_layers=1, crop_n_points_downscale_factor=2),
    "f2": EverythingOptions(
        8, 5, 0.88, 0.8403, box_nms_thresh=0.6, crop_n_layers=2, crop_overlap_ratio=0.4, min_mask_region_area=60
    ),
}
WITH_SAM = EverythingOptions(6, pred_iou_thresh=0, stability_score_thresh=0, crop_n_layers=1, crop_n_points_downscale_factor=2)


def compare(folder: Folder, prompter: FramePrompter) -> Found:
    """Our value for every array of everything mode; `prompter` is the folder's network."""
    yield from parts(folder)
    for name, options in OPTIONS.items():
        if f"{name}_n" in folder.arrays:
            yield from arrays(name, everything(folder.arrays["image_u8"], Discs, options))
    if "amg_n" in folder.arrays:
        records = everything(folder.arrays["image_u8"], prompter.look, WITH_SAM)
        yield from arrays("amg", sorted(records, key=lambda record: (-record["predicted_iou"], record["bbox"])))


def parts(folder: Folder) -> Found:
    if "u_logits" not in folder.arrays:
        return
    logits, small = torch.from_numpy(folder.arrays["u_logits"]), folder.arrays["u_small_in"]
    runs = rle.encode(logits[0].numpy() > 0)
    yield "u_stability", stability(logits, 1.0).numpy()
    yield "u_boxes", mask_boxes(logits > 0).numpy()
    yield "u_rle0", np.array(runs["counts"])
    yield "u_area0", np.array(rle.area(runs))
    boxes, layers = crop_boxes(*folder.extra["image_hw"], int(folder.arrays["u_crop_layers"].max()), 512 / 1500)
    yield "u_crop_boxes", boxes
    yield "u_crop_layers", layers
    yield "u_grid", point_grid(round(len(folder.arrays["u_grid"]) ** 0.5))
    yield "u_small_holes", drop_small(small, SMALL_PX, "holes")[0]
    yield "u_small_islands", drop_small(small, SMALL_PX, "islands")[0]


def arrays(name: str, records: Iterable[Record]) -> Found:
    """Records as the reference keeps them, in their order."""
    records = list(records)
    columns = {"bbox": "bbox", "area": "area", "iou": "predicted_iou", "stab": "stability_score", "crop": "crop_box"}
    yield f"{name}_n", np.array(len(records))
    for short, key in columns.items():
        yield f"{name}_{short}", np.array([record[key] for record in records])
    yield f"{name}_point", np.array([record["point_coords"][0] for record in records])
    yield f"{name}_seg_packed", np.stack([np.packbits(record["segmentation"]) for record in records])
