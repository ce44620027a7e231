"""DICOM: slices sort by where they lie, values are real ones, and nothing that is said names a patient."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_slices import COLUMN, NORMAL, ROW, Series, save
from pydicom.uid import JPEG2000Lossless, JPEGExtended12Bit, JPEGLSLossless, JPEGLSNearLossless, RLELossless

from vesalius.core.errors import GeometryError, InputError, UnknownName, UnreadableFile
from vesalius.core.image import Mask
from vesalius.io.files import case_name, find_inputs, peek, read, read_mask, write

FLIP = np.diag([-1.0, -1, 1, 1])  # LPS -> RAS


@pytest.fixture
def ct():
    return Series("CT")


def test_slices_sort_by_position_whatever_files_and_instance_numbers_say(tmp_path, ct):
    order = [10.0, 2.5, 7.5, 0.0, 5.0]
    values = ct.stack(tmp_path / "study", order)
    image = read(tmp_path / "study")
    np.testing.assert_array_equal(image.array[0], values[np.argsort(order)].astype(int) - 1024)
    assert image.units == "HU" and image.array.dtype.kind == "i" and image.channels == ("CT",) and image.notes == ()
    assert peek(tmp_path / "study").grid.same_as(image.grid)


def test_the_affine_is_that_of_the_patient_in_ras(tmp_path, ct):
    ct.stack(tmp_path / "study", [0, 2.5, 5])
    grid = read(tmp_path / "study").grid
    expected = np.eye(4)
    expected[:3, :3] = np.stack([NORMAL * 2.5, COLUMN * 0.5, ROW * 0.75], axis=1)  # columns z, y, x; not the thickness of 99
    expected[:3, 3] = [-20, 10, 30]
    np.testing.assert_allclose(grid.affine, FLIP @ expected, atol=1e-6)
    np.testing.assert_allclose(grid.spacing, (2.5, 0.5, 0.75))


def test_a_tilted_gantry_keeps_its_shear(tmp_path, ct):
    (tmp_path / "study").mkdir()
    tilt = np.array([0, 0.4, 0])
    for i in range(4):
        one = ct.slice(np.full((4, 5), i, np.uint16), 2.0 * i)
        one.ImagePositionPatient = list(np.array([0.0, 0, 0]) + i * (2.0 * NORMAL + tilt))
        save(one, tmp_path / "study" / f"{i}.dcm")
    affine = read(tmp_path / "study").grid.affine
    np.testing.assert_allclose(affine[:3, 0], (2.0 * NORMAL + tilt) * [-1, -1, 1], atol=1e-6)


def test_the_real_brain_lies_where_its_own_header_says(shared_data):
    image = read(shared_data / "dicom_brain" / "12-T1post-05670")
    assert image.array.shape == (1, 22, 512, 512) and image.channels == ("MR",) and image.units is None
    for file in list((shared_data / "dicom_brain" / "12-T1post-05670").iterdir())[::5]:
        one = pydicom.dcmread(file)
        there = np.array([*one.ImagePositionPatient, 1.0]) @ FLIP
        z = (np.linalg.inv(image.grid.affine) @ there)[:3]
        np.testing.assert_allclose(z[1:], 0, atol=0.02)
        np.testing.assert_array_equal(image.array[0, round(z[0])], one.pixel_array)
    np.testing.assert_allclose(image.grid.spacing, (6.5, 0.4297, 0.4297), atol=1e-3)


def test_several_series_are_listed_until_one_is_chosen(tmp_path):
    first, second = Series("CT"), Series("MR")
    a, _ = first.stack(tmp_path / "study" / "a", [0, 1, 2]), second.stack(tmp_path / "study" / "b", [0, 2])
    with pytest.raises(InputError) as caught:
        read(tmp_path / "study")
    for word in (first.uid, second.uid, "CT", "MR", "'thin'", "3 slices", "2 slices", "--series"):
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    np.testing.assert_array_equal(read(tmp_path / "study", series=first.uid).array[0], a.astype(int) - 1024)
    with pytest.raises(UnknownName):
        read(tmp_path / "study", series="1.2.3")
    assert find_inputs(tmp_path / "study") == [tmp_path / "study" / "a", tmp_path / "study" / "b"]


def test_linked_folders_are_read_as_others_and_each_once(tmp_path, ct):
    ct.stack(tmp_path / "archive", [0, 2, 4])
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "linked").symlink_to(tmp_path / "archive")
    (tmp_path / "study" / "around").symlink_to(tmp_path / "study")
    image = read(tmp_path / "study")
    assert image.array.shape[1] == 3 and not image.notes
    Series("CT").stack(tmp_path / "study" / "other", [0, 2])
    with pytest.raises(InputError, match="2 series are here"):  # the linked one went missing in silence
        read(tmp_path / "study")


def test_localizers_and_reports_are_left_out_and_that_is_said(tmp_path, ct):
    ct.stack(tmp_path / "study", [0, 1, 2])
    scout = Series("CT").slice(np.zeros((9, 9), np.uint16), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    save(scout, tmp_path / "study" / "scout")
    report = Series("SR").slice(np.zeros((2, 2), np.uint16))
    for field in ("Rows", "Columns", "PixelData", "BitsAllocated", "BitsStored", "HighBit"):
        delattr(report, field)
    save(report, tmp_path / "study" / "report.dcm")
    (tmp_path / "study" / "README.txt").write_text("notes")
    (tmp_path / "study" / ".DS_Store").write_bytes(b"\0" * 300)
    image = read(tmp_path / "study")
    assert image.array.shape == (1, 3, 6, 7)
    assert set(image.notes) == {"1 localizers left out", "1 objects that are no images left out"}


def test_a_missing_slice_is_reported_in_millimetres(tmp_path, ct):
    ct.stack(tmp_path / "study", [0, 2, 4, 8, 10])
    image = read(tmp_path / "study")
    assert "usually 2.00 mm" in image.notes[0] and "4.00 mm after slice 3" in image.notes[0]
    assert image.grid.spacing[0] == pytest.approx(2)


@pytest.mark.parametrize(("step_mm", "said"), [(1.25, "up to 0.10 mm aside of steps of 1.25 mm"), (0.72, "0.72 mm"), (2.5, "")])
def test_even_places_that_the_headers_round_are_even_by_their_mean_step(tmp_path, ct, step_mm, said):
    ct.stack(tmp_path / "study", np.round(np.arange(40) * step_mm, 1))
    image = read(tmp_path / "study")
    assert image.grid.spacing[0] == pytest.approx(step_mm, abs=0.1 / 39)
    assert said in image.notes[0] if said else not image.notes


def test_a_gap_is_told_once_where_a_slice_is_there_twice(tmp_path, ct):
    values = ct.stack(tmp_path / "study", [0, 2, 4, 8, 10])
    save(ct.slice(values[1], 2.0), tmp_path / "study" / "twin")
    gaps = [note for note in read(tmp_path / "study").notes if "evenly" in note]
    assert len(gaps) == 1 and "4.00 mm after slice 3" in gaps[0]


@pytest.mark.parametrize("places", [[0, 0.5, 2, 2.5, 4, 4.5, 6], [0, 5, 10, 15, 20, 22.5, 25, 27.5]])
def test_slices_that_no_even_grid_is_true_to_are_refused(tmp_path, ct, places):
    ct.stack(tmp_path / "study", places)
    with pytest.raises(GeometryError, match=r"\d of \d steps between slices are not"):
        read(tmp_path / "study")


def test_a_copy_of_a_slice_counts_once_and_another_slice_at_its_place_is_an_error(tmp_path, ct):
    values = ct.stack(tmp_path / "study", [0, 2, 4])
    twin = ct.slice(values[1], 2.0)
    save(twin, tmp_path / "study" / "twin")  # the same pixels under another UID
    save(pydicom.dcmread(sorted((tmp_path / "study").iterdir())[0]), tmp_path / "study" / "zz")  # the same file again
    image = read(tmp_path / "study")
    assert image.array.shape == (1, 3, 6, 7) and image.grid.spacing[0] == pytest.approx(2)
    assert any("duplicated" in note for note in image.notes) and any("1 file is a second copy" in note for note in image.notes)
    twin.PixelData = np.zeros((6, 7), np.uint16).tobytes()
    save(twin, tmp_path / "study" / "twin")
    with pytest.raises(GeometryError, match="two different slices"):
        read(tmp_path / "study")


def test_slices_that_form_no_volume_are_refused(tmp_path, ct):
    ct.stack(tmp_path / "a", [0, 2])
    save(ct.slice(np.zeros((9, 9), np.uint16), 4.0), tmp_path / "a" / "other")
    with pytest.raises(GeometryError, match="different sizes"):
        read(tmp_path / "a")
    ct.stack(tmp_path / "b", [0, 2])
    save(ct.slice(np.zeros((6, 7), np.uint16), 4.0, ImageOrientationPatient=[1, 0, 0, 0, 1, 0]), tmp_path / "b" / "other")
    with pytest.raises(GeometryError, match="different orientations"):
        read(tmp_path / "b")
    ct.stack(tmp_path / "c", [0, 2])
    lost = ct.slice(np.zeros((6, 7), np.uint16), 4.0)
    del lost.ImagePositionPatient
    save(lost, tmp_path / "c" / "lost")
    with pytest.raises(GeometryError, match="1 of 3 slices say no position"):
        read(tmp_path / "c")


@pytest.mark.parametrize("shifted", [range(3, 6), range(2, 4)], ids=["two stacks", "some slices"])
@pytest.mark.parametrize("by_mm", [0.7, 12])  # a pixel or so, and two dozen
def test_slices_that_lie_aside_of_the_others_are_refused(tmp_path, ct, shifted, by_mm):
    """The affine knows the first and the last slice only: it would be sheared, or the others' places lost."""
    for i in range(6):
        one = ct.slice(np.full((6, 7), i, np.uint16), 3.0 * i)
        one.ImagePositionPatient = list(np.array(one.ImagePositionPatient, float) + (by_mm * ROW if i in shifted else 0))
        save(one, tmp_path / f"{i}.dcm")
    with pytest.raises(GeometryError, match=r"shifted against each other in their plane, by up to \d+.\d\d mm.*Split"):
        read(tmp_path)


def test_slices_of_different_pixel_spacings_are_refused(tmp_path, ct):
    for i in range(4):
        save(ct.slice(np.zeros((6, 7), np.uint16), 3.0 * i, PixelSpacing=[0.5, 0.75 + (i == 2)]), tmp_path / f"{i}.dcm")
    with pytest.raises(GeometryError, match="different pixel spacings"):
        read(tmp_path)


def test_a_series_in_which_every_slice_is_there_twice_is_read_once(tmp_path, ct):
    for i in range(3):
        for twin in "ab":  # with UIDs of their own
            save(ct.slice(np.full((6, 7), i, np.uint16), 3.0 * i), tmp_path / f"{i}{twin}.dcm")
    image = read(tmp_path)
    assert image.array[0, :, 0, 0].tolist() == [-1024, -1023, -1022] and image.grid.spacing[0] == pytest.approx(3)
    assert not any("evenly" in note for note in image.notes)


def test_a_localizer_is_left_out_of_a_folder_and_read_by_itself(tmp_path, ct):
    ct.stack(tmp_path, [0, 2])
    lone = save(ct.slice(np.zeros((9, 9), np.uint16), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), tmp_path / "scout.dcm")
    image = read(tmp_path)
    assert image.grid.shape == (2, 6, 7) and "1 localizers left out" in image.notes and read(lone).grid.shape == (1, 9, 9)


def test_a_slope_of_nothing_is_refused_unless_it_is_that_of_some_slices(tmp_path):
    pet = Series("MR")
    pet.stack(tmp_path / "none", [0, 3], RescaleSlope=0, RescaleIntercept=0)
    with pytest.raises(UnreadableFile, match="RescaleSlope is 0"):
        read(tmp_path / "none")
    (tmp_path / "some").mkdir()
    for i in (0, 1):
        one = pet.slice(np.full((6, 7), 5, np.uint16), 3.0 * i, RescaleSlope=2 * i, RescaleIntercept=0)
        save(one, tmp_path / "some" / f"{i}.dcm")
    assert read(tmp_path / "some").array[0, :, 0, 0].tolist() == [0, 10]


def test_a_fractional_slope_gives_float32_and_may_differ_from_slice_to_slice(tmp_path):
    pet = Series("MR")
    (tmp_path / "study").mkdir()
    for i, slope in enumerate([0.5, 0.25]):
        save(pet.slice(np.full((4, 5), 8, np.uint16), i, RescaleSlope=slope, RescaleIntercept=1), tmp_path / "study" / str(i))
    image = read(tmp_path / "study")
    assert image.array.dtype == np.float32
    np.testing.assert_array_equal(image.array[0, :, 0, 0], [5, 3])


def test_whole_slopes_keep_whole_numbers_in_16_bit_where_they_fit(tmp_path, ct):
    image = read(save(ct.slice(np.array([[0, 40000], [5, 6]], np.uint16)), tmp_path / "wide.dcm"))
    np.testing.assert_array_equal(image.array[0, 0], [[-1024, 38976], [-1019, -1018]])
    assert image.array.dtype == np.int32
    image = read(save(ct.slice(np.array([[0, 4000], [5, 6]], np.uint16)), tmp_path / "narrow.dcm"))
    np.testing.assert_array_equal(image.array[0, 0], [[-1024, 2976], [-1019, -1018]])
    assert image.array.dtype == np.int16


def test_slices_stored_signed_and_unsigned_make_one_volume(tmp_path, ct):
    (tmp_path / "study").mkdir()
    save(ct.slice(np.full((4, 5), -5, np.int16), 0.0), tmp_path / "study" / "a")
    save(ct.slice(np.full((4, 5), 60000, np.uint16), 2.0), tmp_path / "study" / "b")
    np.testing.assert_array_equal(read(tmp_path / "study").array[0, :, 0, 0], [-5 - 1024, 60000 - 1024])


def test_fractions_with_a_whole_slope_stay_fractions(tmp_path):
    one = Series("MR").slice(np.zeros((4, 5), np.uint16), RescaleSlope=2, RescaleIntercept=1, BitsAllocated=32)
    del one.PixelData, one.PixelRepresentation, one.BitsStored, one.HighBit
    one.FloatPixelData = np.full((4, 5), 0.25, np.float32).tobytes()
    np.testing.assert_array_equal(read(save(one, tmp_path / "a.dcm")).array, np.float32(1.5))


def test_a_ct_without_rescale_is_not_called_hounsfield(tmp_path, ct):
    one = ct.slice(np.ones((4, 5), np.int16))
    del one.RescaleSlope, one.RescaleIntercept, one.RescaleType
    image = read(save(one, tmp_path / "one.dcm"))
    assert image.units is None and "no HU" in image.notes[0] and (image.array == 1).all()


def test_a_ct_is_called_hounsfield_only_where_all_of_its_slices_are(tmp_path, ct):
    for i, kind in enumerate(["HU", "US"]):  # unspecified
        save(ct.slice(np.ones((4, 5), np.int16), 3.0 * i, RescaleType=kind), tmp_path / f"{i}.dcm")
    assert read(tmp_path).units is None and read(tmp_path / "1.dcm").units is None and read(tmp_path / "0.dcm").units == "HU"


def test_one_file_is_a_picture_on_its_plane(tmp_path, ct):
    image = read(save(ct.slice(np.ones((4, 5), np.uint16)), tmp_path / "IM0001"))
    assert image.grid.dims == 2 and image.grid.shape == (1, 4, 5) and image.name == "IM0001"
    np.testing.assert_allclose(image.grid.spacing[1:], (0.5, 0.75))
    assert case_name(tmp_path / "IM0001") == "IM0001"


@pytest.mark.parametrize("modality", ["CR", "DR", "OT", "US"])
def test_a_picture_stored_in_the_negative_is_turned_and_said(tmp_path, modality):
    stored = np.array([[0, 10], [200, 255]], np.uint8)
    one = Series("CR").slice(stored, PhotometricInterpretation="MONOCHROME1", Modality=modality)
    image = read(save(one, tmp_path / "x.dcm"))
    np.testing.assert_array_equal(image.array[0, 0], [[255, 245], [55, 0]])
    assert "MONOCHROME1" in image.notes[0]
    for measured, said in (("MR", 0), ("", 1)):
        one.Modality = measured
        image = read(save(one, tmp_path / "x.dcm"))
        assert (image.array[0, 0] == stored).all() and len(image.notes) == said


def test_a_negative_is_turned_within_the_bits_that_are_stored(tmp_path):
    one = Series("CR").slice(np.array([[0, 4095], [1, 100]], np.uint16), PhotometricInterpretation="MONOCHROME1")
    one.BitsStored, one.HighBit = 12, 11
    assert read(save(one, tmp_path / "x.dcm")).array[0, 0].tolist() == [[4095, 0], [4094, 3995]]


def test_colour_becomes_three_channels(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    one = Series("US").slice(rgb, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0)
    for field in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(one, field)
    image = read(save(one, tmp_path / "x.dcm"))
    np.testing.assert_array_equal(image.array[:, 0], rgb.transpose(2, 0, 1))
    assert image.channels == ("red", "green", "blue") and image.grid.affine is None and peek(tmp_path / "x.dcm").channels == 3


def test_colours_are_not_rescaled_whatever_the_header_carries(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    one = Series("US").slice(colours, RescaleSlope=1, RescaleIntercept=-1024)
    one.SamplesPerPixel, one.PhotometricInterpretation, one.PlanarConfiguration = 3, "RGB", 0
    np.testing.assert_array_equal(read(save(one, tmp_path / "a.dcm")).array[:, 0], colours.transpose(2, 0, 1))


@pytest.mark.parametrize("turned", [[2, 0, 0, 0, 2, 0], [1, 0, 0, 0.4, 0.92, 0]], ids=["no unit", "no right angle"])
def test_directions_that_are_none_are_refused(tmp_path, ct, turned):
    """They would have doubled the size of a pixel, or sheared its rows."""
    file = save(ct.slice(np.zeros((6, 7), np.uint16), ImageOrientationPatient=turned), tmp_path / "a.dcm")
    with pytest.raises(GeometryError, match="no pair of directions"):
        read(file)


def test_an_enhanced_object_says_its_places_frame_by_frame(tmp_path, ct):
    values = np.random.default_rng(0).integers(0, 999, (3, 4, 5)).astype(np.uint16)
    heights = [4.0, 0.0, 2.0]
    one = ct.enhanced(values, heights, RescaleSlope=2, RescaleIntercept=-10, RescaleType="HU")
    image = read(save(one, tmp_path / "enhanced.dcm"))
    np.testing.assert_array_equal(image.array[0], values[np.argsort(heights)].astype(int) * 2 - 10)
    assert image.units == "HU" and image.grid.spacing[0] == pytest.approx(2)


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless], ids=["RLE", "JPEG 2000"])
def test_compressed_slices_hold_the_same_voxels(tmp_path, ct, syntax):
    values = ct.stack(tmp_path / "study", [0, 2, 4], size=(64, 72))
    for file in (tmp_path / "study").iterdir():
        one = pydicom.dcmread(file)
        one.compress(syntax, generate_instance_uid=False)
        one.save_as(file)
    np.testing.assert_array_equal(read(tmp_path / "study").array[0], values.astype(int) - 1024)


@pytest.mark.parametrize(
    "name",
    ["CT_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm",
     "JPEG2000.dcm", "JPGExtended.dcm", "JPEGLSNearLossless_08.dcm", "693_J2KI.dcm", "image_dfl.dcm", "examples_overlay.dcm",
     "SC_rgb_small_odd_jpeg.dcm", "SC_rgb_rle_16bit_2frame.dcm", "SC_ybr_full_422_uncompressed.dcm", "examples_ybr_color.dcm",
     "examples_palette.dcm"],
)  # fmt: skip
def test_files_from_the_field_are_read_as_pydicom_reads_them(name):
    path = Path(pydicom.__file__).parent / "data" / "test_files" / name
    one = pydicom.dcmread(path)
    if one.file_meta.TransferSyntaxUID in (JPEGExtended12Bit, JPEGLSLossless, JPEGLSNearLossless):
        pytest.importorskip("libjpeg")
    image = read(path)
    expected = one.pixel_array.reshape(int(one.get("NumberOfFrames", 1)), one.Rows, one.Columns, -1).transpose(3, 0, 1, 2)
    assert peek(path).grid.shape == image.grid.shape and peek(path).channels == len(image.array)
    if one.PhotometricInterpretation == "PALETTE COLOR":
        assert image.array.shape == (3, *expected.shape[1:]) and image.array.max() == 255
    else:
        real = expected.astype(float) * float(one.get("RescaleSlope", 1)) + float(one.get("RescaleIntercept", 0))
        np.testing.assert_array_equal(image.array, real)


def test_a_decoder_that_is_missing_is_named_with_its_remedy(tmp_path, ct, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("Unable to decompress: all plugins are missing dependencies")
        yield

    monkeypatch.setattr("vesalius.io.dicom.iter_pixels", refuse)
    with pytest.raises(UnreadableFile, match=r"Explicit VR Little Endian need a decoder.*pip install"):
        read(save(ct.slice(np.ones((4, 5), np.uint16)), tmp_path / "x.dcm"))


@pytest.mark.parametrize("keep", [0.05, 0.4, 0.7, 0.97])
def test_a_slice_cut_short_is_refused_by_file_and_without_a_patient(tmp_path, ct, keep):
    ct.stack(tmp_path / "study", [0, 2, 4])
    broken = sorted((tmp_path / "study").iterdir())[1]
    broken.rename(broken.with_suffix(".dcm"))
    broken = broken.with_suffix(".dcm")
    broken.write_bytes(broken.read_bytes()[: int(broken.stat().st_size * keep)])
    with pytest.raises(InputError) as caught:
        read(tmp_path / "study")
    assert broken.name in str(caught.value) and "SECRET" not in str(caught.value) and "\n" not in str(caught.value)


def test_neither_errors_nor_notes_nor_names_speak_of_the_patient(tmp_path, ct, caplog):
    ct.stack(tmp_path / "study", [0, 2, 5])
    save(Series("MR").slice(np.zeros((6, 7), np.uint16)), tmp_path / "study" / "other")
    with pytest.raises(InputError) as caught:
        read(tmp_path / "study")
    image = read(tmp_path / "study", series=ct.uid)
    told = f"{caught.value} {image} {image.source} {image.notes} {image.source.header} {caplog.text}"
    assert "SECRET" not in told and "19700101" not in told  # the whole date: four digits turn up in random UIDs


def test_an_empty_folder_and_one_with_reports_only_are_refused(tmp_path):
    with pytest.raises(UnreadableFile, match="no DICOM image"):
        read(tmp_path)
    with pytest.raises(InputError, match="holds no image"):
        find_inputs(tmp_path)


# --- a modality LUT, no preamble ----------------------------------------------------------------------------------


def with_table(one, values, first=0, bits=16, kind="HU"):
    """`one` with a modality LUT in place of its rescale."""
    from pydicom import Dataset

    del one.RescaleSlope, one.RescaleIntercept, one.RescaleType
    item = Dataset()
    item.LUTDescriptor, item.ModalityLUTType = [len(values), first, bits], kind
    item.add_new("LUTData", "US", values)
    one.ModalityLUTSequence = [item]
    return one


def test_a_modality_lut_turns_stored_values_into_real_ones(tmp_path, ct):
    stored = np.random.default_rng(0).integers(0, 6, (4, 5)).astype(np.uint16)
    table = [7, 40, 300, 301, 5000, 60000]
    for z in range(3):
        save(with_table(ct.slice(np.roll(stored, z, 0), 2.0 * z), table), tmp_path / f"s{z}.dcm")
    image = read(tmp_path)
    expected = np.array(table)[np.stack([np.roll(stored, z, 0) for z in range(3)])]
    np.testing.assert_array_equal(image.array[0], expected)
    assert image.units == "HU" and image.grid.same_as(peek(tmp_path).grid)


def test_a_modality_lut_of_8_bits_clips_below_its_first_value(tmp_path):
    one = with_table(Series("MR").slice(np.array([[0, 10, 11], [12, 13, 500]], np.uint16), RescaleSlope=1, RescaleIntercept=0,
                                        RescaleType="US"), [9, 8, 7], first=10, bits=8, kind="US")  # fmt: skip
    image = read(save(one, tmp_path / "one.dcm"))
    np.testing.assert_array_equal(image.array[0, 0], [[9, 9, 8], [7, 7, 7]])
    assert image.units is None


@pytest.mark.parametrize(("bits", "top", "dtype"), [(8, 255, np.uint8), (10, 255, np.uint16), (10, 256, np.uint16)])
def test_8_bits_in_a_container_of_16_are_an_8_bit_picture(tmp_path, bits, top, dtype):
    stored = np.array([[0, 17, top]], np.uint16)
    one = Series("MR").slice(stored, BitsStored=bits, HighBit=bits - 1)
    image = read(save(one, tmp_path / "one.dcm"))
    np.testing.assert_array_equal(image.array[0, 0], stored)
    assert image.array.dtype == image.stored == dtype


@pytest.mark.parametrize("meta", [True, False])
@pytest.mark.parametrize("implicit", [True, False])
@pytest.mark.parametrize("name", ["{}.dcm", "{}"])
def test_files_without_preamble_are_the_same_series(tmp_path, ct, meta, implicit, name):
    from io import BytesIO

    from pydicom.filewriter import dcmwrite

    values = []
    for z in range(3):
        one = ct.slice(np.full((4, 5), 7 * z, np.uint16), 2.0 * z)
        file = tmp_path / "bare" / name.format(f"IM{3 - z}")
        file.parent.mkdir(exist_ok=True)
        if meta:  # file meta information right at the start, as some archives leave it
            whole = BytesIO()
            one.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2" if implicit else "1.2.840.10008.1.2.1"
            dcmwrite(whole, one, enforce_file_format=True)
            file.write_bytes(whole.getvalue()[132:])
        else:
            del one.file_meta
            dcmwrite(file, one, implicit_vr=implicit, little_endian=True, enforce_file_format=False)
        assert file.read_bytes()[128:132] != b"DICM"
        values.append(7 * z - 1024)
    (only,) = find_inputs(tmp_path / "bare")
    image = read(only)
    assert image.array[0, :, 0, 0].tolist() == values and image.units == "HU"
    mask = Mask((image.array[0] > -1020).astype(np.uint8), image.grid, source=image.source)
    seg = write(mask, tmp_path / "seg.dcm", like=image)
    np.testing.assert_array_equal(read_mask(seg, like=image).array, mask.array)


@pytest.mark.parametrize("bytes_", [b"\x08\x00 and so on, after a backspace" * 9, b"\x08", b"a text file" * 40])
def test_a_text_is_no_dicom_without_preamble(tmp_path, bytes_):
    (tmp_path / "notes").write_bytes(bytes_)
    with pytest.raises(UnreadableFile, match="no image format"):
        read(tmp_path / "notes")


def test_a_cine_with_one_place_for_all_its_frames_has_pages_without_one(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (3, 6, 7), dtype=np.uint8)
    image = read(save(Series("US").slice(frames[0], NumberOfFrames=3, PixelData=frames.tobytes()), tmp_path / "cine.dcm"))
    np.testing.assert_array_equal(image.array[0], frames)
    assert image.grid.affine is None and "carry no position" in image.notes[0]


@pytest.mark.parametrize(("bits", "scale"), [(16, 1), (8, 1), (16, 256), (16, 257)])
def test_a_palette_of_8_bits_is_as_bright_in_words_of_16(tmp_path, bits, scale):
    indices = np.arange(256, dtype=np.uint8).reshape(16, 16)
    one = Series("US").slice(indices, PhotometricInterpretation="PALETTE COLOR")
    for colour, values in (("Red", np.arange(256)), ("Green", np.arange(256)[::-1]), ("Blue", np.full(256, 7))):
        setattr(one, f"{colour}PaletteColorLookupTableDescriptor", [256, 0, bits])
        setattr(one, f"{colour}PaletteColorLookupTableData", (values * scale).astype("<u2").tobytes())
    red, green, blue = read(save(one, tmp_path / "us.dcm")).array[:, 0]
    np.testing.assert_array_equal(red, indices)
    assert (green == 255 - indices).all() and (blue == 7).all() and red.dtype == np.uint8


def test_contrast_phases_at_half_the_distance_are_refused_and_steps_of_one_scan_are_read(tmp_path, ct):
    pixels = np.arange(42, dtype=np.uint16).reshape(6, 7)
    for name, numbers in (("phases", [1, 2] * 4), ("steps", [1, 1, 2, 2, 3, 3, 4, 4]), ("own", range(1, 9))):
        (tmp_path / name).mkdir()
        for i, number in enumerate(numbers):
            save(ct.slice(pixels, 2.5 * i, AcquisitionNumber=number), tmp_path / name / f"{i}.dcm")
    with pytest.raises(GeometryError, match=r"2 acquisitions take turns.*AcquisitionNumber"):
        read(tmp_path / "phases")
    assert read(tmp_path / "steps").grid.shape == read(tmp_path / "own").grid.shape == (8, 6, 7)
