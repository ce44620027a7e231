"""Released weights: found, fetched, imported; what is missing is named to the file, and nothing is prepared by guessing."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from reference import Folder
from safetensors.torch import load_file, save_file

from vesalius.core.errors import InputError, UnknownName, WeightsError
from vesalius.models import checkpoints
from vesalius.models.checkpoints import CHECKPOINTS, MODEL_KEY, download, find, import_file, load_checkpoint
from vesalius.models.contract import Prompts
from vesalius.models.sam.frame import Frame
from vesalius.models.sam.official import official
from vesalius.models.weights import load_state


@pytest.fixture
def small(shared_parity: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The official file of a small SAM, which goes by `medsam` here."""
    reference = Folder.open(shared_parity / "sam")
    entry = replace(CHECKPOINTS["medsam"], config=official(reference.config)[0], frame=Frame(320, aspect="stretch"))
    monkeypatch.setitem(checkpoints.CHECKPOINTS, "medsam", entry)
    return reference.path / "state.safetensors"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A stand-in for huggingface_hub; `files` is what the hub has, None for a hub out of reach."""

    class EntryNotFoundError(Exception): ...

    class LocalEntryNotFoundError(EntryNotFoundError): ...

    def hf_hub_download(repo: str, file: str, local_dir: Path) -> str:
        there.asked.append((repo, file))
        if there.files is None:
            raise LocalEntryNotFoundError
        if file not in there.files:
            raise EntryNotFoundError
        local_dir.mkdir(parents=True, exist_ok=True)
        (local_dir / file).write_bytes(there.files[file])
        return str(local_dir / file)

    errors = SimpleNamespace(EntryNotFoundError=EntryNotFoundError, LocalEntryNotFoundError=LocalEntryNotFoundError)
    there: Any = ModuleType("huggingface_hub")
    there.files, there.asked, there.constants = {}, [], SimpleNamespace(HF_HUB_OFFLINE=False)
    there.errors, there.hf_hub_download = errors, hf_hub_download
    monkeypatch.setitem(sys.modules, "huggingface_hub", there)
    return there


def test_what_is_fetched_once_is_found_afterwards(hub: Any, tmp_path: Path) -> None:
    hub.files = {"model.safetensors": b"weights"}
    path = download("sam_vit_b", tmp_path)
    assert path == tmp_path / "sam_vit_b" / "model.safetensors" == find("sam_vit_b", tmp_path) == download("sam_vit_b", tmp_path)
    assert hub.asked == [("facebook/sam-vit-base", "model.safetensors")]


def test_other_names_are_tried_where_the_hub_has_no_such_file(hub: Any, tmp_path: Path) -> None:
    hub.files = {"pytorch_model.bin": b"weights"}
    assert download("medsam", tmp_path).name == "pytorch_model.bin"


def test_a_file_with_another_hash_is_refused(hub: Any, tmp_path: Path) -> None:
    hub.files = {"mobile_sam.pt": b"not it"}
    for attempt in (download, find):
        with pytest.raises(WeightsError, match="sha256 differs"):
            attempt("mobile_sam", tmp_path)


@pytest.mark.parametrize("why", ["offline", "unreachable", "not installed"])
def test_without_the_hub_the_file_and_its_folder_are_named(
    hub: Any, tmp_path: Path, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.files, hub.constants.HF_HUB_OFFLINE = None, why == "offline"
    if why == "not installed":
        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError) as refusal:
        download("mobile_sam", tmp_path)
    says = str(refusal.value)
    assert "put mobile_sam.pt" in says.lower() and f"into {tmp_path / 'mobile_sam'}" in says and "\n" not in says
    assert (hub.asked == []) == (why != "unreachable")


def test_weights_that_are_not_here_say_how_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="vesalius models download medsam"):
        find("medsam", tmp_path)
    with pytest.raises(UnknownName, match="sam_vit_b"):
        find("sam_vit_c", tmp_path)


def test_an_imported_file_is_enough_to_answer_prompts(small: Path, tmp_path: Path) -> None:
    imported = import_file(small, "medsam")
    path = imported.write(tmp_path / "small.safetensors", small)
    model, frame = load_checkpoint(path)
    assert frame == Frame(320, aspect="stretch") and imported.used == len(load_file(small)) and imported.ignored == ()
    record = json.loads(load_state(path)[1][MODEL_KEY])
    assert (record["checkpoint"], record["source"]) == ("medsam", "state.safetensors")
    prompts, image = Prompts(boxes=torch.tensor([[10.0, 20.0, 200.0, 90.0]])), torch.randn(1, 3, 320, 320)
    with torch.inference_mode():
        assert torch.equal(model(image, prompts).logits, imported.module(image, prompts).logits)


def test_a_fine_tuned_medsam_that_several_gpus_wrote_is_medsam(small: Path, tmp_path: Path) -> None:
    torch.save({"model": {f"module.{n}": t for n, t in load_file(small).items()}, "epoch": 3}, tmp_path / "medsam_latest.pth")
    assert import_file(tmp_path / "medsam_latest.pth", "medsam").used == len(load_file(small))


def test_weights_in_the_folder_are_loaded_by_name(small: Path, tmp_path: Path) -> None:
    (tmp_path / "medsam").mkdir()
    (tmp_path / "medsam" / "model.safetensors").symlink_to(small.resolve())
    assert load_checkpoint("medsam", tmp_path)[1] == Frame(320, aspect="stretch")


def test_an_official_file_alone_does_not_say_how_to_prepare_an_image(small: Path) -> None:
    with pytest.raises(WeightsError, match=r"models import state\.safetensors --as NAME"):
        load_checkpoint(small)
    with pytest.raises(WeightsError, match=r"does not say how an image is prepared.*medsam"):
        import_file(small, "sam")


def test_weights_of_another_size_or_cut_short_are_refused(small: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="another network than expected, in encoder"):
        import_file(small, "sam_vit_b")
    with pytest.raises(InputError, match=r"sizes\.toml: the sizes of 'medsam' are known"):
        import_file(small, "medsam", {"heads": 4}, stated_in="sizes.toml")
    save_file({"image_encoder.patch_embed.proj.weight": torch.zeros(())}, tmp_path / "flat.safetensors")
    with pytest.raises(WeightsError, match=r"flat\.safetensors: this is no"):
        import_file(tmp_path / "flat.safetensors", "medsam")
    state = load_file(small)
    del state["mask_decoder.iou_prediction_head.layers.2.bias"]
    save_file(state, tmp_path / "cut.safetensors")
    with pytest.raises(WeightsError, match=r"1 not found: mask_decoder.quality.layers.2.bias"):
        import_file(tmp_path / "cut.safetensors", "medsam")


def test_a_model_whose_sizes_no_shape_tells_is_refused(small: Path) -> None:
    with pytest.raises(WeightsError, match="cannot be read off"):
        import_file(small, "tiny_vit")


def test_medsam_is_not_prepared_as_sam() -> None:
    assert CHECKPOINTS["medsam"].config == CHECKPOINTS["sam_vit_b"].config
    assert CHECKPOINTS["medsam"].frame != CHECKPOINTS["sam_vit_b"].frame
    assert not any(entry.text for entry in CHECKPOINTS.values())  # no released weights know text
