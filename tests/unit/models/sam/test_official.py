"""Official files: sizes are read off the shapes, layouts are told apart, unused tensors are left out by name."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from reference import Folder
from safetensors.torch import load_file

from vesalius.core.errors import WeightsError
from vesalius.models import layouts
from vesalius.models.sam.official import config_of, official, official_tiny, to_original, to_ours


@pytest.fixture(scope="module")
def reference(shared_parity: Path) -> Folder:
    return Folder.open(shared_parity / "sam")


def test_the_sizes_of_a_vit_are_read_off_its_tensors(reference: Folder) -> None:
    state = load_file(reference.path / "state.safetensors")
    assert config_of(state) == official(reference.config)[0]


def test_the_sizes_of_a_tinyvit_are_read_off_its_tensors(reference: Folder, shared_parity: Path) -> None:
    tiny = Folder.open(shared_parity / "tiny_vit")
    state = {k: v for k, v in load_file(reference.path / "state.safetensors").items() if not k.startswith("image_encoder.")}
    state |= {f"image_encoder.{k}": v for k, v in load_file(tiny.path / "state.safetensors").items()}
    wanted = official_tiny(tiny.config)[0]
    found = config_of(state).encoder
    # No shape shows the first stage's heads and windows, which it has no use for, nor the size.
    first = {"heads": (found.heads[0], *wanted.heads[1:]), "windows": (found.windows[0], *wanted.windows[1:])}
    assert found == replace(wanted, image_size=1024, **first)


def test_the_head_that_mobilesam_never_uses_is_left_out_by_name() -> None:
    extra = {"image_encoder.head.weight": torch.zeros(2), "image_encoder.norm_head.bias": torch.zeros(2)}
    assert to_original(extra) == {} and set(to_original({"image_encoder.header": torch.zeros(2)})) == {"image_encoder.header"}


def test_each_layout_keeps_its_own_meaning_of_a_layers_number() -> None:
    """The second layer of a head is layers.1 in the original and layers.0, after proj_in, in transformers."""
    ours = "mask_decoder.quality.layers"
    theirs = "mask_decoder.iou_prediction_head"
    from_original = to_ours({f"{theirs}.layers.0.weight": torch.tensor(0), f"{theirs}.layers.1.weight": torch.tensor(1)})
    assert from_original[f"{ours}.0.weight"] == 0 and from_original[f"{ours}.1.weight"] == 1
    marker = {"vision_encoder.pos_embed": torch.zeros(1)}
    hub = to_ours(marker | {f"{theirs}.proj_in.weight": torch.tensor(0), f"{theirs}.layers.0.weight": torch.tensor(1)})
    assert hub[f"{ours}.0.weight"] == 0 and hub[f"{ours}.1.weight"] == 1


def test_what_is_no_sam_is_refused() -> None:
    with pytest.raises(WeightsError, match="no SAM"):
        config_of({"conv.weight": torch.zeros(3)})


@pytest.mark.parametrize("folder", ["unet_2d", "unet_3d"])
def test_the_sizes_of_an_official_unet_are_read_off_its_tensors(shared_parity: Path, folder: str) -> None:
    unet = Folder.open(shared_parity / folder)
    assert layouts.official(layouts.infer(load_file(unet.path / "state.safetensors")))[0] == layouts.official(unet.config)[0]


def test_tensors_of_no_unet_are_refused() -> None:
    with pytest.raises(WeightsError, match="no U-Net that we know"):
        layouts.infer({"conv0_0.conv1.weight": torch.zeros(1), "conv0_1.conv1.weight": torch.zeros(1)})
