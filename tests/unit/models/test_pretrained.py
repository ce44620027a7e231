"""Backbones: files of every layout, written here from random weights by the names their makers use, fill the right tensors."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.ndimage import zoom
from torch import Tensor, nn

from vesalius.core.errors import UnknownName, WeightsError
from vesalius.models.blocks import in_colours
from vesalius.models.catalog import CATALOG, build, derived, make_config, plain
from vesalius.models.checkpoints import import_file
from vesalius.models.needs import Needs
from vesalius.models.pretrained import begin_with, head_of, load_backbone, on_grid
from vesalius.models.swin_unet import SwinUnet
from vesalius.models.transunet import TransUNet, TransUNetConfig
from vesalius.models.unet import UNet
from vesalius.models.weights import save

State = dict[str, Tensor]
HYBRID = replace(CATALOG["transunet"].tiny[0], resnet_units=(1, 2, 1), image_size=(64, 64))
PLAIN = replace(CATALOG["transunet"].tiny[1], in_channels=3, image_size=(32, 32))
SWIN = CATALOG["swin_unet"].tiny[0]
ENCODERS = ("resnet", "vit", "embed", "embed_norm", "encoder", "merge", "norm")


def random(model: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def transformer(model: TransUNet, put: Callable[[str, Tensor], None], names: dict[str, str]) -> None:
    """Every tensor of the transformer under its maker's name; {i} is the layer."""
    for i, layer in enumerate(model.vit.layers):
        inside = {
            "norm1": layer.norm1,
            "norm2": layer.norm2,
            "qkv": layer.attention.qkv,
            "proj": layer.attention.proj,
            "fc1": layer.mlp.layers[0],
            "fc2": layer.mlp.layers[1],
        }
        for part, module in inside.items():
            for kind in ("weight", "bias"):
                tensor, name = getattr(module, kind).detach(), names[part].format(i=i)
                if part == "qkv" and "|" in name:
                    for one, third in zip(name.split("|"), tensor.chunk(3), strict=True):
                        put(f"{one}.{kind}", third)
                else:
                    put(f"{name}.{kind}", tensor)
    for part, module in (("norm", model.vit.norm), ("embed", model.vit.embed.conv)):
        put(f"{names[part]}.weight", module.weight.detach())
        put(f"{names[part]}.bias", module.bias.detach())
    token = torch.randn(1, 1, model.config.hidden)
    put(names["positions"], torch.cat((token, model.vit.positions.detach().flatten(1, 2)), 1))


TIMM = {
    **{part: f"blocks.{{i}}.{part}" for part in ("norm1", "norm2")},
    **{"qkv": "blocks.{i}.attn.qkv", "proj": "blocks.{i}.attn.proj", "fc1": "blocks.{i}.mlp.fc1", "fc2": "blocks.{i}.mlp.fc2"},
    **{"norm": "norm", "embed": "patch_embed.proj", "positions": "pos_embed"},
}
ATTENTION = "vit.encoder.layer.{i}.attention.attention."
TRANSFORMERS = {
    "norm1": "vit.encoder.layer.{i}.layernorm_before",
    "norm2": "vit.encoder.layer.{i}.layernorm_after",
    "qkv": "|".join(ATTENTION + part for part in ("query", "key", "value")),
    "proj": "vit.encoder.layer.{i}.attention.output.dense",
    "fc1": "vit.encoder.layer.{i}.intermediate.dense",
    "fc2": "vit.encoder.layer.{i}.output.dense",
    "norm": "vit.layernorm",
    "embed": "vit.embeddings.patch_embeddings.projection",
    "positions": "vit.embeddings.position_embeddings",
}


def timm_vit(model: TransUNet) -> State:
    state: State = {"cls_token": torch.randn(1, 1, 16), "head.weight": torch.randn(5, 16), "head.bias": torch.randn(5)}
    transformer(model, state.__setitem__, TIMM)
    if model.resnet is not None:
        stem = "patch_embed.backbone"
        for kind, tensor in model.resnet.root.state_dict().items():
            state[f"{stem}.stem.{kind}"] = tensor
        for name, tensor in units(model):
            state[f"{stem}.stages.{name.format('blocks')}"] = tensor
    return state


def hf_vit(model: TransUNet) -> State:
    state: State = {"vit.embeddings.cls_token": torch.randn(1, 1, 16), "classifier.weight": torch.randn(5, 16)}
    transformer(model, state.__setitem__, TRANSFORMERS)
    if model.resnet is not None:
        stem = "vit.embeddings.patch_embeddings.backbone.bit"
        for kind, tensor in model.resnet.root.state_dict().items():
            state[f"{stem}.embedder.{kind.replace('conv.', 'convolution.')}"] = tensor
        for name, tensor in units(model):
            state[f"{stem}.encoder.stages.{name.format('layers')}"] = tensor
    return state


def units(model: TransUNet) -> list[tuple[str, Tensor]]:
    """The ResNet's units as timm and transformers name them: 0.{}.1.conv2.weight, 0.{}.0.downsample.norm.bias."""
    found = []
    for b, block in enumerate(model.resnet.blocks):
        for u, unit in enumerate(block):
            for kind, tensor in unit.state_dict().items():
                part, inside, rest = kind.split(".")
                number = {"first": 1, "second": 2, "third": 3, "shortcut": 0}[part]
                name = f"{inside}{number}" if number else f"downsample.{inside}"
                found.append((f"{b}.{{}}.{u}.{name}.{rest}", tensor))
    return found


def google(model: TransUNet, file: Path) -> Path:
    """The .npz of the original: kernels turned round, attention split by heads, norms of the ResNet (1, 1, 1, C)."""
    heads, width = model.config.heads, model.config.hidden
    block = "Transformer/encoderblock_{i}/"
    names = {
        "norm1": block + "LayerNorm_0",
        "norm2": block + "LayerNorm_2",
        "qkv": "|".join(f"{block}MultiHeadDotProductAttention_1/{part}" for part in ("query", "key", "value")),
        "proj": block + "MultiHeadDotProductAttention_1/out",
        "fc1": block + "MlpBlock_3/Dense_0",
        "fc2": block + "MlpBlock_3/Dense_1",
        "norm": "Transformer/encoder_norm",
        "embed": "embedding",
        "positions": "Transformer/posembed_input/pos_embedding",
    }
    arrays = {"cls": np.zeros((1, 1, width), np.float32), "head/kernel": np.zeros((width, 5), np.float32)}

    def put(name: str, tensor: Tensor) -> None:
        name, array = name.replace(".weight", "/kernel").replace(".bias", "/bias"), tensor.numpy()
        if "norm" in name.lower():
            name = name.replace("/kernel", "/scale")
        if array.ndim == 4:
            array = array.transpose(2, 3, 1, 0)
        elif name.endswith("/kernel"):
            array = array.T
        if "/query/" in name or "/key/" in name or "/value/" in name:
            array = array.reshape(*array.shape[:-1], heads, width // heads)
        if name.endswith("/out/kernel"):
            array = array.reshape(heads, width // heads, width)
        arrays[name] = array

    transformer(model, put, names)
    if model.resnet is not None:
        arrays["conv_root/kernel"] = model.resnet.root.conv.weight.detach().numpy().transpose(2, 3, 1, 0)
        arrays["gn_root/scale"] = model.resnet.root.norm.weight.detach().numpy()[None, None, None]
        arrays["gn_root/bias"] = model.resnet.root.norm.bias.detach().numpy()[None, None, None]
        for b, units in enumerate(model.resnet.blocks, 1):
            for u, unit in enumerate(units, 1):
                for kind, tensor in unit.state_dict().items():
                    part, inside, rest = kind.split(".")
                    side = {"first": "1", "second": "2", "third": "3", "shortcut": "_proj"}[part]
                    stem = f"block{b}/unit{u}/{'conv' if inside == 'conv' else 'gn'}{side}"
                    if inside == "conv":
                        arrays[f"{stem}/kernel"] = tensor.numpy().transpose(2, 3, 1, 0)
                    else:
                        arrays[f"{stem}/{'scale' if rest == 'weight' else 'bias'}"] = tensor.numpy()[None, None, None]
    np.savez(file, **arrays)
    return file


def swin(model: SwinUnet, *, merge_after: int = 0) -> State:
    """Microsoft's names; `merge_after` 1 counts a merge to the stage behind it, as timm does."""
    state: State = {"head.weight": torch.randn(5, 8), "layers.0.blocks.1.attn_mask": torch.zeros(1)}
    words = {
        "attention.attention.": "attn.",
        "attention.table": "attn.relative_position_bias_table",
        "mlp.layers.0": "mlp.fc1",
        "mlp.layers.1": "mlp.fc2",
    }
    for name, tensor in model.state_dict().items():
        head, *rest = name.split(".")
        if head == "encoder":
            inside = ".".join(rest[2:])
            for ours, theirs in words.items():
                inside = inside.replace(ours, theirs)
            state[f"layers.{rest[0]}.blocks.{rest[1]}.{inside}"] = tensor
        elif head == "merge":
            inside = "norm" if rest[1] == "norm" else "reduction"
            state[f"layers.{int(rest[0]) + merge_after}.downsample.{inside}.{rest[2]}"] = tensor
        elif head in ("embed", "embed_norm"):
            state[f"patch_embed.{'proj' if head == 'embed' else 'norm'}.{rest[-1]}"] = tensor
        elif head == "norm":
            state[name] = tensor
    return state


def hf_swin(model: SwinUnet) -> State:
    words = {
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "patch_embed.norm": "embeddings.norm",
        "attn.relative": "attention.self.relative",
        "attn.proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
    }
    state: State = {}
    for name, tensor in swin(model).items():
        for ours, theirs in words.items():
            name = name.replace(ours, theirs)
        name = f"encoder.{name}" if name.startswith("layers.") else name
        name = name.replace("norm.", "layernorm.") if name.startswith("norm.") else name
        if "attn.qkv" in name:
            for part, third in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                state[f"swin.{name.replace('attn.qkv', f'attention.self.{part}')}"] = third.contiguous()
        else:
            state[f"swin.{name}"] = tensor
    return state


def write(state: State, file: Path) -> Path:
    """Under the name of the file: .safetensors, or .pth as Microsoft wraps it."""
    if file.suffix == ".pth":
        torch.save({"model": state}, file)
    else:
        save_file({name: tensor.clone() for name, tensor in state.items()}, file)
    return file


def same_encoder(found: nn.Module, wanted: nn.Module) -> list[str]:
    """The names of the encoder's tensors that differ."""
    theirs = wanted.state_dict()
    return [n for n, t in found.state_dict().items() if n.split(".")[0] in ENCODERS and not torch.equal(t, theirs[n])]


@pytest.mark.parametrize("config", [HYBRID, PLAIN], ids=["hybrid", "plain"])
@pytest.mark.parametrize("layout", ["google", "timm", "transformers"])
def test_a_vision_transformer_of_every_layout_fills_the_encoder(config, layout, tmp_path) -> None:
    source, model = random(TransUNet(config)), TransUNet(config)
    if layout == "google":
        file = google(source, tmp_path / "ViT.npz")
    else:
        file = write({"timm": timm_vit, "transformers": hf_vit}[layout](source), tmp_path / "vit.safetensors")
    report = load_backbone(model, file)
    assert same_encoder(model, source) == [] and not report.misshapen
    assert {name.split(".")[0] for name in report.missing} == {"widen", "decoder", "head"}
    assert all("cls" in name or "head" in name or "classifier" in name for name in report.unused) and report.unused


@pytest.mark.parametrize("layout", ["microsoft.pth", "timm.safetensors", "transformers.safetensors"])
def test_a_swin_transformer_fills_the_encoder_and_mirrored_the_decoder(layout, tmp_path) -> None:
    source, model = random(SwinUnet(SWIN)), SwinUnet(SWIN)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    makers = {"microsoft": swin, "timm": lambda m: swin(m, merge_after=1), "transformers": hf_swin}
    report = load_backbone(model, write(makers[layout.split(".")[0]](source), tmp_path / layout))
    assert same_encoder(model, source) == [] and not report.misshapen
    state = model.state_dict()
    decoder = [name for name in state if name.startswith("decoder.")]
    assert decoder and all(torch.equal(state[n], state[n.replace("decoder", "encoder")]) for n in decoder)
    assert {name.split(".")[0] for name in report.missing} == {"expand", "join", "up_norm", "up", "head"}
    assert all(torch.equal(state[name], start[name]) for name in report.missing)


def test_blocks_that_only_the_file_has_are_named_and_left_out(tmp_path) -> None:
    source, model = random(SwinUnet(replace(SWIN, depths=(2, 4, 2)))), SwinUnet(SWIN)
    report = load_backbone(model, write(swin(source), tmp_path / "swin.safetensors"))
    unused = {".".join(name.split(".")[:3]) for name in report.unused}
    assert unused == {"encoder.1.2", "encoder.1.3", "head.weight"}
    assert torch.equal(model.encoder[1][1].norm1.weight, source.encoder[1][1].norm1.weight)


def test_other_windows_keep_their_own_tables_and_say_so(tmp_path) -> None:
    model = SwinUnet(replace(SWIN, window=2))
    before = model.encoder[0][0].attention.table.clone()
    report = load_backbone(model, write(swin(random(SwinUnet(SWIN))), tmp_path / "swin.safetensors"))
    assert {name.rsplit(".", 1)[1] for name, *_ in report.misshapen} == {"table"}
    assert torch.equal(model.encoder[0][0].attention.table, before)


@pytest.mark.parametrize("token", [0, 1])
def test_positions_are_resized_as_scipys_zoom_of_order_1_does(token: int) -> None:
    positions = torch.randn(1, 9 + token, 5)
    grid = positions[0, token:].unflatten(0, (3, 3)).numpy()
    for size in ((4, 4), (5, 7), (2, 2)):
        expected = zoom(grid, (size[0] / 3, size[1] / 3, 1), order=1)
        np.testing.assert_allclose(on_grid(positions, size)[0].numpy(), expected, atol=1e-6)
    assert torch.equal(on_grid(positions, (3, 3))[0], torch.from_numpy(grid))


def test_positions_of_another_image_size_are_resized_on_the_way_in(tmp_path) -> None:
    source, model = random(TransUNet(PLAIN)), TransUNet(replace(PLAIN, image_size=(48, 40)))
    report = load_backbone(model, write(timm_vit(source), tmp_path / "vit.safetensors"))
    assert not report.misshapen and model.vit.positions.shape == (1, 6, 5, 16)
    torch.testing.assert_close(model.vit.positions[0, 0, 0], source.vit.positions[0, 0, 0])
    torch.testing.assert_close(model.vit.positions[0, 5, 4], source.vit.positions[0, 3, 3])


@pytest.mark.parametrize("kind", [TransUNet, SwinUnet])
def test_one_channel_takes_the_sum_of_three(kind, tmp_path) -> None:
    config = PLAIN if kind is TransUNet else SWIN
    source, model = random(kind(config)), kind(replace(config, in_channels=1))
    load_backbone(model, write(timm_vit(source) if kind is TransUNet else swin(source), tmp_path / "rgb.safetensors"))
    colour, grey = (m.vit.embed if kind is TransUNet else m.embed for m in (source, model))
    x = torch.randn(1, 1, 16, 16)
    torch.testing.assert_close(grey(x), colour(x.expand(-1, 3, -1, -1)), atol=1e-4, rtol=1e-4)


def test_a_pretrained_resnet_sees_grey_images_as_grey_colours(tmp_path) -> None:
    source, file = random(TransUNet(HYBRID)), tmp_path / "hybrid.safetensors"
    write(timm_vit(source), file)
    sizes = {key: value for key, value in plain(HYBRID).items() if key not in ("in_channels", "classes", "image_size")}
    needs = Needs(1, 3, 2, (64, 64), (1.0, 1.0), pretrained=True, chosen=sizes)
    model = TransUNet(make_config(TransUNetConfig, derived("transunet", needs))).eval()
    load_backbone(model, file)
    grey = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        for found, wanted in zip(model.resnet(in_colours(grey, 3))[1], source.resnet(grey.repeat(1, 3, 1, 1))[1], strict=True):
            assert torch.equal(found, wanted)
        assert torch.equal(model(grey).main, model(grey.repeat(1, 3, 1, 1)).main)
    own = (replace(needs, pretrained=False), replace(needs, chosen={"resnet_units": []}))
    assert [derived("transunet", other)["in_channels"] for other in own] == [1, 1]


def test_a_file_of_the_wrong_family_or_of_none_is_refused(tmp_path) -> None:
    vit = write(timm_vit(random(TransUNet(PLAIN))), tmp_path / "vit.safetensors")
    with pytest.raises(WeightsError, match="are of a ViT"):
        load_backbone(SwinUnet(SWIN), vit)
    with pytest.raises(WeightsError, match="no backbone of a layout we know"):
        load_backbone(SwinUnet(SWIN), write({"conv1.weight": torch.zeros(3)}, tmp_path / "resnet.safetensors"))
    with pytest.raises(UnknownName, match="TransUNet"):
        load_backbone(UNet(CATALOG["unet"].tiny[0]), vit)
    sizes = write(swin(SwinUnet(replace(SWIN, width=24, window=2))), tmp_path / "wide.safetensors")
    with pytest.raises(WeightsError, match="none of these tensors fit the model"):
        load_backbone(SwinUnet(SWIN), sizes)


@pytest.mark.parametrize("content", ["objects", "cut", "text", "array", "missing"])
def test_an_npz_that_is_unsafe_or_broken_is_refused_in_a_line(content: str, tmp_path) -> None:
    file = tmp_path / "weights.npz"
    if content == "objects":
        np.savez(file, **{"Transformer/encoder_norm/scale": np.array([{"a": 1}], dtype=object)})
    elif content == "cut":
        file.write_bytes(google(random(TransUNet(PLAIN)), tmp_path / "whole.npz").read_bytes()[:700])
    elif content == "text":
        file.write_text("weights")
    elif content == "array":
        with open(file, "wb") as out:
            np.save(out, np.zeros(3))
    with pytest.raises(WeightsError, match=r"no whole \.npz|no such weights file"):
        load_backbone(TransUNet(PLAIN), file)


def test_a_training_begins_with_a_whole_network_or_with_a_backbone(tmp_path) -> None:
    source, whole, encoder = (TransUNet(PLAIN) for _ in range(3))
    random(source)
    told = begin_with(whole, save(tmp_path / "ours.safetensors", source, {}))
    assert "the weights in" in told and torch.equal(whole.head.weight, source.head.weight)
    told = begin_with(encoder, write(hf_vit(source), tmp_path / "vit.safetensors"))
    assert "the encoder in" in told and "not found" in told
    assert torch.equal(encoder.vit.positions, source.vit.positions) and not torch.equal(encoder.head.weight, source.head.weight)


def test_a_backbone_of_other_sizes_is_refused_and_not_half_loaded(tmp_path) -> None:
    wide = TransUNet(replace(PLAIN, hidden=2 * PLAIN.hidden))
    before = {name: tensor.clone() for name, tensor in wide.state_dict().items()}
    with pytest.raises(WeightsError, match=r"fit the model: .* of another shape.*recipe"):
        begin_with(wide, write(timm_vit(random(TransUNet(PLAIN))), tmp_path / "vit.safetensors"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in wide.state_dict().items())


def test_a_backbone_alone_is_not_imported_as_a_whole_network(tmp_path) -> None:
    for name, file in (("transunet", timm_vit(TransUNet(PLAIN))), ("swin_unet", swin(SwinUnet(SWIN)))):
        with pytest.raises(WeightsError, match=rf"not a whole '{name}'.*--model {name} --weights"):
            import_file(write(file, tmp_path / f"{name}.safetensors"), name)


@pytest.mark.parametrize("asked", ["unetpp", "transunet"])
def test_a_backbone_is_recommended_to_a_model_that_takes_it(asked: str, tmp_path) -> None:
    with pytest.raises(WeightsError, match=rf"not a whole '{asked}'.*--model swin_unet --weights"):
        import_file(write(swin(SwinUnet(SWIN)), tmp_path / "swin.safetensors"), asked)


def test_a_backbone_of_misshapen_tensors_is_refused_in_a_line(tmp_path) -> None:
    flat = {name: torch.zeros(()) for name in timm_vit(TransUNet(PLAIN))}
    with pytest.raises(WeightsError, match=r"flat.safetensors: this is no whole ViT"):
        load_backbone(TransUNet(PLAIN), write(flat, tmp_path / "flat.safetensors"))


@pytest.mark.parametrize("name", [name for name, one in CATALOG.items() if one.kind == "segmenter"])
def test_a_network_for_other_classes_gives_all_but_its_head(tmp_path, name):
    config = plain(CATALOG[name].tiny[0])
    source, model = build(name, {**config, "classes": config["classes"] + 3}), build(name, config)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    file, head = save(tmp_path / "other.safetensors", source, {}), head_of(name, config)
    with pytest.raises(WeightsError, match="of another shape"):
        begin_with(model, file)
    assert "its classes are others" in begin_with(model, file, head)
    theirs = source.state_dict()
    assert 0 < len(head) < len(before) and all(before[key].shape != theirs[key].shape for key in head)
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key] if key in head else theirs[key])
