"""Write then read is identical, for any shape, affine and type hypothesis can think of; masks come back on the very grid."""

import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vesalius.core.image import Grid, Mask
from vesalius.io.files import read, read_mask, write
from vesalius.io.probabilities import write_probabilities

quick = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
shapes = st.tuples(*[st.integers(1, 6)] * 3).filter(lambda shape: max(shape) > 1)
mask_types = st.sampled_from([np.uint8, np.uint16])


@st.composite
def affines(draw, sheared=True):
    """Any turn, any order and direction of axes, 1 micron to 1 metre, and a shear if wanted."""
    quaternion = np.array([draw(st.floats(-1, 1)) for _ in range(4)])
    a, b, c, d = quaternion / np.linalg.norm(quaternion) if np.linalg.norm(quaternion) > 1e-3 else (1, 0, 0, 0)
    turn = np.array([
        [a*a + b*b - c*c - d*d, 2 * (b*c - a*d), 2 * (b*d + a*c)],
        [2 * (b*c + a*d), a*a + c*c - b*b - d*d, 2 * (c*d - a*b)],
        [2 * (b*d - a*c), 2 * (c*d + a*b), a*a + d*d - b*b - c*c],
    ])  # fmt: skip
    turn = turn[:, draw(st.permutations(range(3)))] * [draw(st.sampled_from([-1, 1])) for _ in range(3)]
    skew = np.eye(3)
    if sheared:
        skew[0, 1] = draw(st.floats(-0.5, 0.5))
    affine = np.eye(4)
    affine[:3, :3] = turn @ skew @ np.diag([10 ** draw(st.floats(-3, 3)) for _ in range(3)])
    affine[:3, 3] = [draw(st.floats(-500, 500)) for _ in range(3)]
    return affine


@st.composite
def masks(draw, shape=shapes, affine=None):
    dtype, size = draw(mask_types), draw(shape)
    array = draw(hnp.arrays(dtype, size, elements=st.integers(0, np.iinfo(dtype).max)))
    return Mask(array, Grid(size, draw(affine) if affine is not None else None, 2 if size[0] == 1 else 3))


@quick
@given(mask=masks(affine=st.none() | affines()), suffix=st.sampled_from([".nii", ".nii.gz"]))
def test_nifti_masks_come_back_on_the_very_grid(tmp_path, mask, suffix):
    back = read_mask(write(mask, tmp_path / f"m{suffix}", overwrite=True))
    np.testing.assert_array_equal(back.array, mask.array)
    assert back.grid.shape == mask.grid.shape and (back.grid.affine is None) == (mask.grid.affine is None)
    if mask.grid.affine is not None:
        size = np.abs(mask.grid.affine).max()
        np.testing.assert_allclose(back.grid.affine, mask.grid.affine, atol=1e-6 * size)  # a header holds 32 bit


@quick
@given(
    data=st.data(), affine=affines(), codes=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    dtype=st.sampled_from(["u1", "i2", "u2", "i4", "f4", ">i2", ">f4"]),
    unit=st.sampled_from(["unknown", "mm", "micron", "meter"]),
    dims=st.integers(2, 4),
)  # fmt: skip
def test_nifti_images_are_as_stored_and_their_masks_carry_the_same_header(tmp_path, data, affine, codes, dtype, unit, dims):
    shape = data.draw(hnp.array_shapes(min_dims=dims, max_dims=dims, min_side=2, max_side=5))
    array = data.draw(hnp.arrays(np.dtype(dtype), shape, elements={"min_value": 0, "max_value": 200}))
    saved = nib.Nifti1Image(array, None, nib.Nifti1Header(endianness=">" if dtype.startswith(">") else "<"))
    saved.header.set_data_dtype(np.dtype(dtype))
    saved.header["pixdim"][1:4] = np.linalg.norm(affine[:3, :3], axis=0)
    saved.header.set_xyzt_units(unit)
    saved.header.set_sform(affine, code=codes[0])
    saved.header.set_qform(affine, code=codes[1], strip_shears=True)
    nib.save(saved, tmp_path / "i.nii")
    image = read(tmp_path / "i.nii")
    stored = array.reshape(shape + (1,) * (4 - dims))
    np.testing.assert_array_equal(image.array, stored.transpose(3, 2, 1, 0))
    assert image.array.dtype == np.dtype(dtype).newbyteorder("=")
    reference = nib.load(tmp_path / "i.nii")
    if image.grid.affine is not None and dims > 2:
        scale = {"micron": 1e-3, "meter": 1e3}.get(unit, 1)
        expected = np.diag([scale, scale, scale, 1]) @ reference.affine
        np.testing.assert_allclose(image.grid.affine[:, [2, 1, 0, 3]], expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())

    mask = Mask((image.array[0] > 100).astype(np.uint8), image.grid, source=image.source)
    path = write(mask, tmp_path / "m.nii.gz", overwrite=True)
    np.testing.assert_array_equal(read_mask(path, like=image).array, mask.array)
    written = nib.load(path)
    assert written.affine.tobytes() == reference.affine.tobytes()
    for field in ("sform_code", "qform_code", "xyzt_units"):
        assert written.header[field] == reference.header[field]
    assert written.get_data_dtype() == np.uint8 and read(path).grid.same_as(image.grid)


@quick
@given(mask=masks(shape=st.tuples(st.just(1), st.integers(1, 9), st.integers(2, 9))), suffix=st.sampled_from([".png", ".tif"]))
def test_pictures_come_back_as_they_were(tmp_path, mask, suffix):
    back = read_mask(write(mask, tmp_path / f"m{suffix}", overwrite=True))
    np.testing.assert_array_equal(back.array, mask.array)
    assert back.grid.dims == 2 and back.grid.affine is None


@quick
@given(mask=masks(shape=shapes))
def test_tiff_pages_come_back_as_they_were(tmp_path, mask):
    np.testing.assert_array_equal(read_mask(write(mask, tmp_path / "m.tif", overwrite=True)).array, mask.array)


@quick
@given(mask=masks(affine=affines(sheared=False)), suffix=st.sampled_from([".mha", ".nrrd"]))
def test_itk_masks_come_back_on_the_very_grid(tmp_path, mask, suffix):
    pytest.importorskip("SimpleITK")
    back = read_mask(write(mask, tmp_path / f"m{suffix}", overwrite=True))
    np.testing.assert_array_equal(back.array, mask.array)
    np.testing.assert_allclose(back.grid.affine, mask.grid.affine, atol=1e-6 * np.abs(mask.grid.affine).max())


@quick
@given(
    data=st.data(), shape=shapes, classes=st.integers(1, 4), depth=st.integers(1, 4),
    suffix=st.sampled_from([".npz", ".nii.gz"]),
)  # fmt: skip
def test_probabilities_survive_any_cut_into_slabs(tmp_path, data, shape, classes, depth, suffix):
    scores = data.draw(hnp.arrays(np.float32, (classes, *shape), elements=st.floats(0, 1, width=32)))
    grid = Grid(shape, np.eye(4)[:, [2, 1, 0, 3]], 2 if shape[0] == 1 else 3)
    slabs = ((z, scores[:, z : z + depth]) for z in range(0, shape[0], depth))
    path = write_probabilities(slabs, grid, tmp_path / f"p{suffix}", overwrite=True)
    if suffix == ".npz":
        with np.load(path) as file:
            np.testing.assert_allclose(file["probabilities"], scores, atol=5e-4)
    else:
        np.testing.assert_allclose(read(path).array, scores, atol=1e-5)
