"""A second reading of everything mode, in the original's arrangement: every candidate at full size, filters one after another."""

import numpy as np
import torch

from vesalius.pipeline.crops import crop_boxes, cut_by_crop, suppress
from vesalius.pipeline.looks import Asked
from vesalius.pipeline.regions import drop_small, mask_boxes, stability


def plain_everything(picture, look, options):
    height, width = picture.shape[:2]
    boxes, layers = crop_boxes(height, width, options.crop_n_layers, options.crop_overlap_ratio)
    found = []
    for crop, layer in zip(boxes, layers, strict=True):
        x0, y0, x1, y1 = crop
        points = options.grid(layer) * (x1 - x0, y1 - y0)
        seen = look(picture[y0:y1, x0:x1])
        iou, state = seen.ask(Asked(points[:, None], np.ones((len(points), 1), int)), multimask=True)
        logits, iou = seen.full(state.flatten(0, 1)), iou.flatten()
        scores, within = stability(logits, options.stability_score_offset), mask_boxes(logits > 0).numpy()
        good = (iou > options.pred_iou_thresh) & (scores >= options.least_stability)
        good = good.numpy() & ~cut_by_crop(within + np.array([x0, y0, x0, y0]), crop, height, width)
        index = np.flatnonzero(good)
        for i in index[suppress(within[index], iou.numpy()[index], options.box_nms_thresh)]:
            mask = np.zeros((height, width), bool)
            mask[y0:y1, x0:x1] = (logits[i] > 0).numpy()
            point = (points[i // 3] + crop[:2]).tolist()
            found.append((mask, float(iou[i]), float(scores[i]), point, crop))
    if len(boxes) > 1:
        areas = np.array([(c[2] - c[0]) * (c[3] - c[1]) for *_, c in found])
        found = [found[i] for i in suppress(_boxes(found), 1 / areas, options.crop_nms_thresh)]
    if options.min_mask_region_area:
        untouched = []
        for i, (mask, *rest) in enumerate(found):
            mask, holes = drop_small(mask, options.min_mask_region_area, "holes")
            mask, islands = drop_small(mask, options.min_mask_region_area, "islands")
            untouched.append(float(not (holes or islands)))
            found[i] = (mask, *rest)
        keep = suppress(_boxes(found), np.array(untouched), max(options.box_nms_thresh, options.crop_nms_thresh))
        found = [found[i] for i in keep]
    return [
        {
            "segmentation": mask,
            "area": int(mask.sum()),
            "bbox": [int(x0), int(y0), int(x1 - x0), int(y1 - y0)],
            "predicted_iou": iou,
            "point_coords": [point],
            "stability_score": score,
            "crop_box": [int(c[0]), int(c[1]), int(c[2] - c[0]), int(c[3] - c[1])],
        }
        for (mask, iou, score, point, c), (x0, y0, x1, y1) in zip(found, _boxes(found), strict=True)
    ]


def _boxes(found):
    return mask_boxes(torch.from_numpy(np.stack([mask for mask, *_ in found]))).numpy()
