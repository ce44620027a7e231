"""Attention U-Net: its published sizes, and gates that do what equation 1 says."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vesalius.core.errors import InputError, UnknownName
from vesalius.models.attention_unet import AttentionUNet, AttentionUNetConfig, GridGate, official
from vesalius.models.catalog import CATALOG, parameter_count

SMALL = AttentionUNetConfig(widths=(4, 6, 8, 10))


@pytest.mark.parametrize(("gates", "count"), [("multi", 6_473_322), ("single", 6_214_151), ("none", 5_888_004)])
def test_full_sizes_are_the_published_ones(gates: str, count: int) -> None:
    with torch.device("meta"):
        assert parameter_count(AttentionUNet(official({"classes": 4, "gates": gates})[0])) == count


def test_a_gate_is_equation_one() -> None:
    torch.manual_seed(0)
    gate = GridGate(3, 5, (1, 2, 2), "none", True).eval()
    x, g = torch.randn(2, 3, 4, 6, 8), torch.randn(2, 5, 4, 3, 4)
    seen = F.conv3d(x, gate.theta.weight, stride=(1, 2, 2)) + F.conv3d(g, gate.phi.weight, gate.phi.bias)
    scores = torch.sigmoid(F.conv3d(F.relu(seen), gate.psi.weight, gate.psi.bias))
    where = F.interpolate(scores, scale_factor=(1, 2, 2), mode="trilinear", align_corners=False)
    gated, found = gate(x, g)
    torch.testing.assert_close(found, where)
    torch.testing.assert_close(gated, F.conv3d(where * x, gate.out.conv.weight, gate.out.conv.bias))


@pytest.mark.parametrize("config", CATALOG["attention_unet"].tiny)
def test_attention_maps_lie_on_their_skips_between_zero_and_one(config: AttentionUNetConfig) -> None:
    model = AttentionUNet(config).eval()
    size = tuple(2 * n for n in model.smallest)
    with torch.inference_mode():
        maps = model.attention(torch.randn(2, config.in_channels, *size))
    grids = [tuple(n // s for n, s in zip(size, config.stem_stride or (1,) * config.dims, strict=True))]
    for stride in config.strides:
        grids.append(tuple(n // s for n, s in zip(grids[-1], stride, strict=True)))
    gates = {"multi": 2, "single": 1}[config.gates]
    assert [tuple(m.shape) for m in maps] == [(2, gates, *grid) for grid in grids[-2:0:-1]]
    assert all(float(m.min()) > 0 and float(m.max()) < 1 for m in maps)


def test_a_closed_gate_hides_its_skip() -> None:
    torch.manual_seed(0)
    model = AttentionUNet(replace(SMALL, gates="single")).eval()
    gate = model.skips["1"].gates[0]
    nn.init.constant_(gate.psi.bias, -1e4)
    g = torch.randn(1, 8, 4, 4)
    with torch.inference_mode():
        closed = [model.skips["1"](torch.randn(1, 6, 8, 8), g)[0] for _ in range(2)]
        nn.init.constant_(gate.psi.bias, 1e4)
        x = torch.randn(1, 6, 8, 8)
        torch.testing.assert_close(model.skips["1"](x, g)[0], model.skips["1"].combine(gate.out(x)))
    torch.testing.assert_close(*closed)


def test_without_gates_nothing_is_looked_at() -> None:
    model = AttentionUNet(replace(SMALL, gates="none")).eval()
    assert model.attention(torch.randn(1, 1, 16, 16)) == () and not any("gating" in n for n, _ in model.named_parameters())


def test_a_network_with_no_skip_to_gate_and_unknown_gates_are_refused() -> None:
    with pytest.raises(InputError, match="at least 3 levels"):
        AttentionUNetConfig(widths=(4, 8))
    with pytest.raises(UnknownName, match="Did you mean 'multi'"):
        official({"gates": "multiple"})
