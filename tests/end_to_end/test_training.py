"""Training as people run it: killed and resumed, in two processes, to its end; what a run that goes on refuses."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import torch
from PIL import Image
from trainable import options, pictures, recipe, volumes

from vesalius.core.atomic import sole_writer
from vesalius.core.errors import DatasetError, InputError, OutputError
from vesalius.training.loop import TrainOptions, train
from vesalius.training.plan import read_plan
from vesalius.training.trainer import Trainer

TRAIN = """
import sys, torch
from vesalius.training.loop import TrainOptions, train
torch.set_num_threads(1)
data, out, recipe, resume, steps = sys.argv[1:]
train(data, out, TrainOptions(recipe=recipe, resume=resume == "yes", quiet=True, device="cpu", checkpoint_seconds=0.0,
                              steps=int(steps) or None), say=lambda _: None)
"""
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}


def start(*words, launcher=(sys.executable,)) -> subprocess.Popen:
    script = Path(words[1]).parent / "train_it.py"
    script.write_text(TRAIN)
    return subprocess.Popen([*launcher, str(script), *map(str, words)], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> None:
    _, complaints = process.communicate(timeout=240)
    assert process.returncode == 0, complaints[-3000:]


def weights(run: Path) -> dict[str, torch.Tensor]:
    from vesalius.models.weights import load_state

    return load_state(run / "weights.safetensors")[0]


def steps_done(run: Path) -> int:
    file = run / "checkpoint.pt"
    return torch.load(file, weights_only=True)["step"] if file.exists() else 0


def test_a_killed_run_resumes_to_the_same_bits(tmp_path):
    data, file = volumes(tmp_path / "data"), recipe(tmp_path / "tiny.toml", [8, 16, 16])
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finish(start(data, whole, file, "no", 0))
    for resume, kill_at in (("no", 3), ("yes", 12)):  # within the first epoch, and after a validation
        process = start(data, broken, file, resume, 0)
        until = time.monotonic() + 120
        while steps_done(broken) < kill_at and process.poll() is None and time.monotonic() < until:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
    assert kill_at <= steps_done(broken) < 20
    finish(start(data, broken, file, "yes", 0))
    expected, got = weights(whole), weights(broken)
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    both = [torch.load(run / "checkpoint.pt", weights_only=True) for run in (whole, broken)]
    assert all(torch.equal(both[0]["model"][name], both[1]["model"][name]) for name in both[0]["model"])
    epochs = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (whole, broken)]
    assert [line["epoch"] for line in epochs[1]] == [line["epoch"] for line in epochs[0]] == [1, 2, 3, 4, 4]
    assert [line.get("loss") for line in epochs[1]] == [line.get("loss") for line in epochs[0]]


@pytest.fixture
def ctrl_c():
    """Ctrl-C and SIGTERM raise KeyboardInterrupt here, as the command line has it, whatever the tests run in."""
    before = {each: signal.signal(each, signal.default_int_handler) for each in (signal.SIGINT, signal.SIGTERM)}
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_that_another_process_writes_is_refused(tmp_path, resume):
    pytest.importorskip("fcntl", reason="this system has no such locks")
    data = volumes(tmp_path / "data")
    with sole_writer(tmp_path / "run"), pytest.raises(OutputError, match="another process is writing into this folder"):
        train(data, tmp_path / "run", options(tmp_path, [8, 16, 16], resume=resume))
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_run_interrupted_in_the_middle_of_a_step_resumes_to_the_same_bits(sent, tmp_path, monkeypatch):
    data, whole, broken = pictures(tmp_path / "data"), tmp_path / "whole", tmp_path / "broken"
    chosen = options(tmp_path, [1, 16, 16], steps_per_epoch="4")
    train(data, whole, chosen, say=lambda _: None)
    follow, seen = Trainer.follow, []

    def interrupted(trainer: Trainer) -> None:  # the weights have moved, their average and the step have not
        seen.append(trainer.step)
        if len(seen) in (2, 4):  # in the middle of the epoch; then in its last step
            signal.raise_signal(sent)
        follow(trainer)

    monkeypatch.setattr(Trainer, "follow", interrupted)
    for resume in (False, True):
        with pytest.raises(KeyboardInterrupt):
            train(data, broken, replace(chosen, resume=resume), say=lambda _: None)
    train(data, broken, replace(chosen, resume=True), say=lambda _: None)
    assert seen == [0, 1, 2, 3, 2, 3]  # the last step of an epoch is done again, so that the epoch's line is whole
    expected, got = weights(whole), weights(broken)
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    lines = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (whole, broken)]
    assert [(line["step"], line.get("loss")) for line in lines[1]] == [(line["step"], line.get("loss")) for line in lines[0]]


@pytest.mark.parametrize("norm, optimiser", [("instance", "adamw"), ("batch", "adamw"), ("instance", "muon")])
def test_two_processes_train_the_same_model(tmp_path, norm, optimiser):
    data, file = volumes(tmp_path / "data"), recipe(tmp_path / "tiny.toml", [8, 16, 16], lr="3e-3", optimiser=f'"{optimiser}"')
    text = file.read_text().replace("dropout = 0.1", f'norm = "{norm}"')  # dropout would draw per process
    text = text.replace("[4, 8, 12]", "[16, 16, 24]") if optimiser == "muon" else text  # rows enough to be made orthogonal
    file.write_text(text)
    one, two = tmp_path / "one", tmp_path / "two"
    launcher = (sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone")
    both = start(data, one, file, "no", 20), start(data, two, file, "no", 20, launcher=launcher)
    for process in both:
        finish(process)
    states = [torch.load(run / "checkpoint.pt", weights_only=True) for run in (one, two)]
    assert [state["step"] for state in states] == [20, 20]
    assert [state["processes"] for state in states] == [1, 2]  # not two that each train the whole batch
    for part in ("model", "average"):
        first, second = states[0][part], states[1][part]
        assert max(float((first[name] - second[name]).abs().max()) for name in first) < 1e-4
    kept = weights(two)
    assert all(torch.equal(kept[name], states[1]["average"][name]) for name in kept)  # what is kept is the average


def test_a_run_holds_what_is_promised_and_segments(tmp_path):
    from vesalius.io.files import read
    from vesalius.pipeline.predictor import load
    from vesalius.pipeline.segment import segment_image

    data, said = pictures(tmp_path / "data"), []
    (summary,) = train(data, tmp_path / "run", options(tmp_path, [1, 32, 32], epochs="2"), say=said.append)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names >= {"weights.safetensors", "plan.toml", "metrics.jsonl", "report.html", "split.json", "tensorboard"}
    assert any("each case is its own patient" in line for line in said)
    assert any("255" in line for line in said)  # 0/255 masks mean class 1, and that is said
    assert summary.steps == 4 and 0 <= summary.dice <= 1
    image = read(data / "images" / "case_00.png")
    assert segment_image(image, load(tmp_path / "run", device="cpu")).mask.array.shape == image.grid.shape
    assert "data:image/png" in (tmp_path / "run" / "report.html").read_text()


def test_objects_are_learned_from_label_maps(tmp_path):
    data = pictures(tmp_path / "data", instances=True)
    chosen = options(tmp_path, [1, 32, 32], instances=True, epochs="12", steps_per_epoch="10", validate_every="12")
    (summary,) = train(data, tmp_path / "run", chosen, say=lambda _: None)
    (scores,) = summary.scores.values()
    assert scores["dice"] > 0.7 and scores["f1"] > 0.4


def test_an_existing_run_is_refused(tmp_path):
    data, chosen = pictures(tmp_path / "data"), options(tmp_path, [1, 16, 16])
    train(data, tmp_path / "run", chosen, say=lambda _: None)
    before = (tmp_path / "run" / "weights.safetensors").read_bytes()
    with pytest.raises(OutputError, match="--resume"):
        train(data, tmp_path / "run", chosen, say=lambda _: None)
    assert (tmp_path / "run" / "weights.safetensors").read_bytes() == before
    with pytest.raises(OutputError, match="no run to resume"):
        train(data, tmp_path / "other", options(tmp_path, [1, 16, 16], resume=True), say=lambda _: None)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> tuple[Path, Path, TrainOptions]:
    """A dataset, a run of one epoch on it, and the options it began with; its patch was made to fit."""
    root = tmp_path_factory.mktemp("stopped")
    data, chosen = pictures(root / "data"), options(root, [1, 18, 18])
    train(data, root / "run", chosen, say=lambda _: None)
    return data, root / "run", chosen


@pytest.fixture
def copied(stopped, tmp_path) -> tuple[Path, Path, TrainOptions]:
    """The same, for a test that takes the run further or changes the dataset."""
    data, run, chosen = stopped
    return Path(copytree(data, tmp_path / "data")), Path(copytree(run, tmp_path / "run")), chosen


def test_a_run_goes_on_with_the_very_options_it_began_with_and_its_plan_tells_the_new_end(copied):
    data, run, chosen = copied
    (summary,) = train(data, run, replace(chosen, resume=True, epochs=2, model="unet", seed=0), say=lambda _: None)
    plan = read_plan(run / "plan.toml")
    assert summary.steps == 4 and plan.patch != (1, 18, 18)
    assert plan.recipe.epochs == 2 and plan.data.path == str(data.resolve()), "an end, and a place, as they are now"
    (summary,) = train(data, run, replace(chosen, resume=True, recipe=None), say=lambda _: None)
    assert summary.steps == 4


@pytest.mark.parametrize("change", ["image", "mask"])
def test_a_run_does_not_go_on_with_other_data_of_the_same_names(copied, change):
    data, run, chosen = copied
    file = next((data / f"{change}s").iterdir())
    pixels = np.array(Image.open(file))
    Image.fromarray(255 - pixels).save(file)
    with pytest.raises(DatasetError, match=r"not those that the run in .* began with"):
        train(data, run, replace(chosen, resume=True, epochs=2), say=lambda _: None)


def test_a_table_of_patients_is_found_again_from_another_folder(tmp_path, monkeypatch):
    data, chosen = pictures(tmp_path / "data", 6), options(tmp_path, [1, 16, 16])
    (tmp_path / "who.csv").write_text("case,patient\n" + "".join(f"case_{i:02d},p{i // 2}\n" for i in range(6)))
    monkeypatch.chdir(tmp_path)
    train("data", "run", replace(chosen, patients="who.csv"), say=lambda _: None)
    monkeypatch.chdir(data)
    more = replace(chosen, resume=True, epochs=2)
    assert train(data, tmp_path / "run", more, say=lambda _: None)[0].steps == 4
    again = replace(more, patients=Path("..") / "who.csv")
    assert train(data, tmp_path / "run", again, say=lambda _: None)[0].steps == 4


@pytest.mark.parametrize(
    "line, said",
    [("batch = 2", "batch = 4, not 2"), ("lr = 0.5", "lr = 0.01, not 0.5"), ("epochs = 7", "epochs = 1, not 7"),
     ("patch = [1, 32, 32]", "not (1, 32, 32)"), ("[augment]\nnoise_p = 0.9", "another augment")],
)  # fmt: skip
def test_another_recipe_than_the_runs_own_is_refused_not_ignored(stopped, tmp_path, line, said):
    data, run, chosen = stopped
    key = line.partition(" =")[0]
    text = chosen.recipe.read_text()
    file = tmp_path / "other.toml"
    if line.startswith("["):
        file.write_text(text.replace("[augment]", line))
    else:
        file.write_text("\n".join([line, *[each for each in text.splitlines() if not each.startswith(f"{key} =")]]))
    with pytest.raises(InputError, match="this run began with") as caught:
        train(data, run, replace(chosen, resume=True, recipe=file), say=lambda _: None)
    assert said in str(caught.value) and "--recipe" in str(caught.value)


@pytest.mark.parametrize(
    "before, after, key",
    [('optimiser = "muon"', 'optimiser = "sgd"', "recipe.optimiser"), ("batch = 4", "batch = 2", "recipe.batch"),
     ('norm = "instance"', 'norm = "batch"', "task.model.config.norm"), ('name = "foreground"', 'name = "polyp"', "task.labels")],
)  # fmt: skip
def test_a_run_does_not_go_on_by_a_plan_that_was_edited_meanwhile(copied, before, after, key):
    data, run, chosen = copied
    plan = run / "plan.toml"
    assert before in plan.read_text()
    plan.write_text(plan.read_text().replace(before, after))
    with pytest.raises(InputError, match=f"{key}.* when this run began") as caught:
        train(data, run, replace(chosen, resume=True, recipe=None, epochs=2), say=lambda _: None)
    assert "--plan" in str(caught.value)


@pytest.mark.parametrize(
    "asked",
    [{"task": "nuclei"}, {"instances": True}, {"patients": "cases.csv"}, {"recipe": "nuclei"}, {"seed": 9},
     {"weights": "run/weights.safetensors"}],
)  # fmt: skip
def test_another_job_than_the_runs_own_is_refused_not_ignored(stopped, asked):
    data, run, chosen = stopped
    (name,) = asked
    asked = {name: run.parent / value if name == "weights" else value for name, value in asked.items()}
    with pytest.raises(InputError, match=f"this run began with.*--{name}"):
        train(data, run, replace(chosen, resume=True, **asked), say=lambda _: None)


def test_a_plan_beside_resume_must_be_the_runs_own(stopped, tmp_path):
    data, run, chosen = stopped
    asked = replace(chosen, resume=True, recipe=None)
    text = (run / "plan.toml").read_text()
    (tmp_path / "same.toml").write_text(text)
    train(data, run, replace(asked, plan=tmp_path / "same.toml"), say=lambda _: None)
    (tmp_path / "other.toml").write_text(text.replace("overlap = 0.5", "overlap = 0.25"))
    with pytest.raises(InputError, match="another plan"):
        train(data, run, replace(asked, plan=tmp_path / "other.toml"), say=lambda _: None)


def test_folds_share_no_case_and_are_averaged_in_use(tmp_path):
    from vesalius.pipeline.predictor import load

    data = pictures(tmp_path / "data")
    summaries = train(data, tmp_path / "run", options(tmp_path, [1, 16, 16], folds=2), say=lambda _: None)
    held = [set(json.loads((s.path / "split.json").read_text())["validation"]) for s in summaries]
    assert not held[0] & held[1] and len(held[0] | held[1]) == 10
    assert len(load(tmp_path / "run", device="cpu").models) == 2


def test_a_run_shorter_than_an_epoch_tells_its_loss(tmp_path):
    data, chosen = pictures(tmp_path / "data"), options(tmp_path, [1, 16, 16], steps_per_epoch="50")
    train(data, tmp_path / "run", replace(chosen, steps=3), say=lambda _: None)
    (line,) = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert line["final"] and line["step"] == 3 and 0 < line["loss"] < 20


def test_minutes_end_the_run_and_its_schedule(tmp_path):
    data = pictures(tmp_path / "data")
    (summary,) = train(data, tmp_path / "run", options(tmp_path, [1, 16, 16], minutes=0.05), say=lambda _: None)
    assert 3 <= summary.seconds < 6
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    rates = [line["rate"] for line in lines if "rate" in line]
    assert rates[-1] < 0.05 * max(rates)


def test_patience_ends_a_run_that_learns_nothing(tmp_path):
    data = pictures(tmp_path / "data")
    file = recipe(tmp_path / "still.toml", [1, 16, 16], lr="1e-12", epochs="50", validate_every="1", patience="2", workers="0")
    (summary,) = train(data, tmp_path / "run", TrainOptions(recipe=file, quiet=True, device="cpu"), say=lambda _: None)
    assert summary.epochs <= 4


def test_a_batch_that_cannot_be_shared_is_an_input_error():
    from vesalius.training.data import Order

    with pytest.raises(InputError, match="multiple of 2"):
        Order(0, 3, 0, 2)


@pytest.mark.usefixtures("ctrl_c")
def test_a_2d_model_learns_on_volumes_resumes_and_segments_them(tmp_path, monkeypatch):
    """Slices of the longest axis, with neighbours: planned, broken off, resumed to the same bits, explained, and used."""
    from vesalius.io.files import read, read_mask
    from vesalius.pipeline.explain import explain
    from vesalius.pipeline.segment import SegmentOptions, segment

    data, said = volumes(tmp_path / "data", 8, ((1.0, 2.0, 1.0),)), []
    file = recipe(tmp_path / "quick.toml", [1, 24, 24], workers="0", epochs="8", steps_per_epoch="10", validate_every="8")
    file.write_text(file.read_text() + "\n[slices]\ncontext = 1\n")
    chosen, follow, seen = TrainOptions(recipe=file, quiet=True, device="cpu"), Trainer.follow, []

    def interrupted(trainer: Trainer) -> None:
        seen.append(trainer.step)
        if len(seen) == 33:
            signal.raise_signal(signal.SIGINT)
        follow(trainer)

    with monkeypatch.context() as once, pytest.raises(KeyboardInterrupt):
        once.setattr(Trainer, "follow", interrupted)
        train(data, tmp_path / "broken", chosen, say=lambda _: None)
    train(data, tmp_path / "broken", replace(chosen, resume=True), say=lambda _: None)
    (summary,) = train(data, tmp_path / "run", chosen, say=said.append)
    assert any("coronal planes, each with 1 neighbour" in line for line in said) and summary.dice > 0.3
    first, second = weights(tmp_path / "run"), weights(tmp_path / "broken")
    assert all(torch.equal(first[name], second[name]) for name in first)
    file.write_text(file.read_text().replace("context = 1", "context = 0"))
    with pytest.raises(InputError, match="another slices"):
        train(data, tmp_path / "run", replace(chosen, resume=True), say=lambda _: None)
    case, using = data / "images" / "case_0.nii.gz", SegmentOptions(model=tmp_path / "run", device="cpu")
    told = explain(case, tmp_path / "masks", using)
    assert "coronal planes, one by one along z, each with 1 neighbour on either side: 1 x 3 channels" in told
    segment(case, tmp_path / "masks", using)
    mask, truth = read_mask(tmp_path / "masks" / "case_0.nii.gz"), read_mask(data / "labels" / "case_0.nii.gz", like=read(case))
    assert mask.grid.same_as(truth.grid)
    assert 2 * ((mask.array == 1) & (truth.array == 1)).sum() > 0.3 * ((mask.array == 1).sum() + (truth.array == 1).sum())
