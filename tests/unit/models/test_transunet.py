"""TransUNet: full-size counts, sizes it takes and refuses, grey pictures, and what a config may not be."""

from dataclasses import replace

import pytest
import torch

from vesalius.core.errors import InputError, ShapeError
from vesalius.models.catalog import CATALOG, derived, make_config, parameter_count, plain
from vesalius.models.needs import Needs
from vesalius.models.resnet_v2 import ResNetV2
from vesalius.models.transunet import TransUNet, TransUNetConfig
from vesalius.training.plan import fit_patch
from vesalius.training.recipe import RECIPES

HYBRID, PLAIN = CATALOG["transunet"].tiny
LARGE = {"hidden": 1024, "mlp": 4096, "heads": 16, "layers": 24}


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (TransUNetConfig(), 105_277_081),
        (TransUNetConfig(image_size=(512, 512)), 105_912_985),
        (TransUNetConfig(**LARGE), 324_024_729),
        (TransUNetConfig(resnet_units=(), skips=0), 91_674_201),
        (TransUNetConfig(resnet_units=(), skips=0, **LARGE), 310_356_313),
    ],
)
def test_full_sizes_have_the_original_number_of_parameters(config: TransUNetConfig, count: int) -> None:
    with torch.device("meta"):
        assert parameter_count(TransUNet(config)) == count


@pytest.mark.parametrize("config", [HYBRID, PLAIN])
def test_other_sizes_than_the_one_it_was_built_for_are_taken(config: TransUNetConfig) -> None:
    model = TransUNet(config).eval()
    size = tuple(n + 3 * config.patch_size for n in config.image_size)
    with torch.no_grad():
        assert model(torch.randn(1, config.in_channels, *size)).main.shape == (1, config.classes, *size)


def test_positions_count_at_every_size() -> None:
    torch.manual_seed(0)
    model, x = TransUNet(HYBRID).eval(), torch.randn(1, 3, 48, 64)
    with torch.no_grad():
        features, _ = model.resnet(x)
        before = model.vit(features)
        model.vit.positions[:, -1] += torch.randn(HYBRID.hidden)
        apart = (model.vit(features) - before).abs().amax((0, 2)).view(3, 4)
        assert apart[-1].min() > 0.1  # 12 tokens, positions learned for 4


def test_a_size_in_between_is_refused_with_the_nearest() -> None:
    model = TransUNet(HYBRID).eval()
    assert model.nearest_size((100, 37)) == (96, 32) and model.nearest_size((104, 1)) == (112, 16)
    with pytest.raises(ShapeError, match="Use 96 x 32"):
        model(torch.randn(1, 3, 100, 37))


def test_a_grey_picture_is_the_same_picture_in_grey_colours() -> None:
    model, grey = TransUNet(HYBRID).eval(), torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(grey).main, model(grey.repeat(1, 3, 1, 1)).main)


@pytest.mark.parametrize("skips", [0, 1, 2, 3])
def test_the_decoder_sees_as_many_skips_as_it_is_told(skips: int) -> None:
    model = TransUNet(replace(HYBRID, skips=skips))
    outputs = [0, *HYBRID.decoder_channels]
    inputs = [stage.first.conv.in_channels - n for stage, n in zip(model.decoder, outputs, strict=False)]
    assert inputs[1:] == [256 // 2 if skips > 1 else 0, 32 if skips > 2 else 0, 0]
    assert inputs[0] - HYBRID.bottleneck == (256 if skips else 0)


def test_the_short_skip_is_filled_at_its_end() -> None:
    torch.manual_seed(0)
    _, (eighth, quarter, half) = ResNetV2(1, 32, (1, 1, 1)).eval()(torch.randn(1, 1, 48, 64))
    assert [tuple(s.shape[1:]) for s in (eighth, quarter, half)] == [(256, 6, 8), (128, 12, 16), (32, 24, 32)]
    assert quarter[:, :, -1].abs().sum() == 0 == quarter[..., -1].abs().sum()
    assert quarter[:, :, -2].abs().sum() > 0 < quarter[..., -2].abs().sum()


@pytest.mark.parametrize(
    ("chosen", "image_size", "skips"),
    [
        ({}, [256, 352], 3),
        ({"skips": 1}, [256, 352], 1),
        ({"resnet_units": [], "patch_size": 32}, [256, 352], 0),
        ({"image_size": [64, 64]}, [64, 64], 3),
    ],
)
def test_a_run_gets_positions_for_its_own_patch(chosen: dict, image_size: list[int], skips: int) -> None:
    found = derived("transunet", Needs(1, 2, 2, (250, 350), (1.0, 1.0), chosen=chosen))
    assert (found["in_channels"], found["classes"], found["image_size"], found["skips"]) == (1, 2, image_size, skips)


def test_a_planned_network_is_small_and_the_papers_recipe_chooses_the_papers() -> None:
    needs = Needs(3, 9, 2, (224, 224), (1.0, 1.0))
    recipe = RECIPES["transunet"].of("transunet")
    small, large = (make_config(TransUNetConfig, derived("transunet", replace(needs, chosen=c))) for c in ({}, recipe.model))
    assert parameter_count(TransUNet(small)) < 20e6 and large == TransUNetConfig()


@pytest.mark.parametrize(
    ("chosen", "channels"),
    [
        ({}, [128, 64, 32, 16]),
        ({"resnet_units": [], "patch_size": 8}, [128, 64, 32]),
        ({"patch_size": 32}, [128, 64, 32, 16, 16]),
    ],
)
def test_a_planned_decoder_undoes_the_patches_that_were_chosen(chosen: dict, channels: list[int]) -> None:
    found = derived("transunet", Needs(1, 2, 2, (64, 64), (1.0, 1.0), chosen=chosen))
    assert found["decoder_channels"] == channels
    with torch.device("meta"):
        model = TransUNet(make_config(TransUNetConfig, found))
        assert model(torch.empty(1, 1, 64, 64)).main.shape[2:] == model.output_size((64, 64)) == (64, 64)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"patch_size": 32, "skips": 0}, r"4 decoder_channels .* 32 px into one of 16.*Give 5 decoder_channels"),
        ({"resnet_units": (), "patch_size": 8, "skips": 0}, r"Give 3 decoder_channels"),
        ({"resnet_units": (), "patch_size": 14, "image_size": (28, 28), "skips": 0}, r"Make patch_size a power of 2"),
    ],
)
def test_a_decoder_that_does_not_undo_its_patches_is_built_but_never_planned(changes: dict, said: str) -> None:
    config = replace(HYBRID, **changes)
    with pytest.raises(InputError, match=said):
        TransUNet(config).output_size(tuple(4 * config.patch_size for _ in "yx"))
    with pytest.raises(InputError, match=said):
        fit_patch((1, 64, 64), "transunet", plain(config), 2)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"image_size": (33, 32)}, "no multiple of patch_size"),
        ({"heads": 3}, "3 heads"),
        ({"resnet_units": (1, 1)}, "not three blocks"),
        ({"resnet_width": 40}, "multiple of 32"),
        ({"patch_size": 8}, "multiple of 16"),
        ({"skips": 4}, "no 4 skips"),
        ({"resnet_units": ()}, "only a residual network"),
    ],
)
def test_a_config_that_cannot_be_is_refused(wrong: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        replace(HYBRID, **wrong)
