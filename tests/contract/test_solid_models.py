"""What every promptable model for volumes promises, at each of its tiny configurations."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vesalius.core.errors import ChannelError, ShapeError
from vesalius.models.catalog import CATALOG, Entry, build, make_config, plain
from vesalius.models.solid import Hints
from vesalius.models.weights import load_into, load_state, save

CASES = [
    pytest.param(name, entry, config, id=f"{name}-{i}")
    for name, entry in CATALOG.items()
    if entry.kind == "solid"
    for i, config in enumerate(entry.tiny)
]
every_model = pytest.mark.parametrize(("name", "entry", "config"), CASES)


def fresh(entry: Entry, config: Any) -> Any:
    torch.manual_seed(0)
    model = entry.builder(config)
    for parameter in model.parameters():  # zeros at the start would hide a path that is not connected
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


def view_of(model: Any, batch: int = 2) -> Tensor:
    side = model.frame_size
    return torch.randn(batch, 1, side, side, side, generator=torch.Generator().manual_seed(1))


def hints_of(model: Any) -> Hints:
    """A box and a click about the first view, a known layer and an earlier mask about the second."""
    side, random = model.frame_size, torch.Generator().manual_seed(2)
    known, earlier = torch.zeros(2, 1, side, side, side), torch.zeros(2, 1, side, side, side)
    known[1, 0, 3] = torch.where(torch.rand(side, side, generator=random) > 0.5, 1.0, -1.0)
    earlier[1] = torch.randn(1, side, side, side, generator=random)
    boxes = torch.tensor([[2.0, 3.0, 1.0, 12.0, 9.5, 14.0], [0.0] * 6])
    points = torch.tensor([[[4.0, 5.0, 6.0]], [[0.0, 0.0, 0.0]]])
    return Hints(boxes, points, torch.tensor([[1], [-1]]), known, earlier)


def part(hints: Hints, i: int) -> Hints:
    return Hints(*(tensor[i : i + 1] for tensor in hints))


@every_model
def test_every_view_is_answered_with_a_mask_and_its_quality(name: str, entry: Entry, config: Any) -> None:
    model = fresh(entry, config)
    with torch.no_grad():
        logits, iou = model(view_of(model), hints_of(model))
    assert logits.shape == view_of(model).shape and iou.shape == (2, 1)
    assert torch.isfinite(logits).all() and ((iou >= 0) & (iou <= 1)).all()


@every_model
def test_views_do_not_see_each_other(name: str, entry: Entry, config: Any) -> None:
    model, hints = fresh(entry, config), hints_of(fresh(entry, config))
    with torch.no_grad():
        together, alone = model(view_of(model), hints), model(view_of(model)[1:], part(hints, 1))
    torch.testing.assert_close(together.logits[1:], alone.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(together.iou[1:], alone.iou, atol=1e-4, rtol=1e-4)


@every_model
def test_every_hint_counts_and_a_point_that_is_none_does_not(name: str, entry: Entry, config: Any) -> None:
    model, hints = fresh(entry, config), hints_of(fresh(entry, config))
    changes = {
        "boxes": hints.boxes + torch.tensor([0.0, 0, 0, 2, 0, 0]) * (hints.boxes[:, 3:4] > 0),
        "points": hints.points + 3 * (hints.labels == 1)[..., None],
        "known": -hints.known,
        "earlier": 2 * hints.earlier,
    }
    with torch.no_grad():
        before = model(view_of(model), hints).logits
        for key, value in changes.items():
            assert not torch.equal(model(view_of(model), hints._replace(**{key: value})).logits, before), key
        nowhere = hints._replace(points=hints.points + 5 * (hints.labels == -1)[..., None])
        assert torch.equal(model(view_of(model), nowhere).logits, before)


@every_model
def test_nothing_said_is_zeros(name: str, entry: Entry, config: Any) -> None:
    model = fresh(entry, config)
    nothing = Hints.nothing(view_of(model))
    assert [tuple(part.shape[:1]) for part in nothing] == [(2,)] * 5 and (nothing.labels == -1).all()
    with torch.no_grad():
        assert torch.isfinite(model(view_of(model), nothing).logits).all()


@every_model
def test_every_parameter_gets_a_finite_gradient(name: str, entry: Entry, config: Any) -> None:
    model = fresh(entry, config).train()
    answers = model(view_of(model), hints_of(model))
    (answers.logits.square().mean() + answers.iou.square().mean()).backward()
    assert {n for n, p in model.named_parameters() if p.grad is None} == set(entry.unused)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@every_model
def test_other_sizes_are_taken_and_those_that_do_not_fit_are_refused(name: str, entry: Entry, config: Any) -> None:
    model, hints = fresh(entry, config), part(hints_of(fresh(entry, config)), 0)
    size = (24, 16, 32)
    flat = torch.zeros(1, 1, *size)
    with torch.no_grad():
        assert model(torch.randn(1, 1, *size), hints._replace(known=flat, earlier=flat)).logits.shape[2:] == size
    with pytest.raises(ShapeError, match="16 x 24 x 16"):
        model(torch.randn(1, 1, 15, 22, 17), hints)
    with pytest.raises(ChannelError):
        model(torch.randn(1, 3, 16, 16, 16), hints)


@every_model
def test_the_config_survives_as_plain_values_and_weights_survive_a_file(
    name: str, entry: Entry, config: Any, tmp_path: Path
) -> None:
    assert make_config(entry.config, plain(config)) == config
    model = fresh(entry, config)
    save(tmp_path / "weights.safetensors", model, {})
    again = build(name, plain(config)).eval()
    load_into(again, load_state(tmp_path / "weights.safetensors")[0])
    with torch.no_grad():
        assert torch.equal(again(view_of(model), hints_of(model)).logits, model(view_of(model), hints_of(model)).logits)
