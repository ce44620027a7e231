"""What every Segmenter of the catalog promises, at each of its tiny configurations. A new one is tested once it is listed."""

from itertools import product
from typing import Any

import pytest
import torch
from torch import nn

from vesalius.core.errors import ChannelError, ShapeError
from vesalius.models.catalog import CATALOG, Entry, build, gflops, make_config, parameter_count, plain
from vesalius.models.contract import Outputs, Segmenter
from vesalius.models.weights import load_into, load_state, save
from vesalius.training.losses import LOSSES, find_loss

CASES = [
    pytest.param(name, entry, config, id=f"{name}-{i}")
    for name, entry in CATALOG.items()
    if entry.kind == "segmenter"  # promptable models: test_prompt_models.py
    for i, config in enumerate(entry.tiny)
]
every_model = pytest.mark.parametrize(("name", "entry", "config"), CASES)


def fresh(entry: Entry, config: Any, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = entry.builder(config)
    for parameter in model.parameters():  # zeros at the start would hide a path that is not connected
        nn.init.normal_(parameter, std=0.2)
    return model


def size_for(model: Any) -> tuple[int, ...]:
    return model.nearest_size(tuple(2 * n for n in model.smallest))


def image_for(model: Any, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, model.in_channels, *size_for(model))


@every_model
def test_the_output_has_the_size_it_announces(name: str, entry: Entry, config: Any) -> None:
    model = fresh(entry, config)
    assert isinstance(model, Segmenter)
    assert model.dims in entry.dims
    for mode in (True, False):
        outputs = model.train(mode)(image_for(model))
        assert isinstance(outputs, Outputs)
        assert outputs.main.shape == (2, model.classes, *model.output_size(size_for(model)))
        if entry.loss in LOSSES:  # deep supervision: maps of the same classes; what a loss of OWN is given is its own affair
            assert all(a.shape[:2] == outputs.main.shape[:2] for a in outputs.auxiliary)
        target = torch.randint(0, model.classes, (2, *model.output_size(size_for(model))))
        if mode:
            assert torch.isfinite(find_loss(entry.loss)(outputs, target, None))


@every_model
def test_images_of_a_batch_do_not_see_each_other(name: str, entry: Entry, config: Any) -> None:
    model = fresh(entry, config).eval()
    images = image_for(model, 3)
    with torch.no_grad():
        together, alone = model(images).main[1:2], model(images[1:2]).main
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


@every_model
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_every_parameter_gets_a_finite_gradient(name: str, entry: Entry, config: Any, layout: str) -> None:
    model = fresh(entry, config).train()
    images = image_for(model)
    if layout == "channels_last":
        memory = torch.channels_last if model.dims == 2 else torch.channels_last_3d
        model, images = model.to(memory_format=memory), images.to(memory_format=memory)
    outputs = model(images)
    torch.stack([o.square().mean() for o in (outputs.main, *outputs.auxiliary)]).sum().backward()
    still = {n for n, p in model.named_parameters() if p.grad is None}
    assert still == set(entry.unused)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@every_model
def test_memory_layouts_agree(name: str, entry: Entry, config: Any) -> None:
    model = fresh(entry, config).eval()
    images = image_for(model)
    memory = torch.channels_last if model.dims == 2 else torch.channels_last_3d
    with torch.no_grad():
        plain_, last = model(images).main, model.to(memory_format=memory)(images.to(memory_format=memory)).main
    torch.testing.assert_close(plain_, last, atol=1e-4, rtol=1e-4)


@every_model
def test_a_size_that_does_not_fit_is_refused_with_one_that_does(name: str, entry: Entry, config: Any) -> None:
    model = fresh(entry, config).eval()
    too_small = tuple(1 for _ in model.smallest)
    with pytest.raises(ShapeError) as refusal:
        model(torch.randn(1, model.in_channels, *too_small))
    nearest = model.nearest_size(too_small)
    assert " x ".join(map(str, nearest)) in str(refusal.value)
    with torch.no_grad():
        assert model(torch.randn(1, model.in_channels, *nearest)).main.shape[2:] == model.output_size(nearest)


@every_model
def test_no_size_that_it_takes_is_nearer_than_the_one_it_names(name: str, entry: Entry, config: Any) -> None:
    with torch.device("meta"):
        model = entry.builder(config)

    def taken(size: tuple[int, ...]) -> bool:
        try:
            return model.output_size(size) is not None
        except ShapeError:
            return False

    def apart(a: tuple[int, ...], b: tuple[int, ...]) -> int:
        return sum(abs(m - n) for m, n in zip(a, b, strict=True))

    sizes = [size for size in product(*([k * d for k in range(1, 4)] for d in model.divisor)) if taken(size)]
    for wanted in product(*((1, d // 2, d + d // 3, 2 * d - 1) for d in model.divisor)):
        named = model.nearest_size(wanted)
        assert taken(named) and apart(named, wanted) == min(apart(size, wanted) for size in sizes)


@every_model
def test_other_channels_are_refused(name: str, entry: Entry, config: Any) -> None:
    model = fresh(entry, config).eval()
    with pytest.raises(ChannelError, match=f"{model.in_channels + 1} channels"):
        model(torch.randn(1, model.in_channels + 1, *size_for(model)))


@every_model
def test_what_is_saved_is_what_is_loaded(name: str, entry: Entry, config: Any, tmp_path: Any) -> None:
    model, images = fresh(entry, config).eval(), image_for(fresh(entry, config))
    save(tmp_path / "weights.safetensors", model, {"task": "none"})
    again = build(name, plain(config)).eval()
    state, metadata = load_state(tmp_path / "weights.safetensors")
    load_into(again, state)
    assert metadata == {"task": "none"}
    with torch.no_grad():
        assert torch.equal(model(images).main, again(images).main)


@every_model
def test_bfloat16_is_finite_and_near(name: str, entry: Entry, config: Any) -> None:
    model = entry.builder(config).eval()
    images = image_for(model)
    with torch.no_grad():
        exact = model(images).main
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(images).main.float()
    assert torch.isfinite(rough).all()
    assert (rough - exact).abs().mean() < 0.05 * exact.std() + 1e-3


@every_model
def test_a_config_survives_being_written_down(name: str, entry: Entry, config: Any) -> None:
    assert make_config(entry.config, plain(config)) == config


@every_model
def test_size_and_work_are_counted(name: str, entry: Entry, config: Any) -> None:
    model = entry.builder(config)
    assert parameter_count(model) == sum(p.numel() for p in model.parameters()) > 0
    assert gflops(model, (1, model.in_channels, *size_for(model))) > 0
