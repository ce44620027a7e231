"""X-rays in a folder are pictures, a case each; slices stay one series, and where both lie together nobody guesses."""

import numpy as np
import pytest
from dicom_slices import Series, save
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from specimens import picture

from vesalius.core.errors import DatasetError, InputError
from vesalius.io.files import case_name, find_inputs, peek, read

PIXELS = np.random.default_rng(0).integers(0, 4000, (6, 7), np.uint16)


def xray(path, series=None, *, modality=None, position=False, **fields):
    """A single frame of a series of its own, or of `series`; as X-rays do, it says no position unless asked to."""
    series = series or Series("CR")
    one = series.slice(PIXELS, **fields)
    if modality:
        one.Modality = modality
    if not position:
        del one.ImagePositionPatient, one.ImageOrientationPatient
    path.parent.mkdir(parents=True, exist_ok=True)
    return save(one, path)


def report(path):
    """A structured report: no image."""
    one = Series("SR").slice(PIXELS)
    for field in ("Rows", "Columns", "PixelData", "BitsAllocated", "BitsStored", "HighBit"):
        delattr(one, field)
    return save(one, path)


@pytest.mark.parametrize("modality", ["CR", "DX", "DR", "MG", "XA", "RF", "OT", "US"])
@pytest.mark.parametrize("same_series", [False, True])
def test_single_frames_without_a_position_are_a_case_each_named_as_the_file(tmp_path, modality, same_series):
    shared = Series("CR") if same_series else None
    for name in ("anna_10.dcm", "anna_9.dcm", "without_suffix"):
        xray(tmp_path / name, shared, modality=modality)
    found = find_inputs(tmp_path)
    assert [case_name(path) for path in found] == ["anna_9", "anna_10", "without_suffix"]
    assert all(read(path).grid.dims == 2 and peek(path).grid.shape == (1, 6, 7) for path in found)


def test_xrays_that_say_a_position_are_pictures_where_each_is_a_series_of_its_own(tmp_path):
    for i in range(2):
        xray(tmp_path / "apart" / f"{i}.dcm", modality="DX", position=True)
    assert [path.name for path in find_inputs(tmp_path / "apart")] == ["0.dcm", "1.dcm"]
    Series("CR").stack(tmp_path / "tomosynthesis", [0, 1, 2])
    assert find_inputs(tmp_path / "tomosynthesis") == [tmp_path / "tomosynthesis"]


@pytest.mark.parametrize("modality", ["CT", "MR", "PT"])
def test_slices_stay_one_series_with_and_without_a_position(tmp_path, modality):
    Series("CT").stack(tmp_path / "study", [0, 1, 2], Modality=modality)
    assert find_inputs(tmp_path / "study") == [tmp_path / "study"]
    xray(tmp_path / "bare" / "a.dcm", modality=modality)
    xray(tmp_path / "bare" / "b.dcm", modality=modality)
    assert find_inputs(tmp_path / "bare") == [tmp_path / "bare"]


@pytest.mark.parametrize("name", ["a_first", "z_last"])
def test_xrays_among_slices_are_listed_and_nobody_guesses(tmp_path, name):
    ct = Series("CT")
    ct.stack(tmp_path / "study", [0, 1, 2])
    xray(tmp_path / "study" / name)
    assert find_inputs(tmp_path / "study") == [tmp_path / "study"]
    with pytest.raises(InputError, match=r"2 series are here: .*CR.*Choose one with --series UID\b") as caught:
        read(tmp_path / "study")
    assert ct.uid in str(caught.value) and "X-rays" not in str(caught.value)
    assert read(tmp_path / "study", series=ct.uid).grid.shape[0] == 3


def test_a_moving_xray_among_pictures_is_no_picture(tmp_path):
    xray(tmp_path / "a.dcm")
    cine = Series("CR").slice(np.stack([PIXELS] * 3).reshape(18, 7), NumberOfFrames=3, Rows=6)
    del cine.ImagePositionPatient, cine.ImageOrientationPatient
    save(cine, tmp_path / "b.dcm")
    assert find_inputs(tmp_path) == [tmp_path]


def test_reports_are_passed_over_and_a_broken_file_is_a_case_that_fails_by_itself(tmp_path):
    xray(tmp_path / "a.dcm")
    report(tmp_path / "b_report.dcm")
    (tmp_path / "c.dcm").write_bytes(b"no DICOM at all")
    assert [path.name for path in find_inputs(tmp_path)] == ["a.dcm", "c.dcm"]


def test_xrays_lie_among_other_pictures_and_their_names_must_differ(tmp_path):
    xray(tmp_path / "a.dcm")
    picture(tmp_path / "b.png")
    Series("CT").stack(tmp_path / "study", [0, 1])
    assert [path.name for path in find_inputs(tmp_path)] == ["a.dcm", "b.png", "study"]
    picture(tmp_path / "a.png")
    with pytest.raises(DatasetError, match="called 'a'"):
        find_inputs(tmp_path)


def test_a_folder_of_xrays_read_as_one_image_says_what_to_do(tmp_path):
    for i in range(15):
        xray(tmp_path / f"{i}.dcm")
    with pytest.raises(InputError, match=r"15 series are here.*and 3 more.*X-rays .* case each where their own folder is given"):
        read(tmp_path)


@pytest.mark.parametrize("modality", ["CR", "DX", "MG"])
@pytest.mark.parametrize("field", ["PixelSpacing", "ImagerPixelSpacing"])
def test_an_xray_without_a_position_knows_its_millimetres_and_lies_as_itk_has_it(tmp_path, modality, field):
    itk = pytest.importorskip("SimpleITK")
    one = Series("CR").slice(PIXELS, Modality=modality)
    del one.ImagePositionPatient, one.ImageOrientationPatient, one.PixelSpacing, one.SliceThickness
    setattr(one, field, [0.2, 0.1])
    image = read(save(one, tmp_path / "a.dcm"))
    assert image.grid.dims == 2 and image.grid.spacing[1:] == pytest.approx((0.2, 0.1))
    assert image.grid.voxel_mm3 == pytest.approx(0.02) and peek(tmp_path / "a.dcm").grid.same_as(image.grid)
    theirs = itk.ReadImage(str(tmp_path / "a.dcm"))
    assert theirs.GetDirection() == (1, 0, 0, 0, 1, 0, 0, 0, 1) and theirs.GetOrigin() == (0, 0, 0)
    np.testing.assert_allclose(image.grid.affine[:, 1:], [[0, -0.1, 0], [-0.2, 0, 0], [0, 0, 0], [0, 0, 1]])  # L, P, as in LPS
    assert any("at the detector" in note for note in image.notes) == (field == "ImagerPixelSpacing")


@pytest.mark.parametrize("said", [b"0.2 ", b"0.2\\N/A "])
@pytest.mark.parametrize("known", [True, False])
def test_a_size_at_the_detector_that_cannot_be_read_says_nothing(tmp_path, said, known):
    one = Series("CR").slice(PIXELS)
    del one.ImagePositionPatient, one.ImageOrientationPatient
    if not known:
        del one.PixelSpacing
    one[0x00181164] = RawDataElement(Tag(0x00181164), "DS", len(said), said, 0, False, True)
    image = read(save(one, tmp_path / "a.dcm"))
    assert image.notes == () and (image.grid.spacing is not None) == known
