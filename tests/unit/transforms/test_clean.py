import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from vesalius.core.errors import GeometryError, InputError
from vesalius.core.image import Grid, Mask
from vesalius.core.labels import Label, Labels
from vesalius.transforms.clean import FillHoles, KeepLargest, RemoveSmall, clean, components


def mask_of(array, spacing=None, dims=3, **more):
    array = np.asarray(array)
    if dims == 2:
        array = array[None] if array.ndim == 2 else array
    affine = None if spacing is None else np.diag([*spacing, 1.0])
    return Mask(array, Grid(array.shape, affine, dims), **more)


def test_the_largest_component_of_each_label_stays():
    array = np.zeros((4, 10, 10), np.uint8)
    array[0, 0, :5], array[2, 5, 5:7] = 1, 1
    array[3, 9, :3], array[0, 9, 9] = 2, 2
    done = clean(mask_of(array), [KeepLargest()]).array
    assert (done == 1).sum() == 5 and (done == 2).sum() == 3 and array.sum() == 15
    only = clean(mask_of(array), [KeepLargest(labels=(2,))]).array
    assert (only == 1).sum() == 7 and (only == 2).sum() == 3


def test_joined_labels_count_as_one_structure():
    array = np.zeros((1, 1, 12), np.uint8)
    array[0, 0] = [1, 1, 2, 2, 2, 0, 1, 1, 1, 1, 0, 2]
    assert clean(mask_of(array), [KeepLargest(joint=True)]).array.ravel().tolist() == [1, 1, 2, 2, 2] + [0] * 7


def test_structures_touch_at_corners_and_pictures_have_no_third_axis():
    corners = np.zeros((3, 3, 3), np.uint8)
    corners[0, 0, 0] = corners[1, 1, 1] = corners[2, 2, 2] = 1
    assert clean(mask_of(corners), [KeepLargest()]).array.sum() == 3
    assert clean(mask_of(corners), [KeepLargest(touching="faces")]).array.sum() == 1
    picture = mask_of(np.eye(4, dtype=np.uint8), dims=2)
    assert clean(picture, [RemoveSmall(min_area_px=4)]).array.sum() == 4


@pytest.mark.parametrize("size", [(1, 1, 3), (7, 1, 1), (1, 5, 6), (3, 3, 3)], ids=str)
def test_a_label_of_lone_voxels_in_a_thin_box_is_cleaned(size):
    array = np.zeros([n + 2 for n in size], np.uint8)
    array[1:-1, 1:-1, 1:-1][::2, ::2, ::2] = 1
    assert clean(mask_of(array), [KeepLargest()]).array.sum() == 1
    assert clean(mask_of(array, (1, 1, 1)), [RemoveSmall(min_mm3=2)]).array.sum() == 0


@pytest.mark.parametrize("neighbours", [4, 8, 6, 26])
def test_components_are_those_of_scipy(neighbours):
    rng, dims = np.random.default_rng(neighbours), 2 if neighbours in (4, 8) else 3
    around = np.ones((3,) * dims) if neighbours in (8, 26) else None
    for _ in range(200):
        structure = rng.random(rng.integers(1, 16, dims)) < rng.choice([0.1, 0.3, 0.6, 0.9])
        pairs = np.stack([components(structure, neighbours), ndimage.label(structure, around)[0]]).reshape(2, -1)
        both = np.unique(pairs, axis=1)  # one number here for each there, background too
        assert both.shape[1] == len(np.unique(pairs[0])) == len(np.unique(pairs[1]))


def test_small_components_go_by_millimetres():
    array = np.zeros((5, 9, 9), np.uint16)
    array[0, 0, :4], array[4, 8, :3] = 300, 300
    mask = mask_of(array, (2, 0.5, 0.5))  # a voxel has 0.5 mm3
    assert (clean(mask, [RemoveSmall(min_mm3=2.0)]).array == 300).sum() == 4
    assert (clean(mask, [RemoveSmall(min_mm3=1.5)]).array == 300).sum() == 7
    assert clean(mask, [RemoveSmall(min_mm3=1.5)]).array.dtype == np.uint16


def test_a_component_of_just_the_limit_stays_whatever_rounding_makes_of_it():
    array = np.zeros((1, 1, 14), np.uint8)
    array[..., 1:7] = array[..., 9:14] = 1  # 6 and 5 voxels of 0.007 mm3
    spacing = np.diag([0.1, 0.1, 0.7, 1.0])  # 0.042 by them is a hair above 6
    found = clean(Mask(array, Grid((1, 1, 14), spacing, 3)), [RemoveSmall(min_mm3=0.042)])
    assert found.array.sum() == 6


def test_pictures_are_measured_in_mm2_or_um2():
    array = np.zeros((6, 6), np.uint8)
    array[0, :3] = 1
    mask = mask_of(array, (7.0, 0.0005, 0.0005), dims=2)  # half a micron; the thickness counts for nothing
    assert clean(mask, [RemoveSmall(min_um2=0.75)]).array.sum() == 3
    assert clean(mask, [RemoveSmall(min_um2=0.76)]).array.sum() == 0
    assert clean(mask, [RemoveSmall(min_mm2=0.7e-6)]).array.sum() == 3


def test_a_limit_in_mm_without_spacing_stops_with_the_fix():
    volume, picture = mask_of(np.ones((2, 2, 2), np.uint8)), mask_of(np.ones((2, 2), np.uint8), dims=2)
    with pytest.raises(GeometryError, match=r"min_mm3.*spacing is unknown.*stores the spacing"):
        clean(volume, [RemoveSmall(min_mm3=1)])
    with pytest.raises(GeometryError, match=r"spacing is unknown.*min_area_px"):
        clean(picture, [RemoveSmall(min_mm2=1)])
    with pytest.raises(GeometryError, match=r"max_mm3.*picture.*area_px"):
        clean(picture, [FillHoles(max_mm3=1)])
    with pytest.raises(GeometryError, match=r"min_area_px.*volume.*mm3"):
        clean(volume, [RemoveSmall(min_area_px=1)])


def test_a_rule_needs_one_limit():
    for make in (RemoveSmall, lambda: RemoveSmall(min_mm3=1, min_mm2=1), lambda: FillHoles(max_mm2=1, max_area_px=3)):
        with pytest.raises(InputError, match="one limit"):
            make()


def test_holes_are_filled_up_to_their_limit_and_leave_other_labels_alone():
    array = np.ones((7, 7, 9), np.uint8)
    array[2, 2, 2] = 0  # closed, 1 mm3
    array[4, 4, 4:6] = 0  # closed, 3 voxels with the tumour in it
    array[4, 4, 6] = 2
    array[3, 0, 3] = 0  # open to the outside
    mask = mask_of(array, (1, 1, 1))
    small = clean(mask, [FillHoles(max_mm3=1)]).array
    assert small[2, 2, 2] == 1 and not small[4, 4, 4:6].any()
    every = clean(mask, [FillHoles()]).array
    assert (every[4, 4, 4:6] == 1).all() and every[4, 4, 6] == 2 and every[3, 0, 3] == 0


def test_a_hole_that_opens_by_a_corner_only_is_closed():
    ring = np.ones((3, 3), np.uint8)
    ring[1, 1] = ring[0, 0] = 0
    assert clean(mask_of(ring, dims=2), [FillHoles()]).array[0, 1, 1] == 1


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_filling_agrees_with_scipy_and_invents_nothing(seed, flat):
    rng = np.random.default_rng(seed)
    shape = (1, 14, 15) if flat else (6, 7, 8)
    array = (rng.random(shape) < rng.uniform(0.3, 0.95)).astype(np.uint8) * 5
    done = clean(mask_of(array, dims=2 if flat else 3), [FillHoles()]).array
    expected = ndimage.binary_fill_holes(array[0])[None] if flat else ndimage.binary_fill_holes(array)
    assert np.array_equal(done, expected * 5)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30))
def test_removing_agrees_with_scipy_label_by_label(seed, least):
    array = np.random.default_rng(seed).choice(np.array([0, 0, 0, 1, 2, 9], np.uint8), size=(5, 8, 9))
    done = clean(mask_of(array, (1, 1, 1)), [RemoveSmall(min_mm3=least)]).array
    expected = np.zeros_like(array)
    for value in (1, 2, 9):
        components, n = ndimage.label(array == value, np.ones((3, 3, 3)))
        sizes = ndimage.sum_labels(array == value, components, np.arange(n + 1))
        expected[(sizes >= least)[components] & (components > 0)] = value
    assert np.array_equal(done, expected)


def test_instances_are_cleaned_object_by_object_and_keep_their_numbers():
    array = np.zeros((12, 12), np.uint16)
    array[0:3, 0:3], array[0:3, 3:6] = 7, 8  # touching objects
    array[1, 1] = 0  # a hole in 7
    array[0, 10] = 8  # a crumb of 8, far away
    array[10, 10:12] = 400  # a small object
    mask = mask_of(array, dims=2, instances=True)
    done = clean(mask, [FillHoles(), RemoveSmall(min_area_px=3)])
    assert done.instances and set(np.unique(done.array)) == {0, 7, 8}
    assert (done.array == 7).sum() == 9 and (done.array == 8).sum() == 10  # an object is weighed as a whole
    assert (clean(mask, [KeepLargest()]).array == 8).sum() == 9


def test_the_ignore_label_is_left_alone():
    array = np.zeros((1, 1, 5), np.uint8)
    array[0, 0, :] = [255, 0, 1, 0, 255]
    labels = Labels((Label(1, "organ"),), ignore=255)
    assert np.array_equal(clean(mask_of(array, labels=labels), [KeepLargest()]).array, array)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.uint32, np.int64])
def test_every_integer_type_and_the_empty_mask_are_fine(dtype):
    rules = [KeepLargest(), KeepLargest(joint=True), FillHoles(), RemoveSmall(min_mm3=1)]
    empty = mask_of(np.zeros((2, 3, 4), dtype), (1, 1, 1))
    assert not clean(empty, rules).array.any()
    full = mask_of(np.ones((2, 3, 4), dtype), (1, 1, 1))
    assert clean(full, rules).array.all() and clean(full, rules).array.dtype == dtype
