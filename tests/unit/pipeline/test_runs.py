"""Of a run's folds only those are averaged that came to their end, and what is left out is said."""

import json

import pytest
from specimens import picture, save_tiny

from vesalius.pipeline.explain import explain
from vesalius.pipeline.predictor import load
from vesalius.pipeline.runs import find_run
from vesalius.pipeline.segment import SegmentOptions, segment
from vesalius.transforms.intensity import Scale

EPOCH, END = {"epoch": 1, "step": 4, "loss": 1.0}, {"epoch": 2, "step": 8, "final": True, "dice": 0.5}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("w") / "w.safetensors", dims=2, channels=("red", "green", "blue"), steps=(Scale(),))


def trained(run, weights, *lines, folds=None, begun=True):
    """A run folder as training leaves it, with `lines` in its journal."""
    run.mkdir(parents=True)
    if begun:
        (run / "weights.safetensors").write_bytes(weights.read_bytes())
    (run / "metrics.jsonl").write_text("".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines))
    (run / "plan.toml").write_text(f"[data]\nname = 'some'\n{f'folds = {folds}' if folds else ''}\n")
    return run


def used(run):
    return [file.parent.name for file in find_run(run).weights]


def test_only_finished_folds_are_averaged_and_the_others_are_named(weights, tmp_path):
    for fold in (0, 2, 3):
        trained(tmp_path / f"fold_{fold}", weights, EPOCH, END, folds=5)
    trained(tmp_path / "fold_1", weights, EPOCH, folds=5)
    trained(tmp_path / "fold_4", weights, folds=5, begun=False)
    found = load(tmp_path, device="cpu")
    assert [path.parent.name for path in found.weights] == ["fold_0", "fold_2", "fold_3"] and len(found.models) == 3
    assert found.notes == ("3 of 5 folds are finished; folds 1 and 4 are left out",)


def test_folds_that_were_planned_and_never_begun_count_as_left_out(weights, tmp_path):
    trained(tmp_path / "fold_0", weights, EPOCH, END, folds=3)
    assert used(tmp_path) == ["fold_0"] and find_run(tmp_path).notes == ("1 of 3 folds is finished; folds 1 and 2 are left out",)


def test_a_run_of_finished_folds_says_nothing(weights, tmp_path):
    for fold in range(2):
        trained(tmp_path / f"fold_{fold}", weights, EPOCH, END, folds=2)
    assert used(tmp_path) == ["fold_0", "fold_1"] and find_run(tmp_path).notes == ()


@pytest.mark.parametrize("last", [EPOCH, '{"epoch": 2, "final": tr', "", "7\n"], ids=["epoch", "cut off", "nothing", "number"])
def test_a_journal_that_does_not_end_with_the_final_line_is_of_an_unfinished_fold(last, weights, tmp_path):
    trained(tmp_path / "fold_0", weights, EPOCH, last, folds=2)
    trained(tmp_path / "fold_1", weights, EPOCH, END, folds=2)
    assert used(tmp_path) == ["fold_1"] and find_run(tmp_path).notes == ("1 of 2 folds is finished; fold 0 is left out",)


def test_where_no_fold_is_finished_those_begun_are_used_and_that_is_said(weights, tmp_path):
    for fold in range(2):
        trained(tmp_path / f"fold_{fold}", weights, EPOCH, folds=3)
    assert used(tmp_path) == ["fold_0", "fold_1"]
    assert find_run(tmp_path).notes == ("no fold of this run is finished: the weights of folds 0 and 1 are used as they stand",)


def test_one_unfinished_fold_is_used_as_it_stands(weights, tmp_path):
    trained(tmp_path / "fold_0", weights, EPOCH, folds=3)
    assert find_run(tmp_path).notes == ("no fold of this run is finished: the weights of fold 0 are used as they stand",)


def test_an_unfinished_run_of_one_network_is_used_and_that_is_said(weights, tmp_path):
    trained(tmp_path / "run", weights, EPOCH)
    assert "not finished" in find_run(tmp_path / "run").notes[0]
    (tmp_path / "run" / "metrics.jsonl").write_text(json.dumps(END))
    assert find_run(tmp_path / "run").notes == ()


def test_weights_that_came_without_a_journal_are_taken_as_they_are(weights, tmp_path):
    for fold in range(2):
        trained(tmp_path / f"fold_{fold}", weights)
        (tmp_path / f"fold_{fold}" / "metrics.jsonl").unlink()
    assert used(tmp_path) == ["fold_0", "fold_1"] and find_run(tmp_path).notes == ()


def test_what_is_left_out_stands_in_summary_report_and_explanation(weights, tmp_path):
    run, case = tmp_path / "run", picture(tmp_path / "case.png")
    trained(run / "fold_0", weights, EPOCH, END, folds=2)
    trained(run / "fold_1", weights, EPOCH, folds=2)
    said = "1 of 2 folds is finished; fold 1 is left out"
    summary = segment(case, tmp_path / "out", model=run, device="cpu")
    assert summary.notes == (said,) and said in summary.report.read_text()
    assert said in explain(case, tmp_path / "out", SegmentOptions(model=run, device="cpu"))
