"""Shoot-outs of tiny networks: the same for all, resumed wherever they stopped, failures listed."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from trainable import TINY_SHOOT_OUT

from vesalius.core.errors import InputError, OutputError, UnknownName, UnreadableFile
from vesalius.models import catalog
from vesalius.models.catalog import CATALOG, derived, gflops
from vesalius.models.needs import Needs
from vesalius.models.weights import load_state
from vesalius.training import footprint as measuring
from vesalius.training import shootout, standings
from vesalius.training.footprint import Footprint
from vesalius.training.loop import train
from vesalius.training.plan import outline, read_plan
from vesalius.training.recipe import RECIPES, read_recipe
from vesalius.training.session import TrainOptions
from vesalius.training.shootout import shoot_out
from vesalius.training.split import read_split
from vesalius.training.standings import ShootOut
from vesalius.training.summary import read_scores
from vesalius.training.trainer import Trainer


class Killed(BaseException):
    """Nobody catches it, as nobody catches kill -9."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A recipe of seconds; memory is not measured and pictures are not drawn."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(TINY_SHOOT_OUT, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shootout, "footprint", lambda plan, device: Footprint(1_000_000, 3_000_000))
        patch.setattr(standings, "pareto", lambda ranking, title: b"a picture")
        yield path


@pytest.fixture(scope="module")
def whole(tiny: Path, tmp_path_factory: pytest.TempPathFactory, picture_set: Path) -> ShootOut:
    """A shoot-out of two models that nothing interrupted."""
    return shoot_out(picture_set, tmp_path_factory.mktemp("runs") / "whole", options(tiny), say=lambda _: None)


def options(file: Path | None, model: str = "unet,unetpp", **changes: object) -> TrainOptions:
    given = {"recipe": file, "steps": 4, "quiet": True, "device": "cpu", "checkpoint_seconds": 0.0} | changes
    return TrainOptions(model=model, **given)  # type: ignore[arg-type]


def test_every_model_gets_the_same_and_the_files_say_what_came_of_it(whole):
    out = whole.path
    runs = {name: read_plan(out / name / "plan.toml") for name in ("unet", "unetpp")}
    for plan in runs.values():
        assert plan.patch == (1, 16, 16) and plan.recipe.batch == 2 and plan.recipe.augment == runs["unet"].recipe.augment
        assert plan.recipe.each is None
    assert read_split(out / "unet/split.json") == read_split(out / "unetpp/split.json")
    told = json.loads((out / "shootout.json").read_text())
    assert {r["model"] for r in told["results"]} == {"unet", "unetpp"} and told["failures"] == {} and told["pending"] == []
    for entry in told["results"]:
        scored = read_scores(out / entry["model"])
        assert scored is not None and entry["steps"] == scored.steps == 4
        assert {case: values["dice"] for case, values in entry["cases"].items()} == {
            case: labels["foreground"]["dice"] for case, labels in scored.cases.items()
        }
        assert entry["images_per_second"] > 0 and entry["trained_per_second"] > 0 and entry["training_bytes"] == 3_000_000
        assert entry["parameters"] == sum(v.numel() for v in load_state(out / entry["model"] / "weights.safetensors")[0].values())
    page = (out / "shootout.md").read_text()
    assert all(line in page for line in whole.ranking.sentences()) and "| unetpp |" in page
    assert (out / "pareto.png").read_bytes() == b"a picture"


def test_a_killed_one_goes_on_and_ends_as_if_nothing_had_happened(tiny, whole, tmp_path, picture_set, monkeypatch):
    broken = tmp_path / "broken"
    follow, count = Trainer.follow, []

    def killed(trainer: Trainer) -> None:
        count.append(trainer.step)
        if len(count) in (2, 9):  # in the first model's second step, and in the second one's last
            raise Killed
        follow(trainer)

    monkeypatch.setattr(Trainer, "follow", killed)
    with pytest.raises(Killed):
        shoot_out(picture_set, broken, options(tiny), say=lambda _: None)
    with pytest.raises(Killed):
        shoot_out(picture_set, broken, options(None, steps=None, resume=True), say=lambda _: None)
    between = json.loads((broken / "shootout.json").read_text())
    assert [r["model"] for r in between["results"]] == ["unet"] and between["pending"] == ["unetpp"]
    first = (broken / "unet/weights.safetensors").stat().st_mtime_ns
    told: list[str] = []
    shoot_out(picture_set, broken, options(None, steps=None, resume=True, plan_only=True), say=told.append)
    result = shoot_out(picture_set, broken, options(None, steps=None, resume=True), say=told.append)
    assert (broken / "unet/weights.safetensors").stat().st_mtime_ns == first
    assert "going on from step 3" in told
    for name in ("unet", "unetpp"):
        expected, got = (load_state(root / name / "weights.safetensors")[0] for root in (whole.path, broken))
        assert all(torch.equal(expected[key], got[key]) for key in expected)
    assert set(result.ranking.dice) >= {"unet", "unetpp"}


def test_one_that_fails_is_listed_and_the_others_go_on(tiny, tmp_path, picture_set, monkeypatch):
    def too_large(plan: Path, device: torch.device) -> Footprint:
        if plan.parent.name == "unet":
            raise RuntimeError("DefaultCPUAllocator: can't\nallocate memory")
        return Footprint(1, 2)

    monkeypatch.setattr(shootout, "footprint", too_large)
    result = shoot_out(picture_set, tmp_path / "out", options(tiny, steps=1), say=lambda _: None)
    assert dict(result.failures) == {"unet": "DefaultCPUAllocator: can't allocate memory"}
    assert list(result.ranking.dice) == ["unetpp"]
    assert "- unet: DefaultCPUAllocator" in (tmp_path / "out/shootout.md").read_text()


def test_a_fault_in_one_model_does_not_keep_the_others_from_their_turn(tiny, tmp_path, picture_set, monkeypatch):
    def faulty(course, name, *run):
        raise IndexError("list index out of range")

    monkeypatch.setattr(shootout, "train_one", faulty)
    result = shoot_out(picture_set, tmp_path / "out", options(tiny), say=lambda _: None)
    assert set(result.failures.values()) == {"internal error: IndexError: list index out of range"}
    assert list(result.failures) == ["unet", "unetpp"]


def test_one_that_cannot_be_planned_is_listed_before_any_is_trained(tiny, tmp_path, picture_set):
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(TINY_SHOOT_OUT + '[each.segvit]\nloss = "objects"\n', encoding="utf-8")
    result = shoot_out(picture_set, tmp_path / "out", options(wrong, "unet,segvit", plan_only=True), say=lambda _: None)
    assert list(result.failures) == ["segvit"] and result.pending == ("unet",)


def test_all_are_those_that_take_the_dimensions_of_the_data(tmp_path, volume_set):
    told: list[str] = []
    result = shoot_out(volume_set, tmp_path / "out", options(None, "all", plan_only=True), say=told.append)
    able = [name for name, entry in CATALOG.items() if entry.kind == "segmenter" and 3 in entry.dims]
    assert list(result.pending) == able and not result.failures
    assert any(line.startswith("left out, as they take no 3D data: transunet") for line in told)
    shoot_out(volume_set, tmp_path / "other", options(None, "unet,transunet", plan_only=True), say=lambda _: None)
    slices = [read_plan(tmp_path / "other" / name / "plan.toml").task.slices for name in ("unet", "transunet")]
    assert slices[0] is None and slices[1] is not None  # a 2D model that is named goes slice by slice, as it does alone


def test_all_go_slice_by_slice_where_the_recipe_asks_for_slices(tmp_path, volume_set):
    (tmp_path / "slices.toml").write_text('base = "shootout"\n[slices]\ncontext = 1\n', encoding="utf-8")
    out = tmp_path / "out"
    result = shoot_out(volume_set, out, options(tmp_path / "slices.toml", "all", plan_only=True), say=lambda _: None)
    able = [name for name, entry in CATALOG.items() if entry.kind == "segmenter" and 2 in entry.dims]
    assert list(result.pending) == able and "transunet" in able and not result.failures
    plans = [read_plan(out / name / "plan.toml") for name in able]
    assert {plan.patch for plan in plans if plan.model.name != "swin_unet"} == {(1, 32, 32)}  # whose windows need more
    assert {plan.model.config["in_channels"] for plan in plans} == {3}


@pytest.mark.parametrize("content", ['{"asked": ', "[]", '{"x": 1}', '{"asked": {"models": ["unett"], "recipe": {}}}'])
def test_a_damaged_record_of_a_shoot_out_is_told_with_the_way_out(tiny, tmp_path, picture_set, content):
    (tmp_path / "shootout.json").write_text(content, encoding="utf-8")
    with pytest.raises(UnreadableFile, match=r"shootout\.json: this .*Put a whole one back, or start a new"):
        shoot_out(picture_set, tmp_path, options(None, resume=True, plan_only=True), say=lambda _: None)


@pytest.mark.parametrize("content", ["", "3", '{"inference_bytes": 1}'])
def test_a_damaged_cost_is_told_with_the_way_out(tmp_path, content):
    (tmp_path / "cost.json").write_text(content, encoding="utf-8")
    with pytest.raises(UnreadableFile, match=r"cost\.json: this .*Delete it: what it held is measured again"):
        shootout.read_cost(tmp_path)


def test_a_run_that_has_lost_its_plan_is_not_sent_to_resume_again(tiny, whole, tmp_path, picture_set):
    out = tmp_path / "out"
    shutil.copytree(whole.path, out)
    (out / "unet" / "plan.toml").unlink()
    with pytest.raises(OutputError, match=r"lost its plan\.toml\. Put that file back, or delete this folder"):
        shoot_out(picture_set, out, options(None, steps=None, resume=True, plan_only=True), say=lambda _: None)


def test_all_are_planned_for_the_same_patch_where_the_recipe_names_none(tmp_path):
    from trainable import pictures

    data = pictures(tmp_path / "data", count=4, size=(100, 92))
    result = shoot_out(data, tmp_path / "out", options(None, "all", plan_only=True), say=lambda _: None)
    patches = {name: read_plan(tmp_path / "out" / name / "plan.toml").patch for name in result.pending}
    assert set(patches.values()) == {(1, 96, 96)} and len(patches) >= 7


@pytest.mark.parametrize(
    ("model", "changes", "error", "says"),
    [
        ("unet,unett", {}, UnknownName, "Did you mean 'unet'"),
        ("unet,unet", {}, InputError, "'unet' is named twice"),
        ("unet,sam", {}, InputError, "'sam' gives no classes"),
        (",", {}, InputError, "names no model"),
        ("all", {"task": "nuclei"}, InputError, "--task is for a single model"),
        ("all", {"weights": "w.safetensors"}, InputError, "--weights is for a single model"),
        ("all", {"plan": "plan.toml"}, InputError, "--plan is for a single model"),
        ("all", {"folds": 2}, InputError, "--folds is for a single model"),
        ("all", {"recipe": "ronneberger"}, InputError, "recipe is for a single model"),
        ("all", {"resume": True}, OutputError, "no shoot-out to resume"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(tiny, tmp_path, picture_set, model, changes, error, says):
    with pytest.raises(error, match=says):
        shoot_out(picture_set, tmp_path / "out", options(tiny, model, **changes), say=lambda _: None)
    assert not (tmp_path / "out").exists()


def test_a_shoot_out_goes_on_only_as_it_began(tiny, tmp_path, picture_set):
    out = tmp_path / "out"
    shoot_out(picture_set, out, options(tiny, plan_only=True), say=lambda _: None)
    with pytest.raises(OutputError, match="Go on with --resume"):
        shoot_out(picture_set, out, options(tiny, plan_only=True), say=lambda _: None)
    with pytest.raises(InputError, match="began with another steps"):
        shoot_out(picture_set, out, options(tiny, steps=9, resume=True), say=lambda _: None)
    with pytest.raises(InputError, match="began with another seed"):
        shoot_out(picture_set, out, options(tiny, seed=1, resume=True), say=lambda _: None)
    more = options(tiny, "attention_unet,unet", resume=True, plan_only=True)
    assert shoot_out(picture_set, out, more, say=lambda _: None).pending == ("unet", "unetpp", "attention_unet")


def test_the_notes_name_whoever_was_not_given_the_same():
    def begun(batch: int, side: int):
        recipe = SimpleNamespace(batch=batch, seed=0)
        return SimpleNamespace(patch=(1, side, side), dims=2, recipe=recipe), SimpleNamespace(train="abc", validation="d")

    runs = {"a": begun(2, 32), "b": begun(8, 32), "c": begun(8, 28)}
    told = "\n".join(standings.notes_on(runs, "4 steps", torch.device("cpu")))
    assert "3 cases to train, 1 kept back, patch 32 x 32, batch 8, seed 0" in told
    assert "a was trained in batches of 2." in told and "c takes no such patch: it was given 28 x 28." in told
    assert "b was" not in told and "c was trained" not in told


def test_train_sends_whoever_names_several_models_to_the_shoot_out(picture_set, tmp_path):
    with pytest.raises(InputError, match=r"not one model\. Compare several with vesalius\.shoot_out"):
        train(picture_set, tmp_path / "out", model="unet,unetpp")


def test_a_recipe_may_say_what_differs_for_one_model(tmp_path):
    text = 'base = "shootout"\nlr = 1e-2\n[each.segvit]\nema = 0.5\n[each.unet.model]\nwidths = [4, 8]\n'
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    mine = read_recipe(tmp_path / "mine.toml")
    segvit, unet, unetpp = (mine.of(name) for name in ("segvit", "unet", "unetpp"))
    assert (segvit.lr, segvit.ema, unet.lr, unetpp.ema) == (2e-3, 0.5, 1e-2, RECIPES["default"].ema)
    assert (segvit.clip, unet.clip) == (1.0, RECIPES["default"].clip)
    assert (unet.model, unetpp.model) == ({"widths": [4, 8]}, {}) and segvit.augment == unet.augment
    (tmp_path / "wrong.toml").write_text("[each.segvit]\nrate = 1\n")
    with pytest.raises(InputError, match=r"recipe\.each\.segvit: rate"):
        read_recipe(tmp_path / "wrong.toml").of("segvit")


@pytest.mark.parametrize("name", [name for name, entry in CATALOG.items() if entry.kind == "segmenter" and 2 in entry.dims])
def test_a_planned_network_is_one_that_a_processor_can_train(name):
    config = derived(name, Needs(3, 2, 2, (352, 352), (1.0, 1.0)))
    model = outline(name, config)
    assert model.nearest_size((352, 352)) == (352, 352)
    assert gflops(model, (1, 3, 352, 352)) < 25  # 400 steps of two pictures in 20 minutes at 60 GFLOPs a second
    assert catalog.parameter_count(model) < 30e6


def test_memory_is_measured_in_a_process_of_its_own(tiny, tmp_path, picture_set):
    train(picture_set, tmp_path / "run", options(tiny, "unet", plan_only=True), say=lambda _: None)
    found = measuring.footprint(tmp_path / "run/plan.toml", torch.device("cpu"))
    assert 0 < found.inference_bytes < found.training_bytes < 500e6


def test_memory_is_measured_of_a_model_that_goes_slice_by_slice(tiny, tmp_path, volume_set):
    (tmp_path / "slices.toml").write_text(TINY_SHOOT_OUT + "[slices]\ncontext = 1\n", encoding="utf-8")
    train(volume_set, tmp_path / "run", options(tmp_path / "slices.toml", "unet", plan_only=True), say=lambda _: None)
    found = measuring.footprint(tmp_path / "run/plan.toml", torch.device("cpu"))
    assert 0 < found.inference_bytes < 500e6 and 0 < found.training_bytes < 500e6


@pytest.mark.parametrize(
    ("code", "printed", "complained", "says"),
    [
        (-9, "", "", "killed by signal 9"),
        (1, '{"error": "this U-Net cannot take a size of 7. Use 8."}\n', "", "^this U-Net cannot take a size of 7. Use 8$"),
        (1, "", "Traceback\nMemoryError: no\n", "MemoryError: no"),
        (1, "", "", "said nothing"),
    ],
)
def test_a_network_that_fails_in_its_process_is_told_in_words(monkeypatch, code, printed, complained, says):
    done = measuring.subprocess.CompletedProcess([], code, printed, complained)
    monkeypatch.setattr(measuring.subprocess, "run", lambda *_, **__: done)
    with pytest.raises(InputError, match=says):
        measuring.footprint(Path("plan.toml"), torch.device("cpu"))
