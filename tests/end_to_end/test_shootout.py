"""`vesalius train --model a,b`: exit codes, and what is printed where."""

import json

import pytest
from trainable import TINY_SHOOT_OUT, pictures

from vesalius.core.errors import ShapeError
from vesalius.training import shootout
from vesalius.training.footprint import Footprint


@pytest.fixture
def words(tmp_path, monkeypatch):
    """The words of a command that takes a second or two; memory is not measured."""
    monkeypatch.setattr(shootout, "footprint", lambda plan, device: Footprint(1, 2))
    (tmp_path / "tiny.toml").write_text(TINY_SHOOT_OUT, encoding="utf-8")
    data = pictures(tmp_path / "data", count=6)
    return ["train", data, "-o", tmp_path / "out", "--recipe", tmp_path / "tiny.toml", "--steps", "2", "--device", "cpu"]


def test_two_models_are_compared_and_shown(run, words, tmp_path):
    result = run(*words, "--model", "unet,unetpp", "--json")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert {r["model"] for r in told["results"]} == {"unet", "unetpp"} and len(told["pairs"]) == 1
    shown = run(*words[:4], "--model", "all", "--resume", "--plan-only")
    assert shown.exit_code == 0 and " is first, with a Dice of " in shown.stdout and "Not significantly different" in shown.stdout
    assert (tmp_path / "out/pareto.png").read_bytes()[:4] == b"\x89PNG"


def test_a_model_that_fails_makes_the_exit_code_1(run, words, monkeypatch):
    fit = shootout.fit

    def failing(plan, *rest):
        if plan.model.name == "unet":
            raise ShapeError("this U-Net cannot take a size of 7 x 7", fix="use 8 x 8")
        return fit(plan, *rest)

    monkeypatch.setattr(shootout, "fit", failing)
    result = run(*words, "--model", "unet,unetpp")
    assert result.exit_code == 1
    assert "failed: unet: this U-Net cannot take a size of 7 x 7. Use 8 x 8" in result.stderr
    assert "unetpp is first" in result.stdout


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--model", "unet,segvitt"], "did you mean 'segvit'"),
        (["--model", "all", "--task", "nuclei"], "--task is for a single model"),
        (["--model", "all", "--resume"], "no shoot-out to resume"),
    ],
)
def test_bad_input_makes_it_2_and_leaves_nothing(run, words, tmp_path, more, says):
    result = run(*words, *more)
    assert result.exit_code == 2 and says.lower() in result.stderr.lower()
    assert not (tmp_path / "out").exists()
