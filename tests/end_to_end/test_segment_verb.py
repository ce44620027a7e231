"""`vesalius segment` on what a hospital hands over: a real DICOM study, an oblique volume, weights that changed meanwhile."""

import json
import os

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest
from specimens import picture, save_tiny, volume

from vesalius.io.files import read, read_mask
from vesalius.transforms.intensity import Percentile, Scale, ZScore
from vesalius.transforms.spatial import Orient, Resample


@pytest.fixture(scope="module")
def brain_weights(tmp_path_factory):
    """For one-channel volumes at 4 mm, so that a whole head is a few tiles."""
    path = tmp_path_factory.mktemp("weights") / "brain.safetensors"
    return save_tiny(path, dims=3, channels=("MRI",), steps=(Orient(), Resample(spacing_mm=(4.0, 4.0, 4.0)), ZScore()))


def cases(result):
    assert result.exit_code in (0, 1), (result.exit_code, result.stderr, result.exception)
    return json.loads(result.stdout)["cases"]


def test_a_real_dicom_study_becomes_nifti_and_dicom_seg_on_its_own_grid(run, shared_data, tmp_path, brain_weights):
    study = shared_data / "dicom_brain" / "12-T1post-05670"
    words = ["segment", study, "--model", "unet", "--weights", brain_weights, "--precision", "fp32", "--json", "-o"]
    said = run(*words, tmp_path / "out", "--save-probabilities", "--explain")
    assert said.exit_code == 0 and "22 x" in said.stdout and not (tmp_path / "out").exists()
    (case,) = cases(run(*words, tmp_path / "out", "--save-probabilities"))
    image, mask = read(study), read_mask(tmp_path / "out" / "12-T1post-05670.nii.gz")
    assert case["state"] == "done" and mask.grid.same_as(image.grid, tolerance_mm=1e-3) and mask.array.any()
    kept = nibabel.load(tmp_path / "out" / "probabilities" / "12-T1post-05670.nii.gz")
    stored = nibabel.load(tmp_path / "out" / "12-T1post-05670.nii.gz")
    np.testing.assert_allclose(kept.affine, stored.affine, atol=1e-4)
    assert kept.shape == (*stored.shape, 3)

    assert run(*words, tmp_path / "seg", "--format", "dicom-seg").exit_code == 0
    path = tmp_path / "seg" / "12-T1post-05670.dcm"
    np.testing.assert_array_equal(read_mask(path, like=image).array, mask.array)
    slices = [pydicom.dcmread(file, stop_before_pixels=True) for file in study.iterdir()]
    seg = highdicom.seg.segread(path)
    assert seg.FrameOfReferenceUID == slices[0].FrameOfReferenceUID
    assert {uid for *_, uid in seg.get_source_image_uids()} <= {one.SOPInstanceUID for one in slices}
    assert [seg.get_segment_description(n).segment_label for n in seg.segment_numbers] == ["first", "second"]


@pytest.mark.parametrize("axes", ["RAS", "LPS", "SPR"])
def test_the_mask_of_an_oblique_volume_lies_on_the_very_grid_of_the_volume(axes, run, tmp_path, volume_weights):
    turn, tilt = np.deg2rad(25), np.deg2rad(-15)
    about_z = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = about_z @ about_x @ np.diag([0.9, 1.2, 2.5]), (-31.5, 12.25, 80.0)
    voxels = np.asarray(nibabel.load(volume(tmp_path / "plain.nii.gz", size=(26, 22, 14))).dataobj)
    oblique = nibabel.Nifti1Image(voxels, affine)
    turned = oblique.as_reoriented(nibabel.orientations.axcodes2ornt(tuple(axes)))
    nibabel.save(turned, tmp_path / "case.nii.gz")
    words = ["--model", "unet", "--weights", volume_weights, "--precision", "fp32", "-o"]
    assert run("segment", tmp_path / "case.nii.gz", *words, tmp_path / "out").exit_code == 0
    mask = nibabel.load(tmp_path / "out" / "case.nii.gz")
    assert mask.shape == turned.shape and mask.get_data_dtype() == np.uint8
    np.testing.assert_allclose(mask.affine, turned.affine, atol=1e-5)
    nibabel.save(oblique, tmp_path / "upright.nii.gz")
    assert run("segment", tmp_path / "upright.nii.gz", *words, tmp_path / "out").exit_code == 0
    upright = nibabel.load(tmp_path / "out" / "upright.nii.gz")
    back = mask.as_reoriented(nibabel.orientations.io_orientation(np.linalg.inv(affine) @ mask.affine))
    assert (np.asarray(back.dataobj) == np.asarray(upright.dataobj)).mean() > 0.999, "the same head, however it is stored"


def test_other_weights_do_a_case_again_and_the_same_ones_elsewhere_do_not(run, tmp_path):
    first = save_tiny(tmp_path / "a" / "one.safetensors", dims=2, channels=("red", "green", "blue"), steps=(Scale(),))
    moved = tmp_path / "elsewhere.safetensors"
    moved.write_bytes(first.read_bytes())
    other = save_tiny(tmp_path / "a" / "two.safetensors", dims=2, channels=("red", "green", "blue"), steps=(ZScore(),))
    picture(tmp_path / "in" / "case.png")
    words = ["segment", tmp_path / "in", "-o", tmp_path / "out", "--model", "unet", "--json", "--weights"]
    assert [case["state"] for case in cases(run(*words, first))] == ["done"]
    assert [case["state"] for case in cases(run(*words, moved))] == ["skipped"]
    assert [case["state"] for case in cases(run(*words, other, "--overwrite"))] == ["done"]
    refused = run(*words, first)
    assert refused.exit_code != 0 and "--overwrite" in refused.stderr


def test_a_grey_picture_for_an_rgb_model_is_said_on_the_way_and_in_json(run, tmp_path, picture_weights):
    result = run("segment", picture(tmp_path / "grey.png", mode="L"), "-o", tmp_path / "out", "--model", "unet",
                 "--weights", picture_weights, "--json")  # fmt: skip
    (case,) = cases(result)
    assert any("repeated" in note for note in case["notes"]) and "repeated" in result.stderr


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_a_file_name_that_is_no_text_is_shown_by_its_bytes_in_table_report_and_scores(words, run, tmp_path, picture_weights):
    for name in (b"caf\xe9.png", b"plain.png"):
        picture(tmp_path / "made.png").rename(tmp_path / os.fsdecode(name))
    (tmp_path / os.fsdecode(b"cut\xe9.png")).write_bytes(b"\x89PNG")
    out = tmp_path / "out"
    result = run("segment", tmp_path, "-o", out, "--model", "unet", "--weights", picture_weights, *words)
    assert result.exit_code == 1, result.stderr
    assert {os.fsencode(path.name) for path in out.glob("*.png")} == {b"caf\xe9.png", b"plain.png"}
    assert "cut\\xe9.png" in result.stderr and "caf\\xe9" in (out / "report.html").read_text(encoding="utf-8")
    if words:
        assert os.fsdecode(b"caf\xe9") in {case["name"] for case in json.loads(result.stdout)["cases"]}
    result = run("evaluate", out, out, "-o", tmp_path / "scores")
    assert result.exit_code == 0, result.stderr
    assert "caf\\xe9" in (tmp_path / "scores" / "scores.csv").read_text(encoding="utf-8")


def test_a_folder_of_xrays_gives_a_mask_each_and_says_so(run, tmp_path):
    from dicom_slices import Series, save

    weights = save_tiny(tmp_path / "xray.safetensors", dims=2, channels=("X-ray",), steps=(Percentile(),))
    rng = np.random.default_rng(0)
    (tmp_path / "xrays").mkdir()
    for name in ("anna.dcm", "bob"):
        one = Series("CR").slice(rng.integers(0, 4000, (40, 36), np.uint16))
        del one.ImagePositionPatient, one.ImageOrientationPatient
        save(one, tmp_path / "xrays" / name)
    (tmp_path / "xrays" / "cut.dcm").write_bytes((tmp_path / "xrays" / "bob").read_bytes()[:-900])
    words = ["segment", tmp_path / "xrays", "-o", tmp_path / "out", "--model", "unet", "--weights", weights]
    said = "3 DICOM files are pictures, such as X-rays"
    assert said in run(*words, "--explain").stdout
    result = run(*words, "--json")
    assert result.exit_code == 1 and [case["state"] for case in cases(result)] == ["done", "done", "failed"]
    assert said in result.stderr and said in json.loads(result.stdout)["notes"][0] and "cut.dcm" in result.stderr
    for name in ("anna", "bob"):
        assert read_mask(tmp_path / "out" / f"{name}.nii.gz").array.shape == (1, 40, 36)


def test_too_little_memory_is_one_clear_line_and_leaves_nothing(run, tmp_path, volume_weights):
    result = run("segment", volume(tmp_path / "case.nii.gz"), "-o", tmp_path / "out", "--model", "unet",
                 "--weights", volume_weights, "--max-ram", "100KB")  # fmt: skip
    assert result.exit_code == 2 and "--max-ram" in result.stderr and result.stderr.count("\n") == 1
    assert not list((tmp_path / "out").glob("*.nii*"))


def test_a_volume_written_as_tiff_says_what_that_loses_and_its_overlay_is_drawn_later_too(run, tmp_path, volume_weights):
    voxels = np.random.default_rng(0).integers(0, 900, (20, 18, 16)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)[[2, 0, 1, 3]]), tmp_path / "scan.nii.gz")
    words = ["segment", tmp_path / "scan.nii.gz", "-o", tmp_path / "out", "--model", "unet", "--weights", volume_weights]
    for more in ([], ["--overlays"]):
        (case,) = cases(run(*words, "--format", "tiff", "--json", *more))
        assert any("no origin and no orientation" in note for note in case["notes"])
    assert (tmp_path / "out" / "overlays" / "scan.png").is_file() and case["state"] == "skipped"
