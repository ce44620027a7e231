"""What every promptable model of the catalog promises, at each of its tiny configurations."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vesalius.core.errors import ChannelError, InputError, ShapeError
from vesalius.models.catalog import CATALOG, Entry, build, make_config, plain
from vesalius.models.contract import Prompts, PromptSegmenter
from vesalius.models.weights import load_into, load_state, save

CASES = [
    pytest.param(name, entry, config, id=f"{name}-{i}")
    for name, entry in CATALOG.items()
    if entry.kind == "prompts"
    for i, config in enumerate(entry.tiny)
]
every_model = pytest.mark.parametrize(("name", "entry", "config"), CASES)
POINTS = {"points": torch.tensor([[[20.0, 30.5]], [[50.0, 9.0]]]), "labels": torch.tensor([[1], [0]])}
BOXES = {"boxes": torch.tensor([[4.0, 6.0, 40.0, 60.0], [0.0, 0.0, 64.0, 20.0]])}


def fresh(entry: Entry, config: Any) -> Any:
    torch.manual_seed(0)
    model = entry.builder(config)
    for parameter in model.parameters():  # zeros at the start would hide a path that is not connected
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


def image_for(model: Any, batch: int = 1) -> Tensor:
    side = model.frame_size
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(1))


def masks_for(model: Any, features: Tensor, count: int = 2) -> dict[str, Tensor]:
    size = model.decode(features[:1], Prompts(**BOXES)).logits.shape[2:]
    return {"masks": torch.randn(count, 1, *size, generator=torch.Generator().manual_seed(2))}


@every_model
def test_any_prompt_is_answered_with_masks_and_their_quality(name: str, entry: Entry, config: Any) -> None:
    model = fresh(entry, config)
    assert isinstance(model, PromptSegmenter)
    with torch.no_grad():
        features = model.embed(image_for(model))
        masks = masks_for(model, features)
        for given in (POINTS, BOXES, masks, POINTS | BOXES, POINTS | BOXES | masks):
            for multimask, count in ((False, 1), (True, 3)):
                logits, iou = model.decode(features, Prompts(**given), multimask)
                assert logits.shape[:2] == iou.shape == (2, count)
                assert torch.isfinite(logits).all() and torch.isfinite(iou).all()


@every_model
def test_prompts_do_not_see_each_other(name: str, entry: Entry, config: Any) -> None:
    model = fresh(entry, config)
    with torch.no_grad():
        features = model.embed(image_for(model))
        prompts = Prompts(**POINTS, **BOXES, **masks_for(model, features))
        together, alone = model.decode(features, prompts, True), model.decode(features, prompts.part(1, 2), True)
    torch.testing.assert_close(together.logits[1:], alone.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(together.iou[1:], alone.iou, atol=1e-4, rtol=1e-4)


@every_model
def test_each_prompt_may_have_an_image_of_its_own(name: str, entry: Entry, config: Any) -> None:
    model = fresh(entry, config)
    with torch.no_grad():
        features = model.embed(image_for(model, 2))
        together = model.decode(features, Prompts(**BOXES)).logits[1:]
        alone = model.decode(model.embed(image_for(model, 2)[1:]), Prompts(**BOXES).part(1, 2)).logits
        torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
        with pytest.raises(InputError, match="2 prompts about 3 images"):
            model.decode(model.embed(image_for(model, 3)), Prompts(**BOXES))


@every_model
def test_a_point_that_is_none_changes_nothing(name: str, entry: Entry, config: Any) -> None:
    """Prompts of different lengths are filled up with label -1; beside a box the filling is what the model was trained with."""
    model = fresh(entry, config)
    with torch.no_grad():
        features = model.embed(image_for(model))
        there = model.decode(features, Prompts(torch.tensor([[[20.0, 30.5]]]), torch.tensor([[-1]]))).logits
        elsewhere = model.decode(features, Prompts(torch.tensor([[[1.0, 2.0]]]), torch.tensor([[-1]]))).logits
    assert torch.equal(there, elsewhere)


@every_model
def test_every_parameter_gets_a_finite_gradient(name: str, entry: Entry, config: Any) -> None:
    model = fresh(entry, config).train()
    features = model.embed(image_for(model, 2))
    text = {"text": torch.randn(2, config.text)} if model.knows_text else {}
    total = torch.zeros(())
    with_masks = BOXES | masks_for(model, features.detach()[:1]) | text
    for given, multimask in ((POINTS, False), (POINTS | BOXES, True), (with_masks, False)):
        answer = model.decode(features, Prompts(**given), multimask)
        total = total + answer.logits.square().mean() + answer.iou.square().mean()
    total.backward()
    assert {n for n, p in model.named_parameters() if p.grad is None} == set(entry.unused)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@every_model
def test_other_sizes_are_taken_and_those_that_do_not_fit_are_refused(name: str, entry: Entry, config: Any) -> None:
    model = fresh(entry, config)
    with torch.no_grad():
        for size in ((32, 32), (96, 96), (64, 128)):
            features = model.embed(torch.randn(1, 3, *size))
            logits = model.decode(features, Prompts(**BOXES)).logits
            assert logits.shape[2] / logits.shape[3] == size[0] / size[1]
    with pytest.raises(ShapeError, match="64 x 64"):
        model.embed(torch.randn(1, 3, 63, 65))
    with pytest.raises(ChannelError):
        model.embed(torch.randn(1, 1, 64, 64))


@every_model
def test_text_is_refused_by_weights_that_know_none(name: str, entry: Entry, config: Any) -> None:
    model = fresh(entry, config)
    with torch.no_grad():
        features = model.embed(image_for(model))
        if not model.knows_text:
            with pytest.raises(InputError, match="know no text"):
                model.decode(features, Prompts(text=torch.randn(2, 10)))
            return
        one, other = model.decode(features, Prompts(text=torch.randn(2, config.text))).logits
        assert not torch.allclose(one, other)
        with pytest.raises(InputError, match="wide instead of"):
            model.decode(features, Prompts(text=torch.randn(2, config.text + 1)))


@every_model
def test_a_mask_prompt_of_another_size_is_refused_with_the_right_one(name: str, entry: Entry, config: Any) -> None:
    model = fresh(entry, config)
    with torch.no_grad():
        features = model.embed(image_for(model))
        right = " x ".join(map(str, masks_for(model, features)["masks"].shape[1:]))
        with pytest.raises(ShapeError, match=right):
            model.decode(features, Prompts(masks=torch.randn(2, 1, 5, 5)))


@every_model
def test_bfloat16_is_finite_and_near(name: str, entry: Entry, config: Any) -> None:
    torch.manual_seed(0)
    model = entry.builder(config).eval()
    with torch.no_grad():
        exact = model(image_for(model), Prompts(**POINTS, **BOXES)).logits
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(image_for(model), Prompts(**POINTS, **BOXES)).logits.float()
    assert torch.isfinite(rough).all()
    assert (rough - exact).abs().mean() < 0.1 * exact.std() + 1e-3


@every_model
def test_what_is_saved_is_what_is_loaded(name: str, entry: Entry, config: Any, tmp_path: Path) -> None:
    model = fresh(entry, config)
    save(tmp_path / "weights.safetensors", model, {})
    assert make_config(entry.config, plain(config)) == config
    again: Any = build(name, plain(config)).eval()
    before = again.decode(again.embed(image_for(again)), Prompts(**BOXES))  # what is cached must not outlive the weights
    load_into(again, load_state(tmp_path / "weights.safetensors")[0])
    with torch.no_grad():
        wanted, found = (m(image_for(m), Prompts(**BOXES)).logits for m in (model, again))
    assert torch.equal(wanted, found) and not torch.equal(before.logits, found)


@every_model
def test_every_kind_of_prompt_matters(name: str, entry: Entry, config: Any) -> None:
    model = fresh(entry, config)
    with torch.no_grad():
        features = model.embed(image_for(model))
        whole = POINTS | BOXES
        before = model.decode(features, Prompts(**whole)).logits
        for other in (
            {"points": POINTS["points"] + 6},
            {"labels": 1 - POINTS["labels"]},
            {"boxes": BOXES["boxes"] + 5},
            masks_for(model, features),
        ):
            assert not torch.equal(model.decode(features, Prompts(**(whole | other))).logits, before), other
