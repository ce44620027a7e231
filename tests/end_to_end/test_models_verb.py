"""`vesalius models`: released weights are shown, fetched and converted, or one line says why not."""

import json
from pathlib import Path

from vesalius.models.weights import load_state


def test_released_weights_are_listed_and_shown_with_their_preparation(run):
    assert "mobile_sam" in run("models").stdout
    record = json.loads(run("models", "show", "medsam", "--json").stdout)
    assert record["frame"]["intensity"] == "min_max" and record["licence"] == "Apache-2.0"
    wrong = run("models", "show", "medsamm")
    assert wrong.exit_code == 2 and "did you mean 'medsam'" in wrong.stderr.lower()


def test_an_official_unet_is_converted_and_its_tensors_are_counted(run, shared_parity: Path, tmp_path: Path):
    state, out = shared_parity / "unet_2d" / "state.safetensors", tmp_path / "ours.safetensors"
    shown = run("models", "import", state, "--as", "unet", "-o", out)
    assert shown.exit_code == 0 and "encoder" in shown.stdout and "every tensor of the network found" in shown.stdout
    assert json.loads(load_state(out)[1]["vesalius_model"])["model"] == "unet"
    again = run("models", "import", state, "--as", "unet", "-o", out)
    assert again.exit_code == 2 and "--overwrite" in again.stderr
    record = json.loads(run("models", "import", state, "--as", "unet", "-o", out, "--overwrite", "--json").stdout)
    assert record["used"] + len(record["ignored"]) == len(load_state(state)[0])
    assert sum(record["parts"].values()) == len(load_state(out)[0])


def test_what_cannot_be_converted_is_one_line(run, shared_parity: Path, tmp_path: Path):
    state, out = shared_parity / "sam" / "state.safetensors", tmp_path / "ours.safetensors"
    refused = {"unet": "no U-Net that we know", "sam": "Name the weights", "sam_vit_h": "another network", "sammy": "'sam'"}
    for name, says in refused.items():
        result = run("models", "import", state, "--as", name, "-o", out)
        assert result.exit_code == 2 and says in result.stderr and result.stderr.count("\n") == 1 and not out.exists()


def test_without_a_network_the_file_and_the_folder_are_named(run, tmp_path: Path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    result = run("models", "download", "medsam", "--folder", tmp_path)
    assert result.exit_code == 2 and "medsam_vit_b.pth" in result.stderr and str(tmp_path / "medsam") in result.stderr
