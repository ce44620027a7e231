"""vesalius_mini: prompts are drawn where they are, the ellipse is where masks begin, and the whole stays small."""

import pytest
import torch

from vesalius.models.catalog import parameter_count
from vesalius.models.contract import Prompts
from vesalius.models.mini import ELLIPSE, Mini, MiniConfig, draw, prior

TINY = MiniConfig(32, (8, 8, 12, 16), (1, 1, 1, 1), 1, 2, (6, 8, 10, 12))


def tiny() -> Mini:
    torch.manual_seed(0)
    return Mini(TINY).eval()


def test_the_whole_model_stays_within_twelve_million_parameters():
    with torch.device("meta"):
        assert parameter_count(Mini(MiniConfig())) == 6_985_701


def test_a_click_is_drawn_where_it_is():
    clicks = Prompts(points=torch.tensor([[[21.5, 5.5], [1.5, 29.5]]]), labels=torch.tensor([[1, 0]]))
    maps = draw(clicks, (8, 8), torch.device("cpu"))
    on, beside = maps[0, 3], maps[0, 5]
    assert divmod(int(on.argmax()), 8) == (1, 5) and divmod(int(beside.argmax()), 8) == (7, 0)
    assert on.max() == pytest.approx(1) and maps[0, 9].min() == maps[0, 10].min() == 1 and maps[0, [8, 11]].max() == 0


def test_a_box_is_drawn_along_x_and_y():
    maps = draw(Prompts(boxes=torch.tensor([[8.0, 0.0, 24.0, 8.0]])), (8, 8), torch.device("cpu"))[0]
    inside = maps[0] > 0
    assert inside[:2, 2:6].all() and inside.sum() == 8
    assert ((maps[2] > 0) <= inside).all()


def test_masks_begin_as_the_ellipse_in_the_box():
    start = prior(Prompts(boxes=torch.tensor([[4.0, 8.0, 28.0, 24.0]])), (16, 16))
    y, x = torch.meshgrid(torch.arange(16) * 2 + 1.0, torch.arange(16) * 2 + 1.0, indexing="ij")
    assert torch.equal(start[0, 0] > 0, ((x - 16) / 12) ** 2 + ((y - 16) / 8) ** 2 < 1)
    assert start.max() < ELLIPSE and start.min() >= -8


def test_an_earlier_mask_is_where_the_next_one_begins():
    earlier = 20 * torch.randn(1, 1, 16, 16)
    start = prior(Prompts(boxes=torch.tensor([[4.0, 8.0, 28.0, 24.0]]), masks=earlier), (16, 16))
    assert torch.equal(start, earlier.clamp(-8, 8))


def test_zeros_are_no_box_and_no_mask():
    box, none = torch.tensor([[4.0, 8.0, 28.0, 24.0]]), torch.zeros(1, 4)
    points, labels = torch.tensor([[[9.0, 9.0]]]), torch.tensor([[1]])
    model, image = tiny(), torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        for full, short in (
            (Prompts(points, labels, none, torch.zeros(1, 1, 16, 16)), Prompts(points, labels)),
            (Prompts(points, labels, box, torch.zeros(1, 1, 16, 16)), Prompts(points, labels, box)),
        ):
            assert torch.equal(model(image, full).logits, model(image, short).logits)


def test_views_with_their_prompts_equal_embedding_first():
    model, images = tiny(), torch.randn(2, 3, 32, 32)
    prompts = Prompts(boxes=torch.tensor([[4.0, 8.0, 28.0, 24.0], [0.0, 3.0, 9.0, 9.0]]))
    with torch.no_grad():
        torch.testing.assert_close(model(images, prompts, True).logits, model.decode(model.embed(images), prompts, True).logits)


def test_views_of_other_sizes_are_taken():
    box = Prompts(boxes=torch.tensor([[4.0, 8.0, 28.0, 24.0]]))
    with torch.no_grad():
        assert tiny()(torch.randn(1, 3, 48, 64), box).logits.shape == (1, 1, 24, 32)
