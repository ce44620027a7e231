"""The ISBI 2012 scores, by hand and on the challenge's own pictures."""

import math

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from vesalius.core.errors import GeometryError
from vesalius.metrics.boundary import best_v_scores, cells, grown, v_info, v_rand, v_scores

TWO = np.repeat([[1, 1, 2, 2]], 4, axis=0)


def test_the_same_cells_score_one():
    assert v_scores(TWO, TWO)[:2] == pytest.approx((1, 1))
    assert v_scores(TWO + 5, TWO)[:2] == pytest.approx((1, 1))


def test_a_merger_and_a_split_score_what_the_formulas_say():
    merged = np.ones_like(TWO)
    assert v_rand(merged, TWO) == pytest.approx(0.5 / ((1 + 0.5) / 2))  # p: 1/2 1/2; s: 1; t: 1/2 1/2
    assert v_info(merged, TWO) == pytest.approx(0)
    split = np.repeat([[1, 2, 3, 4]], 4, axis=0)
    assert v_rand(split, TWO) == pytest.approx(0.25 / ((0.25 + 0.5) / 2))
    assert v_info(split, TWO) == pytest.approx(math.log(2) / ((math.log(4) + math.log(2)) / 2))


def test_only_the_cells_of_the_reference_count():
    ref = TWO.copy()
    ref[:2] = 0
    wrong = TWO.copy()
    wrong[:2] = 9
    assert v_scores(wrong, ref)[:2] == pytest.approx((1, 1))
    assert math.isnan(v_rand(TWO, np.zeros_like(TWO)))


def test_a_membrane_pixel_inside_a_cell_is_a_segment_of_its_own():
    pred = TWO.copy()
    pred[0, 0] = 0
    alone = TWO.copy()
    alone[0, 0] = 7
    assert v_scores(pred, TWO)[:2] == pytest.approx(v_scores(alone, TWO)[:2])


def test_thinning_keeps_the_cells_and_leaves_no_membrane():
    membrane = np.zeros((30, 30), bool)
    membrane[:, 12:18] = membrane[10:16, :] = True
    wide = cells(~membrane)
    narrow = grown(wide)
    assert wide.max() == 4 and (narrow[wide > 0] == wide[wide > 0]).all() and narrow.min() == 1
    assert set(narrow[:11, :12].ravel()) == {wide[0, 0]} and narrow[0, 14] == wide[0, 11] and narrow[0, 15] == wide[0, 18]
    assert not grown(np.zeros((5, 5), int)).any()


def test_the_width_of_membranes_does_not_count_but_a_gap_does():
    ref = np.ones((40, 40), bool)
    ref[:, 20] = False
    wide, open_ = ~ref, ~ref
    wide = ndimage.binary_dilation(wide, iterations=3)
    assert best_v_scores(wide[None].astype(float), ref[None])[0].v_rand == pytest.approx(1)
    open_[:2] = False
    assert best_v_scores(open_[None].astype(float), ref[None])[0].v_rand < 0.7


def test_thresholds_are_tried_and_sections_averaged():
    inside = np.ones((2, 20, 20), bool)
    inside[:, :, 10] = inside[:, 9] = False
    membrane = np.where(inside, 0.45, 0.55)
    rand, info = best_v_scores(membrane, inside)
    assert rand.v_rand == pytest.approx(1) and info.v_info == pytest.approx(1) and rand.threshold == 0.5
    membrane[1] = 0.0  # in the second section everything is merged
    halved = best_v_scores(membrane, inside)[0]
    assert halved.v_rand == pytest.approx((1 + v_rand(np.ones((20, 20), int), cells(inside[1]))) / 2)
    with pytest.raises(GeometryError):
        best_v_scores(membrane[0], inside[0])


def test_blurred_membranes_of_the_challenge_score_high_and_broken_ones_lower(shared_data):
    inside = np.array(Image.open(shared_data / "isbi2012" / "labels" / "0.png"))[None, :200, :200] > 0
    membrane = ndimage.gaussian_filter((~inside).astype(np.float32), (0, 1, 1))
    good = best_v_scores(membrane, inside, (0.3, 0.5, 0.7))
    assert good[0].v_rand > 0.97 and good[1].v_info > 0.97
    broken = membrane.copy()
    broken[:, ::16] = 0
    assert best_v_scores(broken, inside, (0.3, 0.5, 0.7))[0].v_rand < good[0].v_rand - 0.1
