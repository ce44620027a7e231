"""Folders against folders: pairing, patients, what is missing, and what is written down."""

import csv
import json
import subprocess
import sys

import nibabel
import numpy as np
import pytest
from dicom_slices import Series
from PIL import Image as Picture

from vesalius.core.errors import DatasetError, GeometryError, InputError, LabelError, OutputError, UnreadableFile
from vesalius.core.image import Mask
from vesalius.core.labels import Label, Labels
from vesalius.io.files import read, read_mask, write
from vesalius.metrics.summary import EmptyPolicy
from vesalius.pipeline.evaluate import evaluate
from vesalius.pipeline.pairs import twin

NAMES = {1: "anterior", 2: "posterior"}


def volume(shift=0, values=(1, 2)):
    array = np.zeros((16, 14, 12), np.uint8)
    array[3:8, 3 + shift : 9 + shift, 3:8] = values[0]
    array[9:14, 3 + shift : 9 + shift, 3:8] = values[1]
    return array


def put(path, array, spacing=(1.0, 1.0, 2.0)):
    """A NIfTI volume (x, y, z) or a PNG picture (y, x)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        Picture.fromarray(array).save(path)
    else:
        nibabel.save(nibabel.Nifti1Image(array, np.diag([*spacing, 1.0])), path)
    return path


@pytest.fixture
def folders(tmp_path):
    """Six references, and predictions moved by 0, 1, 2 voxels."""
    for i in range(6):
        put(tmp_path / "ref" / f"case_{i}.nii.gz", volume())
        put(tmp_path / "pred" / f"case_{i}.nii.gz", volume(shift=i % 3))
    return tmp_path / "pred", tmp_path / "ref"


def test_cases_are_paired_by_stem_whatever_the_format(tmp_path):
    picture = volume()[:, :, 5]
    put(tmp_path / "ref" / "a.png", picture)
    (tmp_path / "pred").mkdir()
    Picture.fromarray(np.roll(picture, 1, 0)).save(tmp_path / "pred" / "a.tif")
    evaluation = evaluate(tmp_path / "pred", tmp_path / "ref", labels=NAMES)
    assert evaluation.exit_code == 0 and 0.5 < evaluation.summary["anterior"]["dice"]["mean"] < 1


def test_means_intervals_and_cases_agree(folders):
    seen = []
    evaluation = evaluate(*folders, labels=NAMES, progress=lambda *told: seen.append(told))
    dice = [case.scores["anterior"].metrics["dice"] for case in evaluation.cases]
    found = evaluation.summary["anterior"]["dice"]
    assert dice == pytest.approx([1, 5 / 6, 4 / 6] * 2)
    assert found["mean"] == pytest.approx(np.mean(dice)) and found["low"] < found["mean"] < found["high"]
    assert evaluation.summary["posterior"]["hd95_mm"]["mean"] == pytest.approx(1.0)
    assert evaluation.overall["dice"]["mean"] == pytest.approx(np.mean(dice))
    assert seen[0] == (1, 6, "case_0") and seen[-1] == (6, 6, "case_5")


def test_a_missing_prediction_scores_as_an_empty_one(folders):
    pred, ref = folders
    whole = evaluate(pred, ref).summary["1"]["dice"]["mean"]
    (pred / "case_0.nii.gz").unlink()
    put(pred / "other.nii.gz", volume())
    evaluation = evaluate(pred, ref)
    assert evaluation.missing == ("case_0",) and evaluation.exit_code == 1 and evaluation.extra == ("other",)
    assert evaluation.cases[0].scores["1"].metrics["dice"] == 0
    assert evaluation.summary["1"]["dice"]["mean"] == pytest.approx(whole - 1 / 6)
    assert evaluation.empty["1"] == {"both": 0, "pred": 1, "ref": 0}
    assert any("1 in the prediction only" in line for line in evaluation.describe())


def test_a_case_that_fails_is_listed_and_the_rest_is_done(folders):
    pred, ref = folders
    put(pred / "case_1.nii.gz", volume()[1:])
    (pred / "case_2.nii.gz").write_bytes(b"no image")
    put(pred / "case_3.nii.gz", volume(values=(1, 7)))
    evaluation = evaluate(pred, ref, labels=Labels((Label(1, "anterior"), Label(2, "posterior"))))  # as a dataset.json says
    assert list(evaluation.failed) == ["case_1", "case_2", "case_3"] and evaluation.exit_code == 1
    assert "shape" in evaluation.failed["case_1"] and "7" in evaluation.failed["case_3"]
    assert evaluation.summary["anterior"]["dice"]["cases"] == 3


def test_a_single_pair_that_fails_is_an_error(tmp_path):
    ref = put(tmp_path / "ref.nii.gz", volume())
    assert evaluate(put(tmp_path / "good.nii.gz", volume()), ref).summary["2"]["dice"]["mean"] == 1
    with pytest.raises(GeometryError, match="shape"):
        evaluate(put(tmp_path / "short.nii.gz", volume()[1:]), ref)
    with pytest.raises(GeometryError, match="spacing"):
        evaluate(put(tmp_path / "wide.nii.gz", volume(), (2.0, 2.0, 2.0)), ref)
    with pytest.raises(UnreadableFile):
        evaluate(tmp_path / "absent.nii.gz", ref)


def test_folders_that_do_not_fit_are_errors(folders, tmp_path):
    pred, ref = folders
    with pytest.raises(DatasetError, match="folder"):
        evaluate(pred / "case_0.nii.gz", ref)
    with pytest.raises(DatasetError, match="stem"):
        evaluate(put(tmp_path / "elsewhere" / "x.nii.gz", volume()).parent, ref)
    with pytest.raises(InputError):
        evaluate(tmp_path / "nowhere", ref)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError):
        evaluate(tmp_path / "empty", ref)
    put(ref / "case_0.nii", volume())
    with pytest.raises(DatasetError, match="case_0"):
        evaluate(pred, ref)
    with pytest.raises(InputError, match="tolerance"):
        evaluate(pred, pred, nsd_tolerance_mm=-1.0)


def test_masks_of_0_and_255_mean_class_1_and_that_is_said(tmp_path):
    for i in range(3):
        picture = (volume(shift=i)[:, :, 5] > 0).astype(np.uint8)
        put(tmp_path / "ref" / f"{i}.png", picture * 255)
        put(tmp_path / "pred" / f"{i}.png", picture if i else picture * 255)
    evaluation = evaluate(tmp_path / "pred", tmp_path / "ref")
    assert list(evaluation.summary) == ["1"] and evaluation.summary["1"]["dice"]["mean"] == 1
    assert any("read as 0 and 1 (3 cases)" in line for line in evaluation.describe())
    meant = evaluate(tmp_path / "ref", tmp_path / "ref", labels={255: "cell"})
    assert meant.summary["cell"]["dice"]["mean"] == 1 and not any("255" in line for line in meant.describe())


def test_a_mask_of_0_and_255_is_none_of_several_classes(tmp_path):
    picture = volume()[:, :, 5]
    put(tmp_path / "ref.png", picture)
    put(tmp_path / "pred.png", (picture > 0).astype(np.uint8) * 255)
    for labels in (None, NAMES):
        with pytest.raises(LabelError, match="no label declares: 255"):
            evaluate(tmp_path / "pred.png", tmp_path / "ref.png", labels=labels)


def test_dicom_segmentations_are_compared_frame_by_frame_whatever_ends_they_omit(tmp_path):
    from specimens import dicom_series

    image = read(dicom_series(tmp_path / "study", slices=8))
    for name, first, last in (("pred", 1, 5), ("ref", 3, 7)):
        array = np.zeros(image.grid.shape, np.uint8)
        array[first:last, 4:9, 4:9] = 1
        write(Mask(array, image.grid), tmp_path / name / "a.dcm", like=image)
        write(Mask(array, image.grid), tmp_path / f"{name}_nifti" / "a.nii.gz", like=image)
    wanted = evaluate(tmp_path / "pred_nifti", tmp_path / "ref_nifti").summary["1"]
    assert wanted["dice"]["mean"] == 0.5
    for pred, ref in (("pred", "ref"), ("pred_nifti", "ref"), ("pred", "ref_nifti")):
        found = evaluate(tmp_path / pred, tmp_path / ref).summary["1"]
        assert {m: e["mean"] for m, e in found.items()} == pytest.approx({m: e["mean"] for m, e in wanted.items()}, abs=1e-4)


def test_masks_of_one_object_each_may_be_classes_and_that_is_said(tmp_path):
    for i in range(2):
        put(tmp_path / "ref" / f"{i}.png", (volume()[:, :, 5] > 0).astype(np.uint8))
    evaluation = evaluate(tmp_path / "ref", tmp_path / "ref", instances=True)
    assert any("No reference numbers more than one object" in line for line in evaluation.describe())


def test_a_volume_without_spacing_is_not_taken_to_lie_on_its_reference(tmp_path):
    put(tmp_path / "ref.nii.gz", volume())
    bare = nibabel.Nifti1Image(volume(), None)
    nibabel.save(bare, tmp_path / "pred.nii.gz")
    with pytest.raises(GeometryError, match="prediction carries no spacing"):
        evaluate(tmp_path / "pred.nii.gz", tmp_path / "ref.nii.gz")


def test_255_beside_other_values_is_a_label_like_any_other(tmp_path):
    put(tmp_path / "ref" / "a.png", volume(values=(1, 255))[:, :, 5])
    put(tmp_path / "ref" / "b.png", volume(values=(255, 255))[:, :, 5])
    assert list(evaluate(tmp_path / "ref", tmp_path / "ref").summary) == ["1", "255"]


def test_a_value_that_no_label_can_have_fails_its_own_case_alone(folders):
    pred, ref = folders
    put(ref / "case_3.nii.gz", np.choose(volume(), np.array([0, 1, 70000], np.int32)))
    evaluation = evaluate(pred, ref)
    assert list(evaluation.failed) == ["case_3"] and "70000" in evaluation.failed["case_3"]
    assert len(evaluation.cases) == 6 and evaluation.summary["1"]["dice"]["cases"] == 5
    with pytest.raises(LabelError, match=r"case_3.nii.gz: .*70000.*--instances"):
        evaluate(ref / "case_3.nii.gz", ref / "case_3.nii.gz")


def test_without_spacing_distances_are_pixels_and_nsd_needs_its_own_tolerance(tmp_path):
    for i in range(2):
        put(tmp_path / "ref" / f"{i}.png", volume()[:, :, 5])
        put(tmp_path / "pred" / f"{i}.png", volume(shift=1)[:, :, 5])
    plain = evaluate(tmp_path / "pred", tmp_path / "ref", nsd_tolerance_mm=2.0)
    assert "hd95_px" in plain.metrics and not any("mm" in name or name.startswith("nsd") for name in plain.metrics)
    assert any("no spacing" in line for line in plain.describe())
    given = evaluate(tmp_path / "pred", tmp_path / "ref", nsd_tolerance_px=1.0)
    assert given.summary["1"]["nsd_px"]["mean"] == 1


def test_intervals_are_clustered_by_the_patients_of_cases_csv(folders, tmp_path):
    pred, ref = folders
    alone = evaluate(pred, ref)
    assert {case.pair.patient for case in alone.cases} == {f"case_{i}" for i in range(6)}
    assert any("own patient" in line for line in alone.describe())
    rows = "case,patient\n" + "".join(f"case_{i},p{i % 3}\n" for i in range(6))
    (ref / "cases.csv").write_text(rows)
    clustered = evaluate(pred, ref)
    assert clustered.summary["1"]["dice"]["patients"] == 3
    assert clustered.summary["1"]["dice"]["low"] != alone.summary["1"]["dice"]["low"]
    table = tmp_path / "some.csv"
    table.write_text("case,patient\ncase_0,p0\n")
    with pytest.raises(DatasetError, match="5 cases have no patient"):
        evaluate(pred, ref, patients=table)
    table.write_text("Patient;Case\n" + "".join(f"p{i % 2};case_{i}.nii.gz\n" for i in range(6)))
    assert evaluate(pred, ref, patients=table).summary["1"]["dice"]["patients"] == 2
    table.write_text("name,who\ncase_0,p0\n")
    with pytest.raises(DatasetError, match="columns 'case' and 'patient'"):
        evaluate(pred, ref, patients=table)


def test_objects_have_their_own_metrics(tmp_path):
    put(tmp_path / "ref" / "a.png", volume()[:, :, 5])
    put(tmp_path / "pred" / "a.png", volume(values=(2, 0))[:, :, 5])
    metrics = evaluate(tmp_path / "pred", tmp_path / "ref", instances=True).summary["objects"]
    assert metrics["f1"]["mean"] == pytest.approx(2 / 3) and metrics["pq"]["mean"] == pytest.approx(2 / 3)
    assert metrics["aji"]["mean"] == pytest.approx(30 / 60)


def test_the_policy_is_printed_and_obeyed(folders):
    pred, ref = folders
    put(pred / "case_0.nii.gz", volume(values=(1, 0)))
    put(ref / "case_0.nii.gz", volume(values=(1, 0)))
    default = evaluate(pred, ref, labels=NAMES)
    assert default.summary["posterior"]["dice"]["cases"] == 5 and default.summary["posterior"]["dice"]["excluded"] == 1
    perfect = evaluate(pred, ref, labels=NAMES, policy=EmptyPolicy(both_empty="perfect"))
    assert perfect.summary["posterior"]["dice"]["cases"] == 6
    assert EmptyPolicy(both_empty="perfect").describe() in perfect.describe()


def test_json_holds_the_cases_and_the_summary_and_no_nan(folders, tmp_path):
    pred, ref = folders
    put(ref / "case_0.nii.gz", volume(values=(1, 0)))
    put(pred / "case_0.nii.gz", volume(values=(1, 0)))
    (pred / "case_1.nii.gz").unlink()
    path = evaluate(pred, ref, labels=NAMES).to_json(tmp_path / "out" / "summary.json")
    record = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert {"mean", "low", "high"} <= record["summary"]["anterior"]["dice"].keys()
    assert record["missing"] == ["case_1"] and record["nsd_tolerance_mm"] == 1.0 and "text" in record["policy"]
    assert record["cases"][0]["scores"]["posterior"]["dice"] is None
    assert [case["status"] for case in record["cases"]].count("missing") == 1


def test_csv_has_a_row_for_every_case_and_label(folders, tmp_path):
    pred, ref = folders
    put(pred / "case_5.nii.gz", volume()[1:])
    path = evaluate(pred, ref, labels=NAMES).to_csv(tmp_path / "cases.csv")
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["label"]) for row in rows][:2] == [("case_0", "anterior"), ("case_0", "posterior")]
    assert len(rows) == 11 and rows[-1]["status"] == "failed" and "shape" in rows[-1]["problem"]
    assert float(rows[2]["dice"]) == pytest.approx(5 / 6)


def test_the_page_pictures_the_worst_cases_first_and_escapes_names(folders, tmp_path):
    pred, ref = folders
    put(pred / "<b>.nii.gz", volume(shift=3))
    put(ref / "<b>.nii.gz", volume())
    for path in ref.iterdir():
        put(tmp_path / "images" / path.name.replace(".nii.gz", "_0000.nii.gz"), np.random.default_rng(0).random((16, 14, 12)))
    (pred / "case_0.nii.gz").unlink()
    evaluation = evaluate(pred, ref, labels=NAMES)
    assert [case.pair.name for case in evaluation.worst(3)] == ["<b>", "case_2", "case_5"]
    text = evaluation.to_html(tmp_path / "report.html", images=tmp_path / "images").read_text()
    assert text.count("<img") == 6 and "&lt;b&gt;" in text and "<b>" not in text
    assert "http" not in text.replace("http-equiv", "") and "case_0" in text and "no image of this name" not in text


def test_what_cannot_be_written_leaves_nothing_behind(folders, tmp_path):
    evaluation = evaluate(*folders)
    (tmp_path / "file").write_text("")
    for put_down in (evaluation.to_json, evaluation.to_csv, evaluation.to_html):
        with pytest.raises(OutputError):
            put_down(tmp_path / "file" / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "pred", "ref"]


def test_evaluation_needs_no_torch():

    code = "import sys, vesalius.pipeline.evaluate, vesalius.pipeline.scorecard; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_regions_of_any_values_are_scored_whole(tmp_path):
    """BraTS: 1 necrosis, 2 oedema, 4 active; necrosis called active is wrong in the active region and right in the core."""
    ref = np.zeros((6, 8, 8), np.uint8)
    ref[1:5, 1:7, 1:7] = 2
    ref[2:4, 2:6, 2:6] = 4
    ref[2:4, 3:5, 3:5] = 1
    masks = {"ref.nii.gz": ref, "pred.nii.gz": np.where(ref == 1, 4, ref).astype(np.uint8)}
    for name, array in masks.items():
        nibabel.save(nibabel.Nifti1Image(array, np.diag([1.0, 1.0, 2.0, 1.0])), tmp_path / name)
    both = tmp_path / "pred.nii.gz", tmp_path / "ref.nii.gz"
    found = evaluate(*both, labels={(1, 2, 4): "whole", (1, 4): "core", 4: "active"})
    means = {name: metrics["dice"]["mean"] for name, metrics in found.summary.items()}
    assert means == {"whole": 1.0, "core": 1.0, "active": pytest.approx(2 * 24 / (32 + 24))}
    assert found.summary["core"]["hd95_mm"]["mean"] == 0 and found.summary["active"]["hd95_mm"]["mean"] > 0
    assert evaluate(*both, labels={1: "1", 2: "2", 4: "4"}).summary["1"]["dice"]["mean"] == 0
    core = evaluate(*both, labels={(1, 4): "core"})
    assert core.summary["core"]["dice"]["mean"] == 1.0 and any("also hold 2" in line for line in core.describe())
    with pytest.raises(LabelError, match="share a name"):
        evaluate(*both, labels={(1, 4): "core", 2: "core"})


@pytest.mark.parametrize("turned", [False, True], ids=["prediction", "reference"])
def test_a_tiff_of_a_volume_is_compared_voxel_by_voxel_and_that_is_said(tmp_path, turned):
    moved = np.array([[-1.0, 0, 0, 30], [0, 0, -1, 50], [0, 2, 0, -7], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(volume(), moved), tmp_path / "a.nii.gz")
    mask = read_mask(tmp_path / "a.nii.gz")
    pair = (write(mask, tmp_path / "a.tiff"), tmp_path / "a.nii.gz")
    found = evaluate(*(pair[::-1] if turned else pair), labels=NAMES)
    assert found.overall["dice"]["mean"] == 1.0 and "hd95_mm" in found.metrics
    assert any("no origin and no orientation" in line for line in found.describe())
    nibabel.save(nibabel.Nifti1Image(volume(), moved @ np.diag([1, 1, 3, 1])), tmp_path / "b.nii.gz")
    with pytest.raises(GeometryError):
        evaluate(tmp_path / "a.tiff", tmp_path / "b.nii.gz")


def test_segs_of_a_series_with_a_gap_are_compared_slice_by_slice_with_each_other_and_with_nifti(tmp_path, monkeypatch):
    Series("CT").stack(tmp_path / "study", [0, 2, 4, 8, 10, 12, 14, 16], size=(16, 20))
    image = read(tmp_path / "study")
    array = np.zeros(image.grid.shape, np.uint8)
    array[1:6, 4:12, 5:9] = 1
    mask = Mask(array, image.grid)
    seg, as_nifti = write(mask, tmp_path / "a.dcm", like=image), write(mask, tmp_path / "a.nii.gz")
    monkeypatch.setattr("vesalius.io.segmentation.laid", lambda *_: (None, None, False))
    bare = write(mask, tmp_path / "b.dcm", like=image)  # empty frames omitted, as other software does
    monkeypatch.undo()
    for pair in ((seg, as_nifti), (as_nifti, seg), (seg, bare), (bare, seg)):
        assert evaluate(*pair).overall["dice"]["mean"] == 1.0
    with pytest.raises(GeometryError, match="slices are missing"):
        evaluate(bare, as_nifti)


@pytest.mark.parametrize("numbered", ["pred", "ref"])
def test_the_channel_number_of_nnunet_on_one_side_hides_no_case(tmp_path, numbered):
    """`segment imagesTr` calls its masks after the images, case_0000; labelsTr calls them case."""
    for side in ("pred", "ref"):
        for i in range(2):
            put(tmp_path / side / f"case{i}{'_0000' if side == numbered else ''}.nii.gz", volume())
    put(tmp_path / "pred" / "other.nii.gz", volume())
    found = evaluate(tmp_path / "pred", tmp_path / "ref")
    assert found.exit_code == 0 and found.overall["dice"]["mean"] == 1.0 and found.extra == ("other",)
    ends = "_0000" if numbered == "ref" else ""
    assert [case.pair.name for case in found.cases] == [f"case{i}{ends}" for i in range(2)]


def test_a_number_that_may_be_one_of_several_is_no_channel_to_disregard(tmp_path):
    assert twin("a", ["a", "a_0000"]) == "a" and twin("a_0000", ["a", "a_0000"]) == "a_0000"
    assert twin("a", ["a_0000"]) == "a_0000" and twin("a_0000", ["a"]) == "a"
    assert twin("a", ["a_0000", "a_0001"]) is None and twin("a", ["a_0001"]) is None and twin("a_0001", ["a"]) is None
    for name in ("ref/a", "ref/a_0000", "pred/a", "ref/b_0000", "ref/b_0001", "pred/b"):
        put(tmp_path / f"{name}.nii.gz", volume())
    assert evaluate(tmp_path / "pred", tmp_path / "ref").missing == ("a_0000", "b_0000", "b_0001")


def test_a_label_that_only_a_prediction_holds_scores_0_in_its_case_and_is_in_the_mean(folders):
    pred, ref = folders
    put(pred / "case_3.nii.gz", np.where(volume() == 0, 3, volume()).astype(np.uint8))
    evaluation = evaluate(pred, ref)
    assert not evaluation.failed and evaluation.cases[3].scores["3"].metrics["dice"] == 0
    assert evaluation.summary["3"]["dice"]["mean"] == 0 and evaluation.summary["3"]["dice"]["cases"] == 1
    assert evaluation.empty["3"] == {"both": 5, "pred": 0, "ref": 1} and evaluation.cases[3].mean("dice") == pytest.approx(2 / 3)


@pytest.mark.parametrize("value", [1, 255])
def test_anything_against_an_empty_reference_scores_0(tmp_path, value):
    put(tmp_path / "ref.png", np.zeros((9, 8), np.uint8))
    put(tmp_path / "pred.png", np.pad(np.full((3, 3), value, np.uint8), ((2, 4), (2, 3))))
    found = evaluate(tmp_path / "pred.png", tmp_path / "ref.png")
    assert found.summary["1"]["dice"]["mean"] == 0 and found.empty["1"]["ref"] == 1


def test_values_that_the_labels_leave_out_are_background_and_that_is_said_once(folders, tmp_path):
    pred, ref = folders
    put(pred / "case_3.nii.gz", volume(values=(1, 7)))
    found = evaluate(pred, ref, labels={1: "front"})
    whole = evaluate(pred, ref).summary["1"]
    assert not found.failed and list(found.summary) == ["front"] and found.summary["front"]["dice"] == whole["dice"]
    assert [line for line in found.describe() if "not among the labels" in line] == [
        "The masks also hold 2, 7: not among the labels named, and counted as background."
    ]
    assert "case_3" in found.to_html(tmp_path / "page.html").read_text()


def test_grey_pictures_in_place_of_masks_are_an_error_and_no_labels(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        for folder, values in (("ref", rng.integers(0, 2, (20, 30))), ("pred", rng.integers(0, 250, (20, 30)))):
            (tmp_path / folder).mkdir(exist_ok=True)
            Picture.fromarray(values.astype(np.uint8)).save(tmp_path / folder / f"{name}.png")
    done = evaluate(tmp_path / "pred", tmp_path / "ref")
    assert all("undeclared" in case.problem or "label" in case.problem for case in done.cases) and len(done.cases) == 2
