"""Plans, recipes and splits as people use them: looked at, edited, contradicted, cut by hand, by patient, into folds."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trainable import disks, options, pictures, volumes

from vesalius.core.errors import DatasetError, InputError, OutputError
from vesalius.training.loop import TrainOptions, train
from vesalius.training.plan import read_plan


def test_folds_cut_another_way_are_refused_beside_those_that_are_there(tmp_path):
    data, chosen = pictures(tmp_path / "data", 6), options(tmp_path, [1, 16, 16], plan_only=True)
    train(data, tmp_path / "run", replace(chosen, folds=2, fold=0), say=lambda _: None)
    for more in ({"folds": 3, "resume": True}, {"folds": 3, "fold": 1}):
        with pytest.raises(InputError, match="the folds here are 2, not 3"):
            train(data, tmp_path / "run", replace(chosen, **more), say=lambda _: None)
    plan = tmp_path / "run" / "fold_0" / "plan.toml"  # planned with folds, started without
    train(data, tmp_path / "one", replace(chosen, recipe=None, plan=plan), say=lambda _: None)
    assert read_plan(tmp_path / "one" / "plan.toml").data.folds is None
    train(data, tmp_path / "run", replace(chosen, folds=2, resume=True), say=lambda _: None)
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"fold_0", "fold_1"}


def test_folds_of_one_run_are_cut_from_the_same_cases_by_the_same_seed(tmp_path):
    data, chosen = pictures(tmp_path / "data", 6), options(tmp_path, [1, 16, 16], plan_only=True)
    train(data, tmp_path / "run", replace(chosen, folds=3, fold=0, seed=1), say=lambda _: None)
    (tmp_path / "who.csv").write_text("case,patient\n" + "".join(f"case_{i:02d},p{i // 2}\n" for i in range(6)))
    fewer = pictures(tmp_path / "fewer", 5)
    for other, more in ((data, {"seed": 2}), (data, {"seed": 1, "patients": tmp_path / "who.csv"}), (fewer, {"seed": 1})):
        with pytest.raises(InputError, match="fold_0 here is of another cut than fold_1"):
            train(other, tmp_path / "run", replace(chosen, folds=3, fold=1, **more), say=lambda _: None)
        assert not (tmp_path / "run" / "fold_1").exists()
    train(data, tmp_path / "run", replace(chosen, folds=3, fold=1, seed=1), say=lambda _: None)
    train(data, tmp_path / "lone", replace(chosen, folds=3, fold=0, seed=1), say=lambda _: None)
    plan = tmp_path / "lone" / "fold_0" / "plan.toml"
    plan.write_text(plan.read_text().replace("\nseed = 1\n", "\nseed = 2\n"))  # of a fold that is only planned, alone
    train(data, tmp_path / "lone", replace(chosen, recipe=None, plan=plan, folds=3, fold=0), say=lambda _: None)
    assert read_plan(plan).recipe.seed == 2


def test_fixed_folders_are_the_split(tmp_path):
    data = tmp_path / "data"
    pictures(data / "train", 4)
    pictures(data / "validation", 2)  # numbered alike: the names alone would confuse them
    (summary,) = train(data, tmp_path / "run", options(tmp_path, [1, 16, 16]), say=lambda _: None)
    split = json.loads((summary.path / "split.json").read_text())
    assert len(split["train"]) == 4 and all(name.startswith("train") for name in split["train"])
    assert len(split["validation"]) == 2 and all(name.startswith("validation") for name in split["validation"])


@pytest.mark.parametrize("only, said", [("train", "no kept-back case holds b"), ("validation", "no training case holds b")])
def test_a_label_on_one_side_of_the_split_alone_is_told(tmp_path, only, said):
    data, told = tmp_path / "data", []
    for side, count in (("train", 3), ("validation", 1)):
        for file in (pictures(data / side, count) / "masks").iterdir():
            mask = np.array(Image.open(file)) // 255
            mask[0, 0] = 2 if side == only else 0
            Image.fromarray(mask).save(file)
    (data / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "a": 1, "b": 2}}))
    train(data, tmp_path / "run", options(tmp_path, [1, 16, 16], steps_per_epoch="15"), say=told.append)
    assert any(said in line for line in told) and sum("case holds" in line for line in told) == 1


def test_named_patients_stay_together(tmp_path):
    data = pictures(tmp_path / "data")
    rows = [f"case_{i:02d},patient_{i // 4}" for i in range(10)]
    (data / "cases.csv").write_text("\n".join(["case,patient", *rows]))
    assert train(data, tmp_path / "run", options(tmp_path, [1, 16, 16], plan_only=True), say=lambda _: None) == []
    split = json.loads((tmp_path / "run" / "split.json").read_text())
    patient = dict(row.split(",") for row in rows)
    sides = [{patient[name] for name in split[side]} for side in ("train", "validation")]
    assert not sides[0] & sides[1] and len(sides[0] | sides[1]) == 3


def test_an_ignore_label_is_no_class(tmp_path):
    from vesalius.io.files import read
    from vesalius.pipeline.predictor import load
    from vesalius.pipeline.segment import segment_image

    data, known = partly_labelled(tmp_path / "data")
    (summary,) = train(data, tmp_path / "run", options(tmp_path, [1, 32, 32], steps_per_epoch="10"), say=lambda _: None)
    plan = read_plan(tmp_path / "run" / "plan.toml")
    assert plan.task.labels.ignore == 2 and plan.task.model.config["classes"] == 2
    assert plan.data.frequencies == known and set(summary.scores) == {"disk"} and 0 <= summary.dice <= 1
    found = segment_image(read(data / "imagesTr" / "case_0_0000.png"), load(tmp_path / "run", device="cpu")).mask.array
    assert set(found.ravel().tolist()) <= {0, 1}


def partly_labelled(root: Path) -> tuple[Path, tuple[int, int]]:
    """An nnU-Net dataset of disks whose right half nobody has looked at; and how many pixels are known to be what."""
    (root / "imagesTr").mkdir(parents=True)
    (root / "labelsTr").mkdir()
    rng, known = np.random.default_rng(1), np.zeros(3, int)
    for i in range(6):
        mask = (disks(rng, (40, 44)) > 0).astype(np.uint8)
        image = np.clip(60 + 110 * mask + rng.normal(0, 12, mask.shape), 0, 255).astype(np.uint8)
        mask[:, 22:] = 2
        known += np.bincount(mask.ravel(), minlength=3)
        Image.fromarray(image).save(root / "imagesTr" / f"case_{i}_0000.png")
        Image.fromarray(mask).save(root / "labelsTr" / f"case_{i}.png")
    described = {"channel_names": {"0": "grey"}, "labels": {"background": 0, "disk": 1, "ignore": 2}}
    described |= {"numTraining": 6, "file_ending": ".png"}
    (root / "dataset.json").write_text(json.dumps(described))
    return root, (int(known[0]), int(known[1]))


def test_nested_regions_are_learned_as_regions_and_painted_as_labels(tmp_path):
    from vesalius.pipeline.segment import segment

    data, _ = partly_labelled(tmp_path / "data")
    described = json.loads((data / "dataset.json").read_text())
    described |= {"labels": {"background": 0, "seen or not": [1, 2], "not": [2]}, "regions_class_order": [1, 2]}
    (data / "dataset.json").write_text(json.dumps(described))
    (summary,) = train(data, tmp_path / "run", options(tmp_path, [1, 32, 32], steps_per_epoch="10"), say=lambda _: None)
    plan = read_plan(tmp_path / "run" / "plan.toml")
    assert plan.task.decide.kind == "regions" and plan.loss == "dice_bce" and plan.task.model.config["classes"] == 2
    assert set(summary.scores) == {"seen or not", "not"}
    found = segment(data / "imagesTr" / "case_0_0000.png", tmp_path / "out", model=tmp_path / "run", device="cpu")
    assert [amount.label for amount in found.cases[0].amounts] == ["seen or not without not", "not"]


def test_a_plan_can_be_edited_and_started_from(tmp_path):
    data, run = volumes(tmp_path / "data", spacings=((1.0, 1.0, 1.0), (1.0, 1.0, 1.5))), tmp_path / "run"
    said = []
    assert train(data, run, options(tmp_path, [8, 16, 16], plan_only=True), say=said.append) == []
    assert any("resampled" in line for line in said)
    assert {path.name for path in run.iterdir()} == {"plan.toml", "split.json"}
    text = (run / "plan.toml").read_text()
    assert "#" in text and "spacing_mm" in text
    (run / "plan.toml").write_text(text.replace("batch = 4", "batch = 2"))
    with pytest.raises(OutputError, match="--plan"):
        train(data, run, options(tmp_path, [8, 16, 16]), say=lambda _: None)
    train(data, run, TrainOptions(plan=run / "plan.toml", quiet=True, device="cpu"), say=lambda _: None)
    assert read_plan(run / "plan.toml").recipe.batch == 2


@pytest.mark.parametrize(
    "asked, said",
    [({"model": "attention_unet"}, "'unet', not 'attention_unet'"), ({"model": "nonsense"}, "not 'nonsense'"),
     ({"task": "hippocampus"}, "not 'hippocampus'"), ({"instances": True}, "of classes"), ({"resample": False}, "resamples"),
     ({"recipe": "batch = 2"}, "batch = 4, not 2")],
)  # fmt: skip
def test_an_option_that_contradicts_the_plan_is_refused_not_ignored(planned, tmp_path, asked, said):
    data, plan, text = planned
    if "recipe" in asked:
        asked = {"recipe": tmp_path / "other.toml"}
        asked["recipe"].write_text(text.replace("batch = 4", "batch = 2"))
    with pytest.raises(InputError, match=r"plan\.toml: --.* does not go with this plan") as caught:
        train(data, tmp_path / "run", TrainOptions(plan=plan, quiet=True, device="cpu", **asked), say=lambda _: None)
    assert said in str(caught.value) and "edit the plan" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_options_that_say_what_the_plan_says_go_with_it(planned, tmp_path):
    data, plan, text = planned
    (tmp_path / "same.toml").write_text(text)
    same = TrainOptions(plan=plan, recipe=tmp_path / "same.toml", model="unet", task=read_plan(plan).task.name, steps=1, seed=3)
    (summary,) = train(data, tmp_path / "run", replace(same, quiet=True, device="cpu"), say=lambda _: None)
    recipe = read_plan(tmp_path / "run" / "plan.toml").recipe
    assert summary.steps == 1 and (recipe.steps, recipe.epochs, recipe.seed) == (1, None, 3)


@pytest.fixture(scope="module")
def planned(tmp_path_factory) -> tuple[Path, Path, str]:
    """Volumes, the plan for them, and the recipe it was made by."""
    root = tmp_path_factory.mktemp("planned")
    data, chosen = volumes(root / "data"), options(root, [8, 16, 16], plan_only=True)
    train(data, root / "run", chosen, say=lambda _: None)
    return data, root / "run" / "plan.toml", chosen.recipe.read_text()


def test_mixed_spacings_may_be_refused(tmp_path):
    data = volumes(tmp_path / "data", spacings=((1.0, 1.0, 1.0), (1.0, 1.0, 1.5)))
    with pytest.raises(DatasetError, match="different spacings"):
        train(data, tmp_path / "run", options(tmp_path, [8, 16, 16], resample=False), say=lambda _: None)
    assert not (tmp_path / "run").exists()


def test_the_papers_own_recipe_trains_and_tiles_with_valid_convolutions(tmp_path):
    data, file = pictures(tmp_path / "data"), tmp_path / "paper.toml"
    file.write_text(
        'base = "ronneberger"\nsteps_per_epoch = 2\nepochs = 1\nworkers = 0\npatch = [1, 44, 44]\n[model]\nwidths = [4, 8]\n'
    )
    (summary,) = train(data, tmp_path / "run", TrainOptions(recipe=file, quiet=True, device="cpu"), say=lambda _: None)
    plan = read_plan(tmp_path / "run" / "plan.toml")
    assert plan.loss == "border_ce" and plan.task.model.config["padding"] == "valid" and summary.steps == 2
    assert plan.recipe.optimiser == "sgd" and plan.recipe.momentum == 0.99 and plan.recipe.augment.elastic_px == 10
