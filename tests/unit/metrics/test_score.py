"""One case: names with units, labels that must be declared, empty masks by policy."""

import math

import numpy as np
import pytest

from vesalius.core.errors import GeometryError, LabelError
from vesalius.core.image import Grid, Mask
from vesalius.core.labels import Label, Labels
from vesalius.metrics.score import Scoring, score_case
from vesalius.metrics.summary import EmptyPolicy
from vesalius.metrics.surface import SurfaceDistances

AFFINE = np.diag([2.0, 1.0, 0.5, 1.0])
BOTH = Labels((Label(1, "anterior"), Label(2, "posterior")))


def volume(*, shift=0, values=(1, 2)):
    array = np.zeros((20, 30, 40), np.uint8)
    array[5:10, 5 + shift : 20 + shift, 5:20] = values[0]
    array[12:18, 5 + shift : 20 + shift, 5:20] = values[1]
    return array


def mask(array, affine=AFFINE, dims=3):
    return Mask(array, Grid(array.shape, affine, dims))


def test_labels_are_scored_each_by_itself_in_millimetres():
    scores = score_case(mask(volume(shift=2)), mask(volume()), labels=BOTH)
    assert list(scores) == ["anterior", "posterior"]
    metrics = scores["anterior"].metrics
    assert metrics["dice"] == pytest.approx(13 / 15) and metrics["hd95_mm"] == pytest.approx(2.0)
    whole = SurfaceDistances.of(volume(shift=2) == 1, volume() == 1, (2.0, 1.0, 0.5))
    assert metrics["assd_mm"] == whole.assd and metrics["nsd"] == whole.nsd(1.0)
    assert metrics["volume_difference_mm3"] == 0


def test_volumes_are_told_in_mm3_and_too_much_is_positive():
    metrics = score_case(mask(volume()), mask(volume(values=(1, 0))), labels=BOTH)["posterior"].metrics
    assert metrics["volume_difference_mm3"] == 6 * 15 * 15 * 1.0  # a voxel has 2 x 1 x 0.5 mm3
    assert math.isnan(metrics["relative_volume_difference"])


def test_without_spacing_nothing_is_called_a_millimetre():
    pair = mask(volume(shift=2), None), mask(volume(), None)
    metrics = score_case(*pair)["1"].metrics
    assert not [name for name in metrics if "mm" in name or name.startswith("nsd")] and metrics["hd95_px"] == 2.0
    assert score_case(*pair, scoring=Scoring(nsd_tolerance_px=2.0))["1"].metrics["nsd_px"] == 1.0


def test_a_picture_has_areas():
    picture = volume()[6:7]
    metrics = score_case(mask(picture, dims=2), mask(picture, dims=2))["1"].metrics
    assert metrics["area_difference_mm2"] == 0 and "volume_difference_mm3" not in metrics


def test_an_absent_label_scores_by_the_policy():
    only_one = mask(volume(values=(1, 0)))
    diagonal = math.hypot(20 * 2.0, 30 * 1.0, 40 * 0.5)
    missed = score_case(only_one, mask(volume()), labels=BOTH)["posterior"]
    assert missed.empty == "pred" and missed.metrics["dice"] == missed.metrics["nsd"] == 0
    assert missed.metrics["hd95_mm"] == missed.metrics["assd_mm"] == pytest.approx(diagonal)
    invented = score_case(mask(volume()), only_one, labels=BOTH, scoring=Scoring(policy=EmptyPolicy(one_empty="exclude")))
    assert invented["posterior"].empty == "ref" and math.isnan(invented["posterior"].metrics["hd95_mm"])
    assert invented["posterior"].metrics["dice"] == 0
    neither = score_case(only_one, only_one, labels=BOTH)["posterior"]
    assert neither.empty == "both" and all(math.isnan(value) for value in neither.metrics.values())
    perfect = score_case(only_one, only_one, labels=BOTH, scoring=Scoring(policy=EmptyPolicy(both_empty="perfect")))["posterior"]
    assert perfect.metrics["dice"] == perfect.metrics["nsd"] == 1 and perfect.metrics["hd95_mm"] == 0


def test_nested_regions_are_scored_whole_under_their_own_names():
    nested = Labels((Label(1, "whole without core", region="whole"), Label(2, "core", region="core")))
    ref, pred = np.zeros((6, 20, 20), np.uint8), np.zeros((6, 20, 20), np.uint8)
    ref[1:5, 2:18, 2:18], pred[1:5, 2:18, 2:18] = 1, 1
    ref[1:5, 6:14, 6:14], pred[1:5, 6:14, 6:10] = 2, 2  # half of the core is taken for the rest
    found = score_case(mask(pred), mask(ref), labels=nested)
    assert set(found) == {"whole", "core"}
    assert found["whole"].metrics["dice"] == 1 and found["whole"].metrics["hd95_mm"] == 0
    assert found["core"].metrics["dice"] == pytest.approx(2 / 3)


def test_two_wholly_empty_masks_are_scored_too():
    nothing = mask(np.zeros((4, 5, 6), np.uint8))
    assert score_case(nothing, nothing, labels=BOTH)["anterior"].empty == "both" and score_case(nothing, nothing) == {}


def test_an_undeclared_value_is_an_error_that_names_it():
    with pytest.raises(LabelError, match="prediction holds values that no label declares: 3, 9"):
        score_case(mask(volume(values=(3, 9))), mask(volume()), labels=BOTH)
    with pytest.raises(LabelError, match="reference"):
        score_case(mask(volume(values=(1, 0))), mask(volume()), labels=Labels((Label(1, "anterior"),)))


def test_the_ignored_voxels_count_in_neither_mask():
    ref, pred = volume(), volume()
    ref[5:7, 5:20, 5:20] = 9
    pred[:3] = 0
    pred[5:7, 5:8, 5:20] = 2
    scores = score_case(mask(pred), mask(ref), labels=Labels(BOTH.items, ignore=9))
    assert scores["anterior"].metrics["dice"] == scores["posterior"].metrics["dice"] == 1


def test_other_grids_are_errors_that_say_how_they_differ():
    with pytest.raises(GeometryError, match="shape"):
        score_case(mask(volume()[1:]), mask(volume()))
    with pytest.raises(GeometryError, match="spacing"):
        score_case(mask(volume()), mask(volume(), np.diag([2.0, 1.0, 1.0, 1.0])))
    with pytest.raises(GeometryError, match="prediction carries no spacing"):
        score_case(mask(volume(), None), mask(volume()))
    shaken = AFFINE + np.array([[0, 0, 0, 0.02]] * 3 + [[0] * 4])
    assert score_case(mask(volume(), shaken), mask(volume()))["1"].metrics["dice"] == 1


def test_objects_are_one_row_whatever_their_numbers():
    scores = score_case(mask(volume(values=(7, 4))), mask(volume()), scoring=Scoring(instances=True))
    metrics = scores["objects"].metrics
    assert metrics["f1"] == metrics["dice"] == metrics["aji"] == metrics["pq"] == 1 and metrics["objects_pred"] == 2


@pytest.mark.parametrize("at", [0, 3, 5])
def test_a_thin_label_in_a_deep_image_keeps_its_depth(at):
    slice_ = np.zeros((6, 12, 12), np.uint8)
    slice_[at, 3:9, 3:9] = 1  # one slice of a volume: every voxel is surface, unlike in a picture
    moved = np.roll(slice_, 2, 1)
    metrics = score_case(mask(slice_, np.eye(4)), mask(moved, np.eye(4)))["1"].metrics
    whole = SurfaceDistances.of(slice_ == 1, moved == 1, (1.0, 1.0, 1.0))
    assert whole.pred_to_ref.size == 36 and metrics["assd_mm"] == whole.assd
