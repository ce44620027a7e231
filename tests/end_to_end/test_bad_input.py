"""Every bad input ends with one clear line and exit code 2, and leaves nothing half-written behind."""

import errno
import json
import os

import numpy as np
import pytest
from specimens import dicom_series, mask_volume, picture, save_tiny, volume

from vesalius.transforms.intensity import ZScore


def files_in(folder):
    """Every file below a folder, temporary ones included."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) if folder.exists() else []


def refused(result, *words):
    """Exit code 2, and one line on stderr that says each of `words`."""
    assert result.exit_code == 2, (result.exit_code, result.stderr, result.exception)
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    for word in words:
        assert word.lower() in result.stderr.lower(), f"{word!r} is not said: {result.stderr}"
    return True


def cut(path, keep=0.5):
    """The file without its second half, as a broken transfer leaves it."""
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    return path


def with_value(value):
    def make(path):
        voxels = np.ones((20, 18, 16), np.float32)
        voxels[3, 4, 5] = value
        return volume(path, dtype=np.float32, values=voxels)

    return make


def text(path):
    path.write_text("this is no image\n" * 20)
    return path


def empty(path):
    path.write_bytes(b"")
    return path


def five_channels(path):
    import tifffile

    tifffile.imwrite(path, np.random.default_rng(0).integers(0, 255, (40, 36, 5), dtype=np.uint8), photometric="rgb")
    return path


def dark_16_bit(path):
    from PIL import Image

    Image.fromarray(np.random.default_rng(0).integers(0, 200, (40, 36), np.uint16)).save(path)
    return path


def truncated_dicom(keep):
    def make(path):
        folder = dicom_series(path)
        cut(sorted(folder.iterdir())[1], keep)
        return folder

    return make


BAD_INPUTS = {
    "truncated PNG": ("picture", "case.png", lambda path: cut(picture(path)), ["case.png"]),
    "truncated TIFF": ("picture", "case.tif", lambda path: cut(picture(path)), ["case.tif"]),
    "truncated JPEG": ("picture", "case.jpg", lambda path: cut(picture(path)), ["case.jpg"]),
    "truncated NIfTI": ("volume", "case.nii.gz", lambda path: cut(volume(path)), ["case.nii.gz"]),
    "truncated plain NIfTI": ("volume", "case.nii", lambda path: cut(volume(path)), ["case.nii"]),
    "DICOM cut in its pixels": ("volume", "study", truncated_dicom(0.8), [".dcm"]),
    "DICOM cut before its pixels": ("volume", "study", truncated_dicom(0.6), [".dcm"]),
    "DICOM cut in its header": ("volume", "study", truncated_dicom(0.4), [".dcm"]),
    "text named .nii.gz": ("volume", "case.nii.gz", text, ["case.nii.gz"]),
    "text named .png": ("picture", "case.png", text, ["case.png"]),
    "text named .dcm": ("volume", "case.dcm", text, ["case.dcm"]),
    "zero-byte PNG": ("picture", "case.png", empty, ["case.png", "empty"]),
    "zero-byte NIfTI": ("volume", "case.nii.gz", empty, ["case.nii.gz", "empty"]),
    "NaN voxel": ("volume", "case.nii.gz", with_value(np.nan), ["case.nii.gz", "NaN"]),
    "Inf voxel": ("volume", "case.nii.gz", with_value(np.inf), ["case.nii.gz", "inf"]),
    "1-pixel picture": ("picture", "case.png", lambda path: picture(path, (1, 1)), ["case.png", "pixel"]),
    "1-voxel volume": ("volume", "case.nii.gz", lambda path: volume(path, (1, 1, 1)), ["case.nii.gz"]),
    "five channels for an RGB model": ("picture", "case.tif", five_channels, ["case.tif", "5", "3"]),
    "dark 16-bit picture for a model of 8-bit pictures": ("picture", "case.png", dark_16_bit, ["case.png", "uint16", "8 bits"]),
    "picture without spacing for a model in mm": ("volume", "case.png", lambda path: picture(path, mode="L"), ["case.png"]),
    "unknown suffix": ("picture", "case.xyz", text, ["case.xyz"]),
    "missing file": ("picture", "nowhere.png", lambda path: path, ["nowhere.png"]),
    "missing folder": ("picture", "nowhere", lambda path: path, ["nowhere"]),
    "empty folder": ("picture", "void", lambda path: path.mkdir() or path, ["void"]),
}


@pytest.mark.parametrize("kind", BAD_INPUTS)
def test_segment_refuses(kind, run, tmp_path, picture_weights, volume_weights):
    model, name, make, words = BAD_INPUTS[kind]
    weights = picture_weights if model == "picture" else volume_weights
    bad = make(tmp_path / name)
    assert refused(run("segment", bad, "-o", tmp_path / "out", "--model", "unet", "--weights", weights), *words)
    assert not (tmp_path / "out").exists()  # an empty folder would look like a result


@pytest.mark.parametrize("kind", ["truncated PNG", "zero-byte PNG", "1-pixel picture", "five channels for an RGB model"])
def test_a_bad_case_among_others_is_listed_and_the_others_are_done(kind, run, tmp_path, picture_weights):
    _, name, make, words = BAD_INPUTS[kind]
    picture(tmp_path / "in" / "a_good.png")
    picture(tmp_path / "in" / "z_good.png", seed=1)
    make(tmp_path / "in" / name)
    out = tmp_path / "out"
    result = run("segment", tmp_path / "in", "-o", out, "--model", "unet", "--weights", picture_weights, "--json")
    assert result.exit_code == 1, result.stderr
    assert words[0] in result.stderr
    assert {"a_good.png", "z_good.png"} <= set(files_in(out))
    assert not [file for file in files_in(out) if file.startswith("case") or ".part" in file]
    json.loads(result.stdout)


@pytest.mark.parametrize("bad", ["empty first", "cut first", "missing second", "missing third", "dangling first"])
def test_a_bad_case_of_several_channels_is_listed_and_the_others_are_done(bad, run, tmp_path):
    weights = save_tiny(tmp_path / "w.safetensors", dims=3, channels=("T1", "T2", "PD"), steps=(ZScore(),))
    for case in "abc":
        for channel in range(3):
            volume(tmp_path / "in" / f"{case}_{channel:04d}.nii.gz", size=(12, 12, 12))
    how, which = bad.split()
    file = tmp_path / "in" / f"b_{('first', 'second', 'third').index(which):04d}.nii.gz"
    content = {"empty": b"", "cut": file.read_bytes()[:90]}.get(how)
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    elif how == "dangling":
        file.symlink_to(tmp_path / "nowhere")
    result = run("segment", tmp_path / "in", "-o", tmp_path / "out", "--model", "unet", "--weights", weights, "--json")
    states = {case["name"]: case["state"] for case in json.loads(result.stdout)["cases"]}
    assert result.exit_code == 1 and states == {"a": "done", "b": "failed", "c": "done"}
    assert file.name in result.stderr and "internal" not in result.stderr


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_nothing_behind(call, run, tmp_path, monkeypatch, volume_weights):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    image = volume(tmp_path / "case.nii.gz")
    monkeypatch.setattr(os, call, full)
    assert refused(run("segment", image, "-o", tmp_path / "out", "--model", "unet", "--weights", volume_weights), "disk is full")
    assert files_in(tmp_path / "out") == []


@pytest.mark.parametrize(
    "words, said",
    [
        (["--model", "unett", "--weights", "WEIGHTS"], ["unett", "did you mean 'unet'"]),
        (["--task", "nuclie"], ["nuclie", "did you mean 'nuclei'"]),
        (["--task", "nuclei", "--model", "unet"], ["both a task ('nuclei') and a model ('unet')"]),
        ([], ["nuclei", "hippocampus", "--task", "--model"]),
        (["--model", "unet"], ["--weights"]),
        (["--model", "unet", "--weights", "nowhere.safetensors"], ["nowhere.safetensors"]),
        (["--model", "unet", "--weights", "WEIGHTS", "--max-ram", "lots"], ["lots"]),
    ],
    ids=["unknown model", "unknown task", "both", "neither", "no weights", "missing weights", "unreadable size"],
)
def test_segment_refuses_what_it_cannot_know(words, said, run, tmp_path, picture_weights):
    image = picture(tmp_path / "case.png")
    words = [picture_weights if word == "WEIGHTS" else word for word in words]
    assert refused(run("segment", image, "-o", tmp_path / "out", *words), *said)
    assert files_in(tmp_path / "out") == []


@pytest.fixture
def computed(monkeypatch):
    """The names of the images that went through a network."""
    from vesalius.pipeline import segment as room

    seen, real = [], room.segment_image
    monkeypatch.setattr(room, "segment_image", lambda image, *rest, **more: seen.append(image.name) or real(image, *rest, **more))
    return seen


def two_volumes(path):
    for name in ("a", "b"):
        volume(path / f"{name}.nii.gz")
    return path


CANNOT_HOLD = {
    "a volume as PNG": (lambda path: volume(path / "case.nii.gz"), "png", ["case.nii.gz", "one slice", "this volume has 16"]),
    "volumes as PNG": (two_volumes, "png", ["a.nii.gz", "so it is with all 2 cases"]),
    "a study as PNG": (lambda path: dicom_series(path / "study"), "png", ["study", "this volume has 4"]),
    "a NIfTI as DICOM-SEG": (lambda path: volume(path / "case.nii.gz"), "dicom-seg", ["case.nii.gz", "no DICOM"]),
}


@pytest.mark.parametrize("kind", CANNOT_HOLD)
def test_a_format_that_cannot_hold_the_mask_is_refused_before_anything_is_computed(kind, run, tmp_path, volume_weights, computed):
    make, format, words = CANNOT_HOLD[kind]
    image = make(tmp_path / "in")
    given = ["--model", "unet", "--weights", volume_weights, "--format", format]
    assert refused(run("segment", image, "-o", tmp_path / "out", *given), *words)
    assert computed == [] and not (tmp_path / "out").exists()


def test_a_mask_file_that_cannot_hold_a_volume_is_refused_before_anything_is_computed(run, tmp_path, volume_weights, computed):
    words = ["segment", volume(tmp_path / "case.nii.gz"), "-o", tmp_path / "mask.png", "--model", "unet"]
    assert refused(run(*words, "--weights", volume_weights), "case.nii.gz", "one slice") and computed == []
    assert refused(run(*words, "--weights", volume_weights, "--explain"), "one slice")


def test_a_dicom_without_a_place_is_refused_as_dicom_seg_before_anything_is_computed(run, tmp_path, volume_weights, computed):
    import pydicom

    study = dicom_series(tmp_path / "study")
    for file in study.iterdir():
        one = pydicom.dcmread(file)
        del one.FrameOfReferenceUID
        one.save_as(file)
    words = ["--model", "unet", "--weights", volume_weights, "--format", "dicom-seg"]
    assert refused(run("segment", study, "-o", tmp_path / "out", *words), "study", "no patient space") and computed == []


def test_of_a_mixed_folder_the_volume_is_listed_when_it_is_read_and_the_picture_done(run, tmp_path, picture_weights, computed):
    volume(tmp_path / "in" / "a_volume.nii.gz")
    picture(tmp_path / "in" / "b_picture.jpg")
    words = ["--model", "unet", "--weights", picture_weights, "--format", "png"]
    result = run("segment", tmp_path / "in", "-o", tmp_path / "out", *words)
    assert result.exit_code == 1 and "a_volume.nii.gz: a PNG holds one slice" in result.stderr
    assert computed == ["b_picture"] and "b_picture.png" in files_in(tmp_path / "out")


def test_a_format_that_cannot_hold_what_is_prompted_is_refused_before_the_model_is_loaded(run, tmp_path, monkeypatch):
    from vesalius.pipeline import prompted

    def never(*_, **__):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(prompted, "load_prompter", never)
    words = ["segment", volume(tmp_path / "case.nii.gz"), "--point", "4,5", "--slice", 3, "--format", "png"]
    assert refused(run(*words, "-o", tmp_path / "out"), "case.nii.gz", "one slice") and not (tmp_path / "out").exists()


@pytest.mark.parametrize("out", ["", "mask.png"])
def test_masks_among_the_photographs_are_refused_the_first_time(out, run, tmp_path, picture_weights, computed):
    """The second run took a.png for another image of the name a.jpg."""
    photos = picture(tmp_path / "photos" / "a.jpg").parent
    words = ["segment", photos, "-o", photos / out, "--model", "unet", "--weights", picture_weights]
    assert refused(run(*words), "among the images", "name an output folder of its own") and not computed
    assert [file.name for file in photos.iterdir()] == ["a.jpg"]
    run("segment", photos / "a.jpg", *words[2:], "--no-report")  # one image by its name is another matter
    assert (photos / (out or "a.png")).is_file()


def test_dicom_masks_within_the_folder_of_series_are_refused_the_first_time(run, tmp_path, volume_weights, computed):
    """The second run took their folder for a series, and refused what the first had done."""
    dicom_series(tmp_path / "study" / "a")
    words = ["segment", tmp_path / "study", "-o", tmp_path / "study" / "masks", "--model", "unet", "--weights", volume_weights]
    assert refused(run(*words, "--format", "dicom-seg"), "among the images", "beside that of the images") and not computed


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="there is no place here in which no folder can be made")
@pytest.mark.parametrize("out", ["study", "study/out", "study/out/mask.nii.gz"])
def test_an_output_inside_the_dicom_folder_that_is_read_is_refused_the_first_time(out, run, tmp_path, volume_weights, computed):
    study = dicom_series(tmp_path / "study")
    before = files_in(study)
    words = ["segment", study, "-o", tmp_path / out, "--model", "unet", "--weights", volume_weights]
    assert refused(run(*words), "inside the folder that is read", "beside it") and not computed
    assert files_in(study) == before
    (tmp_path / "link").symlink_to(study)
    assert refused(run(*words[:2], "-o", tmp_path / "link" / "out", *words[4:]), "inside the folder that is read")


def test_an_output_that_cannot_be_made_is_refused(run, tmp_path, picture_weights):
    image, words = picture(tmp_path / "case.png"), ["--model", "unet", "--weights", picture_weights]
    assert refused(run("segment", image, "-o", "/proc/masks", *words), "/proc/masks", "cannot be made")
    assert refused(run("segment", image, "-o", tmp_path / ("x" * 300), *words), "cannot be made")


def test_weights_that_were_cut_short_are_refused(run, tmp_path, picture_weights):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(picture_weights.read_bytes()[:-100])
    image = picture(tmp_path / "case.png")
    assert refused(run("segment", image, "-o", tmp_path / "out", "--model", "unet", "--weights", broken), "broken.safetensors")


def test_two_series_in_a_folder_are_listed_until_one_is_chosen(run, tmp_path, volume_weights):
    folder = dicom_series(tmp_path / "study", series="1.2.3.4441")
    dicom_series(folder, series="1.2.3.4442", start_mm=50)
    words = ["segment", folder, "-o", tmp_path / "out", "--model", "unet", "--weights", volume_weights]
    assert refused(run(*words), "1.2.3.4441", "1.2.3.4442", "--series")
    assert refused(run(*words, "--series", "1.2.3.9"), "1.2.3.9")
    assert files_in(tmp_path / "out") == []
    assert run(*words, "--series", "1.2.3.4442").exit_code == 0
    assert "study.nii.gz" in files_in(tmp_path / "out")


# --- training -----------------------------------------------------------------------------------------------------


def nnunet(folder, cases=4, **strange):
    """An nnU-Net v2 dataset; `strange` replaces the keyword arguments of the last case's image or mask."""
    for i in range(cases):
        last = strange if i == cases - 1 else {}
        volume(folder / "imagesTr" / f"case{i}_0000.nii.gz", seed=i, **last.get("image", {}))
        mask_volume(folder / "labelsTr" / f"case{i}.nii.gz", **last.get("mask", {}))
    record = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "first": 1, "second": 2},
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(record))
    return folder


def paired(folder, cases=4):
    """Pictures with masks of their stem."""
    for i in range(cases):
        picture(folder / "images" / f"case{i}.png", seed=i)
        picture(folder / "masks" / f"case{i}.png", mode="1")
    return folder


def spacing_missing_in_one(folder):
    """Three volumes with a header, and one TIFF volume that knows no millimetres."""
    import tifffile

    for i in range(3):
        volume(folder / "images" / f"case{i}.nii.gz", seed=i)
        mask_volume(folder / "labels" / f"case{i}.nii.gz")
    block = np.zeros((16, 18, 20), np.uint8)
    block[4:12, 4:12, 4:12] = 1
    tifffile.imwrite(folder / "images" / "case3.tif", 3 * block)
    tifffile.imwrite(folder / "labels" / "case3.tif", block)
    return folder


def twice_the_same_name(folder):
    paired(folder)
    picture(folder / "images" / "case1.jpg")
    return folder


def broken_dataset_json(folder):
    nnunet(folder)
    cut(folder / "dataset.json")
    return folder


def mask_missing(folder):
    paired(folder)
    (folder / "masks" / "case2.png").unlink()
    return folder


BAD_DATASETS = {
    "label not in dataset.json": (lambda folder: nnunet(folder, mask={"values": (1, 7)}), ["case3", "7"]),
    "image and mask of different shape": (lambda folder: nnunet(folder, mask={"size": (20, 18, 15)}), ["case3"]),
    "image and mask of different spacing": (lambda folder: nnunet(folder, mask={"spacing_mm": (1.0, 1.0, 3.0)}), ["case3"]),
    "spacing missing in some cases": (spacing_missing_in_one, ["spacing"]),
    "duplicated case names": (twice_the_same_name, ["case1"]),
    "truncated dataset.json": (broken_dataset_json, ["dataset.json"]),
    "mask missing": (mask_missing, ["case2"]),
    "truncated image": (lambda folder: cut(nnunet(folder) / "imagesTr/case2_0000.nii.gz") and folder, ["case2_0000.nii.gz"]),
    "NaN in an image": (lambda folder: with_value(np.nan)(nnunet(folder) / "imagesTr/case1_0000.nii.gz") and folder, ["case1"]),
    "missing folder": (lambda folder: folder, ["dataset"]),
    "empty folder": (lambda folder: folder.mkdir() or folder, ["dataset"]),
}


@pytest.mark.parametrize("kind", BAD_DATASETS)
def test_train_refuses(kind, run, tmp_path):
    make, words = BAD_DATASETS[kind]
    dataset = make(tmp_path / "dataset")
    assert refused(run("train", dataset, "-o", tmp_path / "run", "--epochs", 1, "--workers", 0), *words)
    assert files_in(tmp_path / "run") == []


@pytest.mark.parametrize(
    "words, said",
    [
        (["--model", "unett"], ["unett", "did you mean 'unet'"]),
        (["--recipe", "nucleii"], ["nucleii", "did you mean 'nuclei'"]),
        (["--task", "hipocampus"], ["hipocampus", "did you mean 'hippocampus'"]),
        (["--plan", "nowhere.toml"], ["nowhere.toml"]),
        (["--folds", 3, "--fold", 7], ["7", "fold"]),
        (["--patients", "nowhere.csv"], ["nowhere.csv"]),
        (["--resume"], ["resume"]),
        (["--device", "cuda"], ["cuda"]),
    ],
    ids=["model", "recipe", "task", "plan", "fold", "patients", "nothing to resume", "device"],
)
def test_train_refuses_what_it_cannot_know(words, said, run, tmp_path):
    import torch

    if "cuda" in words and torch.cuda.is_available():
        pytest.skip("this computer has the device")
    dataset = nnunet(tmp_path / "dataset")
    assert refused(run("train", dataset, "-o", tmp_path / "run", "--epochs", 1, "--workers", 0, *words), *said)
    assert files_in(tmp_path / "run") == []


def test_mixed_spacings_are_refused_with_no_resample(run, tmp_path):
    other = {"spacing_mm": (1.0, 1.0, 3.0)}
    dataset = nnunet(tmp_path / "dataset", image=other, mask=other)
    words = ["train", dataset, "-o", tmp_path / "run", "--plan-only"]
    assert refused(run(*words, "--no-resample"), "spacing")
    assert files_in(tmp_path / "run") == []
    assert run(*words).exit_code == 0 and "plan.toml" in files_in(tmp_path / "run")


# --- evaluation ---------------------------------------------------------------------------------------------------


def test_evaluate_refuses_masks_of_different_shape(run, tmp_path):
    pred, ref = mask_volume(tmp_path / "pred.nii.gz"), mask_volume(tmp_path / "ref.nii.gz", size=(20, 18, 15))
    assert refused(run("evaluate", pred, ref, "-o", tmp_path / "out"), "pred.nii.gz")
    assert files_in(tmp_path / "out") == []


@pytest.mark.parametrize("which", ["missing", "empty"])
def test_evaluate_refuses_a_folder_without_references(which, run, tmp_path):
    mask_volume(tmp_path / "pred" / "case.nii.gz")
    if which == "empty":
        (tmp_path / "ref").mkdir()
    assert refused(run("evaluate", tmp_path / "pred", tmp_path / "ref", "-o", tmp_path / "out"), "ref")
    assert files_in(tmp_path / "out") == []


def test_evaluate_refuses_a_case_that_has_two_predictions(run, tmp_path):
    mask_volume(tmp_path / "pred" / "case.nii.gz")
    mask_volume(tmp_path / "pred" / "case.nii")
    mask_volume(tmp_path / "ref" / "case.nii.gz")
    assert refused(run("evaluate", tmp_path / "pred", tmp_path / "ref", "-o", tmp_path / "out"), "case")


def test_evaluate_says_that_many_values_look_like_objects(run, tmp_path):
    ref = volume(tmp_path / "ref.nii.gz", dtype=np.uint8, values=np.arange(20 * 18 * 16).reshape(20, 18, 16) % 60)
    assert "--instances" in run("evaluate", ref, ref).stdout


def test_evaluate_refuses_truncated_masks(run, tmp_path):
    pred, ref = cut(mask_volume(tmp_path / "pred.nii.gz")), mask_volume(tmp_path / "ref.nii.gz")
    assert refused(run("evaluate", pred, ref, "-o", tmp_path / "out"), "pred.nii.gz")
