"""A predictor is found by task, run or file, and nothing is ever taken instead of what was asked for."""

import json
from dataclasses import replace

import pytest
import torch
from specimens import save_tiny

from vesalius.core.errors import InputError, UnknownName, WeightsError
from vesalius.models.catalog import build
from vesalius.models.checkpoints import MODEL_KEY
from vesalius.models.weights import load_state, save
from vesalius.pipeline import predictor as room
from vesalius.pipeline.predictor import TASK_KEY, choose_device, load
from vesalius.tasks.catalog import TASKS
from vesalius.tasks.task import read_task
from vesalius.transforms.intensity import Scale, ZScore


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("run") / "weights.safetensors", dims=3, channels=("MRI",), steps=(ZScore(),))


def altered(path, out, **changes):
    """The same weights under a task record with `changes`."""
    state, metadata = load_state(path)
    task = read_task(metadata[TASK_KEY]).model_copy(update=changes)
    model = build(task.model.name, task.model.config)
    model.load_state_dict(state)
    out.parent.mkdir(parents=True, exist_ok=True)
    return save(out, model, {TASK_KEY: task.model_dump_json()})


@pytest.mark.parametrize("name", TASKS)
def test_every_task_loads_the_weights_it_ships(name):
    found = load(name, device="cpu")
    assert found.task.name == name and found.weights_hash == TASKS[name].weights.sha256
    assert not any(model.training for model in found.models)
    assert not any(p.requires_grad for model in found.models for p in model.parameters())


def test_a_run_a_file_and_a_model_with_weights_are_the_same(weights):
    found = [load(weights.parent), load(weights), load("unet", weights=weights), load(weights=weights)]
    assert len({each.weights_hash for each in found}) == 1
    x = torch.randn(1, 1, 16, 16, 16)
    with torch.inference_mode():
        first, *others = (each.models[0](x).main for each in found)
    assert all(torch.equal(first, other) for other in others)


def test_folds_of_a_run_are_all_loaded(weights, tmp_path):
    for fold in range(3):
        altered(weights, tmp_path / f"fold_{fold}" / "weights.safetensors")
    found = load(tmp_path)
    assert len(found.models) == 3 and found.weights_hash != load(weights).weights_hash


def test_folds_of_different_tasks_are_refused(weights, tmp_path):
    altered(weights, tmp_path / "fold_0" / "weights.safetensors")
    altered(weights, tmp_path / "fold_1" / "weights.safetensors", steps=(Scale(),))
    with pytest.raises(WeightsError, match="fold_1"):
        load(tmp_path)


@pytest.mark.parametrize("typed, meant", [("hipocampus", "hippocampus"), ("unett", "unet"), ("nuclie", "nuclei")])
def test_an_unknown_name_gets_the_nearest(typed, meant):
    with pytest.raises(UnknownName, match=f"Did you mean '{meant}'") as caught:
        load(typed)
    assert all(name in str(caught.value) for name in TASKS)


def test_neither_task_nor_model_lists_them():
    with pytest.raises(UnknownName, match="hippocampus, nuclei") as caught:
        load()
    assert "unet" in str(caught.value)


def test_a_model_without_weights_names_tasks_that_have_some():
    with pytest.raises(WeightsError, match="hippocampus, nuclei"):
        load("unet")


def test_weights_of_another_kind_are_refused(weights, tmp_path):
    with pytest.raises(WeightsError, match="no such weights file"):
        load("unet", weights=tmp_path / "nowhere.safetensors")
    with pytest.raises(WeightsError, match="brings its own weights"):
        load(weights.parent, weights=weights)
    with pytest.raises(WeightsError, match="holds no weights"):
        load(tmp_path)
    with pytest.raises(WeightsError, match="trained for 'tiny', not for 'nuclei'"):
        load("nuclei", weights=weights)
    with pytest.raises(WeightsError, match="weights of a 'unet', not of a 'unetpp'"):
        load("unetpp", weights=weights)
    model = build("unet", {"dims": 3, "classes": 3, "widths": [4, 8]})
    with pytest.raises(WeightsError, match="does not say what it was trained for"):
        load(save(tmp_path / "bare.safetensors", model, {}))
    for frame, fix in ((None, r"--model unet --weights .*; or name the task"), ({}, "--model FILE, and prompts")):
        imported = {MODEL_KEY: json.dumps({"model": "unet", "config": {}, "frame": frame})}
        with pytest.raises(WeightsError, match=fix):
            load(save(tmp_path / "imported.safetensors", model, imported))


def test_altered_shipped_weights_are_noticed(monkeypatch, tmp_path):
    task = TASKS["hippocampus"]
    spec = task.weights.model_copy(update={"sha256": "0" * 64})
    monkeypatch.setitem(room.TASKS, "hippocampus", task.model_copy(update={"weights": spec}))
    with pytest.raises(WeightsError, match="sha256"):
        load("hippocampus")


def test_a_device_that_is_absent_is_an_error_and_none_is_taken_instead(monkeypatch, weights):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert choose_device("auto").type == "cpu"
    for name in ("cuda", "mps"):
        with pytest.raises(InputError, match=name):
            load(weights, device=name)
    with pytest.raises(UnknownName, match="Did you mean 'cuda'"):
        choose_device("cude")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto").type == "cuda"


def test_an_unknown_precision_is_told_at_once(weights):
    with pytest.raises(UnknownName, match="fp16"):
        load(weights, precision="fp16")
    assert replace(load(weights), precision="fp32").arithmetic == "fp32"
