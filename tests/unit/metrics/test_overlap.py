"""The overlap table, and Dice, IoU and volumes read from it."""

import math

import numpy as np
import pytest

from vesalius.core.errors import GeometryError, LabelError
from vesalius.metrics import overlap
from vesalius.metrics.overlap import Counts, confusion, dice, iou, relative_volume_difference, values, volume_difference

RNG = np.random.default_rng(0)


TOPS = [(np.uint8, 255), (np.uint16, 65535), (np.uint32, 2**32 - 1), (np.int64, 70000), (bool, 1)]


@pytest.mark.parametrize(("dtype", "top"), TOPS)
def test_the_table_counts_every_pair_of_values_in_any_type(dtype, top):
    some = RNG.integers(0, top, size=6, endpoint=True).astype(dtype)
    pred, ref = (RNG.choice(some, size=(7, 30, 20)) for _ in range(2))
    table = confusion(pred, ref)
    found = {(p, r): n for p, r, n in zip(table.pred.tolist(), table.ref.tolist(), table.voxels.tolist(), strict=True)}
    pairs, counts = np.unique(np.stack([pred.ravel(), ref.ravel()]).astype(np.int64), axis=1, return_counts=True)
    assert found == {(p, r): n for (p, r), n in zip(pairs.T.tolist(), counts.tolist(), strict=True)}


def test_slabs_and_strides_change_nothing(monkeypatch):
    pred, ref = (RNG.integers(0, 4, size=(9, 11, 13), dtype=np.uint8) for _ in range(2))
    whole = confusion(pred, ref)
    monkeypatch.setattr(overlap, "SLAB_VOXELS", 100)
    for view in (lambda a: a, lambda a: a.transpose(2, 0, 1), lambda a: a[::-1], lambda a: a[None]):
        table = confusion(view(pred), view(ref))
        assert [table.pred.tolist(), table.ref.tolist(), table.voxels.tolist()] == [
            whole.pred.tolist(), whole.ref.tolist(), whole.voxels.tolist()]  # fmt: skip
    assert values(ref).tolist() == [0, 1, 2, 3]


def test_counts_of_a_label_and_of_all_foreground():
    table = confusion(np.array([0, 1, 1, 2, 2]), np.array([0, 1, 2, 2, 0]))
    assert table.counts(1) == Counts(both=1, pred=2, ref=1)
    assert table.counts(2) == Counts(both=1, pred=2, ref=2)
    assert table.counts(7) == Counts(0, 0, 0)
    assert table.foreground() == Counts(both=3, pred=4, ref=3)


def test_dice_iou_and_volumes_follow_their_formulas():
    counts = Counts(both=6, pred=8, ref=10)
    assert dice(counts) == pytest.approx(12 / 18) and iou(counts) == pytest.approx(6 / 12)
    assert volume_difference(counts, voxel_size=2.5) == -5.0
    assert relative_volume_difference(counts) == pytest.approx(-0.2)


def test_two_empty_masks_have_no_overlap_to_speak_of_and_one_empty_has_none():
    assert math.isnan(dice(Counts(0, 0, 0))) and math.isnan(iou(Counts(0, 0, 0)))
    assert dice(Counts(0, 5, 0)) == iou(Counts(0, 0, 5)) == 0
    assert math.isnan(relative_volume_difference(Counts(0, 5, 0)))


def test_other_shapes_and_negative_values_are_refused():
    with pytest.raises(GeometryError, match="shape"):
        confusion(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8))
    with pytest.raises(LabelError, match="-1"):
        confusion(np.array([-1, 0]), np.array([0, 0]))
