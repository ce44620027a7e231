"""`vesalius segment --text`: words reach weights that declare them through a CLIP in a folder, and nothing is fetched."""

import json

import numpy as np
import pytest
from PIL import Image
from specimens import picture, save_tiny_sam, tiny_clip

pytest.importorskip("transformers", reason="transformers, of the extra `text`, is not installed")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A picture, weights that know words 10 numbers wide and weights that know none, and the text encoder that fits."""
    folder = tmp_path_factory.mktemp("words")
    picture(folder / "case.png")
    save_tiny_sam(folder / "words.safetensors", text=10)
    save_tiny_sam(folder / "none.safetensors")
    tiny_clip(folder / "clip")
    return folder


@pytest.fixture(autouse=True)
def alone(place, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
    monkeypatch.setattr("socket.socket.connect", lambda *where: pytest.fail("something was fetched"))


def spoken(run, place, out, *words, weights="words.safetensors"):
    return run("segment", place / "case.png", "-o", out, "--model", place / weights, "--precision", "fp32", *words)


def test_words_give_a_mask_and_other_words_another(run, place, tmp_path):
    given, clip = {}, ("--text-encoder", place / "clip")
    for word in ("polyp", "nucleus"):
        done = spoken(run, place, tmp_path / word, "--text", word, *clip, "--json")
        assert done.exit_code == 0, (done.stderr, done.exception)
        given[word] = json.loads(done.stdout)["objects"][0]["predicted_iou"]
        assert np.asarray(Image.open(tmp_path / word / "case.png")).shape == (40, 36)
    assert given["polyp"] != given["nucleus"]
    (tmp_path / "p.json").write_text(json.dumps([{"text": "polyp", "name": "first"}, {"box": [8, 6, 30, 32]}]))
    done = spoken(run, place, tmp_path / "both", "--prompts", tmp_path / "p.json", *clip, "--json")
    assert json.loads(done.stdout)["objects"][0]["predicted_iou"] == pytest.approx(given["polyp"], abs=1e-6)


def test_words_without_what_reads_them_are_one_line_and_exit_code_2(run, place, tmp_path):
    (tmp_path / "empty").mkdir()
    tiny_clip(tmp_path / "wide", width=12)
    text = ("--text", "polyp")
    for words, said in (
        (text, "--text-encoder FOLDER"),
        ((*text, "--text-encoder", tmp_path / "nowhere"), "there is no such folder"),
        ((*text, "--text-encoder", tmp_path / "empty"), "no CLIP text encoder"),
        ((*text, "--text-encoder", tmp_path / "wide"), "12 wide instead of 10"),
        (("--box", "8,6,30,32", "--text-encoder", place / "clip"), "--text-encoder goes with words"),
        (("--everything", "--text-encoder", place / "clip"), "--text-encoder goes with words"),
        (("--text-encoder", place / "clip"), "--text-encoder goes with a prompt"),
    ):
        result = spoken(run, place, tmp_path / "out", *words)
        assert result.exit_code == 2 and result.stderr.count("\n") == 1 and said in result.stderr, (words, result.stderr)
    result = spoken(run, place, tmp_path / "out", *text, "--text-encoder", place / "clip", weights="none.safetensors")
    assert result.exit_code == 2 and "know no words" in result.stderr
    assert not (tmp_path / "out").exists()
