"""Weights: whole or not at all, verified, never run as code."""

import argparse
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from vesalius.core.errors import OutputError, WeightsError
from vesalius.models.unet import UNet, UNetConfig
from vesalius.models.weights import file_hash, from_official, load_into, load_state, match_keys, save

CONFIG = UNetConfig(widths=(4, 6), norm="batch")


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return UNet(CONFIG)


def test_half_storage_halves_the_file_and_gives_float32_back(model: nn.Module, tmp_path: Path) -> None:
    model.encoder[0][0].norm.running_var.fill_(1e6)  # beyond float16: kept as it is
    full, half = save(tmp_path / "full.safetensors", model, {}), save(tmp_path / "half.safetensors", model, {}, half=True)
    state, _ = load_state(half)
    assert half.stat().st_size < 0.75 * full.stat().st_size
    assert state["encoder.0.0.norm.running_var"].max() == 1e6
    assert all(t.dtype in (torch.float32, torch.int64) for t in state.values())
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(state[name], tensor, atol=1e-3, rtol=1e-3)


def test_a_disk_that_fills_up_leaves_the_weights_before_whole(model: nn.Module, tmp_path: Path, monkeypatch) -> None:
    path = save(tmp_path / "weights.safetensors", model, {})
    before = file_hash(path)

    def fill(state, part, metadata):
        part.write_bytes(b"half of it")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")  # verbatim

    monkeypatch.setattr("vesalius.models.weights.save_file", fill)
    with pytest.raises(OutputError, match=r"weights\.safetensors: the disk is full"):
        save(path, model, {"kept": "no"})
    assert file_hash(path) == before and [file.name for file in tmp_path.iterdir()] == [path.name]


def test_an_altered_file_is_refused(model: nn.Module, tmp_path: Path) -> None:
    path = save(tmp_path / "weights.safetensors", model, {})
    right = file_hash(path)
    load_state(path, sha256=right)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="sha256"):
        load_state(path, sha256=right)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("content", [b"", b"these are no weights\n" * 9, b"cut"])
def test_broken_files_are_refused_in_one_line(model: nn.Module, tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"weights{suffix}"
    if content == b"cut":
        save(path, model, {}) if suffix == ".safetensors" else torch.save(model.state_dict(), path)
        content = path.read_bytes()[: path.stat().st_size // 2]
    path.write_bytes(content)
    with pytest.raises(WeightsError) as refusal:
        load_state(path)
    assert str(path) in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_missing_file_and_an_unknown_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such weights file"):
        load_state(tmp_path / "nowhere.safetensors")
    (tmp_path / "weights.npz").write_bytes(b"PK")
    with pytest.raises(WeightsError, match=r"\.safetensors"):
        load_state(tmp_path / "weights.npz")


class Bomb:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("exploded"),))


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Bomb()}, "bomb.pth")
    with pytest.raises(WeightsError, match="run code"):
        load_state("bomb.pth")
    assert not Path("exploded").exists()


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_checkpoints_are_unwrapped_and_their_known_extras_dropped(model: nn.Module, tmp_path: Path, wrapper: str | None) -> None:
    state = {**model.state_dict(), "mask_values": [0, 1]}
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, tmp_path / "weights.pth")
    loaded, metadata = load_state(tmp_path / "weights.pth")
    assert metadata == {} and set(loaded) == set(model.state_dict())
    load_into(UNet(CONFIG), loaded)


def test_numbers_and_options_beside_the_weights_do_not_stand_in_the_way(model: nn.Module, tmp_path: Path) -> None:
    """nnU-Net v1 keeps its losses as NumPy's numbers, others their command line; NumPy 1 wrote another name."""
    losses = ([np.mean([1.0, 2.0])], [np.float32(0.5)], np.arange(3), [])
    saved = {"epoch": 3, "state_dict": model.state_dict(), "plot_stuff": losses, "args": argparse.Namespace(lr=0.1)}
    torch.save(saved, tmp_path / "new.model")
    with zipfile.ZipFile(tmp_path / "new.model") as new, zipfile.ZipFile(tmp_path / "old.model", "w") as old:
        for name in new.namelist():
            old.writestr(name, new.read(name).replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    for file in ("new.model", "old.model"):
        load_into(UNet(CONFIG), load_state(tmp_path / file)[0])


def test_a_checkpoint_whose_names_are_no_words_is_refused(tmp_path: Path) -> None:
    torch.save({0: torch.zeros(3), "weight": torch.zeros(3)}, tmp_path / "numbered.pth")
    with pytest.raises(WeightsError, match=r"numbered.pth: 0 is no name of a tensor"):
        load_state(tmp_path / "numbered.pth")


def test_weights_of_another_model_are_refused_briefly(model: nn.Module) -> None:
    other = UNet(UNetConfig(widths=(4, 6, 8), norm="batch")).state_dict()
    with pytest.raises(WeightsError) as refusal:
        load_into(model, other, file="weights.safetensors")
    assert "not used: encoder.2.0" in str(refusal.value) and len(str(refusal.value)) < 600
    report = match_keys(UNet(UNetConfig(widths=(4, 7), norm="batch")), model.state_dict())
    assert not report.missing and not report.unused and report.misshapen


def test_loose_loading_leaves_the_rest_as_it_was_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    config = {"layout": "nested", "in_channels": 1, "classes": 2, "widths": [4, 6]}
    module = from_official("unet", {"final.bias": torch.tensor([3.0, 4.0])}, config, strict=False)
    assert module.heads[0].bias.tolist() == [3, 4] and not module.training
    assert "not found" in caplog.text


def test_nothing_is_written_where_nothing_may_be(model: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        save(tmp_path / "file" / "weights.safetensors", model, {})
