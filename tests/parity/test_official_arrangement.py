"""What benchmarks/sam.py measures against gives what ours gives: only then is a ratio of times one of equals."""

import pytest
import torch
from measuring import alternating, times
from official_sam import official_decode, official_encode, official_everything
from sam import Scripted, our_everything, prompter, same, scene

from vesalius.models.contract import Prompts
from vesalius.models.sam.image_encoder import ImageEncoder, ViTConfig
from vesalius.models.weights import keep_bf16


@pytest.fixture(scope="module")
def small() -> Scripted:
    return scene(True)[1]


def test_the_official_arrangement_of_the_encoder_gives_our_features() -> None:
    torch.manual_seed(0)
    encoder = ImageEncoder(ViTConfig(112, 16, 24, 2, 2, (1,), 3, channels=16)).eval().requires_grad_(False)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    image = torch.randn(1, 3, 112, 112)
    torch.testing.assert_close(official_encode(encoder, image), encoder(image), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("multimask", [False, True])
def test_the_official_arrangement_of_the_decoder_gives_our_masks(small: Scripted, multimask: bool) -> None:
    torch.manual_seed(0)
    sam, features = small.sam, torch.randn(1, 256, 8, 6)  # a grid that is not square
    prompts = Prompts(points=torch.rand(3, 2, 2) * 96, labels=torch.tensor([[1, 0], [1, 1], [1, -1]]))
    with torch.inference_mode():
        official, ours = official_decode(sam, features, prompts, multimask), sam.decode(features, prompts, multimask)
    assert ours.logits.std() > 0.01
    torch.testing.assert_close(official.logits, ours.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(official.iou, ours.iou, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
def test_the_official_everything_mode_keeps_the_same_scripted_masks(small: Scripted, bf16: bool) -> None:
    picture = scene(True)[0]
    with torch.inference_mode():
        official = official_everything(picture, prompter(small, False, small.size), 9)
        ours = our_everything(picture, prompter(small, bf16, small.size), 9)
    assert len(ours) > 3 and same(ours, official)
    assert not same(ours[:-1], official) and not same([], [])


def test_weights_kept_in_bf16_give_the_numbers_that_autocast_gives(small: Scripted) -> None:
    torch.manual_seed(0)
    image, sam = torch.randn(1, 3, small.size, small.size), small.sam
    prompts = Prompts(points=torch.rand(2, 1, 2) * small.size, labels=torch.ones(2, 1, dtype=torch.int64))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        before = sam(image, prompts, True)
        kept = keep_bf16(type(sam)(sam.config).eval())
        kept.load_state_dict(sam.state_dict())
        after = kept(image, prompts, True)
    assert kept.image_encoder.blocks[0].mlp.layers[0].weight.dtype == torch.bfloat16
    assert torch.equal(before.logits, after.logits) and torch.equal(before.iou, after.iou)


def test_sides_alternate_and_ratios_say_how_much_slower_the_first_is() -> None:
    order: list[str] = []
    found = alternating({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert order == ["a", "b"] * 3 and set(found) == {"a", "b"}
    assert times({"slow": {"seconds": 6, "cpu_seconds": 4}, "quick": {"seconds": 2, "cpu_seconds": 2}}, "slow", "quick") == {
        "by_the_clock": 3,
        "of_the_processor": 2,
    }
