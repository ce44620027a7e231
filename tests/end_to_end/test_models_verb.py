"""`vesalius models`: released weights are shown, fetched and converted, or one line says why not."""

import json
from pathlib import Path

import pytest

from vesalius.models.catalog import CATALOG
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


def test_sizes_that_no_tensor_tells_are_said_beside_the_file(run, shared_parity: Path, tmp_path: Path):
    state, out = shared_parity / "transunet" / "state.safetensors", tmp_path / "ours.safetensors"
    refused = run("models", "import", state, "--as", "transunet", "-o", out)
    assert refused.exit_code == 2 and "no tensor tells 'heads'" in refused.stderr and "--config" in refused.stderr
    (tmp_path / "sizes.toml").write_text("heads = 4")
    shown = run("models", "import", state, "--as", "transunet", "-o", out, "--config", tmp_path / "sizes.toml")
    assert shown.exit_code == 0 and "resnet" in shown.stdout and "every tensor of the network found" in shown.stdout
    (tmp_path / "sizes.toml").write_text("heads = = 4")
    wrong = run("models", "import", state, "--as", "transunet", "-o", out, "--config", tmp_path / "sizes.toml", "--overwrite")
    assert wrong.exit_code == 2 and "neither TOML nor JSON" in wrong.stderr


@pytest.mark.parametrize("name", CATALOG)
def test_every_model_is_shown_with_what_it_takes_gives_and_costs(run, name: str):
    record = json.loads(run("models", "show", name, "--json").stdout)
    assert record["paper"] and record["licence"] and record["recipe"] and record["weights"]
    assert record["input"].startswith("image (B, ") and record["output"] and record["parameters"] > 0 and record["gflops"] > 0
    if name == "transunet":  # counted in the official code too
        assert record["parameters"] == 105_277_081 and record["measured_on"] == [1, 3, 224, 224]
    if name == "sam":
        assert record["released"]["medsam"] == "Apache-2.0"


def test_a_trained_network_leaves_as_onnx_with_its_task(run, tmp_path: Path):
    onnxruntime = pytest.importorskip("onnxruntime")
    from specimens import save_tiny

    from vesalius.pipeline.predictor import TASK_KEY
    from vesalius.tasks.task import read_task
    from vesalius.transforms.intensity import ZScore

    file, out = save_tiny(tmp_path / "run.safetensors", dims=2, channels=("grey",), steps=(ZScore(),)), tmp_path / "net.onnx"
    record = json.loads(run("models", "export", file, "-o", out, "--json").stdout)
    assert record["image"] == [1, 1, 32, 32] and record["logits"] == [1, 3, 32, 32] and record["difference"] < 1e-4
    told = onnxruntime.InferenceSession(out).get_modelmeta().custom_metadata_map[TASK_KEY]
    assert read_task(told).name == "tiny"
    assert run("models", "export", file, "-o", out).exit_code == 2
    assert "name it .onnx" in run("models", "export", file, "-o", tmp_path / "net.pt").stderr.lower()
