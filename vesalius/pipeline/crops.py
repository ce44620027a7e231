"""Everything mode's geometry: grids of points, crops that overlap, and boxes that suppress each other.

Points and boxes are x, y (everything-mode records do as the original does); a box is x0, y0, x1, y1 with x1, y1 its last pixel.

Paper  Kirillov et al. 2023, arXiv:2304.02643, section 5 and appendix B (automatic mask generation)
"""

from __future__ import annotations

from itertools import product
from math import ceil

import numpy as np

NEAR_EDGE_PX = 20.0  # a box so near to a crop's edge is taken to be cut by it, appendix B


def point_grid(per_side: int) -> np.ndarray:
    """(per_side^2, 2) points x, y in [0, 1], each in the middle of its cell, row by row."""
    middles = (np.arange(per_side) + 0.5) / per_side
    x, y = np.meshgrid(middles, middles)
    return np.stack([x, y], axis=-1).reshape(-1, 2)


def crop_boxes(height: int, width: int, layers: int, overlap_ratio: float) -> tuple[np.ndarray, np.ndarray]:
    """The whole picture, then layer i = 1.. with 2^i crops a side: boxes (n, 4), x1 and y1 exclusive, and their layers (n,).

    Neighbours overlap by `overlap_ratio` of the shorter side, halved with each layer. Of a picture of few pixels the last crops
    of a row may lie beyond it: those, on which the original fails, are left out.
    """
    boxes, found = [[0, 0, width, height]], [0]
    for layer in range(1, layers + 1):
        count = 2**layer
        overlap = int(overlap_ratio * min(height, width) * (2 / count))
        crop_w, crop_h = (ceil((overlap * (count - 1) + size) / count) for size in (width, height))
        for i, j in product(range(count), range(count)):
            x0, y0 = (crop_w - overlap) * i, (crop_h - overlap) * j
            if x0 >= width or y0 >= height:
                continue
            boxes.append([x0, y0, min(x0 + crop_w, width), min(y0 + crop_h, height)])
            found.append(layer)
    return np.array(boxes), np.array(found)


def cut_by_crop(boxes: np.ndarray, crop: np.ndarray, height: int, width: int) -> np.ndarray:
    """(n,) whether a box (n, 4) on the whole picture ends within 20 px of an edge of `crop` that is no edge of the picture."""
    near_crop = np.abs(boxes - crop) <= NEAR_EDGE_PX
    near_picture = np.abs(boxes - np.array([0, 0, width, height])) <= NEAR_EDGE_PX
    return (near_crop & ~near_picture).any(axis=1)


def overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(n,) IoU of one box (4,) with others (n, 4), in float32 as the original has it; two boxes without area give NaN."""
    box, others = box.astype(np.float32), others.astype(np.float32)
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = sides.clip(min=0).prod(axis=1, dtype=np.float32)
    areas = (others[:, 2:] - others[:, :2]).prod(axis=1, dtype=np.float32)
    with np.errstate(invalid="ignore"):
        return shared / ((box[2:] - box[:2]).prod(dtype=np.float32) + areas - shared)


def suppress(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Which boxes (n, 4) survive, best score first and the earlier one first among equals: a box falls where one that survived
    before it overlaps it by more than `threshold`."""
    order = np.argsort(-scores, kind="stable")
    boxes, alive, kept = boxes[order], np.ones(len(boxes), bool), []
    for i in range(len(boxes)):
        if alive[i]:
            kept.append(i)
            alive[i + 1 :] &= ~(overlaps(boxes[i], boxes[i + 1 :]).astype(np.float64) > threshold)
    return order[kept]
