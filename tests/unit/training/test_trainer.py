"""Steps, schedule, running average, checkpoints: small things that a wrong digit would spoil silently."""

import copy

import pytest
import torch
from torch import nn

from vesalius.core.errors import InputError, OutputError, UnreadableFile, WeightsError
from vesalius.core.labels import Label, Labels
from vesalius.models.weights import save
from vesalius.tasks.task import Inference, ModelSpec, Task
from vesalius.training.checkpoint import load_checkpoint, save_checkpoint
from vesalius.training.journal import Journal, read_metrics
from vesalius.training.plan import Data, Plan
from vesalius.training.recipe import Recipe
from vesalius.training.trainer import Limit, Trainer, make_optimiser, rate


def plan(**changes) -> Plan:
    task = Task(
        name="t", title="t", dims=2, channels=("a",), labels=Labels((Label(1, "x"),)), steps=(),
        inference=Inference(patch=(1, 16, 16)),
        model=ModelSpec(name="unet", config={"in_channels": 1, "classes": 2, "dims": 2, "widths": [4, 8], "dropout": 0.2}),
    )  # fmt: skip
    recipe = Recipe(**{"patch": (1, 16, 16), "batch": 2, "loss": "dice_ce", "precision": "fp32", "ema": 0.9, **changes})
    return Plan(data=Data(path=".", name="d"), task=task, recipe=recipe)


def batch(seed=0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(2, 1, 16, 16, generator=generator)
    return {"image": image, "target": (image[:, 0] > 0.3).long()}


def trainer(**changes) -> Trainer:
    return Trainer(plan(**changes), torch.device("cpu"), Limit(steps=50))


def test_the_rate_rises_then_falls_to_zero():
    for schedule in ("cosine", "poly"):
        recipe = Recipe(lr=1.0, warmup=0.1, schedule=schedule)
        assert rate(recipe, 0.05) < rate(recipe, 0.1) > rate(recipe, 0.5) > rate(recipe, 0.9)
        assert rate(recipe, 1.0) == pytest.approx(0, abs=1e-12) and rate(recipe, 0.0) > 0
    assert rate(Recipe(lr=2.0, warmup=0, schedule="cosine"), 0.5) == pytest.approx(1.0)
    assert rate(Recipe(lr=2.0, warmup=0, schedule="poly"), 0.5) == pytest.approx(2 * 0.5**0.9)


def test_the_first_of_time_and_steps_ends_the_run():
    assert Limit(seconds=10).progress(999, 5) == 0.5
    assert Limit(steps=10).progress(5, 999) == 0.5
    assert Limit(seconds=10, steps=10).progress(9, 1) == 0.9 and Limit(steps=10).progress(11, 0) == 1


def test_the_loss_falls_and_the_average_follows():
    one = trainer(lr=1e-2)
    losses = [one.advance(batch(), 0.1) for _ in range(40)]
    assert losses[-1] < 0.75 * losses[0]
    weight, mean = one.bare.state_dict()["heads.0.weight"], one.average.state_dict()["heads.0.weight"]
    assert not torch.equal(weight, mean) and torch.isfinite(mean).all()


def test_the_running_average_is_the_sum_it_claims_to_be():
    one = trainer()
    expected = one.average.state_dict()["heads.0.weight"].clone()
    for step in range(4):
        one.advance(batch(step), 0.1)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * one.bare.state_dict()["heads.0.weight"]
    assert torch.allclose(one.average.state_dict()["heads.0.weight"], expected, atol=1e-7)


def test_batch_norms_statistics_are_averaged_too():
    changed = plan()
    config = {**changed.task.model.config, "norm": "batch"}
    task = changed.task.model_copy(update={"model": ModelSpec(name="unet", config=config)})
    one = Trainer(changed.model_copy(update={"task": task}), torch.device("cpu"), Limit(steps=5))
    one.advance(batch(), 0.1)
    names = [name for name in one.average.state_dict() if "running_mean" in name]
    assert names and all(bool((one.average.state_dict()[name] != 0).any()) for name in names)
    counted = [value for name, value in one.average.state_dict().items() if "num_batches" in name]
    assert all(int(value) == 1 for value in counted)


def test_a_restored_trainer_goes_on_bit_by_bit(tmp_path):
    one = trainer()
    for step in range(3):
        one.advance(batch(step), 0.1)
    save_checkpoint(tmp_path / "c.pt", copy.deepcopy(one.state()))
    for step in range(3, 6):
        one.advance(batch(step), 0.2)
    two, kept = trainer(), load_checkpoint(tmp_path / "c.pt")
    two.restore({**kept, "elapsed": 3600.0})
    assert 3600 <= two.elapsed < 3660  # minutes that were spent before it stopped count
    torch.manual_seed(12345)  # whatever happened in between
    for step in range(3, 6):
        two.advance(batch(step), 0.2)
    assert all(torch.equal(a, b) for a, b in zip(one.bare.state_dict().values(), two.bare.state_dict().values(), strict=True))
    assert all(
        torch.equal(a, b) for a, b in zip(one.average.state_dict().values(), two.average.state_dict().values(), strict=True)
    )


def test_a_trainer_may_begin_with_weights_it_is_given(tmp_path):
    begun, other = trainer(seed=1), trainer(seed=2)
    begun.begin(save(tmp_path / "other.safetensors", other.bare, {}))
    for mine in (begun.bare, begun.average):
        assert all(torch.equal(a, b) for a, b in zip(mine.state_dict().values(), other.bare.state_dict().values(), strict=True))


def test_weights_of_another_network_are_refused_as_a_beginning(tmp_path):
    state = trainer().bare.state_dict()
    state[next(iter(state))] = torch.zeros(5, 4, 1, 1)
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match="5, 4, 1, 1"):
        trainer().begin(tmp_path / "other.pth")


def test_a_loss_that_is_not_finite_stops_with_advice():
    broken = batch()
    broken["image"][0, 0, 3, 3] = float("nan")
    with pytest.raises(InputError, match="not finite at step 0"):
        trainer().advance(broken, 0.1)


def test_norms_and_biases_do_not_decay():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2))
    groups = make_optimiser(model, Recipe(weight_decay=0.1)).param_groups
    assert [p.ndim for p in groups[0]["params"]] == [4] and groups[0]["weight_decay"] == 0.1
    assert all(p.ndim == 1 for p in groups[1]["params"]) and groups[1]["weight_decay"] == 0


def test_a_head_learns_at_its_own_rate():
    model = nn.ModuleDict({"backbone": nn.Conv2d(1, 2, 1), "head": nn.Conv2d(2, 3, 1)})
    groups = make_optimiser(model, Recipe(weight_decay=0.1, head_lr=10), ("head.",)).param_groups
    told = {id(p): (group["factor"], group["weight_decay"]) for group in groups for p in group["params"]}
    expected = {"backbone.weight": (1, 0.1), "backbone.bias": (1, 0.0), "head.weight": (10, 0.1), "head.bias": (10, 0.0)}
    assert {name: told[id(p)] for name, p in model.named_parameters()} == expected
    with pytest.raises(InputError, match="a model that names its head"):
        make_optimiser(model, Recipe(head_lr=10))


def test_the_head_that_the_catalog_names_gets_ten_times_the_rate():
    backbone = {"image_size": [16, 16], "patch": 8, "width": 12, "depth": 2, "heads": 2, "out_layers": [0, 1]}
    found = plan(lr=1e-3, head_lr=10.0, schedule="poly", warmup=0.0, loss="atm")
    config = {"in_channels": 1, "classes": 3, "backbone": backbone, "head": {"heads": 2, "layers": 1}}
    spec = ModelSpec(name="segvit", config=config)
    found = found.model_copy(update={"task": found.task.model_copy(update={"model": spec})})
    trainer = Trainer(found, torch.device("cpu"), Limit(steps=4))
    trainer.advance({"image": torch.rand(2, 1, 16, 16), "target": torch.randint(0, 3, (2, 16, 16))}, 0.5)
    rates = {id(p): group["lr"] for group in trainer.optimiser.param_groups for p in group["params"]}
    for name, parameter in trainer.bare.named_parameters():
        assert rates[id(parameter)] == pytest.approx((1e-3 if name.startswith("backbone.") else 1e-2) * 0.5**0.9)


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 cut off"])
def test_a_checkpoint_that_cannot_be_read_is_the_users_to_know(tmp_path, content):
    if content is not None:
        (tmp_path / "c.pt").write_bytes(content)
    with pytest.raises(UnreadableFile, match="--resume"):
        load_checkpoint(tmp_path / "c.pt")


def test_a_disk_that_fills_up_leaves_the_checkpoint_before_whole_and_is_told_as_such(tmp_path, monkeypatch):
    save_checkpoint(tmp_path / "c.pt", {"model": torch.zeros(9)})
    full = lambda _, mode: open("/dev/full", mode)  # noqa: E731, SIM115 - it has no space left
    monkeypatch.setattr("vesalius.training.checkpoint.open", full, raising=False)
    with pytest.raises(OutputError, match=r"c\.pt: the disk is full"):
        save_checkpoint(tmp_path / "c.pt", {"model": torch.ones(90_000)})
    assert load_checkpoint(tmp_path / "c.pt")["model"].sum() == 0
    assert [file.name for file in tmp_path.iterdir()] == ["c.pt"]


def test_a_checkpoint_runs_no_code(tmp_path):
    torch.save({"format": 1, "model": Trainer}, tmp_path / "c.pt")
    with pytest.raises(UnreadableFile):
        load_checkpoint(tmp_path / "c.pt")


def test_a_resumed_journal_forgets_what_lies_ahead_and_what_was_cut_off(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 5, "loss": 1.0}\n{"step": 10, "loss": 0.5}\n{"step": 10, "final": true}\n{"st'
    )
    journal = Journal(tmp_path, step=5)
    journal.write({"step": 10, "loss": 0.4})
    journal.close()
    assert [(line["step"], line["loss"]) for line in read_metrics(tmp_path)] == [(5, 1.0), (10, 0.4)]
