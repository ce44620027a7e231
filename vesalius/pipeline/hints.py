"""What is said about an object in a volume, as a view shows it: the shape that sections on a few slices suggest.

    between two sections   their signed distances, interpolated: an outline that moves from the one to the other
    beyond the last        the section shrinks, as a cone does
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

STEEP = 1.5  # logit a cell of distance
CONE = 0.7  # cells that a section loses on every side, a cell beyond it
CERTAIN = 8.0  # |logit| of what is as sure as can be


def signed_distance(section: np.ndarray) -> np.ndarray:
    """(S, S) how many cells within the outline of a boolean section; negative outside, far outside where it is empty."""
    if not section.any():
        return np.full(section.shape, -float(max(section.shape)), np.float32)
    inner, outer = distance_transform_edt(np.pad(section, 1))[1:-1, 1:-1], distance_transform_edt(~section)
    return np.where(section, inner - 0.5, 0.5 - outer).astype(np.float32)


def shaped(distances: Mapping[int, np.ndarray], axis: int, size: int) -> Tensor:
    """Logits (S, S, S) of the shape with these signed distances (S, S) on layers along `axis`; at least one layer."""
    order = sorted(distances)
    planes = np.stack([distances[layer] for layer in order])
    at = np.arange(size)
    upper = np.clip(np.searchsorted(order, at), 1, max(1, len(order) - 1))
    if len(order) == 1:
        volume = np.repeat(planes, size, 0)
    else:
        first, last = np.array(order)[upper - 1], np.array(order)[upper]
        share = np.clip((at - first) / (last - first), 0, 1)[:, None, None].astype(np.float32)
        volume = (1 - share) * planes[upper - 1] + share * planes[upper]
    beyond = np.maximum(order[0] - at, at - order[-1]).clip(min=0)[:, None, None].astype(np.float32)
    logits = (STEEP * (volume - CONE * beyond)).clip(-CERTAIN, CERTAIN)
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(logits, 0, axis)))


def known_layers(sections: Mapping[int, np.ndarray], axis: int, size: int) -> Tensor:
    """(S, S, S): 1 on the object and -1 beside it on the layers with a section (S, S), 0 elsewhere."""
    known = np.zeros((size, size, size), np.float32)
    for layer, section in sections.items():
        np.moveaxis(known, axis, 0)[layer] = np.where(section, 1.0, -1.0)
    return torch.from_numpy(known)
