"""The U-Net: full-size counts, the paper's geometry, its options and its refusals."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vesalius.core.errors import InputError, ShapeError
from vesalius.models import layouts
from vesalius.models.attention_unet import AttentionUNet, AttentionUNetConfig
from vesalius.models.catalog import gflops, parameter_count
from vesalius.models.unet import UNet, UNetConfig
from vesalius.models.unetpp import UNetPP, UNetPPConfig


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (layouts.milesial(3, 2), 31_037_698),
        (layouts.milesial(3, 2, upsampling="bilinear"), 17_263_042),
        (layouts.milesial(1, 2), 31_036_546),
        (layouts.nested(3, 1), 7_852_545),
        (layouts.nnunet(1, 3), 31_195_584),
        (layouts.nnunet(1, 3, pools=((2, 2, 2),) * 4 + ((1, 2, 1),)), 30_581_184),
        (layouts.nnunet(1, 5, base=30, pools=((1, 2, 2),) + ((2, 2, 2),) * 4), 29_689_620),
        (layouts.nnunet(5, 5, base=30, pools=((1, 2, 2),) + ((2, 2, 2),) * 4), 29_692_860),
    ],
)
def test_full_size_networks_have_the_official_number_of_parameters(config: UNetConfig, count: int) -> None:
    with torch.device("meta"):
        assert parameter_count(UNet(config)) == count


def test_the_papers_network_turns_572_into_388() -> None:
    with torch.device("meta"):
        model = UNet(layouts.ronneberger())
        assert model.output_size((572, 572)) == (388, 388)
        assert model(torch.empty(1, 1, 572, 572)).main.shape == (1, 2, 388, 388)
        with pytest.raises(ShapeError, match="Use 508 x 572"):
            model(torch.empty(1, 1, 512, 572))


def test_a_valid_output_sees_only_its_own_context() -> None:
    """The tile's output equals the same place of a larger image's output: what overlap-tile rests on."""
    torch.manual_seed(0)
    model = UNet(layouts.ronneberger(widths=(4, 6, 8))).eval()
    size = model.nearest_size((60, 60))
    step, margin = model.divisor[0], (size[0] - model.output_size(size)[0]) // 2
    large = torch.randn(1, 1, size[0] + 2 * step, size[1] + step)
    with torch.no_grad():
        whole, tile = model(large).main, model(large[:, :, step : step + size[0], : size[1]]).main
    n = size[0] - 2 * margin
    torch.testing.assert_close(whole[:, :, step : step + n, :n], tile, atol=1e-5, rtol=1e-5)


def test_valid_skips_are_cropped_in_the_middle() -> None:
    """With the way through the bottom shut, an output pixel sees 4 pixels around its own place in the image, no others."""
    torch.manual_seed(0)
    model = UNet(layouts.ronneberger(widths=(4, 6, 8)))
    for way in model.up:
        torch.nn.init.zeros_(way.weight)
    for parameter in model.parameters():
        parameter.data.abs_()  # no ReLU closes
    size = model.nearest_size((60, 60))
    image = torch.ones(1, 1, *size, requires_grad=True)
    margin = (size[0] - model.output_size(size)[0]) // 2
    model(image).main[0, :, 0, 2].sum().backward()
    seen = image.grad[0, 0].nonzero()
    assert seen.min(0).values.tolist() == [margin - 4, margin + 2 - 4]
    assert seen.max(0).values.tolist() == [margin + 4, margin + 2 + 4]



@st.composite
def configs(draw: st.DrawFn) -> UNetConfig:
    dims, levels = draw(st.sampled_from((2, 3))), draw(st.integers(2, 4))
    every = st.tuples(*[st.integers(1, 2)] * dims)
    valid = draw(st.booleans())
    return UNetConfig(
        in_channels=draw(st.integers(1, 3)),
        classes=draw(st.integers(1, 4)),
        dims=dims,
        widths=tuple(draw(st.lists(st.integers(1, 5), min_size=levels, max_size=levels))),
        pools=tuple(draw(every) for _ in range(levels - 1)),
        kernels=tuple(tuple(2 * k - 1 for k in draw(every)) for _ in range(levels)),
        convs=tuple(draw(st.integers(1, 2)) for _ in range(levels)),
        decoder_convs=tuple(draw(st.integers(1, 2)) for _ in range(levels - 1)),
        block="plain" if valid else draw(st.sampled_from(("plain", "residual"))),
        norm=draw(st.sampled_from(("batch", "instance", "group", "none"))),
        down="max" if valid else draw(st.sampled_from(("max", "stride"))),
        up=draw(st.sampled_from(("transpose", "linear", "linear_conv"))),
        padding="valid" if valid else "same",
        deep_supervision=draw(st.sampled_from(("no", "training", "always"))),
        stem_stride=draw(st.one_of(st.just(()), every)),
        stem_up=draw(st.sampled_from(("shuffle", "transpose"))),
    )


@settings(deadline=None, max_examples=25)
@given(configs(), st.data())
def test_the_nearest_size_fits_and_the_output_is_as_announced(config: UNetConfig, data: st.DataObject) -> None:
    with torch.device("meta"):
        model = UNet(config)
        wanted = data.draw(st.tuples(*[st.integers(1, 70)] * config.dims))
        size = model.nearest_size(wanted)
        assert model.nearest_size(size) == size
        assert all(n >= least for n, least in zip(size, model.smallest, strict=True)) or config.norm == "instance"
        assert model(torch.empty(2, config.in_channels, *size)).main.shape[2:] == model.output_size(size)
        stepped = (*size[:-1], size[-1] + model.divisor[-1])
        assert model(torch.empty(2, config.in_channels, *stepped)).main.shape[2:] == model.output_size(stepped)


def test_coarse_heads_answer_when_the_config_says() -> None:
    for when, training, evaluating in (("no", 0, 0), ("training", 2, 0), ("always", 2, 2)):
        model = UNet(UNetConfig(widths=(2, 3, 4, 5), deep_supervision=when))
        image = torch.randn(1, 1, 32, 16)
        assert len(model.train()(image).auxiliary) == training
        assert len(model.eval()(image).auxiliary) == evaluating
        if training:
            assert [tuple(a.shape[2:]) for a in model.train()(image).auxiliary] == [(16, 8), (8, 4)]


def test_one_voxel_at_the_bottom_is_refused_by_instance_norm() -> None:
    model = UNet(UNetConfig(widths=(2, 3), pools=((2, 2),)))
    with pytest.raises(ShapeError, match="Use 2 x 4"):
        model(torch.randn(1, 1, 2, 2))
    assert torch.isfinite(model(torch.randn(1, 1, *model.smallest)).main).all()


@pytest.mark.parametrize(
    ("network", "config"), [(UNet, UNetConfig), (UNetPP, UNetPPConfig), (AttentionUNet, AttentionUNetConfig)]
)
def test_a_strided_stem_takes_the_work_away_from_full_resolution(network, config) -> None:
    with torch.device("meta"):
        full = network(config(widths=(32, 64, 128)))
        stemmed = network(config(widths=(32, 64, 128), stem_stride=(2, 2)))
    assert gflops(stemmed, (1, 1, 128, 128)) < 0.35 * gflops(full, (1, 1, 128, 128))


def test_work_is_counted_in_multiply_adds() -> None:
    model = UNet(UNetConfig(1, 2, 2, (1, 1), convs=(1, 1), decoder_convs=(1,), norm="none", down="max"))
    # 8 x 8: conv 3x3 (64 x 9), bottom conv (16 x 9), up (16 x 4), conv of two channels (64 x 18), head (64 x 2)
    assert gflops(model, (1, 1, 8, 8)) * 1e9 == pytest.approx(64 * 9 + 16 * 9 + 16 * 4 + 64 * 18 + 64 * 2)


def test_a_residual_unit_begins_as_its_shortcut() -> None:
    torch.manual_seed(0)
    model = UNet(UNetConfig(widths=(4, 4), convs=(2, 1), block="residual"))
    x = torch.randn(1, 4, 8, 8)
    torch.testing.assert_close(model.encoder[0][1](x), torch.nn.functional.leaky_relu(x, 0.01))


@pytest.mark.parametrize(
    "wrong",
    [
        {"dims": 4},
        {"widths": (8,)},
        {"pools": ((2, 2),)},
        {"kernels": ((3, 3),) * 3},
        {"kernels": ((2, 3),) * 4},
        {"stem_stride": (2,)},
        {"padding": "valid"},
        {"odd_sizes": "pad", "stem_stride": (2, 2)},
    ],
)
def test_a_config_that_is_no_unet_is_refused(wrong: dict) -> None:
    with pytest.raises(InputError):
        UNetConfig(**wrong)
