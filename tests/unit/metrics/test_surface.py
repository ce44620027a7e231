"""Surfaces and the distances between them."""

import math

import numpy as np
import pytest
from scipy import ndimage

from vesalius.core.errors import GeometryError
from vesalius.metrics import nearest as nearest_file
from vesalius.metrics.nearest import nearest
from vesalius.metrics.surface import SurfaceDistances, bounding_box, surface

RNG = np.random.default_rng(0)


def cube(shape, start, stop):
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = True
    return mask


def test_two_parallel_faces_are_as_far_apart_as_the_spacing_says():
    pred, ref = cube((20, 20, 20), (5, 5, 5), (10, 10, 10)), cube((20, 20, 20), (8, 5, 5), (13, 10, 10))
    distances = SurfaceDistances.of(pred, ref, (2.0, 1.0, 1.0))
    assert distances.hd == pytest.approx(6.0)  # three slices of 2 mm
    assert SurfaceDistances.of(pred, ref, None).hd == pytest.approx(3.0)


def test_hd95_is_the_larger_of_the_two_directions():
    pred = cube((40, 40), (5, 5), (15, 15))
    ref = pred | cube((40, 40), (5, 25), (15, 35))  # half of the reference was missed: only one direction sees it
    distances = SurfaceDistances.of(pred, ref, (1.0, 1.0))
    assert distances.pred_to_ref.max() == 0 and distances.hd95 == pytest.approx(np.percentile(distances.ref_to_pred, 95))
    voxels = distances.ref_to_pred.size + distances.pred_to_ref.size
    assert distances.assd == pytest.approx(distances.ref_to_pred.sum() / voxels)


def test_pooled_hd95_is_the_percentile_of_both_directions_together():
    pred, ref = np.zeros((2, 1, 40), bool)
    pred[0, 3:6], ref[0, 3:36] = True, True
    distances = SurfaceDistances.of(pred, ref)
    both = np.concatenate([distances.pred_to_ref, distances.ref_to_pred])
    assert distances.hd95_pooled == pytest.approx(np.percentile(both, 95)) and distances.hd95_pooled < distances.hd95
    assert math.isnan(SurfaceDistances.of(pred & False, ref & False).hd95_pooled)
    assert SurfaceDistances.of(pred, ref & False).hd95_pooled == math.inf


def test_a_distance_equal_to_the_tolerance_is_within_it():
    pred, ref = cube((1, 30), (0, 3), (1, 4)), cube((1, 30), (0, 10), (1, 11))
    for spacing in (0.1, 0.3, 0.7, 1.1):
        distances = SurfaceDistances.of(pred, ref, (1.0, spacing))
        assert distances.nsd(7 * spacing) == 1.0 and distances.nsd(6.99 * spacing) == 0.0


def test_a_picture_has_its_surface_in_the_plane():
    mask = cube((1, 20, 20), (0, 5, 5), (1, 15, 15))
    assert SurfaceDistances.of(mask, mask, (5.0, 1.0, 1.0)).pred_to_ref.size == 36  # the outline, not the 100 pixels
    flat = SurfaceDistances.of(mask[0], np.roll(mask[0], 2, 0), (1.0, 1.0))
    deep = SurfaceDistances.of(mask, np.roll(mask, 2, 1), (5.0, 1.0, 1.0))
    assert flat.assd == deep.assd and flat.hd == deep.hd == 2.0


def test_a_mask_cut_by_the_image_has_a_surface_there():
    assert surface(np.ones((5, 5), bool)).sum() == 16
    assert surface(cube((9, 9), (2, 2), (7, 7))).sum() == 16
    whole, cut = cube((30, 30), (0, 0), (10, 10)), cube((30, 30), (0, 0), (10, 12))
    moved = SurfaceDistances.of(np.roll(whole, 5, (0, 1)), np.roll(cut, 5, (0, 1)))
    assert SurfaceDistances.of(whole, cut).assd == moved.assd


def test_empty_masks_have_stated_distances():
    nothing, something = np.zeros((8, 8, 8), bool), cube((8, 8, 8), (2, 2, 2), (5, 5, 5))
    both, one = SurfaceDistances.of(nothing, nothing), SurfaceDistances.of(nothing, something)
    assert all(math.isnan(value) for value in (both.hd, both.hd95, both.assd, both.nsd(1.0)))
    assert one.hd == one.hd95 == one.assd == math.inf and one.nsd(1e9) == 0.0


def test_boxes_are_tight_and_absent_without_voxels():
    assert bounding_box(cube((5, 6, 7), (1, 2, 3), (2, 5, 7))) == (slice(1, 2), slice(2, 5), slice(3, 7))
    assert bounding_box(np.zeros((3, 3), np.uint8)) is None
    assert bounding_box(np.array([0, 0, 4, 0, 9, 0], np.uint16)) == (slice(2, 5),)


def test_other_shapes_are_refused():
    with pytest.raises(GeometryError):
        SurfaceDistances.of(np.ones((3, 3), bool), np.ones((4, 3), bool))
    with pytest.raises(GeometryError):
        SurfaceDistances.of(np.ones((3, 3), bool), np.ones((3, 3), bool), (1.0, 1.0, 1.0))


def specimens():
    for shape, scale in (((9, 40, 30), 1.0), ((60, 50), 0.5), ((1, 40, 40), 1.0), ((70, 5, 3), 3.0), ((300,), 1.0)):
        for share in (0.002, 0.05, 0.7):
            source, target = RNG.random(shape) < 0.2, RNG.random(shape) < share
            source.flat[0] = target.flat[-1] = True
            yield source, target, tuple(RNG.uniform(0.3, 4, len(shape)) * scale)


@pytest.mark.parametrize("budget", [0, 4, 10**9])
def test_the_nearest_is_that_of_a_full_transform_however_little_is_searched(budget, monkeypatch):
    monkeypatch.setattr(nearest_file, "LOOKS_PER_VOXEL", budget)
    for source, target, spacing in specimens():
        want = ndimage.distance_transform_edt(~target, sampling=spacing)[source]
        np.testing.assert_allclose(nearest(source, target, spacing), want, rtol=1e-5, atol=1e-5)


def test_targets_beyond_the_reach_of_a_column_are_found():
    source, target = np.zeros((600, 4, 4), bool), np.zeros((600, 4, 4), bool)
    source[0, 0, 0] = target[590, 3, 3] = True
    assert nearest(source, target, (1.0, 2.0, 2.0)) == pytest.approx([math.sqrt(590**2 + 36 + 36)])
    far, here = np.zeros((2, 2, 700), bool), np.zeros((2, 2, 700), bool)
    far[1, 1, 699] = here[0, 0, 0] = True
    want = math.sqrt(25 + 25 + 489.3**2)
    assert nearest(here, far, (5.0, 5.0, 0.7)) == pytest.approx([want], rel=5e-7)  # 3 um off when 700 steps were added
