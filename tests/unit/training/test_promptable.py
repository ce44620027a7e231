"""Training of promptable models: sources become objects, objects become exercises, and a run goes on where it was killed."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Raster

from vesalius.core.errors import DatasetError, InputError, OutputError
from vesalius.models.contract import Answers
from vesalius.models.weights import load_state
from vesalius.pipeline.prompter import load_prompter
from vesalius.pipeline.session import Session
from vesalius.training import exercises as training_exercises
from vesalius.training.exercises import BOX, CLICK, Exercises, distorted, halved, turned
from vesalius.training.gallery import hang, open_sources
from vesalius.training.interactive import first_said, jittered, loss, real_iou, say_more, spot, teach
from vesalius.training.loop import train
from vesalius.training.promptable import Sitting, dice, ellipse, inner_point
from vesalius.training.prompting import Prompting, Source
from vesalius.training.recipe import RECIPES, Recipe, override
from vesalius.training.scenes import patch, shape
from vesalius.training.trainer import Trainer

TINY = """
base = "vesalius_mini"
batch = 4
workers = 0
steps_per_epoch = 2
validate_every = 9
precision = "fp32"
[model]
size = 32
widths = [4, 4, 8, 16]
depths = [0, 0, 1, 0]
blocks = 1
heads = 2
decoder = [4, 4, 8, 8]
[prompting]
size = 32
least_area_px = 12
[sources.superpixels]
share = 0.3
[sources.left_out]
share = 0
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Numbered objects in RGB, two classes in grey, a folder that is left out, and one that is nothing."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for name in ("cells", "classes", "left_out"):
        for folder in ("images", "labels"):
            (root / name / folder).mkdir(parents=True)
        for i in range(4):
            mask = np.zeros((50, 70), np.uint8)
            mask[5:20, 8 + i : 30], mask[25:45, 30 : 60 - i], mask[2:5, 60:63] = 1, 2, 3
            grey = (60 + 50 * mask + rng.normal(0, 8, mask.shape)).clip(0, 255).astype(np.uint8)
            Raster.fromarray(np.stack([grey, grey // 2, grey], -1) if name == "cells" else grey).save(
                root / name / "images" / f"{i}.png"
            )
            Raster.fromarray(mask).save(root / name / "labels" / f"{i}.png")
    (root / "notes").mkdir()
    return root


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    file.write_text(TINY, encoding="utf-8")
    return file


def pictures(root: Path):
    told: list[str] = []
    opened = open_sources(root, override(RECIPES["vesalius_mini"], {"sources": {"left_out": {"share": 0.0}}}), told.append)
    return [picture for each in opened for case in each.cases for picture in hang(each, case, 16)], told


def test_every_folder_that_is_a_data_set_is_a_source_and_the_others_are_named(root):
    found, told = pictures(root)
    assert {each.source for each in found} == {"cells", "classes"} and len(found) == 8
    assert any(line.startswith("left_out: left out") for line in told) and any("not used: notes" in line for line in told)
    assert any("kvasir_seg" in line and "not here" in line for line in told)


def test_objects_are_components_with_their_boxes_and_small_ones_are_left_out(root):
    found, _ = pictures(root)
    first = next(each for each in found if each.name == "cells/2")
    assert [thing.box for thing in first.things] == [(10, 5, 30, 20), (30, 25, 58, 45)]  # the patch of 9 px is none
    assert [thing.label for thing in first.things] == [1, 2]
    assert [int((first.numbers == thing.number).sum()) for thing in first.things] == [thing.area for thing in first.things]


def test_a_volume_gives_slices_along_each_axis_and_the_next_slice_beside(tmp_path):
    import nibabel

    for folder in ("images", "labels"):
        (tmp_path / "v" / folder).mkdir(parents=True)
    mask = np.zeros((20, 24, 22), np.uint8)
    mask[4:12, 6:18, 5:15], mask[12:16, 6:18, 5:15] = 1, 2
    for folder, values in (("images", mask * 90.0), ("labels", mask)):
        nibabel.save(
            nibabel.Nifti1Image(values.astype(np.float32 if folder == "images" else np.uint8), np.eye(4)),
            tmp_path / "v" / folder / "a.nii.gz",
        )
    both = Recipe(sources={"v": Source(objects="both", slices=4)})
    opened = open_sources(tmp_path, both, lambda line: None)[0]
    found = hang(opened, opened.cases[0], 16)
    assert {each.name.split(":")[1][0] for each in found} == {"z", "y", "x"}
    assert any(each.joined for each in found) and any(not each.joined for each in found)
    assert all(each.beside is not None and each.beside.shape == each.numbers.shape for each in found)
    joined = next(each for each in found if each.joined and ":z" in each.name)
    assert len(joined.things) == 1 and joined.things[0].area == 12 * 12


def test_no_data_set_at_all_is_an_error(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="no data set"):
        open_sources(tmp_path, Recipe(), lambda line: None)


def test_cases_that_are_shown_as_never_seen_are_left_out(root):
    recipe = Recipe(sources={"cells": Source(without=("2",)), "classes": Source(share=0), "left_out": Source(share=0)})
    (cells,) = open_sources(root, recipe, lambda line: None)
    assert [case.name for case in cells.cases] == ["cells/0", "cells/1", "cells/3"]


def test_what_the_demo_shows_is_left_out_of_the_recipe():
    shown = {each.without for each in (RECIPES["vesalius_mini"].sources or {}).values()} - {()}
    assert shown == {("7f55678298adb736", "e52960d31f8bddf8"), ("hippocampus_014",)}


def test_drawn_shapes_alone_need_no_data_set_where_the_recipe_says_so(tmp_path):
    sources = {"shapes": Source(made="shapes"), "cells": Source(share=0)}
    assert open_sources(tmp_path, Recipe(sources=sources), lambda line: None) == []
    assert set(Exercises([], sources, Prompting(size=64), seed=0)[3]) == {"image", "target", "box", "earlier", "kind", "side"}


def exercises(root: Path, **changes) -> Exercises:
    return Exercises(pictures(root)[0], {"shapes": Source(made="shapes")}, Prompting(size=64, **changes), seed=1)


def test_an_exercise_depends_on_its_number_alone(root):
    one, other = exercises(root), exercises(root)
    other[3], other[4]
    for key, value in one[7].items():
        assert torch.equal(value, other[7][key]), key
    assert not torch.equal(one[7]["image"], one[8]["image"])


def test_the_box_of_an_exercise_is_that_of_its_object_and_a_click_lies_on_it(root):
    drawn = exercises(root)
    for n in range(30):
        one = drawn[n]
        rows, columns = ((one["target"][0] > 0.5).any(axis).nonzero()[:, 0] for axis in (1, 0))
        x0, y0, x1, y1 = (one["box"] / 2).tolist()
        assert x0 - 1 <= columns[0] <= x0 + 1 and y0 - 1 <= rows[0] <= y0 + 1
        assert x1 - 2 <= columns[-1] <= x1 and y1 - 2 <= rows[-1] <= y1
        assert one["image"].isfinite().all() and abs(float(one["image"].mean())) < 0.2


def test_the_target_lies_on_its_object_however_the_view_is_turned(root):
    drawn = exercises(root, turn_p=0.5)
    for seed in range(30):
        view, _, target, _, _ = drawn._real("classes", BOX, seed % 2 == 0, np.random.default_rng(seed))
        inside = target > 0.5
        core = view[0][inside]
        like = (view[0] - core.median()).abs() < 25  # objects are 50 grey levels from what is around them, noise is 8
        near = torch.nn.functional.max_pool2d(inside[None].float(), 5, 1, 2)[0] > 0
        assert dice((like & near).numpy(), inside.numpy()) > 0.93, seed


def test_a_view_as_stored_is_neither_turned_nor_recoloured(root, monkeypatch):
    called = []
    for name in ("turned", "recoloured"):
        true = getattr(training_exercises, name)
        monkeypatch.setattr(training_exercises, name, lambda *args, name=name, true=true: called.append(name) or true(*args))
    for share, expected in ((1.0, set()), (0.0, {"turned", "recoloured"})):
        called.clear()
        drawn = exercises(root, as_stored=share)
        [drawn[n] for n in range(8)]
        assert set(called) == expected


def test_turns_keep_area_and_all_eight_symmetries_are_drawn():
    seen = {tuple(turned(np.random.default_rng(i), 0.0).round().astype(int).ravel()) for i in range(100)}
    assert len(seen) == 8
    assert all(abs(abs(np.linalg.det(turned(np.random.default_rng(i), 1.0))) - 1) < 1e-6 for i in range(10))


def test_a_distorted_mask_is_another_that_still_means_the_same():
    target = torch.zeros(64, 64)
    target[20:44, 16:50] = 1
    overlaps = []
    for i in range(20):
        moved = distorted(target, np.random.default_rng(i)) > 0.5
        overlaps.append(dice(moved.numpy(), target.numpy() > 0))
    assert 0.5 < np.mean(overlaps) < 0.95


def test_made_up_objects_lie_in_their_picture():
    for i in range(5):
        view, mask = shape(64, np.random.default_rng(i))
        assert view.shape == (3, 64, 64) and view.min() >= 0 and view.max() <= 255 and set(np.unique(mask)) <= {0.0, 1.0}
    view[:, 10:30, 20:50] = 250
    assert any(patch(view, np.random.default_rng(i)) is not None for i in range(5))


def batch(kinds=(BOX, CLICK)) -> dict[str, torch.Tensor]:
    target = torch.zeros(2, 1, 16, 16)
    target[0, 0, 2:9, 3:12], target[1, 0, 8:14, 1:7] = 1, 1
    return {
        "image": torch.randn(2, 3, 32, 32), "target": target, "kind": torch.tensor(kinds), "earlier": torch.zeros(2, 1, 16, 16),
        "box": torch.tensor([[6.0, 4, 24, 18], [2, 16, 14, 28]]), "side": torch.tensor([32, 32]),
    }  # fmt: skip


def answers(logits: torch.Tensor) -> Answers:
    return Answers(logits.expand(-1, 4, -1, -1), torch.full((2, 4), 0.9))


def test_a_box_or_a_click_is_said_first():
    torch.manual_seed(0)
    said = first_said(batch())
    assert said.boxes[0, 2] > 20 and said.boxes[1].eq(0).all()
    assert said.labels.tolist() == [[-1], [1]]
    x, y = said.points[1, 0].tolist()
    assert 2 <= x <= 13 and 16 <= y <= 27


def test_the_next_click_lies_where_the_answer_is_wrong():
    torch.manual_seed(1)
    given = batch()
    logits = torch.full((2, 1, 16, 16), -5.0)
    logits[0] = 5 * (2 * given["target"][0] - 1)
    logits[0, 0, 12:15, 12:15] = 5  # too much here, and all of the second is missing
    for _ in range(10):
        said = first_said(given)
        say_more(said, answers(logits), given["target"], torch.tensor([False, True]))
        assert said.labels[0, 1] in (0, -1) and said.labels[1, 1] in (1, -1)
        assert (said.points[0, 1] >= 24).all() and (said.points[0, 1] <= 30).all()
        assert 2 <= said.points[1, 1, 0] <= 13 and 16 <= said.points[1, 1, 1] <= 27


def test_exercises_of_half_the_size_mean_the_same():
    given = {name: values[0] for name, values in batch().items()}
    half = halved(given)
    assert half["image"].shape == (3, 16, 16) and half["target"].shape == half["earlier"].shape == (1, 8, 8)
    assert float(half["image"].std()) == pytest.approx(float(given["image"].std()), rel=1e-3)
    assert torch.allclose(half["target"].mean(), given["target"].mean())
    assert half["box"].tolist() == [3, 2, 12, 9]


def test_objects_are_shown_as_large_as_in_use(root):
    recipe = override(RECIPES["vesalius_mini"], {"sources": {"shapes": {"share": 0}, "superpixels": {"share": 0}}})
    pictures = [each for opened in open_sources(root, recipe, print) for case in opened.cases for each in hang(opened, case, 12)]
    for click, size, large, expected in ((0, 256, 0, 128), (1, 256, 0, 256), (0, 32, 0, 32), (0, 16, 48, 48), (1, 16, 48, 16)):
        prompting = Prompting(size=size, large=large, click=click, mask=0, box_and_mask=0, wide_p=0, half_p=0)
        samples = Exercises(pictures, {}, prompting, seed=0)
        for one in (samples[i] for i in range(12)):
            assert one["side"] == expected and one["image"].shape == (3, max(size, large), max(size, large)), (click, size)
            assert not one["image"][:, expected:].any() and not one["image"][:, :, expected:].any()
            rows, columns = ((one["target"][0] > 0.5).any(axis).nonzero()[:, 0] for axis in (1, 0))
            assert (one["box"] <= expected).all() and max(rows[-1], columns[-1]) < expected / 2


def test_exercises_of_several_sizes_are_taught_together(monkeypatch):
    seen = []

    def taught(model, batch, computing, count):
        seen.append((tuple(batch["image"].shape), count))
        return batch["kind"].float().mean()

    monkeypatch.setattr("vesalius.training.interactive.taught", taught)
    given = {name: torch.cat([values, values, values]) for name, values in batch((4, 1)).items()}
    given["side"] = torch.tensor([16, 32] * 3)
    assert teach(None, given, None, rounds=1) == 2.5  # 3 of 4 and 3 of 1
    assert seen == [((3, 3, 16, 16), 1), ((3, 3, 32, 32), 1)]
    seen.clear()
    assert teach(None, given | {"side": torch.tensor([32, 32, 32, 16, 32, 24])}, None, rounds=1) == 2.5
    assert seen == [((1, 3, 16, 16), 1), ((1, 3, 24, 24), 1), ((4, 3, 32, 32), 1)]


def test_a_click_is_aimed_at_the_middle_half_of_the_time():
    torch.manual_seed(0)
    region = torch.zeros(200, 16, 16)
    region[:, 2:13, 2:13] = 1
    places, found = spot(region)
    assert found.all()
    near = ((places - 14.5).abs().amax(1) <= 4).float().mean()
    assert 0.45 < near < 0.85
    assert not spot(torch.zeros(1, 16, 16))[1].any()


def test_the_right_answer_costs_little_and_the_best_of_three_counts():
    target = batch()["target"]
    right, wrong = 20 * (2 * target - 1), -20 * (2 * target - 1)
    lone = torch.tensor([True, True])
    perfect = Answers(right.expand(-1, 4, -1, -1), torch.ones(2, 4))
    assert float(loss(perfect, target, lone)) < 1e-3
    mixed = torch.cat([wrong, wrong, right, wrong], 1)
    judged = torch.tensor([[0.0, 0, 1, 0]] * 2)
    assert torch.allclose(real_iou(mixed, target.expand(-1, 4, -1, -1)), judged)
    lowest, fooled = (float(loss(Answers(mixed, iou), target, lone)) for iou in (judged, 1 - judged))
    assert fooled == pytest.approx(lowest + 1, abs=1e-4)
    assert float(loss(Answers(mixed, judged), target, ~lone)) > lowest


def test_boxes_are_jittered_by_a_share_of_their_sides():
    torch.manual_seed(0)
    boxes = torch.tensor([[10.0, 20, 110, 40]]).expand(500, -1)
    off = (jittered(boxes) - boxes).abs()
    assert off[:, [0, 2]].max() < 10.01 and off[:, [1, 3]].max() < 2.01 and 0.3 < (off.amax(1) == 0).float().mean() < 0.6


def test_the_ellipse_and_the_deepest_pixel_of_a_box():
    assert ellipse((20, 30), np.array([4.0, 2, 24, 12])).sum() == pytest.approx(np.pi * 10 * 5, rel=0.03)
    mask = np.zeros((20, 30), bool)
    mask[5:14, 10:25] = True
    x, y = inner_point(mask, (10, 5, 25, 14))
    assert y == 9 and 14 <= x <= 20


def quiet(recipe: Path) -> dict:
    return {"model": "vesalius_mini", "recipe": str(recipe), "quiet": True, "device": "cpu", "say": lambda line: None}


def test_a_killed_run_goes_on_to_the_very_weights_it_would_have_had(root, recipe, tmp_path, monkeypatch):
    whole = train(root, tmp_path / "whole", steps=4, **quiet(recipe))[0]
    step = Trainer.advance

    def killed(self, batch, progress):
        if self.step == 3:
            raise SystemExit("killed")
        return step(self, batch, progress)

    with monkeypatch.context() as patch_, pytest.raises(SystemExit):
        patch_.setattr(Trainer, "advance", killed)
        train(root, tmp_path / "parts", steps=4, **quiet(recipe))
    assert torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=True)["step"] == 2
    plan = tmp_path / "parts" / "plan.toml"
    began = plan.read_text()
    plan.write_text(re.sub(r"(?m)^clip = .*$", "clip = 7.5", began))
    with pytest.raises(InputError, match=r"recipe\.clip was .* when this run began, and is 7\.5"):
        train(root, tmp_path / "parts", resume=True, **(quiet(recipe) | {"recipe": None}))
    plan.write_text(began)
    again = train(root, tmp_path / "parts", resume=True, **(quiet(recipe) | {"model": "unet", "recipe": None}))[0]
    one, other = (load_state(run.weights)[0] for run in (whole, again))
    assert again.steps == whole.steps == 4
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_run_tells_what_it_reached_beside_the_ellipse_and_what_it_learned_from(root, recipe, tmp_path):
    run = train(root, tmp_path / "run", steps=2, **quiet(recipe))[0]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {"dice", "cells/dice", "cells/ellipse", "classes/click"} <= set(lines[-1])
    weights, metadata = load_state(run.weights)
    assert run.weights.stat().st_size < 2.5 * sum(value.numel() for value in weights.values()) + 50_000  # 16 bit
    assert "not stated" in json.loads(metadata["vesalius_views"])["sources"].values() or "CC0" in metadata["vesalius_views"]


def test_what_a_promptable_model_cannot_be_trained_with_is_refused(root, recipe, tmp_path):
    train(root, tmp_path / "run", plan_only=True, **quiet(recipe))
    (tmp_path / "run" / "metrics.jsonl").touch()
    with pytest.raises(OutputError, match="run lies here"):
        train(root, tmp_path / "run", steps=4, **quiet(recipe))
    with pytest.raises(InputError, match="without --folds"):
        train(root, tmp_path / "folds", folds=2, **quiet(recipe))
    with pytest.raises(InputError, match="not trained here"):
        train(root, tmp_path / "sam", **(quiet(recipe) | {"model": "sam"}))


def test_trained_weights_answer_prompts_from_their_file_alone(root, recipe, tmp_path):
    run = train(root, tmp_path / "run", model="vesalius_mini", recipe=str(recipe), steps=1, quiet=True, say=lambda line: None)[0]
    assert load_prompter(run.weights).name == "vesalius_mini"
    session = Session(root / "cells" / "images" / "0.png", run.weights, cache=False)
    found = session.predict(box=(8, 5, 30, 20))
    assert found.shape == (50, 70) and found[12, 18] and not found[40:].any()
    assert session.predict(points=[(40, 35)], details=True).masks.shape == (3, 50, 70)


def test_a_sitting_takes_its_pictures_from_every_source(root):
    held = Sitting(tuple(pictures(root)[0]))
    assert {each.source for each in held.some(2).pictures} == {"cells", "classes"} and len(held.some(3)) == 3
    assert len(held) == 8 and len(Sitting.of(held.pictures, 3)) == 4  # every second of four in each
