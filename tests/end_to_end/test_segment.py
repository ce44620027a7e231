"""The hallway on real images and trained weights, and what a folder run promises."""

import errno
import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from scipy import ndimage
from specimens import picture, save_tiny, volume

from vesalius.core.errors import ChannelError, GeometryError, InputError, OutputError
from vesalius.core.labels import Label, Labels
from vesalius.io.files import read, read_mask
from vesalius.pipeline import segment as room
from vesalius.pipeline.explain import explain
from vesalius.pipeline.predictor import load
from vesalius.pipeline.segment import SegmentOptions, segment, segment_image
from vesalius.pipeline.tiled import tiled
from vesalius.tasks.catalog import TASKS
from vesalius.tasks.decide import Argmax, Regions, decide
from vesalius.transforms.clean import KeepLargest, RemoveSmall
from vesalius.transforms.intensity import Percentile
from vesalius.transforms.spatial import CropForeground, Resample, prepare

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MRI = next((EXAMPLES / "hippocampus" / "images").glob("*.nii.gz"))
NUCLEI = EXAMPLES / "nuclei" / "images" / "fluorescence.png"


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def test_streamed_bf16_decides_as_the_whole_volume_in_fp32():
    image = read(MRI)
    exact = load("hippocampus", device="cpu", precision="fp32")
    small, restore = prepare(image, exact.task.steps)
    slabs = tiled(exact.models, small.array, patch=exact.task.inference.patch, flips=exact.task.inference.flips, precision="fp32")
    whole = np.concatenate([slab for _, slab in slabs], axis=1)
    want = decide(restore.scores(whole), exact.task.decide, exact.task.labels.values)
    plain = segment_image(image, exact).mask.array
    np.testing.assert_array_equal(plain, want)
    fast = segment_image(image, load("hippocampus", device="cpu", precision="bf16")).mask.array
    assert (fast == want).mean() >= 0.999
    for label in (1, 2):
        assert dice(fast == label, want == label) > 0.99


@pytest.mark.parametrize("task, path", [("hippocampus", MRI), ("nuclei", NUCLEI)])
def test_the_shipped_tasks_find_what_is_there(task, path, tmp_path):
    summary = segment(path, tmp_path, task=task, device="cpu", report=False)
    mask = read_mask(summary.cases[0].mask, like=read(path))
    reference = read_mask(next((path.parents[1] / "labels").glob(f"{path.name.split('.')[0]}.*")))
    assert dice(mask.array > 0, reference.array > 0) > 0.8
    assert summary.cases[0].objects is None if task == "hippocampus" else summary.cases[0].objects > 1


def test_memory_that_is_allowed_does_not_change_the_mask(volume_weights, tmp_path):
    image = read(volume(tmp_path / "case.nii.gz", size=(40, 36, 50)))
    predictor = load("unet", weights=volume_weights, device="cpu", precision="fp32")
    roomy = segment_image(image, predictor)
    tight = segment_image(image, predictor, room.SegmentOptions(max_ram=2_600_000))
    np.testing.assert_array_equal(tight.mask.array, roomy.mask.array)
    with pytest.raises(InputError, match=r"--max-ram"):
        segment_image(image, predictor, room.SegmentOptions(max_ram=600_000))
    with pytest.raises(InputError, match=r"--max-ram"):
        segment_image(image, predictor, room.SegmentOptions(max_ram=1000))


def test_a_grey_picture_is_repeated_for_an_rgb_model_and_that_is_said(picture_weights, tmp_path):
    predictor = load("unet", weights=picture_weights, device="cpu", precision="fp32")
    grey = read(picture(tmp_path / "grey.png", mode="L"))
    colour = read(picture(tmp_path / "colour.png", mode="RGB"))
    found = segment_image(grey, predictor)
    assert any("repeated" in note for note in found.notes)
    np.testing.assert_array_equal(found.mask.array, segment_image(colour, predictor).mask.array)


def test_other_channels_than_the_model_wants_are_an_error(volume_weights, tmp_path):
    with pytest.raises(ChannelError, match=r"3 channels.*wants 1 \(MRI\)"):
        segment(picture(tmp_path / "case.png"), tmp_path / "out", model="unet", weights=volume_weights, device="cpu")


@pytest.mark.parametrize("name", ["flat.nii.gz", "sagittal.nii.gz", "slice.dcm"])
def test_a_lone_slice_is_refused_by_a_task_of_volumes(name, volume_weights, tmp_path):
    from specimens import dicom_series

    if name.endswith(".dcm"):
        case = next(iter(dicom_series(tmp_path / "series", slices=1).iterdir())).rename(tmp_path / name)
    else:
        case = volume(tmp_path / name, size=(20, 18, 1) if name.startswith("flat") else (1, 20, 18))
    with pytest.raises(GeometryError, match=rf"{name}: this is a single slice.*volumes.*Give the whole volume"):
        segment(case, tmp_path / "out", model="unet", weights=volume_weights, device="cpu")
    assert not (tmp_path / "out").exists()


def test_a_volume_given_to_a_task_of_pictures_is_segmented_slice_by_slice_and_that_is_said(picture_weights, tmp_path):
    import tifffile

    pages = np.random.default_rng(0).integers(0, 255, (3, 32, 40), np.uint8)
    tifffile.imwrite(tmp_path / "stack.tif", pages, photometric="minisblack")
    predictor = load("unet", weights=picture_weights, device="cpu", precision="fp32")
    found = segment_image(read(tmp_path / "stack.tif"), predictor)
    assert any("each of its 3 slices" in note for note in found.notes)
    tifffile.imwrite(tmp_path / "second.tif", pages[1], photometric="minisblack")
    np.testing.assert_array_equal(found.mask.array[1], segment_image(read(tmp_path / "second.tif"), predictor).mask.array[0])


def test_slices_of_a_volume_are_prepared_cleaned_and_kept_as_the_pictures_that_they_are(tmp_path):
    import nibabel

    steps = (Resample(spacing_mm=(5.0, 1.0, 1.0)), Percentile())  # the first of a picture's three sizes means nothing
    weights = save_tiny(tmp_path / "tiny.safetensors", dims=2, channels=("grey",), steps=steps)
    predictor = load("unet", weights=weights, device="cpu", precision="fp32")
    limits = (RemoveSmall(min_area_px=9), KeepLargest())
    predictor = replace(predictor, task=predictor.task.model_copy(update={"clean": limits}))
    case = volume(tmp_path / "case.nii.gz", size=(30, 28, 4), spacing_mm=(0.8, 0.8, 2.0))
    voxels = np.asarray(nibabel.load(case).dataobj) // np.array([1, 8, 1, 1])  # one slice is eight times as dark
    volume(case, size=(30, 28, 4), spacing_mm=(0.8, 0.8, 2.0), values=voxels)
    found = segment_image(read(case), predictor, probabilities=tmp_path / "scores.nii.gz")
    scores = nibabel.load(tmp_path / "scores.nii.gz").get_fdata()
    assert found.mask.grid.same_as(read(case).grid) and scores.shape == (30, 28, 4, 3)
    np.testing.assert_allclose(scores.sum(axis=3), 1, atol=2e-3)
    for z in range(4):
        page = volume(tmp_path / f"{z}.nii.gz", size=(30, 28, 1), spacing_mm=(0.8, 0.8, 2.0), values=voxels[:, :, z : z + 1])
        alone = segment_image(read(page), predictor, probabilities=tmp_path / f"scores_{z}.npz")
        np.testing.assert_array_equal(found.mask.array[z], alone.mask.array[0])
        kept = np.load(tmp_path / f"scores_{z}.npz")["probabilities"][:, 0]
        np.testing.assert_allclose(scores[:, :, z].T, kept, atol=1e-3)


def test_objects_are_numbered_on_from_slice_to_slice(tmp_path):
    import tifffile

    grey = np.asarray(Picture.open(NUCLEI).convert("L"))[:128, :128] * np.uint16(200)
    tifffile.imwrite(tmp_path / "stack.tif", np.stack([grey, grey // 10, 0 * grey, grey]), photometric="minisblack")
    found = segment_image(read(tmp_path / "stack.tif"), load("nuclei", device="cpu", precision="fp32"))
    first, dark, empty, last = (set(np.unique(page)) - {0} for page in found.mask.array)
    assert len(first) > 1 and not empty and len(dark) == len(first)  # each by its own grey values
    assert first | dark | last == set(range(1, len(first) + len(dark) + len(last) + 1)) and len(last) == len(first)


def test_numbered_pictures_that_become_the_channels_of_one_are_told(picture_weights, tmp_path):
    for i in range(3):
        picture(tmp_path / "in" / f"cell_{i:04d}.png", mode="L", seed=i)
    summary = segment(tmp_path / "in", tmp_path / "out", model="unet", weights=picture_weights, device="cpu", report=False)
    assert [case.name for case in summary.cases] == ["cell"]
    assert "_0000 to _0002 are read as the channels red, green, blue of one case" in summary.notes[0]


def test_names_as_long_as_a_disk_takes_them_are_written(picture_weights, tmp_path):
    long = (picture(tmp_path / "in" / f"{'x' * 240}.png"), picture(tmp_path / "in" / f"a.{'ä' * 110}.png"))
    given = {"model": "unet", "weights": picture_weights, "device": "cpu", "overlays": True}
    segment(tmp_path / "in", tmp_path / "out", **given)
    assert {file.name for file in (tmp_path / "out").glob("*.png")} == {file.name for file in long}


def test_a_chosen_series_is_the_one_case_wherever_in_the_study_it_lies(volume_weights, tmp_path):
    from specimens import dicom_series

    dicom_series(tmp_path / "study" / "first", series="1.2.3.1")
    dicom_series(tmp_path / "study" / "second", slices=6, series="1.2.3.2")
    given = {"model": "unet", "weights": volume_weights, "device": "cpu", "report": False}
    summary = segment(tmp_path / "study", tmp_path / "out", series="1.2.3.2", **given)
    assert [(case.name, case.state, case.shape[0]) for case in summary.cases] == [("study", "done", 6)]
    with pytest.raises(InputError, match="no such"):
        segment(tmp_path / "nowhere", tmp_path / "other", series="1.2.3.2", **given)


def test_what_was_made_with_other_options_is_not_replaced_unless_allowed(picture_weights, tmp_path):
    given = {"model": "unet", "weights": picture_weights, "device": "cpu"}
    case, out = picture(tmp_path / "case.png"), tmp_path / "out"
    assert segment(case, out, **given).cases[0].state == "done"
    assert segment(case, out, **given).cases[0].state == "skipped"
    before = (out / "case.png").read_bytes()
    with pytest.raises(OutputError, match="--overwrite"):
        segment(case, out, overlap=0.25, **given)
    assert (out / "case.png").read_bytes() == before
    assert segment(case, out, overlap=0.25, overwrite=True, **given).cases[0].state == "done"
    picture(case, seed=5)
    with pytest.raises(OutputError, match="--overwrite"):
        segment(case, out, overlap=0.25, **given)


@pytest.mark.parametrize("suffix", [".png", ".nii.gz"])
def test_pictures_asked_for_later_are_drawn_without_segmenting_again(suffix, picture_weights, volume_weights, tmp_path):
    flat = suffix == ".png"
    case = picture(tmp_path / "case.png") if flat else volume(tmp_path / "case.nii.gz")
    given = {"model": "unet", "weights": picture_weights if flat else volume_weights, "device": "cpu"}
    assert segment(case, tmp_path / "out", report=False, **given).cases[0].overlay is None
    (again,) = segment(case, tmp_path / "out", overlays=True, **given).cases
    assert again.state == "skipped" and again.overlay.is_file()
    assert "data:image/png" in (tmp_path / "out" / "report.html").read_text()
    at_once = segment(case, tmp_path / "at_once", overlays=True, **given).cases[0].overlay
    assert again.overlay.read_bytes() == at_once.read_bytes()


def test_a_mask_that_somebody_else_made_is_never_replaced_silently(picture_weights, tmp_path):
    case = picture(tmp_path / "case.png")
    theirs = picture(tmp_path / "out" / "case.png", seed=9).read_bytes()
    with pytest.raises(OutputError, match="already"):
        segment(case, tmp_path / "out", model="unet", weights=picture_weights, device="cpu")
    assert (tmp_path / "out" / "case.png").read_bytes() == theirs


def test_a_run_that_broke_goes_on_where_it_stopped(picture_weights, tmp_path, monkeypatch):
    for i in range(3):
        picture(tmp_path / "in" / f"case_{i}.png", seed=i)
    given = {"model": "unet", "weights": picture_weights, "device": "cpu"}
    real, calls = room.write, []

    def breaks(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(room, "write", breaks)
    with pytest.raises(KeyboardInterrupt):
        segment(tmp_path / "in", tmp_path / "out", **given)
    monkeypatch.setattr(room, "write", real)
    summary = segment(tmp_path / "in", tmp_path / "out", **given)
    assert [case.state for case in summary.cases] == ["skipped", "done", "done"]
    html = summary.report.read_text()
    assert html.count("<figure>") == 3, "the report of a resumed run shows the earlier cases too"


@pytest.mark.parametrize("place, state", [("overlay", "skipped"), ("Outputs.note", "done")])
@pytest.mark.parametrize("broken", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_a_run_that_broke_after_a_mask_was_written_goes_on(place, state, broken, picture_weights, tmp_path, monkeypatch):
    for i in range(2):
        picture(tmp_path / "in" / f"case_{i}.png", seed=i)
    given = {"model": "unet", "weights": picture_weights, "device": "cpu", "overlays": True}

    def breaks(*_, **__):
        raise broken

    with monkeypatch.context() as patch:
        patch.setattr(f"vesalius.pipeline.segment.{place}", breaks)
        with suppress(KeyboardInterrupt):
            segment(tmp_path / "in", tmp_path / "out", **given)
    summary = segment(tmp_path / "in", tmp_path / "out", **given)
    assert summary.cases[0].state == state and not summary.failed
    assert {path.name for path in (tmp_path / "out" / "overlays").iterdir()} == {"case_0.png", "case_1.png"}
    assert summary.report.read_text().count("<figure>") == 2


def test_a_run_killed_between_a_mask_and_its_note_goes_on(picture_weights, tmp_path, monkeypatch):
    given = {"model": "unet", "weights": picture_weights, "device": "cpu"}
    case, out = picture(tmp_path / "case.png"), tmp_path / "out"
    once, twice = tmp_path / "killed once", tmp_path / "killed twice"  # what the folder holds when kill -9 strikes
    write, segment_image = room.write, room.segment_image
    monkeypatch.setattr(room, "write", lambda *a, **k: (write(*a, **k), copytree(out, once, dirs_exist_ok=True)))
    segment(case, out, **given)
    monkeypatch.setattr(room, "write", write)
    monkeypatch.setattr(room, "segment_image", lambda *a, **k: (copytree(once, twice), segment_image(*a, **k))[1])
    states = [segment(case, once, **given).cases[0].state]
    monkeypatch.undo()
    states += [segment(case, folder, **given).cases[0].state for folder in (once, twice)]
    assert states == ["done", "skipped", "done"]
    assert (twice / "case.png").read_bytes() == (out / "case.png").read_bytes()


def test_masks_of_a_version_that_made_others_are_not_taken_for_done(picture_weights, tmp_path, monkeypatch):
    given = {"model": "unet", "weights": picture_weights, "device": "cpu"}
    case, out = picture(tmp_path / "case.png"), tmp_path / "out"
    segment(case, out, **given)
    monkeypatch.setattr(room, "RESULTS", room.RESULTS + 1)
    with pytest.raises(OutputError, match="by another version"):
        segment(case, out, **given)
    assert segment(case, out, overwrite=True, **given).cases[0].state == "done"


def test_a_replacement_that_breaks_is_not_taken_for_done(picture_weights, tmp_path, monkeypatch):
    given = {"model": "unet", "weights": picture_weights, "device": "cpu"}
    case, out = picture(tmp_path / "case.png"), tmp_path / "out"
    segment(case, out, **given)

    def breaks(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(room, "write", breaks)
    with pytest.raises(KeyboardInterrupt):
        segment(case, out, overlap=0.25, overwrite=True, **given)
    monkeypatch.undo()
    with pytest.raises(OutputError, match="--overwrite"):
        segment(case, out, **given)


@pytest.mark.parametrize("task, own", [("hippocampus", TASKS["hippocampus"].inference.flips), ("nuclei", ())])
def test_flips_are_the_tasks_own_or_as_asked_for(task, own):
    record = TASKS[task].model_copy(update={"inference": TASKS[task].inference.model_copy(update={"flips": own})})
    every = (1, 2) if record.dims == 2 else (0, 1, 2)
    assert room.flips_of(record, None) == own
    assert room.flips_of(record, False) == ()
    assert room.flips_of(record, True) == (own or every)


def test_mirrored_images_are_not_averaged_where_labels_tell_left_from_right():
    sides = Labels((Label(1, "Left-Hippocampus"), Label(2, "Right-Hippocampus")))
    task = TASKS["hippocampus"]
    alone = task.inference.model_copy(update={"flips": ()})
    with pytest.raises(InputError, match="tell left from right"):
        room.flips_of(task.model_copy(update={"labels": sides, "inference": alone}), True)
    assert room.flips_of(task.model_copy(update={"labels": sides}), True) == task.inference.flips  # as its plan says


def test_a_fault_of_ours_in_one_case_is_listed_and_the_others_are_done(picture_weights, tmp_path, monkeypatch):
    for i in range(3):
        picture(tmp_path / "in" / f"case_{i}.png", seed=i)
    real = room.segment_image

    def falters(image, *args, **kwargs):
        if image.name == "case_1":
            raise RuntimeError("surprise")
        return real(image, *args, **kwargs)

    monkeypatch.setattr(room, "segment_image", falters)
    summary = segment(tmp_path / "in", tmp_path / "out", model="unet", weights=picture_weights, device="cpu")
    assert [case.state for case in summary.cases] == ["done", "failed", "done"]
    assert "internal error: RuntimeError: surprise" in summary.failed[0].error
    assert not (tmp_path / "out" / "case_1.png").exists()


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "SAR"])
def test_probabilities_lie_on_the_image_and_decide_as_the_mask(orientation, volume_weights, tmp_path):
    import nibabel

    made = nibabel.load(volume(tmp_path / "plain.nii.gz", size=(30, 26, 22)))
    turned = made.as_reoriented(nibabel.orientations.axcodes2ornt(tuple(orientation)))
    nibabel.save(turned, tmp_path / "case.nii.gz")
    given = {"weights": volume_weights, "device": "cpu", "precision": "fp32"}
    summary = segment(tmp_path / "case.nii.gz", tmp_path / "out", model="unet", save_probabilities=True, **given)
    kept = nibabel.load(summary.cases[0].probabilities)
    shares = kept.get_fdata()
    mask = nibabel.load(summary.cases[0].mask)
    np.testing.assert_allclose(kept.affine, mask.affine, atol=1e-4)
    np.testing.assert_allclose(shares.sum(axis=3), 1, atol=5e-3)
    first, second = np.sort(shares, axis=3)[..., ::-1][..., :2].transpose(3, 0, 1, 2)
    clear = first - second > 2e-3
    np.testing.assert_array_equal(shares.argmax(axis=3)[clear], np.asarray(mask.dataobj)[clear])
    assert clear.mean() > 0.9


@pytest.mark.parametrize("rule", [Argmax(), Regions()], ids=lambda rule: rule.kind)
@pytest.mark.parametrize("first", ["crop", "resample"])
def test_what_is_cropped_away_is_surely_background_whenever_it_is_cropped(first, rule, volume_weights, tmp_path):
    image = read(volume(tmp_path / "case.nii.gz", size=(30, 26, 22)))
    inside = np.zeros(image.grid.shape, bool)
    inside[6:-6, 6:-6, 6:-6] = True
    predictor = load("unet", weights=volume_weights, device="cpu", precision="fp32")
    crop, resample = CropForeground(), Resample(spacing_mm=tuple(1.2 * s for s in image.grid.spacing), average=False)
    steps = (crop, resample) if first == "crop" else (resample, crop)
    count = predictor.task.outputs - (rule.kind == "argmax")
    labels = Labels(tuple(Label(value, f"label {value}") for value in range(1, count + 1)))
    changed = predictor.task.model_copy(update={"steps": steps, "decide": rule, "labels": labels, "clean": ()})
    masked = replace(image, array=np.where(inside, np.abs(image.array) + 1, 0))
    found = segment_image(masked, replace(predictor, task=changed), probabilities=tmp_path / "p.npz")
    shares = np.load(found.probabilities)["probabilities"][:, ~ndimage.binary_dilation(inside, iterations=3)]
    want = np.zeros((len(shares), 1))
    want[0] = rule.kind == "argmax"
    np.testing.assert_allclose(shares, want.repeat(shares.shape[1], 1), atol=1e-3)


def test_progress_rises_to_the_end_with_time_left(volume_weights, tmp_path):
    for i in range(2):
        volume(tmp_path / "in" / f"case_{i}.nii.gz", size=(60, 60, 40), seed=i)
    seen = []
    segment(tmp_path / "in", tmp_path / "out", model="unet", weights=volume_weights, device="cpu", progress=seen.append)
    shares = [(now.index + now.done) / now.count for now in seen]
    assert shares == sorted(shares) and shares[-1] == 1 and len(shares) > 2
    assert all(now.seconds_left >= 0 for now in seen)


def test_the_report_shows_no_more_of_a_patient_than_the_stem(volume_weights, tmp_path):
    from specimens import dicom_series

    study = dicom_series(tmp_path / "study_7")
    summary = segment(study, tmp_path / "out", model="unet", weights=volume_weights, device="cpu", overlays=True)
    html = summary.report.read_text()
    assert "study_7" in html and (tmp_path / "out" / "overlays" / "study_7.png").is_file()
    for secret in ("Nobody", "p1<", str(tmp_path)):
        assert secret not in html
    kept = json.loads((tmp_path / "out" / ".vesalius" / "study_7.json").read_text())
    assert "Nobody" not in json.dumps(kept)


def test_explain_tells_the_tile_that_is_taken_not_the_one_that_was_planned(tmp_path):
    said = explain(MRI, tmp_path / "out", SegmentOptions(task="hippocampus", device="cpu"))
    tiles = next(line for line in said.splitlines() if line.startswith("tiles"))
    voxels, mm = tiles.split("voxels")[0].split()[1::2], tiles.split("(")[2].split(" mm")[0].split(" x ")
    assert voxels == mm, tiles  # the images have 1 mm


def test_explain_runs_no_network(volume_weights, tmp_path, monkeypatch):
    from vesalius.pipeline import explain as words

    case = volume(tmp_path / "case.nii.gz", size=(64, 60, 50))
    sizes = []
    hook = torch.nn.modules.module.register_module_forward_pre_hook(lambda module, given: sizes.append(given[0].numel()))
    try:
        said = words.explain(case, tmp_path / "out", room.SegmentOptions(model="unet", weights=volume_weights, device="cpu"))
    finally:
        hook.remove()
    assert max(sizes, default=0) <= 8 * 16**3, "no more than the small tile on which memory is counted"
    for word in ("50 x 60 x 64 voxels", "resample", "tiles", "x", "mm", "case.nii.gz"):
        assert word in said
    assert not (tmp_path / "out").exists()


def test_a_task_and_a_model_together_are_refused_in_python_too(tmp_path):
    with pytest.raises(InputError, match=r"both a task \('nuclei'\) and a model \('runs/mine'\)"):
        segment(tmp_path, tmp_path / "out", task="nuclei", model="runs/mine")
    with pytest.raises(InputError, match="both a task"):
        explain(tmp_path, tmp_path / "out", SegmentOptions(task="nuclei", model="unet"))
