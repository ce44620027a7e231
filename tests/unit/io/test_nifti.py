"""NIfTI: as stored, on the grid the header states, and masks under their image's own header."""

import gzip

import nibabel as nib
import numpy as np
import pytest

from vesalius.core.errors import ChannelError, UnreadableFile
from vesalius.core.image import Grid, Mask
from vesalius.io.files import peek, read, read_mask, write

OBLIQUE = np.array([[0.8, -0.3, 0.1, -20.0], [0.25, 0.9, 0.2, 14.0], [-0.1, 0.1, 2.5, 3.0], [0, 0, 0, 1.0]])


def saved(path, array, affine, **fields):
    image = nib.Nifti1Image(array, affine)
    for field, value in fields.items():
        image.header[field] = value
    nib.save(image, path)
    return path


def patched(path, **fields):
    """Change header fields in the file itself: nibabel would repair them while saving."""
    raw = bytearray(path.read_bytes())
    header = nib.Nifti1Header(bytes(raw[:348]), check=False)
    for field, value in fields.items():
        header[field] = value
    path.write_bytes(header.binaryblock + bytes(raw[348:]))
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.float32])
def test_voxels_keep_their_type_and_order(tmp_path, suffix, dtype):
    array = np.arange(3 * 4 * 5).reshape(3, 4, 5).astype(dtype)
    image = read(saved(tmp_path / f"a{suffix}", array, OBLIQUE))
    assert image.array.dtype == dtype and image.array.shape == (1, 5, 4, 3)
    np.testing.assert_array_equal(image.array[0], array.transpose(2, 1, 0))
    index = np.array([4, 2, 1, 1])  # z, y, x
    np.testing.assert_allclose(image.grid.affine @ index, OBLIQUE.astype(np.float32) @ [1, 2, 4, 1], atol=1e-5)


def test_big_endian_files_and_nifti_2_are_read(tmp_path):
    array = np.arange(24, dtype=">i2").reshape(2, 3, 4)
    nib.save(nib.Nifti1Image(array, OBLIQUE, nib.Nifti1Header(endianness=">")), tmp_path / "big.nii.gz")
    nib.save(nib.Nifti2Image(array.astype("<i2"), OBLIQUE), tmp_path / "two.nii")
    for name in ("big.nii.gz", "two.nii"):
        image = read(tmp_path / name)
        np.testing.assert_array_equal(image.array[0].T, array)
        assert image.array.dtype.isnative
        mask = Mask(image.array[0].astype(np.uint8), image.grid, source=image.source)
        back = read_mask(write(mask, tmp_path / "out" / name), like=image)
        np.testing.assert_array_equal(back.array, mask.array)
        np.testing.assert_array_equal(nib.load(tmp_path / "out" / name).affine, nib.load(tmp_path / name).affine)


def test_the_fourth_axis_becomes_channels_and_rgb_voxels_three(tmp_path):
    four = np.random.default_rng(0).integers(0, 99, (3, 4, 5, 2)).astype(np.int16)
    image = read(saved(tmp_path / "four.nii.gz", four, OBLIQUE))
    np.testing.assert_array_equal(image.array, four.transpose(3, 2, 1, 0))
    assert peek(tmp_path / "four.nii.gz").channels == 2
    rgb = np.zeros((3, 4, 5), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    rgb["G"] = 7
    image = read(saved(tmp_path / "rgb.nii.gz", rgb, OBLIQUE))
    assert image.array.shape == (3, 5, 4, 3) and (image.array[1] == 7).all() and not image.array[0].any()
    rgba = np.zeros(rgb.shape, [("R", "u1"), ("G", "u1"), ("B", "u1"), ("A", "u1")])
    rgba["G"], rgba["A"] = 7, 255
    opaque = read(saved(tmp_path / "rgba.nii.gz", rgba, OBLIQUE))
    assert np.array_equal(opaque.array, image.array) and opaque.notes == ("an opaque alpha channel was dropped",)
    assert image.channels == opaque.channels == ("red", "green", "blue")
    three = read(saved(tmp_path / "three.nii.gz", four[..., [0, 1, 0]].astype(np.uint8), OBLIQUE))
    assert three.channels == ("channel_0", "channel_1", "channel_2")  # volumes, which are no colours
    assert peek(tmp_path / "rgba.nii.gz").channels == 3
    rgba["A"][0] = 9
    with pytest.raises(ChannelError, match="not opaque"):
        read(saved(tmp_path / "clear.nii.gz", rgba, OBLIQUE))
    vector = saved(tmp_path / "vector.nii.gz", four[:, :, :, None, :], OBLIQUE)
    np.testing.assert_array_equal(read(vector).array, four.transpose(3, 2, 1, 0))


def test_a_scale_slope_gives_float32_and_is_not_kept_in_the_mask(tmp_path):
    path = saved(tmp_path / "a.nii.gz", np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    raw = bytearray(gzip.decompress(path.read_bytes()))
    header = nib.Nifti1Header(bytes(raw[:348]), check=False)
    header["scl_slope"], header["scl_inter"] = 0.5, -10
    path.write_bytes(gzip.compress(header.binaryblock + bytes(raw[348:])))
    image = read(path)
    assert image.array.dtype == np.float32
    np.testing.assert_allclose(image.array[0].T, np.arange(24).reshape(2, 3, 4) * 0.5 - 10)
    mask = Mask(np.full(image.grid.shape, 3, np.uint8), image.grid, source=image.source)
    assert (np.asarray(nib.load(write(mask, tmp_path / "m.nii.gz")).dataobj) == 3).all()


def test_doubles_become_float32(tmp_path):
    assert read(saved(tmp_path / "a.nii", np.random.rand(2, 3, 4), np.eye(4))).array.dtype == np.float32


def test_a_mask_carries_the_header_of_its_image_to_the_byte(tmp_path):
    image = nib.Nifti1Image(np.zeros((4, 5, 6), np.int16), OBLIQUE)
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(OBLIQUE, code=4)
    image.set_qform(np.diag([-2.0, 3.0, 4.0, 1.0]), code=2)  # another place than the sform: both must come back
    nib.save(image, tmp_path / "image.nii.gz")
    source = read(tmp_path / "image.nii.gz")
    mask = Mask(np.ones(source.grid.shape, np.uint8), source.grid)
    first, second = nib.load(tmp_path / "image.nii.gz"), nib.load(write(mask, tmp_path / "m.nii.gz", like=source))
    kept = ["qform_code", "sform_code", "srow_x", "srow_y", "srow_z", "quatern_b", "quatern_c", "quatern_d"]
    for field in [*kept, "qoffset_x", "qoffset_y", "qoffset_z", "pixdim", "xyzt_units"]:
        assert first.header[field].tobytes() == second.header[field].tobytes(), field
    assert first.affine.tobytes() == second.affine.tobytes()
    assert second.get_data_dtype() == np.uint8 and second.shape == (4, 5, 6)


def test_a_mask_keeps_of_its_image_neither_its_greys_nor_their_meaning_nor_its_order_of_bytes(tmp_path):
    image = nib.Nifti1Image(np.ones((4, 5, 6), np.int16), OBLIQUE, nib.Nifti1Header(endianness=">"))
    image.header["cal_min"], image.header["cal_max"] = -160, 240  # a viewer would show labels in this window
    image.header.set_intent("z score", name="activation")
    nib.save(image, tmp_path / "image.nii")
    source = read(tmp_path / "image.nii")
    mask = Mask(np.full(source.grid.shape, 300, np.uint16), source.grid)
    header = nib.load(write(mask, tmp_path / "m.nii", like=source)).header
    assert (header["cal_min"], header["cal_max"], header.get_intent()) == (0, 0, ("none", (), ""))
    assert (read_mask(tmp_path / "m.nii").array == 300).all()


def test_a_mask_that_was_cropped_since_it_was_read_is_not_written_on_its_old_grid(tmp_path):
    image = read_mask(saved(tmp_path / "a.nii", np.ones((4, 5, 6), np.uint8), OBLIQUE))
    affine = image.grid.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ (2, 0, 1)
    cropped = Mask(image.array[2:, :, 1:], Grid((4, 5, 3), affine), source=image.source)
    assert read_mask(write(cropped, tmp_path / "b.nii")).grid.same_as(cropped.grid)


def test_values_above_255_are_written_as_uint16(tmp_path):
    image = read(saved(tmp_path / "a.nii.gz", np.zeros((3, 3, 3), np.int16), OBLIQUE))
    array = np.zeros(image.grid.shape, np.uint32)
    array[1, 1, 1] = 300
    path = write(Mask(array, image.grid), tmp_path / "m.nii.gz", like=image)
    assert nib.load(path).get_data_dtype() == np.uint16 and read_mask(path).array.max() == 300


@pytest.mark.parametrize("unit, factor", [("meter", 1000.0), ("micron", 0.001)])
def test_metres_and_microns_become_millimetres(tmp_path, unit, factor):
    image = nib.Nifti1Image(np.zeros((3, 4, 5), np.uint8), np.diag([2.0, 3.0, 4.0, 1.0]))
    image.header.set_xyzt_units(unit, "sec")  # the unit of time stands in the same byte
    nib.save(image, tmp_path / "a.nii")
    grid = read(tmp_path / "a.nii").grid
    np.testing.assert_allclose(grid.spacing, np.array([4, 3, 2]) * factor)
    path = write(Mask(np.zeros(grid.shape, np.uint8), grid), tmp_path / "m.nii", like=read(tmp_path / "a.nii"))
    assert nib.load(path).header.get_xyzt_units()[0] == unit


@pytest.mark.parametrize("pixdim", [0.0, np.nan, -0.0])
def test_a_header_without_spacing_never_becomes_one_millimetre(tmp_path, pixdim):
    path = saved(tmp_path / "a.nii", np.zeros((3, 4, 5), np.uint8), None)
    image = read(patched(path, pixdim=[1, pixdim, pixdim, pixdim, 1, 1, 1, 1], xyzt_units=2))
    assert image.grid.affine is None and "spacing is unknown" in image.notes[-1]
    mask = Mask(np.ones(image.grid.shape, np.uint8), image.grid)
    assert read_mask(write(mask, tmp_path / "m.nii", like=image)).grid.affine is None


def test_a_header_left_at_its_defaults_states_no_spacing(tmp_path):
    assert read(saved(tmp_path / "a.nii.gz", np.zeros((3, 4, 5), np.uint8), None)).grid.affine is None


def test_spacing_without_orientation_is_taken_as_nibabel_takes_it_and_said(tmp_path):
    path = saved(tmp_path / "a.nii", np.zeros((3, 4, 5), np.uint8), None, pixdim=[1, 2, 3, 4, 1, 1, 1, 1])
    image = read(path)
    np.testing.assert_allclose(image.grid.affine[:, [2, 1, 0, 3]], nib.load(path).affine)
    assert "no qform and no sform" in image.notes[0]


def test_an_unusable_sform_gives_way_to_the_qform_and_that_is_said(tmp_path):
    image = nib.Nifti1Image(np.zeros((3, 4, 5), np.uint8), np.diag([2.0, 3, 4, 1]))
    image.set_qform(np.diag([2.0, 3, 4, 1]), code=1)
    nib.save(image, tmp_path / "a.nii")
    read_image = read(patched(tmp_path / "a.nii", srow_x=[0, 0, 0, 0]))
    assert read_image.grid.spacing == (4, 3, 2) and "sform is unusable" in read_image.notes[0]


@pytest.mark.parametrize(("said", "z"), [(1, "S"), (0, "S"), (-1, "I")])
def test_a_qfac_of_nothing_is_1_as_the_standard_has_it(tmp_path, said, z):
    path = saved(tmp_path / "a.nii", np.zeros((5, 6, 7), np.uint8), np.diag([2.0, 3, 4, 1]))
    image = read(patched(path, pixdim=[said, 2, 3, 4, 1, 1, 1, 1], qform_code=1, sform_code=0))
    assert image.grid.orientation == f"{z}AR" and not image.notes  # else pixdim alone would turn left and right round


def test_a_qform_that_says_otherwise_is_told_and_the_sform_taken(tmp_path):
    image = nib.Nifti1Image(np.zeros((3, 4, 5), np.uint8), np.diag([2.0, 3, 4, 1]))
    image.set_sform(np.diag([2.0, 3, 4, 1]), code=1)
    for shift, said in ((0.5, 0), (7, 1)):
        qform = np.diag([2.0, 3, 4, 1])
        qform[0, 3] = shift
        image.set_qform(qform, code=1)
        nib.save(image, tmp_path / f"{said}.nii")
        found = read(tmp_path / f"{said}.nii")
        assert found.grid.affine[0, 3] == 0 and len(found.notes) == said
    assert "disagree by up to 7.00 mm" in found.notes[0]


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_header_that_leaves_out_where_voxels_begin_is_no_part_of_them(tmp_path, suffix):
    voxels = np.random.default_rng(0).integers(0, 999, (3, 4, 5)).astype(np.int16)
    path = patched(saved(tmp_path / "a.nii", voxels, np.eye(4)), vox_offset=0)
    if suffix == ".nii.gz":
        path = path.with_suffix(suffix)
        path.write_bytes(gzip.compress(path.with_suffix("").read_bytes()))
    np.testing.assert_array_equal(read(path).array[0], voxels.T)


def test_further_axes_of_one_do_not_count(tmp_path):
    voxels = np.random.default_rng(0).integers(0, 9, (3, 4, 5, 2, 1, 1)).astype(np.int16)
    path = saved(tmp_path / "a.nii.gz", voxels, np.eye(4))
    np.testing.assert_array_equal(read(path).array, voxels[..., 0, 0].transpose(3, 2, 1, 0))
    assert peek(path).channels == 2


def test_voxels_of_nanometres_keep_their_orientation(tmp_path):
    affine = np.diag([5e-5, -5e-5, 5e-5, 1])
    image = read(saved(tmp_path / "a.nii", np.zeros((3, 4, 5), np.uint8), affine))
    assert image.grid.orientation == "SPR" and image.notes == ()


@pytest.mark.parametrize("qform_code", [0, 1])
def test_the_third_size_of_a_picture_may_be_left_out(tmp_path, qform_code):
    path = saved(tmp_path / "a.nii", np.zeros((3, 4), np.uint8), None)
    image = read(patched(path, pixdim=[1, 0.5, 0.7, 0, 1, 1, 1, 1], xyzt_units=2, qform_code=qform_code))
    assert not any("unusable" in note for note in image.notes)
    np.testing.assert_allclose(image.grid.spacing[1:], (0.7, 0.5), rtol=1e-6)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_picture_in_two_dimensions_comes_back_in_two(tmp_path, suffix):
    path = saved(tmp_path / f"a{suffix}", np.arange(12, dtype=np.uint8).reshape(3, 4), np.diag([0.5, 0.7, 1, 1]))
    image = read(path)
    assert image.grid.dims == 2 and image.array.shape == (1, 1, 4, 3)
    np.testing.assert_allclose(image.grid.spacing[1:], (0.7, 0.5), rtol=1e-6)
    back = nib.load(write(Mask(image.array[0], image.grid), tmp_path / f"m{suffix}", like=image))
    assert back.shape == (3, 4)
    np.testing.assert_array_equal(np.asarray(back.dataobj), np.arange(12).reshape(3, 4))


def test_uncompressed_volumes_are_mapped_not_read(tmp_path):
    image = read(saved(tmp_path / "a.nii", np.zeros((9, 8, 7), np.int16), np.eye(4)))
    base = image.array
    while not isinstance(base, np.memmap) and base.base is not None:
        base = base.base
    assert isinstance(base, np.memmap)


def test_several_gzip_members_are_one_file(tmp_path):
    path = saved(tmp_path / "a.nii", np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4))
    raw = path.read_bytes()
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(raw[:400]) + gzip.compress(raw[400:]))
    np.testing.assert_array_equal(read(tmp_path / "b.nii.gz").array, read(path).array)


@pytest.mark.parametrize("at", [0.2, 0.6, 0.98])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_file_cut_short_is_refused_in_one_line(tmp_path, suffix, at):
    path = saved(tmp_path / f"a{suffix}", np.random.default_rng(0).integers(0, 999, (20, 20, 20)).astype(np.int16), np.eye(4))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * at)])
    with pytest.raises(UnreadableFile) as caught:
        read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_damage_in_the_middle_is_noticed_by_the_checksum(tmp_path):
    path = saved(tmp_path / "a.nii.gz", np.random.default_rng(0).integers(0, 999, (20, 20, 20)).astype(np.int16), np.eye(4))
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(UnreadableFile):
        read(path)


@pytest.mark.parametrize("value, count", [(np.nan, 2), (np.inf, 2), (-np.inf, 2)])
def test_voxels_that_are_no_numbers_are_counted(tmp_path, value, count):
    array = np.zeros((4, 5, 6), np.float32)
    array[1, 1, 1] = array[3, 4, 5] = value
    with pytest.raises(UnreadableFile, match=f"{count} of 120 voxels are NaN or infinite"):
        read(saved(tmp_path / "a.nii.gz", array, np.eye(4)))


def test_complex_numbers_and_too_many_axes_are_refused(tmp_path):
    with pytest.raises(UnreadableFile, match="complex64"):
        read(saved(tmp_path / "a.nii", np.zeros((3, 4, 5), np.complex64), np.eye(4)))
    with pytest.raises(UnreadableFile, match="dimensions"):
        read(saved(tmp_path / "b.nii", np.zeros((3, 4, 5, 2, 2), np.uint8), np.eye(4)))


def test_a_mask_without_source_gets_a_fresh_header_that_nibabel_reads_alike(tmp_path):
    image = read(saved(tmp_path / "a.nii", np.zeros((3, 4, 5), np.uint8), OBLIQUE))
    back = nib.load(write(Mask(np.zeros(image.grid.shape, np.uint8), image.grid), tmp_path / "m.nii.gz"))
    np.testing.assert_allclose(back.affine, OBLIQUE, atol=1e-5)
    assert back.header.get_xyzt_units()[0] == "mm"
    assert int(back.header["qform_code"]) == 0  # OBLIQUE is sheared, a qform cannot say that
