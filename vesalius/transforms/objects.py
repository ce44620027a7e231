"""Objects to maps a network can learn, and back: touching nuclei told apart by their distance maps.

    encode   object numbers (Y, X)  ->  foreground 0/1, distance to the object's own edge / its largest
    decode   foreground logit, distance  ->  object numbers 1..n

Each object's distance rises to 1 at its core whatever its size, so a 10 px nucleus and a 60 px one ask
the same of the network. Coming back, every peak that stands `peak` above the saddle to a higher one is
an object (h-maxima), grown by watershed within the foreground. Measured on held-out DSB 2018 pictures
against thresholded distance, centre directions and predicted borders: docs/decisions/0003-objects.md.

Idea     Naylor et al. 2019, 10.1109/TMI.2018.2865709 (distance regression); Vincent 1993 (h-maxima)
"""

from __future__ import annotations

import edt
import numpy as np
from scipy import ndimage
from skimage.measure import label as components
from skimage.morphology import h_maxima
from skimage.segmentation import watershed

CHANNELS = ("foreground", "distance")


def encode(objects: np.ndarray) -> np.ndarray:
    """Targets (2, Y, X) float32 from object numbers (Y, X); numbers need not be consecutive."""
    distance = edt.edt(np.ascontiguousarray(objects, dtype=np.uint32), black_border=False)
    distance = np.minimum(distance, sum(objects.shape))  # infinite where one object fills the picture: all of it is its core
    count = int(objects.max(initial=0)) + 1
    largest = np.zeros(count, np.float32)
    np.maximum.at(largest, objects.ravel(), distance.ravel())
    largest[largest < 1] = 1
    return np.stack([objects > 0, distance / largest[objects]]).astype(np.float32)


def decode(
    scores: np.ndarray, *, foreground: float = 0.5, peak: float = 0.1, smooth_px: float = 1.0, min_area_px: int = 12
) -> np.ndarray:
    """Object numbers (Y, X), uint16 (uint32 above 65535 objects), from `scores` (2, Y, X): a logit and a distance.

    `foreground` is a probability, `peak` a height of the normalised distance; smaller objects than `min_area_px` are dropped.
    """
    inside = scores[0] > np.log(foreground / (1 - foreground))
    if not inside.any():
        return np.zeros(inside.shape, np.uint16)
    distance = ndimage.gaussian_filter(np.asarray(scores[1], np.float32), smooth_px)
    seeds = components(h_maxima(np.where(inside, distance, 0), peak), connectivity=2)
    found = watershed(-distance, seeds, mask=inside)
    seedless = components(inside & (found == 0), connectivity=1)
    found = np.where(seedless > 0, seedless + found.max(), found)
    area = np.bincount(found.ravel())
    area[0] = 0
    kept = area >= min_area_px
    number = np.where(kept, np.cumsum(kept), 0)
    return number.astype(np.uint16 if kept.sum() <= 65535 else np.uint32)[found]
