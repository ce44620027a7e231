"""The border map against equation 2, computed the slow way."""

import numpy as np
import pytest
from scipy import ndimage

from vesalius.training.border import border_weights, class_weights


def equation_2(classes: np.ndarray, w0: float, sigma: float) -> np.ndarray:
    cells, count = ndimage.label(classes == 1)
    distances = np.sort([ndimage.distance_transform_edt(cells != k) for k in range(1, count + 1)], 0)
    term = w0 * np.exp(-((distances[0] + distances[1]) ** 2) / (2 * sigma**2))
    return np.where(classes == 0, 1 + term, 1)


@pytest.fixture
def cells():
    y, x = np.ogrid[:90, :100]
    found = np.zeros((90, 100), np.int32)
    for cy, cx, r in ((30, 30, 14), (30, 62, 15), (66, 45, 16), (70, 88, 9)):
        found[(y - cy) ** 2 + (x - cx) ** 2 < r * r] = 1
    return found


def test_the_map_is_equation_2(cells):
    assert np.abs(border_weights(cells, (1.0, 1.0)) - equation_2(cells, 10, 5)).max() < 1e-3


def test_a_thin_gap_weighs_about_ten_more_than_open_background():
    classes = np.ones((40, 41), np.int32)
    classes[:, 20] = 0
    classes[:4] = 0
    weights = border_weights(classes, (1.0, 1.0))
    assert weights[20, 20] == pytest.approx(1 + 10 * np.exp(-(2**2) / 50), abs=1e-4)  # one pixel to either cell
    assert weights[0, 0] < 3 and (weights[classes == 1] == 1).all()


def test_one_cell_or_none_leaves_the_class_weights():
    alone = np.zeros((20, 20), np.int32)
    assert (border_weights(alone, (0.5, 2.0)) == 0.5).all()
    alone[5:9, 5:9] = 1
    assert set(np.unique(border_weights(alone, (0.5, 2.0)))) == {0.5, 2.0}


def test_class_weights_balance_the_classes():
    counts = np.array([900, 90, 10])
    weights = np.array(class_weights(counts))
    assert np.allclose(weights * counts, (weights * counts)[0]) and (weights * counts).sum() == pytest.approx(counts.sum())
