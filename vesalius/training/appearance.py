"""How often each picture is drawn when a few look unlike the rest: a group of like colours counts as the root of its size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.cluster.vq import kmeans2, whiten

GROUPS = 5


def shares(images: Sequence[np.ndarray], seed: int, groups: int = GROUPS) -> np.ndarray:
    """How often each image (C, Z, Y, X) is drawn, summing to 1. k-means groups them by `look`; a group of n counts sqrt(n)."""
    if len(images) < 2 * groups:
        return np.full(len(images), 1 / len(images))
    looks = np.array([look(image) for image in images])
    looks = looks[:, looks.std(0) > 1e-6]
    if looks.shape[1] == 0:
        return np.full(len(images), 1 / len(images))
    _, group = kmeans2(whiten(looks), groups, minit="++", rng=np.random.default_rng(seed))
    sizes = np.bincount(group, minlength=groups)
    drawn = 1 / np.sqrt(sizes[group])
    return drawn / drawn.sum()


def look(image: np.ndarray) -> np.ndarray:
    """A picture in a few numbers: mean and deviation per channel, and how far the channels differ."""
    flat = image.reshape(len(image), -1)[:, :: max(1, image[0].size // 4096)]
    return np.concatenate([flat.mean(1), flat.std(1), [np.ptp(flat, axis=0).mean()]])
