"""TransUNet and Swin-Unet at sizes that no reference folder shows, against plain functions on official names."""

import pytest
import torch
import torch.nn.functional as F
from test_layouts import Tensors
from torch import Tensor

from vesalius.models.weights import from_official


def linear(t: Tensors, name: str, x: Tensor, outputs: int, bias: bool = True) -> Tensor:
    return F.linear(x, t.get(f"{name}.weight", outputs, x.shape[-1]), t.get(f"{name}.bias", outputs) if bias else None)


def layer_norm(t: Tensors, name: str, x: Tensor, eps: float) -> Tensor:
    width = x.shape[-1]
    return F.layer_norm(x, (width,), t.get(f"{name}.weight", width), t.get(f"{name}.bias", width), eps)


def group_norm(t: Tensors, name: str, x: Tensor, groups: int, eps: float) -> Tensor:
    width = x.shape[1]
    return F.group_norm(x, groups, t.get(f"{name}.weight", width, low=0.5, high=1.5), t.get(f"{name}.bias", width), eps)


def std_conv(t: Tensors, name: str, x: Tensor, outputs: int, kernel: int, stride: int = 1) -> Tensor:
    weight = t.get(f"{name}.weight", outputs, x.shape[1], kernel, kernel)
    flat = weight.flatten(1)
    flat = (flat - flat.mean(1, keepdim=True)) / (flat.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    return F.conv2d(x, flat.view_as(weight), None, stride, kernel // 2)


def residual_network(t: Tensors, x: Tensor, units: list[int], width: int) -> tuple[Tensor, list[Tensor]]:
    stem, size = "transformer.embeddings.hybrid_model", x.shape[-1]
    x = F.relu(group_norm(t, f"{stem}.root.gn", std_conv(t, f"{stem}.root.conv", x, width, 7, 2), 32, 1e-6))
    skips, x = [x], F.max_pool2d(x, 3, 2)
    for block, count in enumerate(units, 1):
        for unit in range(1, count + 1):
            name, inner, stride = f"{stem}.body.block{block}.unit{unit}", width * 2 ** (block - 1), 1 + (block > 1 and unit == 1)
            y = F.relu(group_norm(t, f"{name}.gn1", std_conv(t, f"{name}.conv1", x, inner, 1), 32, 1e-6))
            y = F.relu(group_norm(t, f"{name}.gn2", std_conv(t, f"{name}.conv2", y, inner, 3, stride), 32, 1e-6))
            y = group_norm(t, f"{name}.gn3", std_conv(t, f"{name}.conv3", y, 4 * inner, 1), 32, 1e-6)
            if unit == 1:
                x = std_conv(t, f"{name}.downsample", x, 4 * inner, 1, stride)
                x = group_norm(t, f"{name}.gn_proj", x, 4 * inner, 1e-5)
            x = F.relu(x + y)
        if block < 3:
            full = torch.zeros(len(x), x.shape[1], size // 4 // block, size // 4 // block)
            full[:, :, : x.shape[2], : x.shape[3]] = x
            skips.insert(0, full)
    return x, skips


def transunet(t: Tensors, x: Tensor, config: dict) -> Tensor:
    hidden, skips, size = config["hidden"], [], x.shape[-1]
    if config["resnet_layers"]:
        x, skips = residual_network(t, x, config["resnet_layers"], int(64 * config["width_factor"]))
    patch = size // 16 // config["grid"][0] if config["grid"] else config["patch_size"]
    name = "transformer.embeddings.patch_embeddings"
    x = F.conv2d(x, t.get(f"{name}.weight", hidden, x.shape[1], patch, patch), t.get(f"{name}.bias", hidden), patch)
    side = x.shape[-1]
    x = x.flatten(2).mT
    x = x + t.get("transformer.embeddings.position_embeddings", 1, side * side, hidden)
    for i in range(config["layers"]):
        name = f"transformer.encoder.layer.{i}"
        y = layer_norm(t, f"{name}.attention_norm", x, 1e-6)
        q, k, v = (
            linear(t, f"{name}.attn.{part}", y, hidden).unflatten(2, (config["heads"], -1)).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        y = ((q @ k.mT) / q.shape[-1] ** 0.5).softmax(-1) @ v
        x = x + linear(t, f"{name}.attn.out", y.transpose(1, 2).flatten(2), hidden)
        y = F.gelu(linear(t, f"{name}.ffn.fc1", layer_norm(t, f"{name}.ffn_norm", x, 1e-6), config["mlp"]))
        x = x + linear(t, f"{name}.ffn.fc2", y, hidden)
    x = layer_norm(t, "transformer.encoder.encoder_norm", x, 1e-6).mT.unflatten(2, (side, side))

    def unit(name: str, x: Tensor, n: int) -> Tensor:
        return F.relu(t.batch_norm(f"{name}.1", t.conv(f"{name}.0", x, n, (3, 3), bias=False)))

    x = unit("decoder.conv_more", x, 512)
    for i, n in enumerate(config["decoder_channels"]):
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        x = torch.cat([x, skips[i]], 1) if i < config["skips"] else x
        x = unit(f"decoder.blocks.{i}.conv2", unit(f"decoder.blocks.{i}.conv1", x, n), n)
    return t.conv("segmentation_head.0", x, config["classes"], (3, 3), bias=True)


SMALL = {"image_size": 64, "hidden": 24, "mlp": 40, "heads": 3, "layers": 2, "classes": 3, "decoder_channels": [12, 8, 6, 4]}
HYBRID = {**SMALL, "resnet_layers": [1, 2, 1], "width_factor": 0.5, "skip_channels": [256, 128, 32, 16], "grid": [4, 4]}
PLAIN = {**SMALL, "resnet_layers": None, "width_factor": None, "skip_channels": None, "grid": None, "skips": 0}


@pytest.mark.parametrize(
    "config",
    [
        *(pytest.param({**HYBRID, "skips": n}, id=f"hybrid-{n}-skips") for n in range(4)),
        pytest.param({**HYBRID, "skips": 0, "grid": [2, 2]}, id="hybrid-of-32-pixels"),
        pytest.param({**PLAIN, "patch_size": 16}, id="plain-16"),
        pytest.param({**PLAIN, "patch_size": 8}, id="plain-8"),
        pytest.param({**PLAIN, "patch_size": 8, "decoder_channels": [12, 8, 6]}, id="plain-8-three-stages"),
    ],
)
def test_transunet_is_the_same_network(config: dict) -> None:
    torch.manual_seed(0)
    tensors, x = Tensors(), torch.randn(2, 3, 64, 64)
    theirs = transunet(tensors, x, config)
    ours = from_official("transunet", tensors, config)(x).main
    assert theirs.std() > 1e-2
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def swin_unet(t: Tensors, x: Tensor, config: dict) -> Tensor:
    root, depths, heads, last = "swin_unet", config["depths"], config["heads"], len(config["depths"]) - 1

    def block(name: str, x: Tensor, stage: int, odd: bool) -> Tensor:
        height, width, n = x.shape[1:]
        window = min(config["window"], height)
        shift = window // 2 if odd and height > config["window"] else 0
        y = layer_norm(t, f"{name}.norm1", x, 1e-5).flatten(1, 2)
        at = torch.cartesian_prod(torch.arange(height), torch.arange(width))  # every token's place
        cell = (at + window - shift) // window  # tokens of one cell see each other
        apart = at[:, None] - at + window - 1
        seen = (cell[:, None] == cell).all(-1)
        row = torch.where(seen, apart[..., 0] * (2 * window - 1) + apart[..., 1], 0)
        table = t.get(f"{name}.attn.relative_position_bias_table", (2 * window - 1) ** 2, heads[stage])
        bias = torch.where(seen[..., None], table[row], -torch.inf).permute(2, 0, 1)
        qkv = linear(t, f"{name}.attn.qkv", y, 3 * n).unflatten(2, (3, heads[stage], -1)).permute(2, 0, 3, 1, 4)
        y = (qkv[0] @ qkv[1].mT / qkv.shape[-1] ** 0.5 + bias).softmax(-1) @ qkv[2]
        x = x + linear(t, f"{name}.attn.proj", y.transpose(1, 2).flatten(2), n).view_as(x)
        y = F.gelu(linear(t, f"{name}.mlp.fc1", layer_norm(t, f"{name}.norm2", x, 1e-5), 4 * n))
        return x + linear(t, f"{name}.mlp.fc2", y, n)

    def expand(name: str, x: Tensor, outputs: int, factor: int) -> Tensor:
        batch, height, width = x.shape[:3]
        x = linear(t, f"{name}.expand", x, outputs * factor * factor, bias=False)
        x = x.view(batch, height, width, factor, factor, outputs).permute(0, 1, 3, 2, 4, 5)
        return layer_norm(t, f"{name}.norm", x.reshape(batch, height * factor, width * factor, outputs), 1e-5)

    n = config["embed_dim"]
    weight, bias = t.get(f"{root}.patch_embed.proj.weight", n, 3, 4, 4), t.get(f"{root}.patch_embed.proj.bias", n)
    x = layer_norm(t, f"{root}.patch_embed.norm", F.conv2d(x, weight, bias, 4).permute(0, 2, 3, 1), 1e-5)
    skips = []
    for i, depth in enumerate(depths):
        skips.append(x)
        for j in range(depth):
            x = block(f"{root}.layers.{i}.blocks.{j}", x, i, j % 2 == 1)
        if i < last:
            quarters = [x[:, a::2, b::2] for a, b in ((0, 0), (1, 0), (0, 1), (1, 1))]
            x = layer_norm(t, f"{root}.layers.{i}.downsample.norm", torch.cat(quarters, -1), 1e-5)
            x = linear(t, f"{root}.layers.{i}.downsample.reduction", x, x.shape[-1] // 2, bias=False)
    x = layer_norm(t, f"{root}.norm", x, 1e-5)
    x = expand(f"{root}.layers_up.0", x, x.shape[-1] // 2, 2)
    for i in range(1, last + 1):
        x = linear(t, f"{root}.concat_back_dim.{i}", torch.cat([x, skips[last - i]], -1), x.shape[-1])
        for j in range(depths[last - i]):
            x = block(f"{root}.layers_up.{i}.blocks.{j}", x, last - i, j % 2 == 1)
        if i < last:
            x = expand(f"{root}.layers_up.{i}.upsample", x, x.shape[-1] // 2, 2)
    x = expand(f"{root}.up", layer_norm(t, f"{root}.norm_up", x, 1e-5), n, 4)
    return F.conv2d(x.permute(0, 3, 1, 2), t.get(f"{root}.output.weight", config["classes"], n, 1, 1))


@pytest.mark.parametrize(
    "config",
    [
        {"image_size": 96, "window": 3, "depths": [2, 2, 2, 2], "heads": [1, 2, 4, 8]},
        {"image_size": 32, "window": 8, "depths": [1, 3, 2, 1], "heads": [1, 1, 2, 2]},
        {"image_size": 56, "window": 7, "depths": [2, 2], "heads": [2, 4]},
        {"image_size": 64, "window": 2, "depths": [2, 2, 4, 2], "heads": [2, 2, 2, 2]},
    ],
    ids=lambda config: f"{config['image_size']}-{config['window']}",
)
def test_swin_unet_is_the_same_network(config: dict) -> None:
    torch.manual_seed(0)
    config = {**config, "patch_size": 4, "embed_dim": 8, "classes": 3}
    tensors, x = Tensors(), torch.randn(2, 3, config["image_size"], config["image_size"])
    theirs = swin_unet(tensors, x, config)
    ours = from_official("swin_unet", tensors, config)(x).main
    assert theirs.std() > 1e-2
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
