"""Objects told apart: F1, PQ, AJI against their definitions."""

import math

import numpy as np
import pytest

from vesalius.core.errors import InputError
from vesalius.metrics.instance import aji, match, pq


def squares(*boxes, shape=(40, 40)):
    """A label map with a rectangle a box (y0, y1, x0, x1), numbered from 1."""
    labels = np.zeros(shape, np.uint16)
    for number, (y0, y1, x0, x1) in enumerate(boxes, 1):
        labels[y0:y1, x0:x1] = number
    return labels


REF = squares((0, 10, 0, 10), (20, 30, 20, 30))


def test_the_same_objects_under_other_numbers_are_perfect():
    other = np.array([0, 60000, 7], np.uint16)[REF]
    found = match(other, REF)
    assert found.f1 == found.precision == found.recall == found.pq == found.sq == aji(other, REF) == 1.0


def test_one_hit_one_miss_and_one_too_many():
    pred = squares((0, 10, 0, 8), (0, 5, 30, 40))  # IoU 0.8 with the first; the second is invented
    found = match(pred, REF)
    assert (found.tp, found.fp, found.fn) == (1, 1, 1)
    assert found.f1 == found.precision == found.recall == 0.5
    assert found.sq == pytest.approx(0.8) and pq(pred, REF) == pytest.approx(0.8 / 2)
    assert aji(pred, REF) == pytest.approx(80 / (100 + 100 + 50))  # union of the hit, the miss, the invented


def test_two_nuclei_merged_into_one_cost_both():
    merged, ref = squares((0, 10, 0, 20)), squares((0, 10, 0, 10), (0, 10, 10, 20))
    found = match(merged, ref)
    assert (found.tp, found.fp, found.fn) == (0, 1, 2)  # exactly one half is no match
    assert aji(merged, ref) == pytest.approx((100 + 100) / (200 + 200))


def test_the_threshold_must_make_partners_unique():
    with pytest.raises(InputError, match=r"0\.3"):
        match(REF, REF, iou=0.3)
    assert match(REF, REF, iou=1.0).f1 == 1.0
    assert match(squares((0, 10, 0, 8), (20, 30, 20, 30)), REF, iou=0.9).tp == 1


def test_empty_label_maps_have_a_stated_result():
    nothing = np.zeros_like(REF)
    both = match(nothing, nothing)
    assert all(math.isnan(value) for value in (both.f1, both.pq, both.precision, both.recall, aji(nothing, nothing)))
    for a, b in ((nothing, REF), (REF, nothing)):
        one = match(a, b)
        assert one.f1 == one.pq == one.precision == one.recall == aji(a, b) == 0


def test_sixty_five_thousand_objects_are_told_apart():
    ref = np.zeros((512, 512), np.uint16)
    ref[::2, ::2] = np.arange(1, 65537).reshape(256, 256).clip(max=65535)
    pred = ref.copy()
    pred[0, :20:2] = 0  # ten go missing
    found = match(pred, ref)
    assert (found.tp, found.fp, found.fn) == (65525, 0, 10)
    assert aji(pred, ref) == pytest.approx(65526 / 65536)
