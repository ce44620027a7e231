"""The border map of the U-Net paper: thin background between touching cells counts more.

    w(x) = w_c(x) + w0 exp(-(d1(x) + d2(x))^2 / (2 sigma^2))        w0 = 10, sigma = 5 px

d1 and d2 are the distances to the nearest and to the second nearest cell. Ronneberger et al. 2015, arXiv:1505.04597, eq. 2.
"""

from __future__ import annotations

import edt
import numpy as np
from scipy import ndimage

W0 = 10.0  # eq. 2
SIGMA_PX = 5.0  # eq. 2
REACH = 5.0  # beyond d1 + d2 = 5 sigma the term is below 4e-5


def border_weights(
    classes: np.ndarray, class_weights: tuple[float, ...], *, w0: float = W0, sigma_px: float = SIGMA_PX
) -> np.ndarray:
    """w float32 (Y, X) for class indices (Y, X); cells are the connected components (4 neighbours) of each class above 0.

    The border term is added on the background only: inside a cell d1 is 0 and the term would reward its neighbours' nearness.
    Distances are exact within REACH sigmas of a cell, where the term is more than rounding.
    """
    weights = np.take(np.asarray(class_weights, np.float32), np.clip(classes, 0, None))
    reach = int(np.ceil(REACH * sigma_px))
    nearest = np.full(classes.shape, np.inf, np.float32)
    second = np.full(classes.shape, np.inf, np.float32)
    for value in np.unique(classes[classes > 0]):
        cells, _ = ndimage.label(classes == value)
        for number, box in enumerate(ndimage.find_objects(cells), 1):
            window = tuple(slice(max(s.start - reach, 0), s.stop + reach) for s in box)
            distance = edt.edt(np.ascontiguousarray(cells[window] != number), parallel=1)
            near, next_ = nearest[window], second[window]
            np.minimum(next_, np.maximum(near, distance), out=next_)
            np.minimum(near, distance, out=near)
    term = w0 * np.exp(-((nearest + second) ** 2) / (2 * sigma_px**2))
    return np.where(classes == 0, weights + term, weights).astype(np.float32)


def class_weights(counts: np.ndarray) -> tuple[float, ...]:
    """w_c that balance the class frequencies: each class's voxels weigh the same in all, mean weight 1."""
    counts = np.maximum(np.asarray(counts, np.float64), 1)
    return tuple(float(w) for w in counts.sum() / (len(counts) * counts))
