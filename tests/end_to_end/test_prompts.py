"""`vesalius segment` with prompts: masks on exactly the pixels pointed at, and bad prompts refused in one line."""

import errno
import json
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from specimens import dicom_series
from two_patches import CORE, LOWER, UPPER, block, fine, pixels, refused


def test_a_click_gives_the_mask_of_what_lies_under_it(run, flood, case, tmp_path):
    fine(run("segment", case, "-o", tmp_path / "out", "--point", "40,5"))
    found = pixels(tmp_path / "out/case.png")
    assert found.dtype == np.uint8 and np.array_equal(found, UPPER)


def test_a_click_beside_the_object_is_taken_off(run, flood, case, tmp_path):
    fine(run("segment", case, "-o", tmp_path / "m.png", "--box", "5,12,15,26", "--not-point", "9,17"))
    assert np.array_equal(pixels(tmp_path / "m.png"), LOWER & ~CORE)


def test_boxes_are_numbered_in_the_order_given_and_answered_together(run, flood, case, tmp_path):
    done = fine(run("segment", case, "-o", tmp_path, "--box", "30,4,47,9", "--box", "5,12,15,26", "--format", "tiff", "--json"))
    found = pixels(tmp_path / "case.tiff")
    assert np.array_equal(found, UPPER + 2 * LOWER)
    assert [entry["voxels"] for entry in json.loads(done.stdout)["objects"]] == [UPPER.sum(), LOWER.sum()]


def test_where_objects_overlap_the_higher_logit_wins_and_separate_masks_keep_both(run, flood, case, tmp_path):
    fine(run("segment", case, "-o", tmp_path / "out", "--box", "5,12,15,26", "--box", "8,16,12,20", "--separate"))
    assert np.array_equal(pixels(tmp_path / "out/case.png"), LOWER)  # equal logits: the first stays
    assert np.array_equal(pixels(tmp_path / "out/case_2.png"), CORE)
    surer = lambda self, state: state * (2.0 if (state > 0).sum() == CORE.sum() else 1.0)  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flood.Flood.full", surer)
        fine(run("segment", case, "-o", tmp_path / "out", "--box", "8,16,12,20", "--box", "5,12,15,26", "--overwrite"))
    assert np.array_equal(pixels(tmp_path / "out/case.png"), 2 * LOWER - CORE)


def test_all_three_masks_of_a_lone_click_can_be_had(run, flood, case, tmp_path):
    done = fine(run("segment", case, "-o", tmp_path / "out", "--point", "9,17", "--all-masks", "--json"))
    assert [pixels(tmp_path / f"out/case_mask_{i}.png").sum() for i in (1, 2, 3)] == [16, 16, 1500]
    assert [round(iou, 1) for _, iou in json.loads(done.stdout)["alternatives"]] == [0.9, 0.8, 0.7]


def test_a_file_of_prompts_names_objects_and_finds_masks_beside_it(run, flood, case, tmp_path):
    Image.fromarray(block((30, 50), slice(13, 25), slice(6, 14)).astype(np.uint8)).save(tmp_path / "before.png")
    listed = [{"box": [30, 4, 47, 9], "name": "upper"}, {"mask": "before.png"}, {"points": [[9, 17], [6, 13]], "labels": [0, 1]}]
    (tmp_path / "p.json").write_text(json.dumps(listed))
    done = fine(run("segment", case, "-o", tmp_path / "out", "--prompts", tmp_path / "p.json", "--separate", "--json"))
    assert [entry["name"] for entry in json.loads(done.stdout)["objects"]] == ["upper", "object 2", "object 3"]
    found = [pixels(tmp_path / f"out/case_{i}.png") > 0 for i in (1, 2, 3)]
    assert all(np.array_equal(a, b) for a, b in zip(found, (UPPER, LOWER, LOWER & ~CORE), strict=True))


@pytest.fixture
def scan(tmp_path):
    """A block of 8 x 6 x 4 (R, A, S) stored sagittally: i runs to the front, j to the feet, k to the left. 16 bits."""
    values = np.full((14, 12, 16), 300, np.int16)  # i, j, k
    values[4:10, 3:7, 5:13] = 2000
    affine = np.array([[0, 0, -1, 0], [1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]])
    nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


def voxels(path):
    return np.asarray(nibabel.load(path).dataobj)


TRUTH = block((14, 12, 16), slice(4, 10), slice(3, 7), slice(5, 13))


def test_a_prompt_on_an_axial_slice_of_a_sagittal_scan_propagates_on_its_grid(run, flood, scan, tmp_path):
    fine(run("segment", scan, "-o", tmp_path / "out", "--box", "4,5,10,13", "--slice", "4"))  # axial is j: x = i, y = k
    written = nibabel.load(tmp_path / "out/scan.nii.gz")
    assert np.array_equal(voxels(tmp_path / "out/scan.nii.gz"), TRUTH)
    assert np.array_equal(written.affine, nibabel.load(scan).affine)


def test_without_propagation_one_slice_is_filled(run, flood, scan, tmp_path):
    fine(run("segment", scan, "-o", tmp_path, "--box", "4,3,10,7", "--slice", "6", "--axis", "sagittal", "--no-propagate",
             "--format", "nifti", "--overwrite", "-o", tmp_path / "out"))  # fmt: skip
    expected = np.zeros_like(TRUTH)
    expected[:, :, 6] = TRUTH[:, :, 6]  # sagittal is k: x = i, y = j
    assert np.array_equal(voxels(tmp_path / "out/scan.nii.gz"), expected)


def test_a_box_of_six_numbers_runs_along_the_stored_axes(run, flood, scan, tmp_path):
    fine(run("segment", scan, "-o", tmp_path / "out", "--box", "4,3,5,10,7,13", "--box", "4,3,5,10,5,13"))
    assert np.array_equal(voxels(tmp_path / "out/scan.nii.gz"), TRUTH)
    assert flood.looks <= 8  # the slices of both are looked at no more than twice


def test_prompts_of_one_name_on_several_slices_are_one_object(run, flood, scan, tmp_path):
    listed = [{"box": [4, 5, 10, 13], "slice": k, "name": "block"} for k in (3, 6)] + [{"points": [[0, 0]], "slice": 0}]
    (tmp_path / "p.json").write_text(json.dumps(listed))
    done = fine(run("segment", scan, "-o", tmp_path / "out", "--prompts", tmp_path / "p.json", "--json", "--window", "0,2000"))
    first, second = json.loads(done.stdout)["objects"]
    assert (first["name"], first["voxels"], second["name"]) == ("block", TRUTH.sum(), "object 2")


def test_one_name_along_two_axes_is_refused_and_beside_a_prompt_in_three_dimensions_is_one_object(run, flood, scan, tmp_path):
    def segment(*listed, code=0):
        (tmp_path / "p.json").write_text(json.dumps([each | {"name": "a"} for each in listed]))
        words = ("segment", scan, "-o", tmp_path / "out", "--prompts", tmp_path / "p.json", "--json", "--overwrite")
        return run(*words, "--window", "0,2000")

    axial, coronal = {"box": [4, 5, 10, 13], "slice": 3}, {"box": [3, 5, 7, 13], "slice": 6, "axis": "coronal"}
    refused(segment(axial, coronal), "the prompts of 'a' lie along different axes: axial and coronal")
    solid, click = {"box": [4, 3, 5, 10, 7, 13]}, {"points": [[6, 5, 8]]}
    for listed in ((solid, click), (solid, axial), (coronal, click)):
        (only,) = json.loads(fine(segment(*listed)).stdout)["objects"]
        assert (only["name"], only["voxels"]) == ("a", TRUTH.sum())
    (only,) = json.loads(fine(segment(solid, click, {"points": [[6, 5, 9]]})).stdout)["objects"]
    lone = json.loads(fine(segment(click, {"points": [[0, 0, 0]]})).stdout)
    assert [each["name"] for each in lone["objects"]] == ["a", "a 2"]  # two clicks may be two lesions
    done = json.loads(fine(segment(solid, solid)).stdout)
    assert [each["name"] for each in done["objects"]] == ["a", "a 2"]
    assert "'a' is said of several objects: object 2 is called 'a 2'" in done["notes"]


def test_an_object_that_does_not_fit_is_told_with_its_number_and_name(run, flood, case, tmp_path):
    (tmp_path / "p.json").write_text(json.dumps([{"box": [1, 1, 5, 5]}, {"box": [1, 1, 500, 5], "name": "b"}]))
    result = run("segment", case, "-o", tmp_path / "out", "--prompts", tmp_path / "p.json")
    refused(result, "p.json", "object 2 ('b'): the box 1,1,500,5 reaches outside the picture")


def test_an_object_of_which_nothing_is_found_is_told(run, flood, case, tmp_path):
    done = fine(run("segment", case, "-o", tmp_path / "out", "--box", "0,0,2,2"))
    assert "'object 1' is nowhere in the mask" in done.stdout


def test_a_thumbnail_beside_other_images_is_not_taken_for_the_image(run, flood, case, scan, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(case, folder / f"thumbnail{case.suffix}")
    shutil.copy(scan, folder / "scan.nii.gz")
    words = ("segment", folder, "-o", tmp_path / "out", "--point", "3,4")
    refused(run(*words), "1 picture lies here beside other images, such as scan.nii.gz", "--video")
    fine(run(*words, "--video"))


def test_a_name_that_others_made_is_not_given_again(run, flood, case, tmp_path):
    (tmp_path / "p.json").write_text(json.dumps([{"box": [1, 1, 5, 5], "name": name} for name in ("a 3", "a", "a")]))
    done = fine(run("segment", case, "-o", tmp_path / "out", "--prompts", tmp_path / "p.json", "--json"))
    assert [each["name"] for each in json.loads(done.stdout)["objects"]] == ["a 3", "a", "a 4"]


def test_an_axis_that_is_not_said_is_axial_where_prompts_of_one_name_meet(run, flood, scan, tmp_path):
    listed = [{"box": [4, 5, 10, 13], "slice": 3, "name": "a"}, {"box": [4, 5, 10, 13], "slice": 6, "axis": "axial", "name": "a"}]
    (tmp_path / "p.json").write_text(json.dumps(listed))
    done = fine(run("segment", scan, "-o", tmp_path / "out", "--prompts", tmp_path / "p.json", "--json"))
    assert [each["voxels"] for each in json.loads(done.stdout)["objects"]] == [TRUTH.sum()]


def clip(folder: Path, frames: int) -> None:
    """A bright block that moves to the right by a pixel a frame."""
    folder.mkdir()
    for i in range(frames):
        Image.fromarray((200 * block((20, 24), slice(5, 10), slice(3 + i, 9 + i))).astype(np.uint8)).save(folder / f"f{i}.png")


def test_the_frames_of_a_video_are_segmented_from_a_prompt_on_one(run, flood, tmp_path):
    clip(tmp_path / "clip", 12)
    fine(run("segment", tmp_path / "clip", "-o", tmp_path / "out", "--point", "9,6", "--slice", "5"))
    for i in range(12):  # f10 comes after f9
        expected = block((20, 24), slice(5, 10), slice(3 + i, 9 + i))
        assert np.array_equal(pixels(tmp_path / f"out/clip/f{i}.png"), expected), i


def test_a_video_is_segmented_from_the_mask_of_its_first_frame(run, flood, tmp_path):
    clip(tmp_path / "clip", 4)
    Image.fromarray(block((20, 24), slice(5, 10), slice(3, 9)).astype(np.uint8)).save(tmp_path / "first.png")
    fine(run("segment", tmp_path / "clip", "-o", tmp_path / "out", "--mask-prompt", tmp_path / "first.png", "--slice", "0"))
    for i in range(4):
        assert np.array_equal(pixels(tmp_path / f"out/clip/f{i}.png"), block((20, 24), slice(5, 10), slice(3 + i, 9 + i))), i


def test_what_was_written_before_a_later_object_failed_is_taken_away(run, flood, case, scan, tmp_path):
    nibabel.save(nibabel.Nifti1Image(np.zeros(TRUTH.shape, np.uint8), nibabel.load(scan).affine), tmp_path / "empty.nii.gz")
    (tmp_path / "p.json").write_text('[{"box": [4, 5, 10, 13], "slice": 4}, {"mask": "empty.nii.gz"}]')
    words = ("-o", tmp_path / "out", "--prompts", tmp_path / "p.json", "--separate")
    refused(run("segment", scan, *words), "empty.nii.gz")
    assert not (tmp_path / "out").exists()
    (tmp_path / "p.json").write_text('[{"box": [30, 4, 47, 9]}, {"text": "polyp"}]')
    refused(run("segment", case, *words), "no words")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words, fails",
    [
        (["--box", "30,4,47,9", "--separate", "--overlays"], "places.overlay"),
        (["--everything", "--overlays"], "places.overlay"),
        (["--everything"], "rle.to_text"),
    ],
)
def test_where_the_last_file_cannot_be_written_nothing_stands_in_the_way(words, fails, run, flood, case, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    (tmp_path / "out").mkdir()
    with monkeypatch.context() as disk:
        disk.setattr(f"vesalius.pipeline.{fails}", full)
        assert run("segment", case, "-o", tmp_path / "out", *words).exit_code == 2
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    fine(run("segment", case, "-o", tmp_path / "out", *words))


def test_no_file_that_is_there_is_replaced_unasked(run, flood, case, tmp_path):
    for words, name in (
        (("--everything",), "case.json"),
        (("--box", "1,1,5,5", "--box", "6,1,9,5", "--separate"), "case_2.png"),
        (("--point", "9,17", "--all-masks"), "case_mask_3.png"),
    ):
        out = tmp_path / name.split(".")[0]
        out.mkdir()
        (out / name).write_text("mine")
        refused(run("segment", case, "-o", out, *words), name, "there already")
        assert [each.name for each in out.iterdir()] == [name] and (out / name).read_text() == "mine"
        fine(run("segment", case, "-o", out, *words, "--overwrite"))


BAD = {
    "a point outside": (["--point", "50,3"], "outside the picture (50 x 30 px)"),
    "a point transposed": (["--point", "5,40"], "outside"),
    "a box outside": (["--box", "0,0,51,10"], "outside"),
    "a box of no area": (["--box", "5,5,5,9"], "reversed or empty"),
    "a box reversed": (["--box", "9,5,5,9"], "reversed or empty"),
    "a box of five numbers": (["--box", "1,2,3,4,5"], "4 or 6 numbers, not 5"),
    "no number": (["--point", "a,b"], "no list of numbers"),
    "an empty word": (["--point", ""], "no list of numbers"),
    "NaN": (["--point", "nan,3"], "nan"),
    "text": (["--text", "polyp"], "no words"),
    "empty text": (["--text", ""], "empty"),
    "a 3D box on a picture": (["--box", "1,1,0,5,5,1"], "three dimensions"),
    "a slice of a picture": (["--point", "1,1", "--slice", "2"], "no slices"),
    "points with several boxes": (["--box", "1,1,5,5", "--box", "6,6,9,9", "--point", "2,2"], "several objects"),
    "everything and a point": (["--everything", "--point", "2,2"], "more than one way"),
    "no prompt": (["--separate"], "--separate goes with a prompt"),
    "a slice alone, the first": (["--slice", "0"], "--slice goes with a prompt"),
    "only a point beside it": (["--not-point", "2,2"], "only points beside the object"),
    "an empty window": (["--point", "1,1", "--window", ""], "no list of numbers"),
    "a window alone": (["--window", "0,10"], "goes with a prompt"),
    "a falling window": (["--point", "1,1", "--window", "10,0"], "no window"),
    "a window of words": (["--point", "1,1", "--window", "a"], "no list of numbers"),
    "all masks of a box": (["--box", "1,1,5,5", "--all-masks"], "lone click"),
    "a task": (["--point", "1,1", "--task", "nuclei"], "--task does not go with prompts"),
    "a missing file of prompts": (["--prompts", "none.json"], "none.json"),
}


@pytest.mark.parametrize("words, said", BAD.values(), ids=BAD)
def test_a_bad_prompt_is_one_line_and_exit_code_2(run, flood, case, tmp_path, words, said):
    refused(run("segment", case, "-o", tmp_path / "out", *words), said)
    assert not (tmp_path / "out").exists()


def test_prompts_that_the_weights_never_learned_are_one_line_and_exit_code_2(run, flood, case, tmp_path):
    flood.learned = ("boxes",)  # as MedSAM's entry says
    for words in (["--point", "9,17"], ["--everything"], ["--mask-prompt", case], ["--box", "5,12,15,26", "--not-point", "9,17"]):
        refused(run("segment", case, "-o", tmp_path / "out", *words), "'flood' never learned", "trained with boxes alone")
        assert not (tmp_path / "out").exists()
    fine(run("segment", case, "-o", tmp_path / "out", "--box", "5,12,15,26"))


def test_a_mask_prompt_that_marks_nothing_is_refused(run, flood, case, scan, tmp_path):
    Image.fromarray(np.zeros((30, 50), np.uint8)).save(tmp_path / "empty.png")
    refused(run("segment", case, "-o", tmp_path / "out", "--mask-prompt", tmp_path / "empty.png"), "empty.png", "is empty")
    marked = nibabel.Nifti1Image(TRUTH.astype(np.uint8), nibabel.load(scan).affine)
    nibabel.save(marked, tmp_path / "m.nii.gz")
    words = ("segment", scan, "-o", tmp_path / "out", "--mask-prompt", tmp_path / "m.nii.gz")
    refused(run(*words, "--slice", "0"), "m.nii.gz", "is empty on this slice")
    assert not (tmp_path / "out").exists()
    fine(run(*words, "--slice", "4"))
    assert np.array_equal(voxels(tmp_path / "out/scan.nii.gz"), TRUTH)


@pytest.mark.parametrize(
    "text, said",
    [
        ("[{", "no JSON"),
        ("", "no JSON"),
        ("{}", "no list of objects"),
        ("[]", "no list of objects"),
        ("[3]", "object 1 is no JSON object"),
        ("[{}]", "object 1: nothing is prompted"),
        ('[{"points": []}]', "nothing is prompted"),
        ('[{"box": [1, 2, 5, 6]}, {"boxx": [1, 2, 5, 6]}]', "object 2: there is no key 'boxx'"),
        ('[{"box": [1, 2, 5, 6], "box": [7, 2, 9, 6]}]', "'box' is said twice"),
        ('[{"points": [[NaN, 2]]}]', "nan"),
        ('[{"points": [[1e999, 2]]}]', "inf"),
        ('[{"points": [["1", 2]]}]', "no list of numbers"),
        ('[{"points": [[true, 2]]}]', "no list of numbers"),
        ('[{"points": [[1, 2]], "labels": [3]}]', "neither 1 nor 0"),
        ('[{"points": [[1, 2]], "labels": []}]', None),
        ('[{"labels": [1], "box": [1, 2, 5, 6]}]', "0 points have 1 labels"),
        ('[{"box": 5}]', "no list of numbers"),
        ('[{"box": [1, 2, 5, 6], "slice": 1.5}]', "no whole number"),
        ('[{"box": [1, 2, 5, 6], "axis": "up"}]', "axis"),
        ('[{"box": [1, 2, 5, 6], "axis": ["axial"]}]', "there is no axis"),
        (f'[{{"box": [0, 0, {"9" * 400}, 6]}}]', "beyond any image"),
        ('[{"box": [1, 2, 5, 6], "name": 3}]', "'name' is no text"),
        ('[{"box": [1, 2, 5, 6], "name": "\\ud800"}]', "object 1: 'name' holds characters"),
        ('[{"mask": "\\u0000.png"}]', "object 1: 'mask' holds characters"),
        ('[{"box": [1, 2, 5, 6], "points": null, "labels": null, "mask": null, "slice": null}]', None),
        ('\ufeff[{"box": [1, 2, 5, 6]}]', None),
        ('[{"mask": "nothing.png"}]', "nothing.png"),
        ('[{"text": ["a"]}]', "empty"),
        ("[" * 100_000, "no JSON"),
    ],
)
def test_a_bad_file_of_prompts_is_one_line_and_exit_code_2(run, flood, case, tmp_path, text, said):
    (tmp_path / "p.json").write_text(text)
    result = run("segment", case, "-o", tmp_path / "out", "--prompts", tmp_path / "p.json")
    if said is None:
        fine(result)
    else:
        refused(result, said)


@pytest.mark.parametrize(
    "words, said",
    [
        (["--point", "3,4"], "needs its slice"),
        (["--point", "3,4", "--slice", "12"], "Count from 0 to 11"),
        (["--point", "3,4", "--slice", "-1"], "Count from 0 to 11"),
        (["--point", "3,4", "--slice", "14", "--axis", "coronal"], "Count from 0 to 13"),
        (["--point", "15,4", "--slice", "4"], "outside the slice (14 x 16 px)"),
        (["--box", "0,0,0,15,5,5"], "outside the volume (14 x 12 x 16 px)"),
        (["--box", "4,3,5,10,7,13", "--no-propagate"], "has to propagate"),
        (["--everything"], "give the slice"),
        (["--box", "4,3,5,10,7,13", "--slice", "3"], "no single slice"),
    ],
)
def test_a_bad_prompt_in_a_volume_is_one_line_and_exit_code_2(run, flood, scan, tmp_path, words, said):
    refused(run("segment", scan, "-o", tmp_path / "out", *words), said)


def test_an_image_of_two_channels_is_refused(run, flood, tmp_path):
    import tifffile

    tifffile.imwrite(tmp_path / "two.tiff", np.zeros((20, 20, 5), np.uint8), photometric="rgb")
    refused(run("segment", tmp_path / "two.tiff", "-o", tmp_path / "out", "--point", "1,1"), "channels")


@pytest.mark.parametrize("out", ["", "out", "out/mask.nii.gz"])
def test_an_output_inside_the_dicom_folder_or_among_the_frames_is_refused_the_first_time(run, flood, case, tmp_path, out):
    study, film = dicom_series(tmp_path / "study"), tmp_path / "film"
    film.mkdir()
    for number in range(3):
        shutil.copy(case, film / f"{number}.png")
    for folder, suffix in ((study, ".nii.gz"), (film, ".tiff")):
        before = sorted(folder.rglob("*"))
        done = run("segment", folder, "-o", folder / out.replace(".nii.gz", suffix), "--box", "4,4,9,9", "--slice", "1")
        assert done.exit_code == 2 and "inside the folder that is read" in done.stderr, done.stderr
        assert sorted(folder.rglob("*")) == before and not flood.looks


def test_a_mask_that_is_there_is_not_overwritten(run, flood, case, tmp_path):
    fine(run("segment", case, "-o", tmp_path / "out", "--point", "40,5"))
    refused(run("segment", case, "-o", tmp_path / "out", "--point", "40,5"), "there is a mask already")
    fine(run("segment", case, "-o", tmp_path / "out", "--point", "40,5", "--overwrite"))
