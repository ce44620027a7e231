"""Every verb, walked through the command line on tiny inputs: what it writes, what it says, how it ends."""

import json
import subprocess
import sys

import numpy as np
import pytest
from specimens import dicom_series, mask_volume, picture, volume

from vesalius.io.files import read, read_mask


def document(result):
    """The JSON on stdout, which must be all there is on it."""
    assert result.exit_code in (0, 1), (result.exit_code, result.stderr, result.exception)
    return json.loads(result.stdout)


@pytest.mark.parametrize("format, suffix", [(None, ".png"), ("png", ".png"), ("tiff", ".tiff"), ("nifti", ".nii.gz")])
def test_segment_writes_a_picture_in_every_format(format, suffix, run, tmp_path, picture_weights):
    image = picture(tmp_path / "case.png")
    words = ["--format", format] if format else []
    result = run("segment", image, "-o", tmp_path / "out", "--model", "unet", "--weights", picture_weights, *words)
    assert result.exit_code == 0, result.stderr
    assert read_mask(tmp_path / "out" / f"case{suffix}").array.shape == (1, 40, 36)
    assert (tmp_path / "out" / "report.html").read_text().count("<img") >= 1


def test_segment_gives_the_mask_the_very_grid_of_its_volume(run, tmp_path, volume_weights):
    image = volume(tmp_path / "case.nii.gz")
    assert run("segment", image, "-o", tmp_path / "mask.nii.gz", "--model", "unet", "--weights", volume_weights).exit_code == 0
    assert read_mask(tmp_path / "mask.nii.gz").grid.same_as(read(image).grid, tolerance_mm=1e-4)


def test_segment_turns_a_dicom_study_into_nifti_or_dicom_seg(run, tmp_path, volume_weights):
    study = dicom_series(tmp_path / "study")
    words = ["segment", study, "--model", "unet", "--weights", volume_weights, "-o"]
    assert run(*words, tmp_path / "out").exit_code == 0
    mask = read_mask(tmp_path / "out" / "study.nii.gz")
    assert mask.grid.same_as(read(study).grid, tolerance_mm=1e-3)
    assert run(*words, tmp_path / "seg", "--format", "dicom-seg").exit_code == 0
    assert np.array_equal(read_mask(tmp_path / "seg" / "study.dcm", like=read(study)).array, mask.array)


def test_a_folder_run_skips_what_is_done_and_does_again_what_changed(run, tmp_path, picture_weights):
    for i in range(2):
        picture(tmp_path / "in" / f"case{i}.png", seed=i)
    words = ["segment", tmp_path / "in", "-o", tmp_path / "out", "--model", "unet", "--weights", picture_weights, "--json"]
    states = lambda result: [case["state"] for case in document(result)["cases"]]  # noqa: E731
    assert states(run(*words)) == ["done", "done"]
    assert states(run(*words)) == ["skipped", "skipped"]
    picture(tmp_path / "in" / "case1.png", seed=9)
    changed = run(*words)
    assert changed.exit_code == 1 and states(changed) == ["skipped", "failed"] and "--overwrite" in changed.stderr
    assert states(run(*words, "--overwrite")) == ["skipped", "done"]
    assert states(run(*words, "--overlap", 0.25, "--overwrite")) == ["done", "done"]


def test_segment_keeps_probabilities_on_the_grid_of_the_image(run, tmp_path, volume_weights):
    image = volume(tmp_path / "case.nii.gz")
    words = ["segment", image, "-o", tmp_path / "out", "--model", "unet", "--weights", volume_weights]
    assert run(*words, "--save-probabilities", "--precision", "fp32").exit_code == 0
    kept, mask = read(tmp_path / "out" / "probabilities" / "case.nii.gz"), read_mask(tmp_path / "out" / "case.nii.gz")
    assert kept.grid.same_as(mask.grid)
    scores = kept.array
    assert scores.shape == (3, 16, 18, 20)
    assert np.allclose(scores.astype(np.float32).sum(0), 1, atol=0.02)
    assert (scores.argmax(0) == mask.array).mean() > 0.99


def test_explain_shows_the_way_with_shapes_and_writes_nothing(run, tmp_path, volume_weights):
    image = volume(tmp_path / "case.nii.gz", spacing_mm=(1.0, 1.0, 2.0))
    result = run("segment", image, "-o", tmp_path / "out", "--model", "unet", "--weights", volume_weights, "--explain")
    assert result.exit_code == 0 and not (tmp_path / "out").exists()
    for word in ("read", "resample", "restore", "decide", "write", "16", "32"):  # 16 slices of 2 mm become 32 of 1 mm
        assert word in result.stdout


def test_quiet_says_nothing_and_json_says_all_on_stdout(run, tmp_path, picture_weights):
    image = picture(tmp_path / "case.png")
    words = ["segment", image, "--model", "unet", "--weights", picture_weights, "-o"]
    quiet = run(*words, tmp_path / "a", "--quiet")
    assert (quiet.exit_code, quiet.stdout, quiet.stderr) == (0, "", "")
    loud = run(*words, tmp_path / "b", "--json")
    assert document(loud)["cases"][0]["name"] == "case" and "case" in loud.stderr
    both = run(*words, tmp_path / "c", "--json", "--quiet")
    assert document(both)["cases"][0]["state"] == "done" and both.stderr == ""


def test_a_terminal_sees_one_line_and_no_traceback(tmp_path):
    bad = tmp_path / "case.nii.gz"
    bad.write_text("no image")
    words = ["segment", str(bad), "-o", str(tmp_path / "out"), "--task", "nuclie"]
    done = subprocess.run([sys.executable, "-m", "vesalius", *words], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: ") and "Did you mean 'nuclei'" in done.stderr


def test_a_program_ended_by_its_scheduler_leaves_nothing_half_written(tmp_path, picture_weights):
    program = """
import os, signal
from vesalius.apps.cli import main
from vesalius.core.atomic import atomic
from vesalius.pipeline import segment as room

def ended(mask, path, **_):
    with atomic(path) as part:
        part.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGTERM)

room.write = ended
main()
"""
    image, out = picture(tmp_path / "case.png"), tmp_path / "out"
    words = ["segment", str(image), "-o", str(out), "--model", "unet", "--weights", str(picture_weights)]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 130 and done.stderr.startswith("interrupted: nothing half-written is left")
    assert not [path for path in out.rglob("*") if path.is_file()]


# --- evaluate -----------------------------------------------------------------------------------------------------


def test_evaluate_scores_pairs_and_writes_three_files(run, tmp_path):
    for i in range(3):
        mask_volume(tmp_path / "ref" / f"case{i}.nii.gz")
        mask_volume(tmp_path / "pred" / f"case{i}.nii.gz")
    words = ["evaluate", tmp_path / "pred", tmp_path / "ref", "-o", tmp_path / "out", "--labels", "1=front,2=back", "--json"]
    found = document(run(*words))
    assert len(found["cases"]) == 3 and set(found["summary"]) == {"front", "back"}
    assert {key: found["summary"]["front"]["dice"][key] for key in ("mean", "low", "high")} == {"mean": 1, "low": 1, "high": 1}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"scores.csv", "summary.json", "report.html"}
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == found


def test_evaluate_scores_a_missing_prediction_as_empty_and_ends_in_1(run, tmp_path):
    for i in range(2):
        mask_volume(tmp_path / "ref" / f"case{i}.nii.gz")
    mask_volume(tmp_path / "pred" / "case0.nii.gz")
    result = run("evaluate", tmp_path / "pred", tmp_path / "ref", "--json")
    assert result.exit_code == 1 and "case1" in result.stderr
    found = document(result)
    assert found["missing"] == ["case1"] and found["summary"]["1"]["dice"]["mean"] == 0.5


def test_evaluate_names_predictions_without_a_reference(run, tmp_path):
    for name in ("pred/a", "pred/typo", "ref/a"):
        mask_volume(tmp_path / f"{name}.nii.gz")
    said = run("evaluate", tmp_path / "pred", tmp_path / "ref")
    assert said.exit_code == 0 and "Predictions without a reference, in no mean: typo." in said.stdout + said.stderr


def test_evaluate_counts_objects_with_instances(run, tmp_path):
    ref, pred = mask_volume(tmp_path / "ref.nii.gz", values=(1, 2)), mask_volume(tmp_path / "pred.nii.gz", values=(1,))
    found = document(run("evaluate", pred, ref, "--instances", "--json"))
    (metrics,) = found["summary"].values()
    assert metrics["f1"]["mean"] == pytest.approx(2 / 3)  # one of two found, none invented


@pytest.mark.parametrize("labels", ["one", "1=a,1=b", "=a", "-1=a"])
def test_evaluate_refuses_labels_it_cannot_read(labels, run, tmp_path):
    mask = mask_volume(tmp_path / "mask.nii.gz")
    result = run("evaluate", mask, mask, "--labels", labels)
    assert result.exit_code == 2 and "1=anterior,2=posterior" in result.stderr and result.stderr.count("\n") == 1


# --- train --------------------------------------------------------------------------------------------------------


def dataset(folder, cases=5):
    for i in range(cases):
        picture(folder / "images" / f"case{i}.png", size=(48, 48), seed=i)
        picture(folder / "masks" / f"case{i}.png", size=(48, 48), seed=0, mode="1")
    return folder


@pytest.fixture(scope="module")
def trained(run, tmp_path_factory):
    """A run of one epoch on five pictures: (run folder, dataset, result)."""
    folder = tmp_path_factory.mktemp("train")
    data = dataset(folder / "data")
    recipe = folder / "short.toml"
    recipe.write_text("steps_per_epoch = 4\nbatch = 2\n")
    words = ["train", data, "-o", folder / "run", "--epochs", 1, "--workers", 0, "--recipe", recipe, "--seed", 3, "--json"]
    return folder / "run", data, run(*words)


def test_train_leaves_weights_plan_metrics_and_report(trained):
    folder, _, result = trained
    assert result.exit_code == 0, (result.stderr, result.exception)
    for name in ("weights.safetensors", "plan.toml", "metrics.jsonl", "report.html"):
        assert (folder / name).stat().st_size > 0
    (summary,) = json.loads(result.stdout)
    assert summary["steps"] == 4 and 0 <= summary["dice"] <= 1


def test_what_was_trained_can_segment(trained, run, tmp_path):
    folder, data, _ = trained
    result = run("segment", data / "images", "-o", tmp_path / "out", "--model", folder, "--json")
    assert [case["state"] for case in document(result)["cases"]] == ["done"] * 5
    assert run("evaluate", tmp_path / "out", data / "masks", "--quiet").exit_code == 0


def test_an_existing_run_is_refused_unless_resumed(trained, run):
    folder, data, _ = trained
    before = (folder / "weights.safetensors").read_bytes()
    result = run("train", data, "-o", folder, "--epochs", 1, "--workers", 0)
    assert result.exit_code == 2 and "--resume" in result.stderr
    assert (folder / "weights.safetensors").read_bytes() == before
    resumed = run("train", data, "-o", folder, "--epochs", 2, "--workers", 0, "--resume", "--json")
    assert resumed.exit_code == 0 and json.loads(resumed.stdout)[0]["steps"] == 8


def test_plan_only_stops_at_the_plan_and_an_edited_plan_is_followed(run, tmp_path):
    data = dataset(tmp_path / "data")
    assert run("train", data, "-o", tmp_path / "look", "--plan-only").exit_code == 0
    assert not (tmp_path / "look" / "weights.safetensors").exists()
    plan = (tmp_path / "look" / "plan.toml").read_text()
    assert "steps_per_epoch" in plan
    lines = ["steps_per_epoch = 2" if line.startswith("steps_per_epoch") else line for line in plan.splitlines()]
    (tmp_path / "edited.toml").write_text("\n".join(lines))
    words = ["train", data, "-o", tmp_path / "run", "--plan", tmp_path / "edited.toml", "--epochs", 1, "--workers", 0, "--json"]
    result = run(*words)
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)[0]["steps"] == 2


def test_train_takes_steps_precision_and_half_weights(trained, run, tmp_path):
    from safetensors import safe_open

    _, data, _ = trained
    (tmp_path / "tiny.toml").write_text("batch = 2\n[model]\nwidths = [4, 8]\n")
    words = ["train", data, "-o", tmp_path / "run", "--recipe", tmp_path / "tiny.toml", "--steps", 3, "--workers", 0, "--half"]
    result = run(*words, "--precision", "fp32", "--json")
    assert json.loads(result.stdout)[0]["steps"] == 3 and 'precision = "fp32"' in (tmp_path / "run" / "plan.toml").read_text()
    with safe_open(tmp_path / "run" / "weights.safetensors", "np") as weights:
        assert {str(weights.get_tensor(key).dtype) for key in weights.keys()} == {"float16"}  # noqa: SIM118
    assert run("segment", data / "images", "-o", tmp_path / "out", "--model", tmp_path / "run", "--quiet").exit_code == 0


# --- the small verbs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [("models",), ("models", "list"), ("tasks",), ("tasks", "list")])
def test_catalogs_are_listed(words, run):
    names = {each["name"] for each in document(run(*words, "--json"))}
    assert names >= ({"unet"} if words[0] == "models" else {"nuclei", "hippocampus"})
    shown = run(*words)
    assert shown.exit_code == 0 and all(name in shown.stdout for name in names)


SHOWN = [(("models", "show", "unet"), "1505.04597"), (("tasks", "show", "hippocampus"), "anterior")]


@pytest.mark.parametrize("words, says", SHOWN)
def test_an_entry_is_shown_and_a_wrong_name_gets_the_nearest(words, says, run):
    assert says in run(*words).stdout and document(run(*words, "--json"))["name"] == words[2]
    wrong = run(*words[:2], words[2] + "x")
    assert wrong.exit_code == 2 and f"did you mean '{words[2]}'" in wrong.stderr.lower()


def test_the_version_is_printed(run):
    assert run("--version").stdout.strip() == "vesalius 0.1.0"


def test_doctor_finds_this_installation_whole(run):
    result = run("doctor", "--json")
    found = document(result)
    assert found["healthy"], [check for check in found["checks"] if check["state"] == "broken"]
    names = {check["name"] for check in found["checks"]}
    assert {"python", "torch", "processor", "memory", "disk", "device", "extra train"} <= names


def test_doctor_notices_weights_that_were_altered(run, monkeypatch, tmp_path):
    from vesalius.apps import doctor
    from vesalius.tasks.catalog import TASKS
    from vesalius.tasks.task import WeightsSpec

    file = tmp_path / "weights" / "nuclei.safetensors"
    file.parent.mkdir()
    file.write_bytes(b"altered")
    spec = WeightsSpec(file=file.name, sha256="0" * 64, licence="CC0", data="BBBC038")
    monkeypatch.setitem(TASKS, "nuclei", TASKS["nuclei"].model_copy(update={"weights": spec}))
    monkeypatch.setattr(doctor, "PACKAGE", tmp_path)
    monkeypatch.setattr(doctor, "self_test", lambda device: iter(()))
    result = run("doctor", "--json")
    assert result.exit_code == 1 and "weights nuclei" in result.stderr and "altered" in result.stderr
    assert not json.loads(result.stdout)["healthy"]


def test_doctor_names_the_command_that_adds_an_extra(monkeypatch):
    from vesalius.apps import doctor

    monkeypatch.setitem(doctor.EXTRAS, "itk", ("SimpleITK_that_is_not_here",))
    (check,) = [check for check in doctor.examine() if check.name == "extra itk"]
    assert (check.state, check.fix) == ("absent", "pip install 'vesalius[itk]'")


def test_doctor_walks_from_file_to_file(tmp_path, volume_weights, picture_weights):
    from vesalius.apps.doctor import walk

    for dims, weights in ((2, picture_weights), (3, volume_weights)):
        (tmp_path / str(dims)).mkdir()
        assert "on the grid of the image" in walk(tmp_path / str(dims), None, dims, "cpu", weights=weights)
