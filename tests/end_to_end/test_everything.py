"""`vesalius segment --everything`: a label map and its records; settings by the original's names."""

import json
from pathlib import Path

import numpy as np
import pytest
from flood import FloodPrompter
from two_patches import CORE, LOWER, fine, pixels, refused

from vesalius.io.files import read_mask
from vesalius.pipeline import prompted, rle
from vesalius.pipeline.everything import EverythingOptions
from vesalius.pipeline.session import Session


def test_everything_is_a_label_map_and_its_records(run, flood, case, tmp_path):
    done = fine(run("segment", case, "-o", tmp_path / "out", "--everything", "--json"))
    kept, labels = json.loads((tmp_path / "out/case.json").read_text()), pixels(tmp_path / "out/case.png")
    assert len(kept["records"]) == len(json.loads(done.stdout)["objects"]) == labels.max() > 1
    keys = {"segmentation", "area", "bbox", "predicted_iou", "stability_score", "point_coords", "crop_box"}
    assert all(set(record) == keys for record in kept["records"])
    core = next(i for i, record in enumerate(kept["records"], start=1) if record["area"] == CORE.sum())
    assert np.array_equal(labels == core, CORE)  # smaller masks lie on top
    assert np.array_equal(rle.decode(kept["records"][core - 1]["segmentation"]), CORE)


def test_everything_mode_that_finds_nothing_says_what_no_mask_reached(run, flood, case, tmp_path):
    done = fine(run("segment", case, "-o", tmp_path / "out", "--everything", "--set", "pred_iou_thresh=1"))
    assert "no mask reached pred_iou_thresh=1 and stability_score_thresh=0.95" in " ".join(done.stdout.split())


def test_the_parameters_of_everything_mode_are_set_by_their_names_and_recorded(run, flood, case, tmp_path):
    few = ("--set", "points_per_side=4", "--set", "crop_n_layers=1", "--set", "pred_iou_thresh=0.85")
    fine(run("segment", case, "-o", tmp_path / "few", "--everything", *few))
    fine(run("segment", case, "-o", tmp_path / "many", "--everything"))
    kept = {name: json.loads((tmp_path / name / "case.json").read_text()) for name in ("few", "many")}
    changed = {k: v for k, v in kept["few"]["options"].items() if v != kept["many"]["options"][k]}
    assert changed == {"points_per_side": 4, "crop_n_layers": 1, "pred_iou_thresh": 0.85}
    assert all(record["predicted_iou"] > 0.85 for record in kept["few"]["records"])
    assert {tuple(record["crop_box"]) for record in kept["few"]["records"]} - {(0, 0, 50, 30)}  # crops were looked at
    areas = [{record["area"] for record in kept[name]["records"]} for name in ("few", "many")]
    assert CORE.sum() in areas[1] and CORE.sum() not in areas[0]  # four points a side step over it


SETTINGS = {
    "pred_iou_tresh=0.5": "did you mean 'pred_iou_thresh'",
    "points_per_side": "sets nothing",
    "points_per_side=": "not a whole number",
    "points_per_side=1.5": "not a whole number",
    "points_per_side=0": "from 1 to 512",
    "pred_iou_thresh=88": "from 0 to 1",
    "box_nms_thresh=nan": "out of range",
    "crop_n_layers=40": "from 0 to 5",
    "min_mask_region_area=-1": "out of range",
    "output_mode=coco_rle": "no setting",
}


@pytest.mark.parametrize("word, said", SETTINGS.items())
def test_a_setting_that_means_nothing_is_one_line_and_exit_code_2(run, flood, case, tmp_path, word, said):
    refused(run("segment", case, "-o", tmp_path / "out", "--everything", "--set", word), said)
    assert not (tmp_path / "out").exists()


def test_settings_that_do_not_go_together_or_have_nothing_to_set_are_refused(run, flood, case, tmp_path):
    words = ("segment", case, "-o", tmp_path / "out", "--set", "points_per_side=4")
    refused(run(*words), "--set goes with a prompt")
    refused(run(*words, "--point", "9,17"), "add --everything")
    refused(run(*words, "--everything", "--set", "points_per_side=5"), "set twice")
    more = ("--set", "crop_n_layers=3", "--set", "crop_n_points_downscale_factor=2")
    refused(run(*words, "--everything", *more), "leaves no point in layer 3", "give 8 or more")


def test_a_grid_of_ones_own_is_recorded(flood, case, tmp_path):
    chosen = EverythingOptions(points_per_side=None, point_grids=(np.array([[0.2, 0.6]]),))
    done = prompted.segment_prompted(case, tmp_path / "out", prompted.PromptOptions(everything=chosen, model=flood, cache=False))
    assert json.loads(done.records.read_text())["options"]["point_grids"] == [[[0.2, 0.6]]]


def test_smaller_masks_lie_on_top_of_larger_ones(run, flood, case, tmp_path, monkeypatch):
    records = [{"segmentation": mask, "area": int(mask.sum()), "predicted_iou": 0.9} for mask in (CORE, LOWER | CORE)]
    monkeypatch.setattr("vesalius.pipeline.session.Session.everything", lambda self, **rest: records)
    fine(run("segment", case, "-o", tmp_path / "out", "--everything"))
    assert np.array_equal(pixels(tmp_path / "out/case.png"), 2 * (LOWER | CORE) - CORE)


def test_everything_of_an_empty_picture_is_nothing(run, monkeypatch, case, tmp_path):
    from discs import Discs

    prompter = FloodPrompter()
    prompter.look = lambda picture, cache=None: Discs(picture)
    monkeypatch.setattr(Discs, "full", lambda self, state: -np.inf * (state[:, :1, None] * 0 + 1).expand(-1, *self.size))
    monkeypatch.setattr(prompted, "load_prompter", lambda *what, **rest: prompter)
    fine(run("segment", case, "-o", tmp_path / "out", "--everything"))
    assert json.loads((tmp_path / "out/case.json").read_text())["records"] == []
    assert pixels(tmp_path / "out/case.png").max() == 0


def test_everything_mode_of_our_own_model_finds_nuclei_by_its_own_defaults():
    """By SAM's stability of 0.95 nothing is left: its outlines are softer."""
    example = Path(__file__).parents[2] / "examples" / "nuclei"
    session = Session(example / "images" / "fluorescence.png", "vesalius_mini", cache=False)
    truth = read_mask(example / "labels" / "fluorescence.png").array[0]
    records = session.everything(points_per_side=6)
    right = 0
    for record in records:
        found = record["segmentation"]
        there = np.bincount(truth[found], minlength=2)
        best = int(there[1:].argmax()) + 1
        right += there[best] > 0.5 * (found | (truth == best)).sum()
    assert session.everything_options().stability_score_thresh == 0.8
    assert session.everything_options(stability_score_thresh=0.9).stability_score_thresh == 0.9
    assert right >= 12 and right > 0.6 * len(records)
