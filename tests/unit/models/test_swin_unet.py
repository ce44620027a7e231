"""Swin-Unet: full-size counts, sizes it takes and refuses, shifted windows, and what a config may not be."""

from dataclasses import replace

import pytest
import torch

from vesalius.core.errors import InputError, ShapeError
from vesalius.models.catalog import CATALOG, derived, parameter_count
from vesalius.models.needs import Needs
from vesalius.models.swin_unet import APART, SwinUnet, SwinUnetConfig, borders

TINY = CATALOG["swin_unet"].tiny[0]


@pytest.mark.parametrize(("classes", "count"), [(9, 27_168_900), (4, 27_168_420)])
def test_full_sizes_have_the_original_number_of_parameters(classes: int, count: int) -> None:
    with torch.device("meta"):
        assert parameter_count(SwinUnet(SwinUnetConfig(classes=classes))) == count


def test_built_for_a_small_image_it_is_the_network_for_a_large_one() -> None:
    """Windows of 2 fit every stage at both sizes, so that both have the same tensors: also where the last stage shifts."""
    torch.manual_seed(0)
    config = SwinUnetConfig(1, 2, (32, 32), 4, 8, (1, 2, 2), (1, 1, 1), 2)
    small, large = SwinUnet(config).eval(), SwinUnet(replace(config, image_size=(64, 64))).eval()
    large.load_state_dict(small.state_dict())
    x = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(small(x).main, large(x).main)


def test_a_size_in_between_is_refused_with_the_nearest() -> None:
    model = SwinUnet(SwinUnetConfig(3, 2, width=12))
    assert model.divisor == model.smallest == (224, 224)
    assert model.nearest_size((512, 200)) == (448, 224)
    with pytest.raises(ShapeError, match="Use 448 x 224"):
        model(torch.randn(1, 3, 512, 200))


def test_a_grey_picture_is_the_same_picture_in_grey_colours() -> None:
    model, grey = SwinUnet(TINY).eval(), torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(grey).main, model(grey.repeat(1, 3, 1, 1)).main)


def test_a_shift_keeps_opposite_borders_apart() -> None:
    mask = borders((4, 6), 2, 1, torch.zeros(1))
    assert mask.shape == (6, 1, 4, 4)
    assert (mask[0] == 0).all()  # within the map nothing meets that was not beside it
    assert (mask[2, 0, 0] == torch.tensor([0, APART, 0, APART])).all()  # right border: left and right column of the window
    assert (mask[3, 0, 0] == torch.tensor([0, 0, APART, APART])).all()  # lower border
    assert (mask[5, 0] + APART * torch.eye(4) == APART).all()  # lower right corner: four corners of the map met


def test_a_mark_is_seen_beyond_its_window_only_because_windows_shift() -> None:
    torch.manual_seed(0)
    config = SwinUnetConfig(1, 1, (64, 64), 4, 8, (2, 1), (1, 1), 8, drop_path=0)
    shifted = SwinUnet(config).eval()
    still = SwinUnet(replace(config, depths=(1, 1))).eval()
    for model, reaches in ((shifted, True), (still, False)):
        x = torch.zeros(1, 1, 64, 64, requires_grad=True)
        stage = model.encoder[0](model.embed_norm(model.embed(x).movedim(1, -1)))
        stage[0, 7, 7].square().sum().backward()
        assert bool((x.grad[0, 0, 32:, 32:] != 0).any()) == reaches


def test_block_depths_mirror_and_drop_path_deepens() -> None:
    model = SwinUnet(replace(TINY, depths=(1, 2, 3), drop_path=0.5))
    rates = [[block.drop_path.p for block in stage] for stage in model.encoder]
    assert [rate for stage in rates for rate in stage] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert [[block.drop_path.p for block in stage] for stage in model.decoder] == rates[:2]


@pytest.mark.parametrize(
    ("chosen", "image_size"),
    [
        ({}, [192, 384]),
        ({"window": 7}, [224, 448]),
        ({"window": 8}, [256, 256]),
        ({"window": 4, "depths": [2, 2], "heads": [3, 6]}, [256, 352]),
    ],
)
def test_a_run_gets_whole_windows_near_its_patch(chosen: dict, image_size: list[int]) -> None:
    found = derived("swin_unet", Needs(1, 2, 2, (250, 350), (1.0, 1.0), chosen=chosen))
    assert (found["in_channels"], found["classes"], found["image_size"]) == (1, 2, image_size)


@pytest.mark.parametrize(
    ("edge", "window"), [(224, 7), (448, 7), (256, 8), (352, 11), (320, 10), (512, 8), (96, 3), (64, 2), (128, 4)]
)
def test_a_run_gets_the_window_that_its_patch_is_made_of(edge: int, window: int) -> None:
    found = derived("swin_unet", Needs(1, 2, 2, (edge, edge), (1.0, 1.0)))
    assert (found["image_size"], found["window"]) == ([edge, edge], window)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"heads": (1, 2)}, "do not fit"),
        ({"depths": (2,), "heads": (1,)}, "two at least"),
        ({"heads": (5, 2, 4)}, "5, 2, 4"),
        ({"window": 0}, "at least 1"),
        ({"image_size": (60, 64)}, "Set image_size to"),
        ({"window": 5}, "do not divide"),
    ],
)
def test_a_config_that_cannot_be_is_refused(wrong: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        replace(TINY, **wrong)
