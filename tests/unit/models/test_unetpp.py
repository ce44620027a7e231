"""U-Net++: its published sizes, its heads, and the smaller networks inside it."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from vesalius.core.errors import InputError
from vesalius.models.catalog import CATALOG, make_config, parameter_count, plain
from vesalius.models.sizes import shrink
from vesalius.models.unetpp import UNetPP, UNetPPConfig
from vesalius.models.unetpp_layouts import keras, nested, nnunet

CONFIGS = [*CATALOG["unetpp"].tiny, UNetPPConfig(widths=(4, 6, 8), norm="none", down="max", skip_first=False, dropout=0.5)]


def random_network(config: UNetPPConfig) -> UNetPP:
    torch.manual_seed(0)
    model = UNetPP(config)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, *((0.5, 1.5) if "running_var" in name else (-0.3, 0.3)))
    return model.eval()


def image_for(model: UNetPP) -> torch.Tensor:
    return torch.randn(2, model.in_channels, *(2 * n for n in model.smallest))


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (nnunet(1, 3), 45_966_784),
        (nested(3, 1), 9_163_329),
        (nested(3, 1, deep_supervision="always"), 9_163_428),
        (keras(1, 1), 9_041_601),
    ],
)
def test_full_sizes_are_the_published_ones(config: UNetPPConfig, count: int) -> None:
    with torch.device("meta"):
        assert parameter_count(UNetPP(config)) == count
    assert make_config(UNetPPConfig, plain(config)) == config


@pytest.mark.parametrize("config", CONFIGS)
def test_each_pruned_network_answers_as_its_head_in_the_whole(config: UNetPPConfig) -> None:
    model = random_network(replace(config, deep_supervision="always", average=False))
    image = image_for(model)
    with torch.inference_mode():
        whole = model(image)
        heads = (whole.main, *whole.auxiliary)[::-1]
        assert len(heads) == len(config.widths) - 1
        for column, head in enumerate(heads, start=1):
            small = model.pruned(column)
            found = small(image)
            torch.testing.assert_close(found.main, head, atol=1e-6, rtol=1e-6)
            assert len(found.auxiliary) == column - 1 and not small.training
    assert parameter_count(model.pruned(1)) < parameter_count(model.pruned(2)) <= parameter_count(model)
    assert model.pruned(1).divisor == shrink((config.stem_stride or (1,) * config.dims, config.strides[0]))


def test_pruning_leaves_the_whole_network_as_it_was() -> None:
    model = random_network(CONFIGS[0])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.pruned(2).parameters():
            parameter.zero_()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_column_without_a_head_is_no_place_to_prune_to() -> None:
    model = UNetPP(replace(CONFIGS[0], deep_supervision="no"))
    with pytest.raises(InputError, match="column 2 of this U-Net\\+\\+ has no head"):
        model.pruned(2)
    assert model.pruned(3).config == model.config
    with pytest.raises(InputError, match="Give 1 to 3"):
        model.pruned(4)


def test_in_use_the_mean_of_all_heads_can_answer() -> None:
    config = replace(CONFIGS[0], deep_supervision="always")
    model, mean = random_network(config), random_network(replace(config, average=True, deep_supervision="training"))
    image = image_for(model)
    with torch.inference_mode():
        every, found = model(image), mean(image)
        torch.testing.assert_close(found.main, torch.stack([every.main, *every.auxiliary]).mean(0))
        assert found.auxiliary == ()
        torch.testing.assert_close(mean.train()(image).main, model.train()(image).main)
    with pytest.raises(InputError, match="a mean over heads needs heads"):
        replace(config, average=True, deep_supervision="no")


def test_every_head_has_full_resolution() -> None:
    for config in CONFIGS:
        model = random_network(config).train()
        outputs = model(image_for(model))
        assert len(outputs.auxiliary) == len(config.widths) - 2
        assert {tuple(a.shape) for a in outputs.auxiliary} == {tuple(outputs.main.shape)}
