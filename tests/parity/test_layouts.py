"""The official layouts that no reference folder shows, against a second reading of them: plain functions on official names."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vesalius.core.errors import UnknownName, WeightsError
from vesalius.models.catalog import entry
from vesalius.models.weights import from_official


class Tensors(dict):
    """An official state dict that grows as a forward pass asks for its tensors."""

    def __init__(self) -> None:
        self.random = torch.Generator().manual_seed(0)

    def get(self, name: str, *shape: int, low: float = -0.3, high: float = 0.3) -> Tensor:
        assert name not in self, f"{name} was used twice"
        self[name] = torch.rand(shape, generator=self.random) * (high - low) + low
        return self[name]

    def conv(self, name: str, x: Tensor, outputs: int, kernel: tuple[int, ...], *, bias: bool, stride: int | tuple = 1) -> Tensor:
        weight = self.get(f"{name}.weight", outputs, x.shape[1], *kernel)
        function = F.conv2d if len(kernel) == 2 else F.conv3d
        return function(x, weight, self.get(f"{name}.bias", outputs) if bias else None, stride, tuple(k // 2 for k in kernel))

    def batch_norm(self, name: str, x: Tensor) -> Tensor:
        c = x.shape[1]
        mean, var = self.get(f"{name}.running_mean", c), self.get(f"{name}.running_var", c, low=0.5, high=1.5)
        return F.batch_norm(x, mean, var, self.get(f"{name}.weight", c, low=0.5, high=1.5), self.get(f"{name}.bias", c))


def milesial_bilinear(t: Tensors, x: Tensor, widths: list[int], classes: int) -> Tensor:
    def double(name: str, x: Tensor, middle: int, outputs: int) -> Tensor:
        for i, n in ((0, middle), (3, outputs)):
            x = F.relu(t.batch_norm(f"{name}.{i + 1}", t.conv(f"{name}.{i}", x, n, (3, 3), bias=False)))
        return x

    last = len(widths) - 1
    skips = [double("inc.double_conv", x, widths[0], widths[0])]
    for i in range(1, last + 1):
        n = widths[i] // (2 if i == last else 1)
        skips.append(double(f"down{i}.maxpool_conv.1.double_conv", F.max_pool2d(skips[-1], 2), n, n))
    x = skips.pop()
    for i in range(1, last + 1):
        skip = skips.pop()
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        dy, dx = skip.shape[2] - x.shape[2], skip.shape[3] - x.shape[3]
        x = torch.cat([skip, F.pad(x, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])], 1)
        inputs = widths[last + 1 - i]
        outputs = widths[last - i] // (1 if i == last else 2)
        x = double(f"up{i}.conv.double_conv", x, inputs // 2, outputs)
    return t.conv("outc.conv", x, classes, (1, 1), bias=True)


def nested_unet(t: Tensors, x: Tensor, widths: list[int], classes: int) -> Tensor:
    def block(name: str, x: Tensor, n: int) -> Tensor:
        for i in (1, 2):
            x = F.relu(t.batch_norm(f"{name}.bn{i}", t.conv(f"{name}.conv{i}", x, n, (3, 3), bias=True)))
        return x

    nodes = [block("conv0_0", x, widths[0])]
    for i in range(1, len(widths)):
        nodes.append(block(f"conv{i}_0", F.max_pool2d(nodes[-1], 2), widths[i]))
    x = nodes.pop()
    for i in reversed(range(len(widths) - 1)):
        up = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        x = block(f"conv{i}_{len(widths) - 1 - i}", torch.cat([nodes[i], up], 1), widths[i])
    return t.conv("final", x, classes, (1, 1), bias=True)


def nnunet(t: Tensors, x: Tensor, config: dict) -> list[Tensor]:
    pools, dims = config["pools"], config["dims"]
    kernels = config.get("kernels") or [config["first_kernel"], *[[3] * dims] * len(pools)]
    widths = [min(config["base"] * 2**i, config["max_features"]) for i in range(len(pools) + 1)]

    def unit(name: str, x: Tensor, n: int, kernel: list[int], stride: int | list[int] = 1) -> Tensor:
        x = t.conv(f"{name}.conv", x, n, tuple(kernel), bias=True, stride=stride)
        scale, shift = t.get(f"{name}.instnorm.weight", n, low=0.5, high=1.5), t.get(f"{name}.instnorm.bias", n)
        x = F.instance_norm(x, weight=scale, bias=shift)
        return F.leaky_relu(x, 0.01)

    skips: list[Tensor] = []
    for d, n in enumerate(widths):
        for i in (0, 1):
            name = f"conv_blocks_context.{d}.{i}.blocks.0" if d == len(pools) else f"conv_blocks_context.{d}.blocks.{i}"
            x = unit(name, x, n, kernels[d], pools[d - 1] if d and not i else 1)
        skips.append(x)
    skips.pop()
    heads = []
    for u, pool in enumerate(reversed(pools)):
        skip = skips.pop()
        up = F.conv_transpose2d if dims == 2 else F.conv_transpose3d
        x = torch.cat([up(x, t.get(f"tu.{u}.weight", x.shape[1], skip.shape[1], *pool), stride=pool), skip], 1)
        for i in (0, 1):
            x = unit(f"conv_blocks_localization.{u}.{i}.blocks.0", x, skip.shape[1], kernels[-(u + 1)])
        heads.append(t.conv(f"seg_outputs.{u}", x, config["classes"], (1,) * dims, bias=False))
    return heads[::-1]


@pytest.mark.parametrize("size", [(32, 48), (37, 51)])
@pytest.mark.parametrize("widths", [[4, 8, 16], [8, 16, 32, 64, 128]])
def test_milesial_bilinear_is_the_same_network(widths: list[int], size: tuple[int, int]) -> None:
    tensors, x = Tensors(), torch.randn(1, 2, *size)
    theirs = milesial_bilinear(tensors, x, widths, 3)
    config = {"layout": "milesial", "dims": 2, "in_channels": 2, "classes": 3, "widths": widths, "upsampling": "bilinear"}
    torch.testing.assert_close(from_official("unet", tensors, config)(x).main, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("widths", [[4, 6, 10], [8, 12, 16, 20, 24]])
def test_nested_is_the_same_network(widths: list[int]) -> None:
    tensors, x = Tensors(), torch.randn(1, 2, 32, 48)
    theirs = nested_unet(tensors, x, widths, 3)
    config = {"layout": "nested", "dims": 2, "in_channels": 2, "classes": 3, "widths": widths}
    torch.testing.assert_close(from_official("unet", tensors, config)(x).main, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("dims", "pools", "first_kernel"),
    [
        (2, [[2, 2], [2, 2], [2, 1]], [3, 3]),
        (2, [[2, 1], [2, 2]], [3, 1]),
        (3, [[1, 2, 2], [2, 2, 2], [1, 2, 1]], [1, 3, 3]),
    ],
)
def test_nnunet_is_the_same_network(dims: int, pools: list, first_kernel: list) -> None:
    config = {"layout": "nnunet", "dims": dims, "in_channels": 2, "classes": 3, "base": 4, "pools": pools}
    config |= {"first_kernel": first_kernel, "max_features": 12}
    tensors, x = Tensors(), torch.randn(2, 2, *(16, 16, 24)[-dims:])
    theirs = nnunet(tensors, x, config)
    ours = from_official("unet", tensors, config)(x)
    for a, b in zip((ours.main, *ours.auxiliary), theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_a_tensor_too_few_or_too_many_is_named() -> None:
    config = {"layout": "nested", "in_channels": 2, "classes": 3, "widths": [4, 6, 10]}
    tensors = Tensors()
    nested_unet(tensors, torch.randn(1, 2, 32, 48), config["widths"], 3)
    tensors["conv0_0.bn1.num_batches_tracked"] = torch.tensor(7)  # ignored by name
    from_official("unet", tensors, config)
    with pytest.raises(WeightsError, match=r"1 not used: strange\.weight"):
        from_official("unet", {**tensors, "strange.weight": torch.zeros(1)}, config)
    with pytest.raises(WeightsError, match=r"1 not found: heads\.0\.bias"):
        from_official("unet", {k: v for k, v in tensors.items() if k != "final.bias"}, config)
    with pytest.raises(WeightsError, match=r"of another shape: heads\.0\.bias \(4,\) instead of \(3,\)"):
        from_official("unet", {**tensors, "final.bias": torch.zeros(4)}, config)


@pytest.mark.parametrize("model", ["unet", "unetpp"])
def test_flat_kernels_on_several_levels_are_read_off_the_tensors(model: str) -> None:
    """nnU-Net plans them for thick slices: its prostate network has 1 x 3 x 3 on two levels."""
    config = {"layout": "nnunet", "dims": 3, "in_channels": 2, "classes": 3, "base": 4, "pools": [[1, 2, 2]] * 2 + [[2, 2, 2]]}
    config |= {"kernels": [[1, 3, 3], [1, 3, 3], [3, 3, 3], [3, 3, 3]], "max_features": 12}
    tensors, x = Tensors(), torch.randn(1, 2, 4, 16, 16)
    theirs = (nnunet if model == "unet" else unetpp_nnunet)(tensors, x, config)
    told = entry(model).infer(dict(tensors))
    assert entry(model).official(told)[0] == entry(model).official(config)[0]
    ours = from_official(model, tensors, told)(x)
    for a, b in zip((ours.main, *ours.auxiliary), theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_an_unknown_layout_is_named() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'milesial'"):
        from_official("unet", {}, {"layout": "milesia"})


def unetpp_nnunet(t: Tensors, x: Tensor, config: dict) -> list[Tensor]:
    """`locN` and `upN` are one decoder a depth: it looks at all that the decoders before it made on its levels."""
    pools, dims = config["pools"], config["dims"]
    kernels = config.get("kernels") or [config["first_kernel"], *[[3] * dims] * len(pools)]
    widths = [min(config["base"] * 2**i, config["max_features"]) for i in range(len(pools) + 1)]
    up = F.conv_transpose2d if dims == 2 else F.conv_transpose3d

    def unit(name: str, x: Tensor, n: int, kernel: list[int], stride: int | list[int] = 1) -> Tensor:
        x = t.conv(f"{name}.conv", x, n, tuple(kernel), bias=True, stride=stride)
        scale, shift = t.get(f"{name}.instnorm.weight", n, low=0.5, high=1.5), t.get(f"{name}.instnorm.bias", n)
        return F.leaky_relu(F.instance_norm(x, weight=scale, bias=shift), 0.01)

    columns: list[list[Tensor]] = []
    for d, n in enumerate(widths):
        for i in (0, 1):
            name = f"conv_blocks_context.{d}.{i}.blocks.0" if d == len(pools) else f"conv_blocks_context.{d}.blocks.{i}"
            x = unit(name, x, n, kernels[d], pools[d - 1] if d and not i else 1)
        columns.append([x])
    heads = []
    for nest in reversed(range(len(pools))):  # the last nest is the shallowest: X(0,1) alone
        top = len(pools) - 1 - nest
        x = columns[top + 1][0]
        for step, level in enumerate(reversed(range(top + 1))):
            weight = t.get(f"up{nest}.{step}.weight", x.shape[1], widths[level], *pools[level])
            x = torch.cat([*columns[level], up(x, weight, stride=pools[level])], 1)
            for i in (0, 1):
                x = unit(f"loc{nest}.{step}.{i}.blocks.0", x, widths[level], kernels[level + 1])
            columns[level].append(x)
        heads.append(t.conv(f"seg_outputs.{nest}", x, config["classes"], (1,) * dims, bias=False))
    return heads[::-1]


def unetpp_nested(t: Tensors, x: Tensor, widths: list[int], classes: int, heads: bool) -> list[Tensor]:
    def block(name: str, x: Tensor, n: int) -> Tensor:
        for i in (1, 2):
            x = F.relu(t.batch_norm(f"{name}.bn{i}", t.conv(f"{name}.conv{i}", x, n, (3, 3), bias=True)))
        return x

    grid = {(0, 0): block("conv0_0", x, widths[0])}
    for i in range(1, len(widths)):
        grid[i, 0] = block(f"conv{i}_0", F.max_pool2d(grid[i - 1, 0], 2), widths[i])
    for j in range(1, len(widths)):
        for i in range(len(widths) - j):
            up = F.interpolate(grid[i + 1, j - 1], scale_factor=2, mode="bilinear", align_corners=True)
            grid[i, j] = block(f"conv{i}_{j}", torch.cat([*(grid[i, k] for k in range(j)), up], 1), widths[i])
    last = len(widths) - 1
    if not heads:
        return [t.conv("final", grid[0, last], classes, (1, 1), bias=True)]
    return [t.conv(f"final{j}", grid[0, j], classes, (1, 1), bias=True) for j in range(last, 0, -1)]


def attention_unet(t: Tensors, x: Tensor, widths: list[int], classes: int, gates: str) -> Tensor:
    last, ones = len(widths) - 1, (1, 1, 1)

    def two(name: str, x: Tensor, n: int) -> Tensor:
        for i in (1, 2):
            x = F.relu(t.batch_norm(f"{name}.conv{i}.1", t.conv(f"{name}.conv{i}.0", x, n, (3, 3, 3), bias=True)))
        return x

    def gate(name: str, x: Tensor, g: Tensor) -> Tensor:
        n = x.shape[1]
        theta = F.conv3d(x, t.get(f"{name}.theta.weight", n, n, 2, 2, 2), stride=2)
        score = t.conv(f"{name}.psi", F.relu(theta + t.conv(f"{name}.phi", g, n, ones, bias=True)), 1, ones, bias=True)
        where = F.interpolate(score.sigmoid(), size=x.shape[2:], mode="trilinear", align_corners=False)
        return t.batch_norm(f"{name}.W.1", t.conv(f"{name}.W.0", where * x, n, ones, bias=True))

    skips = []
    for i, n in enumerate(widths):
        x = two(f"conv{i + 1}" if i < last else "center", F.max_pool3d(x, 2) if i else x, n)
        skips.append(x)
    g = x if gates == "none" else F.relu(t.batch_norm("gating.conv1.1", t.conv("gating.conv1.0", x, widths[-1], ones, bias=True)))
    heads = []
    for i in reversed(range(last)):
        skip = skips[i]
        if i and gates != "none":
            names = [f"attentionblock{i + 1}.gate_block_{k}" for k in (1, 2)[: 2 if gates == "multi" else 1]]
            joined = torch.cat([gate(name, skip, g) for name in names], 1)
            combine = f"attentionblock{i + 1}.combine_gates"
            skip = F.relu(t.batch_norm(f"{combine}.1", t.conv(f"{combine}.0", joined, widths[i], ones, bias=True)))
        up = F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False)
        g = x = two(f"up_concat{i + 1}.conv", torch.cat([skip, up], 1), widths[i])
        head = t.conv(f"dsv{i + 1}.dsv.0" if i else "dsv1", x, classes, ones, bias=True)
        heads.append(F.interpolate(head, scale_factor=2**i, mode="trilinear", align_corners=False) if i else head)
    return t.conv("final", torch.cat(heads[::-1], 1), classes, ones, bias=True)


@pytest.mark.parametrize(
    ("dims", "pools", "first_kernel"),
    [(2, [[2, 2], [2, 2], [2, 1]], [3, 3]), (3, [[1, 2, 2], [2, 2, 2], [1, 2, 1]], [1, 3, 3]), (3, [[2, 2, 2]] * 2, [3, 3, 3])],
)
def test_unetpp_nnunet_is_the_same_network(dims: int, pools: list, first_kernel: list) -> None:
    config = {"layout": "nnunet", "dims": dims, "in_channels": 2, "classes": 3, "base": 4, "pools": pools}
    config |= {"first_kernel": first_kernel, "max_features": 12}
    tensors, x = Tensors(), torch.randn(2, 2, *(16, 16, 24)[-dims:])
    theirs = unetpp_nnunet(tensors, x, config)
    ours = from_official("unetpp", tensors, config)(x)
    for a, b in zip((ours.main, *ours.auxiliary), theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("heads", [True, False])
def test_unetpp_nested_is_the_same_network(heads: bool) -> None:
    tensors, x, widths = Tensors(), torch.randn(1, 2, 16, 24), [4, 6, 8, 10]
    theirs = unetpp_nested(tensors, x, widths, 3, heads)
    config = {"layout": "nested", "dims": 2, "in_channels": 2, "classes": 3, "widths": widths, "deep_supervision": heads}
    ours = from_official("unetpp", tensors, config)(x)
    for a, b in zip((ours.main, *ours.auxiliary), theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("gates", ["multi", "single", "none"])
def test_attention_unet_is_the_same_network(gates: str) -> None:
    tensors, x = Tensors(), torch.randn(1, 2, 16, 16, 32)
    theirs = attention_unet(tensors, x, [2, 4, 8, 16, 32], 3, gates)
    config = {"dims": 3, "in_channels": 2, "feature_scale": 32, "classes": 3, "gates": gates}
    ours = from_official("attention_unet", tensors, config)(x).main
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
