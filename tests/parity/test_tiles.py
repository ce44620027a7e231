"""Windows, weights, resampling and the largest component against what nnU-Net v1 computed (reference folder unet_3d)."""

import numpy as np
import pytest

from vesalius.core.image import Grid, Image, Mask
from vesalius.transforms.clean import KeepLargest, clean
from vesalius.transforms.resample import nearest_index, resize, resize_labels, weights
from vesalius.transforms.spatial import Resample
from vesalius.transforms.tiles import gaussian, starts


@pytest.fixture(scope="module")
def reference(shared_parity):
    return np.load(shared_parity / "unet_3d" / "arrays.npz")


def test_windows_start_where_the_official_ones_do(reference):
    for axis, size in enumerate((155, 240, 240)):
        assert starts(size, 128) == reference[f"steps_brats_{axis}"].tolist()
    for axis, (size, patch) in enumerate(zip((21, 37, 30), (16, 24, 16), strict=True)):
        assert starts(size, patch) == reference[f"steps_small_{axis}"].tolist()


def test_the_gaussian_map_is_the_official_one(reference):
    np.testing.assert_allclose(gaussian((16, 24, 16)), reference["gauss_map"], rtol=1e-6, atol=0)


def test_cubic_resampling_is_the_official_one(reference):
    source, expected = reference["rs_data"], reference["rs_data_o3"]
    ratio = np.array(source.shape[1:]) / expected.shape[1:]
    image = Image(source, Grid(source.shape[1:], np.eye(4)))
    done, _ = Resample(tuple(ratio), order=3, average=False).apply(image)
    np.testing.assert_allclose(done.array, expected, atol=1e-5)


def axes(reference, order, order_z):
    sizes = zip(reference["rs_data"].shape[1:], reference["rs_data_o3"].shape[1:], strict=True)
    return [weights(n, m, order=order if i else order_z) for i, (n, m) in enumerate(sizes)]


def test_thick_slices_are_resampled_as_officially(reference):
    source, expected = reference["rs_data"], reference["rs_data_sepz"]
    done = resize(source, axes(reference, 3, 0))
    for z, origin in enumerate(nearest_index(source.shape[1], expected.shape[1])):  # there each slice is clipped to its own range
        done[:, z] = done[:, z].clip(source[:, origin].min(), source[:, origin].max())
    np.testing.assert_allclose(done, expected, atol=1e-5)


@pytest.mark.parametrize(("name", "order_z"), [("rs_seg_o1", 1), ("rs_seg_sepz", 0)])
def test_labels_with_a_majority_fall_as_officially(reference, name, order_z):
    """Where no label holds half a voxel the official code leaves background; we give it to the largest share."""
    mask, matrices = reference["rs_seg"][0].astype(np.uint8), axes(reference, 1, order_z)
    shares = resize(np.stack([mask == value for value in np.unique(mask)]), matrices).max(axis=0)
    clear = shares > 0.5001
    assert clear.mean() > 0.75
    assert np.array_equal(resize_labels(mask, matrices)[clear], reference[name][0][clear])


@pytest.mark.parametrize(("name", "joint"), [("pp_all", False), ("pp_fg_joint", True)])
def test_the_largest_component_by_faces_is_the_official_one(reference, name, joint):
    mask = Mask(reference["pp_in"], Grid(reference["pp_in"].shape))
    assert np.array_equal(clean(mask, [KeepLargest(joint=joint, touching="faces")]).array, reference[name])
