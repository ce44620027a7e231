"""DICOM-SEG: what is written refers to its slices, carries codes, and comes back voxel for voxel."""

import highdicom as hd
import numpy as np
import pydicom
import pytest
from dicom_slices import COLUMN, NORMAL, ROW, Series, save

from vesalius.core.errors import GeometryError, InputError, LabelError, OutputError, UnreadableFile
from vesalius.core.image import Grid, Image, Mask
from vesalius.core.labels import Code, Label, Labels
from vesalius.io.files import read, read_mask, write
from vesalius.io.segmentation import joint_grid

LESION = Code("52988006", "Lesion")
LABELS = Labels((
    Label(1, "brain"),
    Label(2, "never seen"),
    Label(5, "lesion", category=Code("49755003", "Morphologically Abnormal Structure"), type=LESION),
))  # fmt: skip


@pytest.fixture
def ct():
    return Series("CT")


def blobs(grid, values=(1, 5)):
    array = np.zeros(grid.shape, np.uint8)
    z, y, x = (n // 4 for n in grid.shape)
    array[z : 2 * z, y : 3 * y, x : 2 * x] = values[0]
    array[2 * z : 3 * z, :y, 2 * x :] = values[1]
    return array


def test_the_real_brain_comes_back_voxel_for_voxel(tmp_path, shared_data):
    folder = shared_data / "dicom_brain" / "12-T1post-05670"
    image = read(folder)
    mask = Mask(blobs(image.grid), image.grid, LABELS)
    path = write(mask, tmp_path / "brain", format="dicom-seg", like=image)
    assert path.name == "brain.dcm"

    seg = hd.seg.segread(path)
    first = pydicom.dcmread(next(folder.iterdir()), stop_before_pixels=True)
    assert seg.FrameOfReferenceUID == first.FrameOfReferenceUID and seg.StudyInstanceUID == first.StudyInstanceUID
    uids = {pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID for file in folder.iterdir()}
    assert {uid for *_, uid in seg.get_source_image_uids()} == uids
    described = [seg.get_segment_description(n) for n in seg.segment_numbers]
    assert [(d.segment_label, d.segmented_property_type.value) for d in described] == [
        ("brain", "85756007"), ("never seen", "85756007"), ("lesion", "52988006")]  # fmt: skip
    assert int(seg.NumberOfFrames) == (mask.array == 1).any((1, 2)).sum() + (mask.array == 5).any((1, 2)).sum()
    for number, value in ((1, 1), (3, 5)):
        volume = seg.get_volume(segment_numbers=[number])  # an independent reader: its voxel centres, in LPS
        index = np.argwhere(volume.array[..., 0])
        there = np.c_[index, np.ones(len(index))] @ volume.affine.T @ np.diag([-1.0, -1, 1, 1])
        ours = there @ np.linalg.inv(image.grid.affine).T[:, :3]
        np.testing.assert_allclose(ours, ours.round(), atol=0.05)
        assert set(map(tuple, ours.round().astype(int))) == set(map(tuple, np.argwhere(mask.array == value)))

    back = read_mask(path, like=image)
    np.testing.assert_array_equal(back.array, mask.array)
    assert back.grid is image.grid and back.labels.values == (1, 2, 5) and back.labels.named("lesion").type == LESION


def test_on_its_own_a_seg_spans_its_frames_and_fits_any_image_of_that_grid(tmp_path, ct):
    ct.stack(tmp_path / "study", [0, 2, 4, 6, 8, 10, 12, 14], size=(16, 20))
    image = read(tmp_path / "study")
    mask = Mask(blobs(image.grid), image.grid, LABELS)
    path = write(mask, tmp_path / "m.dcm", like=image)
    alone = read_mask(path)
    np.testing.assert_array_equal(alone.array, mask.array[2:6])
    there = alone.grid.affine @ [0, 3, 4, 1]
    np.testing.assert_allclose(there, image.grid.affine @ [2, 3, 4, 1], atol=1e-4)
    as_nifti = read(write(Mask(np.ones(image.grid.shape, np.uint8), image.grid), tmp_path / "i.nii.gz"))
    np.testing.assert_array_equal(read_mask(path, like=as_nifti).array, mask.array)
    flipped = image.grid.affine @ np.array([[-1, 0, 0, 7], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    upside_down = Image(np.zeros((1, *image.grid.shape)), Grid(image.grid.shape, flipped))
    np.testing.assert_array_equal(read_mask(path, like=upside_down).array, mask.array[::-1])
    finer = Image(np.zeros((1, *image.grid.shape)), Grid(image.grid.shape, image.grid.affine @ np.diag([0.5, 1, 1, 1])))
    with pytest.raises(GeometryError, match="another grid"):
        read_mask(path, like=finer)


def test_a_seg_of_slices_that_were_given_other_uids_since_is_laid_by_its_places(tmp_path, ct):
    for name in ("old", "new"):
        ct.stack(tmp_path / name, [0, 2, 4, 6], size=(8, 8))
    old, new = read(tmp_path / "old"), read(tmp_path / "new")
    mask = Mask(blobs(old.grid, (1, 2)), old.grid)
    np.testing.assert_array_equal(read_mask(write(mask, tmp_path / "m.dcm", like=old), like=new).array, mask.array)


def test_a_seg_that_lies_between_the_voxels_of_its_image_is_refused(tmp_path, ct):
    ct.stack(tmp_path / "study", [0, 2, 4, 6], size=(40, 40))
    image = read(tmp_path / "study")
    path = write(Mask(np.ones(image.grid.shape, np.uint8), image.grid), tmp_path / "m.dcm", like=image)
    a = 0.01  # radians: the far corner of 40 pixels lies 0.4 of one beside
    for move in (
        [[1, 0, 0, 0], [0, 1, 0, 0.3], [0, 0, 1, 0], [0, 0, 0, 1]],
        [[1, 0, 0, 0], [0, np.cos(a), -np.sin(a), 0], [0, np.sin(a), np.cos(a), 0], [0, 0, 0, 1]],
    ):
        grid = Grid((4, 50, 50), image.grid.affine @ np.array(move))
        with pytest.raises(GeometryError, match="another grid"):
            read_mask(path, like=Image(np.zeros((1, *grid.shape), np.uint8), grid))


@pytest.mark.parametrize("axes", [(1, 2, 0), (2, 0, 1), (0, 2, 1)])
def test_a_seg_is_laid_on_an_image_whose_axes_stand_in_another_order(tmp_path, ct, axes):
    ct.stack(tmp_path / "study", [0, 2, 4, 6], size=(8, 10))
    image = read(tmp_path / "study")
    mask = Mask(blobs(image.grid, (1, 2)), image.grid)
    path = write(mask, tmp_path / "m.dcm", like=image)
    grid = Grid(tuple(image.grid.shape[a] for a in axes), image.grid.affine[:, [*axes, 3]])
    like = Image(np.zeros((1, *grid.shape), np.uint8), grid)
    np.testing.assert_array_equal(read_mask(path, like=like).array, mask.array.transpose(axes))


SPANS = [(0, 4, 0, 4), (2, 4, 0, 6), (-3, 4, -3, 7), (-1, 9, -1, 9), (1, 2, 0, 4)]


@pytest.mark.parametrize(("start", "slices", "first", "depth"), SPANS)
def test_the_joint_grid_of_two_segs_holds_the_frames_of_both(start, slices, first, depth):
    affine = np.array([[0.2, 0, 0.7, -20], [0.3, 0.5, 0, 10], [2, 0, 0, 30], [0, 0, 0, 1.0]])
    begins = [affine @ np.array([[1, 0, 0, at], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) for at in (start, first)]
    one, other = Grid((4, 8, 8), affine), Grid((slices, 8, 8), begins[0])
    for found in (joint_grid(one, other), joint_grid(other, one)):
        assert found.same_as(Grid((depth, 8, 8), begins[1]))


@pytest.mark.parametrize("first", [-1, 1])
def test_a_seg_that_reaches_out_of_its_image_is_refused(tmp_path, ct, first):
    ct.stack(tmp_path / "study", [0, 2, 4, 6], size=(8, 8))
    image = read(tmp_path / "study")
    path = write(Mask(np.ones(image.grid.shape, np.uint8), image.grid), tmp_path / "m.dcm", like=image)
    affine = image.grid.affine.copy()
    affine[:3, 3] += first * affine[:3, 1]
    with pytest.raises(GeometryError, match="reaches out"):
        read_mask(path, like=Image(np.zeros((1, 4, 8, 8), np.uint8), Grid((4, 8, 8), affine)))


def test_an_uneven_stack_comes_back_slice_by_slice(tmp_path, ct):
    ct.stack(tmp_path / "study", [0, 2, 4, 9, 11, 13, 15, 17], size=(8, 8))
    image = read(tmp_path / "study")
    mask = Mask(blobs(image.grid, (1, 2)), image.grid)
    path = write(mask, tmp_path / "m.dcm", like=image)
    np.testing.assert_array_equal(read_mask(path, like=image).array, mask.array)


MISSING = [0, 2, 4, 8, 10, 12, 14, 16]  # mm: a slice was lost at 6


@pytest.mark.parametrize("used", [slice(0, 8), slice(1, 5), slice(4, 6)], ids=["every slice", "about the gap", "behind it"])
@pytest.mark.parametrize("places", [MISSING, [0, 2, 4, 9, 11, 13, 15, 17]], ids=["a slice", "more than one"])
def test_alone_and_on_another_format_a_seg_lies_on_the_grid_that_its_image_closes_over_a_gap(tmp_path, ct, used, places):
    ct.stack(tmp_path / "study", places, size=(8, 8))
    image = read(tmp_path / "study")
    array = np.zeros(image.grid.shape, np.uint8)
    array[used, 2:5, 3:6] = 1
    path = write(Mask(array, image.grid), tmp_path / "m.dcm", like=image)
    as_nifti = read(write(Mask(array, image.grid), tmp_path / "i.nii.gz"))
    alone = read_mask(path)
    assert alone.grid.same_as(image.grid)
    for mask in (alone, read_mask(path, like=as_nifti), read_mask(path, like=image)):
        np.testing.assert_array_equal(mask.array, array)


@pytest.mark.parametrize("used", [slice(1, 5), slice(4, 6)], ids=["about the gap", "behind it"])
def test_a_seg_that_omits_frames_of_a_series_with_a_gap_is_laid_on_no_other_format(tmp_path, ct, used, monkeypatch):
    ct.stack(tmp_path / "study", MISSING, size=(8, 8))
    image = read(tmp_path / "study")
    array = np.zeros(image.grid.shape, np.uint8)
    array[used, 2:5, 3:6] = 1
    monkeypatch.setattr("vesalius.io.segmentation.laid", lambda *_: (None, None, False))  # as other software writes it
    path = write(Mask(array, image.grid), tmp_path / "m.dcm", like=image)
    monkeypatch.undo()
    as_nifti = read(write(Mask(array, image.grid), tmp_path / "i.nii.gz"))
    np.testing.assert_array_equal(read_mask(path, like=image).array, array)
    with pytest.raises(GeometryError, match="slices are missing"):
        read_mask(path, like=as_nifti)
    z, y, x = np.argwhere(read_mask(path).array)[-1]  # alone, where its frames lie
    there = (read_mask(path).grid.affine @ [z, y, x, 1])[:3] * (-1, -1, 1)
    expected = np.array([-20.0, 10, 30]) + MISSING[used.stop - 1] * NORMAL + 4 * 0.5 * COLUMN + 5 * 0.75 * ROW
    np.testing.assert_allclose(there, expected, atol=1e-3)


@pytest.mark.parametrize("on", [[3, 4, 5, 20, 21, 22], [3, 5, 9, 10, 14, 21]], ids=["a gap", "gaps"])
def test_a_seg_that_names_only_the_slices_it_lies_on_keeps_the_gaps_between_them(tmp_path, ct, on):
    ct.stack(tmp_path / "study", [2.0 * k for k in range(24)], size=(8, 8))
    image = read(tmp_path / "study")
    datasets = [pydicom.dcmread(image.source.header.frames[k].file) for k in on]
    pixels = np.zeros((len(on), 8, 8), np.uint8)
    pixels[:, 2:5, 3:6] = 1
    tissue = hd.sr.CodedConcept("85756007", "SCT", "Tissue")
    described = hd.seg.SegmentDescription(1, "lesion", tissue, tissue, hd.seg.SegmentAlgorithmTypeValues.MANUAL)
    hd.seg.Segmentation(
        source_images=datasets, pixel_array=pixels, segmentation_type="BINARY", segment_descriptions=[described],
        series_instance_uid=hd.UID(), series_number=2, sop_instance_uid=hd.UID(), instance_number=1, manufacturer="other",
        manufacturer_model_name="other", software_versions="1", device_serial_number="1",
    ).save_as(tmp_path / "seg.dcm")  # fmt: skip
    as_nifti = read(write(Mask(np.zeros(image.grid.shape, np.uint8), image.grid), tmp_path / "i.nii.gz"))
    for like in (image, as_nifti):
        assert np.flatnonzero(read_mask(tmp_path / "seg.dcm", like=like).array.any((1, 2))).tolist() == on
    assert np.flatnonzero(read_mask(tmp_path / "seg.dcm").array.any((1, 2))).tolist() == [k - on[0] for k in on]


def test_an_empty_mask_with_labels_is_an_answer_one_without_is_refused(tmp_path, ct):
    ct.stack(tmp_path / "study", [0, 2, 4])
    image = read(tmp_path / "study")
    nothing = np.zeros(image.grid.shape, np.uint8)
    back = read_mask(write(Mask(nothing, image.grid, LABELS), tmp_path / "m.dcm", like=image), like=image)
    assert not back.array.any() and back.labels.values == (1, 2, 5)
    with pytest.raises(OutputError, match="declares no label"):
        write(Mask(nothing, image.grid), tmp_path / "n.dcm", like=image)
    assert not (tmp_path / "n.dcm").exists()


def test_a_multi_frame_object_gets_each_mask_on_the_frame_it_belongs_to(tmp_path, ct):
    values = np.zeros((4, 8, 8), np.uint16)
    image = read(save(ct.enhanced(values, [4.0, 0.0, 6.0, 2.0]), tmp_path / "enhanced.dcm"))
    array = np.zeros(image.grid.shape, np.uint8)
    for z in range(4):
        array[z, z : z + 2, 3 : 5 + z] = 1
    path = write(Mask(array, image.grid), tmp_path / "m.dcm", like=image)
    np.testing.assert_array_equal(read_mask(path, like=image).array, array)
    alone = read_mask(path)  # by the positions of its frames
    np.testing.assert_array_equal(alone.array, array)
    assert alone.grid.same_as(image.grid)


def test_more_objects_than_a_byte_numbers_come_back(tmp_path, ct):
    ct.stack(tmp_path / "study", [0, 2], size=(16, 16))
    image = read(tmp_path / "study")
    array = np.zeros(image.grid.shape, np.uint16)
    array[1].flat[:] = np.arange(1, 257)
    path = write(Mask(array, image.grid, instances=True), tmp_path / "m.dcm", like=image)
    np.testing.assert_array_equal(read_mask(path, like=image).array, array)


def test_objects_become_segments_of_their_own(tmp_path, ct):
    ct.stack(tmp_path / "study", [0, 2, 4])
    image = read(tmp_path / "study")
    array = np.zeros(image.grid.shape, np.uint16)
    array[0, 0, 0], array[1, 2, 3], array[2, 5, 6] = 1, 2, 700
    mask = Mask(array, image.grid, Labels((Label(1, "cell", category=LESION),)), instances=True)
    path = write(mask, tmp_path / "m.dcm", like=image)
    back = read_mask(path, like=image)
    np.testing.assert_array_equal(back.array, array)
    assert all(label.category == LESION for label in back.labels)


def test_names_of_any_letters_come_back_beside_the_patients_own(tmp_path, ct):
    ct.stack(tmp_path / "study", [0, 2, 4], SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Ö")
    image = read(tmp_path / "study")
    labels = Labels((Label(1, "肿瘤"), Label(2, r"left\right")))
    path = write(Mask(blobs(image.grid, (1, 2)), image.grid, labels), tmp_path / "m.dcm", like=image)
    assert [label.name for label in read_mask(path, like=image).labels] == ["肿瘤", "left/right"]  # a backslash parts values
    written = pydicom.dcmread(path)
    assert str(written.PatientName) == "Müller^Ö" and written.SpecificCharacterSet == "ISO_IR 192"


def test_images_that_are_no_dicom_or_know_no_patient_space_are_refused_with_the_remedy(tmp_path, ct):
    mask = Mask(np.ones((1, 4, 5), np.uint8), Grid((1, 4, 5), None, 2))
    with pytest.raises(OutputError, match=r"no DICOM.*[Ww]rite nifti"):
        write(mask, tmp_path / "m.dcm")
    lost = Series("US").slice(np.ones((4, 5), np.uint8))
    del lost.FrameOfReferenceUID, lost.ImagePositionPatient
    image = read(save(lost, tmp_path / "lost.dcm"))
    with pytest.raises(OutputError, match="no patient space"):
        write(Mask(mask.array, image.grid), tmp_path / "m.dcm", like=image)
    assert not (tmp_path / "m.dcm").exists()


def test_a_slice_is_no_segmentation_and_a_fractional_one_no_label_map(tmp_path, ct):
    ct.stack(tmp_path / "study", [0, 2, 4])
    with pytest.raises(UnreadableFile, match="no segmentation"):
        read_mask(next((tmp_path / "study").iterdir()))
    with pytest.raises(InputError, match="holds 3"):
        read_mask(tmp_path / "study")
    sources = [pydicom.dcmread(file) for file in (tmp_path / "study").iterdir()]
    seg = hd.seg.Segmentation(
        sources, np.full((3, 6, 7), 0.4), "FRACTIONAL", [hd.seg.SegmentDescription(
            1, "x", hd.sr.CodedConcept("85756007", "SCT", "Tissue"), hd.sr.CodedConcept("85756007", "SCT", "Tissue"), "MANUAL")],
        hd.UID(), 1, hd.UID(), 1, "a", "b", "1", "2")  # fmt: skip
    seg.save_as(tmp_path / "f.dcm")
    with pytest.raises(LabelError, match="fractional"):
        read_mask(tmp_path / "f.dcm")


REMOVED = ["PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime",
           "SliceThickness"]  # fmt: skip


def test_a_series_whose_names_and_dates_were_taken_out_gets_its_segmentation(tmp_path, ct):
    ct.stack(tmp_path / "ct", [0, 2.5, 5])
    for file in (tmp_path / "ct").iterdir():
        header = pydicom.dcmread(file)
        for name in REMOVED:
            delattr(header, name)
        save(header, file)
    image = read(tmp_path / "ct")
    mask = Mask((image.array[0] > 0).astype(np.uint8), image.grid, Labels((Label(1, "bright"),)))
    write(mask, tmp_path / "seg.dcm", like=image)
    np.testing.assert_array_equal(read_mask(tmp_path / "seg.dcm", like=image).array, mask.array)
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    assert seg.PatientID == "" and float(seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness) == 2.5


@pytest.mark.parametrize("letters, patient", [(None, "A^B"), ("ISO_IR 100", "Jäger"), (["", "ISO 2022 IR 87"], "Yamada=山田")])
def test_labels_keep_their_letters_whatever_the_character_set_of_the_slices(tmp_path, ct, letters, patient):
    given = {} if letters is None else {"SpecificCharacterSet": letters}
    ct.stack(tmp_path / "ct", [0, 2.5, 5], **given, PatientName=patient)
    image = read(tmp_path / "ct")
    labels = Labels((Label(1, "肝臓"), Label(2, "Läsion")))
    write(Mask((image.array[0] > 0).astype(np.uint8), image.grid, labels), tmp_path / "seg.dcm", like=image)
    assert [label.name for label in read_mask(tmp_path / "seg.dcm", like=image).labels] == ["肝臓", "Läsion"]
    assert str(pydicom.dcmread(tmp_path / "seg.dcm").PatientName) == patient


@pytest.mark.parametrize("uid, said", [("", "no SOPInstanceUID"), ("1.2.3", "share one SOPInstanceUID")])
def test_slices_that_nothing_can_refer_to_are_read_and_their_segmentation_refused(tmp_path, ct, uid, said):
    ct.stack(tmp_path / "ct", [0, 2.5, 5])
    for file in (tmp_path / "ct").iterdir():
        header = pydicom.dcmread(file)
        header.SOPInstanceUID = uid
        header.save_as(file)
    image = read(tmp_path / "ct")
    assert image.grid.shape[0] == 3 and not image.notes
    with pytest.raises(OutputError, match=said):
        write(Mask(np.zeros(image.grid.shape, np.uint8), image.grid), tmp_path / "seg.dcm", like=image)
