"""SegViT's backbones: ViT and BEiT files written here from random weights by the names their makers use, fill every tensor."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vesalius.core.errors import WeightsError
from vesalius.models.blocks import resize_positions
from vesalius.models.catalog import CATALOG
from vesalius.models.pretrained import load_backbone
from vesalius.models.segvit import HeadConfig, SegViT, SegViTConfig, SegViTv2Config
from vesalius.models.vit_backbone import ViTConfig

TRUNK = ViTConfig((32, 32), 8, 24, 2, 3, (0, 1))
PLAIN = SegViTConfig(3, 2, backbone=TRUNK, head=HeadConfig(heads=2, layers=1))
BEIT = SegViTv2Config(3, 2, backbone=replace(TRUNK, positions="relative", scale=0.1), head=HeadConfig(heads=2, layers=1))

TIMM = (
    (r"layers\.(\d+)\.(norm[12])\.(\w+)", r"blocks.\1.\2.\3"),
    (r"layers\.(\d+)\.attention\.(\w+)\.?(\w*)", r"blocks.\1.attn.\2.\3"),
    (r"layers\.(\d+)\.mlp\.layers\.0\.(\w+)", r"blocks.\1.mlp.fc1.\2"),
    (r"layers\.(\d+)\.mlp\.layers\.1\.(\w+)", r"blocks.\1.mlp.fc2.\2"),
    (r"layers\.(\d+)\.gamma\.([12])", r"blocks.\1.gamma_\2"),
    (r"biases\.(\d+)\.table", r"blocks.\1.attn.relative_position_bias_table"),
    (r"embed\.conv\.(\w+)", r"patch_embed.proj.\1"),
    (r"positions", "pos_embed"),
)
INSIDE = r"encoder.layer.\1.attention.attention."
TRANSFORMERS = (
    (r"layers\.(\d+)\.norm1\.(\w+)", r"encoder.layer.\1.layernorm_before.\2"),
    (r"layers\.(\d+)\.norm2\.(\w+)", r"encoder.layer.\1.layernorm_after.\2"),
    (r"layers\.(\d+)\.attention\.proj\.(\w+)", r"encoder.layer.\1.attention.output.dense.\2"),
    (r"layers\.(\d+)\.attention\.(query|key|value)\.(\w+)", INSIDE + r"\2.\3"),
    (r"layers\.(\d+)\.attention\.q_bias", INSIDE + "query.bias"),
    (r"layers\.(\d+)\.attention\.v_bias", INSIDE + "value.bias"),
    (r"layers\.(\d+)\.mlp\.layers\.0\.(\w+)", r"encoder.layer.\1.intermediate.dense.\2"),
    (r"layers\.(\d+)\.mlp\.layers\.1\.(\w+)", r"encoder.layer.\1.output.dense.\2"),
    (r"layers\.(\d+)\.gamma\.([12])", r"encoder.layer.\1.lambda_\2"),
    (r"biases\.(\d+)\.table", INSIDE + "relative_position_bias.relative_position_bias_table"),
    (r"embed\.conv\.(\w+)", r"embeddings.patch_embeddings.projection.\1"),
    (r"positions", "embeddings.position_embeddings"),
    (r"cls_token", "embeddings.cls_token"),
)


def random(config: SegViTConfig | SegViTv2Config) -> SegViT:
    torch.manual_seed(1)
    model = SegViT(config)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def written(model: SegViT, layout: str, file: Path, shared: bool = False) -> Path:
    """The backbone of `model` as its maker would have named it; `shared`: one table of positions for all layers."""
    parts: dict[str, Tensor] = {}
    for name, tensor in model.backbone.state_dict().items():
        if name.endswith(".gamma"):
            parts |= {f"{name}.{i + 1}": row for i, row in enumerate(tensor)}
        elif ".qkv." in name and layout == "transformers":
            parts |= {name.replace("qkv", p): t for p, t in zip(("query", "key", "value"), tensor.chunk(3), strict=True)}
        else:
            parts[name] = tensor
    rules = {"timm": TIMM, "transformers": TRANSFORMERS}[layout]
    state = {"head.weight": torch.zeros(5, 24)}
    for name, tensor in parts.items():
        theirs = next((found.expand(new).strip(".") for old, new in rules if (found := re.fullmatch(old, name))), name)
        if shared and "relative_position_bias_table" in theirs:
            table = {"timm": "rel_pos_bias", "transformers": "encoder.relative_position_bias"}[layout]
            theirs = f"{table}.relative_position_bias_table"
        state[theirs] = tensor
    save_file({name: tensor.contiguous().clone() for name, tensor in state.items()}, file)
    return file


@pytest.mark.parametrize("config", [PLAIN, BEIT], ids=["vit", "beit"])
@pytest.mark.parametrize("layout", ["timm", "transformers"])
def test_a_backbone_of_every_layout_fills_every_tensor(config, layout: str, tmp_path: Path) -> None:
    source, model = random(config), SegViT(config)
    report = load_backbone(model, written(source, layout, tmp_path / "file.safetensors"))
    theirs = source.backbone.state_dict()
    differ = {name for name, tensor in model.backbone.state_dict().items() if not torch.equal(tensor, theirs[name])}
    assert differ <= {"cls_token"} and (config is PLAIN or not differ) and not report.misshapen  # a plain ViT's is not used
    assert "head.weight" in report.unused and {name.split(".")[0] for name in report.missing} <= {"head", "backbone"}


@pytest.mark.parametrize("layout", ["timm", "transformers"])
def test_a_table_that_all_layers_share_is_given_to_each(layout: str, tmp_path: Path) -> None:
    source, model = random(BEIT), SegViT(BEIT)
    load_backbone(model, written(source, layout, tmp_path / "file.safetensors", shared=True))
    for bias in model.backbone.biases:
        assert torch.equal(bias.table, source.backbone.biases[-1].table)


@pytest.mark.parametrize("config", [PLAIN, BEIT], ids=["vit", "beit"])
def test_positions_of_another_image_size_are_resized_on_the_way_in(config, tmp_path: Path) -> None:
    file = written(random(config), "timm", tmp_path / "file.safetensors")
    source, model = random(config), SegViT(replace(config, backbone=replace(config.backbone, image_size=(48, 24))))
    assert not load_backbone(model, file).misshapen
    image = torch.randn(1, 3, 48, 24)
    with torch.no_grad():  # the same as resizing when it is used
        torch.testing.assert_close(model.backbone(image).tokens[-1], source.backbone(image).tokens[-1])


@pytest.mark.parametrize("size", [(32, 32), (48, 24)])
def test_a_vit_without_a_class_token_brings_its_positions_too(size: tuple[int, int], tmp_path: Path) -> None:
    source, model = random(PLAIN), SegViT(replace(PLAIN, backbone=replace(TRUNK, image_size=size)))
    file = written(source, "timm", tmp_path / "file.safetensors")
    state = load_file(file)
    state["pos_embed"] = state["pos_embed"][:, 1:].contiguous()
    del state["cls_token"]
    save_file(state, file)
    assert not load_backbone(model, file).misshapen
    grid = source.backbone.positions[:, 1:].unflatten(1, (4, 4))
    assert torch.equal(model.backbone.positions[:, 1:], resize_positions(grid, model.backbone.config.grid).flatten(1, 2))
    assert not model.backbone.positions[:, 0].any()


def test_a_vit_is_no_beit(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="are of a ViT"):
        load_backbone(SegViT(CATALOG["segvit_v2"].tiny[0]), written(random(PLAIN), "timm", tmp_path / "vit.safetensors"))
    with pytest.raises(WeightsError, match="are of a BEiT"):
        load_backbone(SegViT(PLAIN), written(random(BEIT), "transformers", tmp_path / "beit.safetensors"))
