"""SAM's parts: relative attention in both its forms, windows, sizes, parameter counts."""

from math import pi
from typing import Any

import pytest
import torch

from vesalius.models.contract import Prompts
from vesalius.models.sam import image_encoder, mask_decoder
from vesalius.models.sam.image_encoder import RelativeAttention, ViTConfig, attend_folded, attend_in_parts, offsets
from vesalius.models.sam.prompt_encoder import PromptEncoder
from vesalius.models.sam.sam import PRESETS, SAM, SAMConfig
from vesalius.models.sam.tiny_encoder import distances


@pytest.mark.parametrize(("preset", "count"), [("vit_b", 93_735_472), ("vit_l", 312_342_832), ("vit_h", 641_090_608)])
def test_full_sizes_have_the_originals_parameters(preset: str, count: int) -> None:
    with torch.device("meta"):
        model = SAM(PRESETS[preset])
    assert sum(p.numel() for p in model.parameters()) == count


def test_the_parts_of_sam_have_the_originals_parameters() -> None:
    with torch.device("meta"):
        model = SAM(PRESETS["tiny"])
    counts = [sum(p.numel() for p in part.parameters()) for part in (model.prompt_encoder, model.mask_decoder)]
    assert counts == [6_220, 4_058_340]


def test_relative_positions_are_what_the_equation_says() -> None:
    torch.manual_seed(0)
    size, heads, width = (3, 4), 2, 8
    layer = RelativeAttention(width, heads, 4)
    torch.nn.init.normal_(layer.rows)
    torch.nn.init.normal_(layer.columns)
    x = torch.randn(1, *size, width)
    q, k, v = layer.qkv(x.flatten(1, 2)).unflatten(-1, (3, heads, -1)).movedim(2, 0).transpose(2, 3)
    rows, columns = offsets(layer.rows, 3), offsets(layer.columns, 4)
    scores = q @ k.transpose(-1, -2) / 2  # sqrt(4)
    for i in range(12):
        for j in range(12):
            relative = rows[i // 4, j // 4] + columns[i % 4, j % 4]
            scores[..., i, j] += (q[:, :, i] * relative).sum(-1)
    wanted = layer.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(layer(x, None)[0].flatten(0, 1), wanted[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("at_once", [3 * 35 * 35, 10 * 35], ids=["three heads at a time", "ten queries at a time"])
@pytest.mark.parametrize("size", [(5, 7), (1, 35)], ids=["short rows", "long rows"])
def test_folded_attention_and_that_in_parts_agree(size: tuple[int, int], at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(image_encoder, "SCORES", at_once)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    q, k, v = torch.randn(3, 2, 4, 35, 8)
    rows, columns = torch.randn(2, 4, 35, size[0]), torch.randn(2, 4, 35, size[1])
    folded, parts = attend_folded(q, k, v, rows, columns), attend_in_parts(q, k, v, rows, columns)
    torch.testing.assert_close(folded, parts, atol=1e-4, rtol=1e-4)


def test_what_fills_a_window_up_is_a_token_of_zeros() -> None:
    torch.manual_seed(0)
    layer = RelativeAttention(8, 2, 3)
    x = torch.randn(2, 4, 5, 8)
    filled = torch.nn.functional.pad(x, (0, 0, 0, 1, 0, 2))
    torch.testing.assert_close(layer(x, 3), layer(filled, 3)[:, :4, :5])


def test_the_whole_encoder_is_the_same_in_both_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    encoder = image_encoder.ImageEncoder(
        image_encoder.ViTConfig(64, 8, width=24, depth=2, heads=2, global_blocks=(1,), window=3, channels=16)
    ).eval()
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    found = []
    for folds in (True, False):
        monkeypatch.setattr(image_encoder, "folds", lambda q, folds=folds: folds)
        with torch.no_grad():
            found.append(encoder(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(3))))
    torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)


def test_windows_of_no_size_see_the_whole_picture_as_in_the_original() -> None:
    sizes = {"image_size": 64, "patch": 8, "width": 24, "depth": 2, "heads": 2, "channels": 16}
    none, all_global = (
        image_encoder.ImageEncoder(image_encoder.ViTConfig(**sizes, global_blocks=blocks, window=window)).eval()
        for blocks, window in (((), 0), ((0, 1), 3))
    )
    none.load_state_dict(all_global.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(none(x), all_global(x))


def test_offsets_count_from_the_query_and_are_interpolated_to_other_sizes() -> None:
    table = torch.arange(7.0)[:, None]  # side 4: offsets -3 .. 3
    assert torch.equal(offsets(table, 4)[2, :, 0], torch.tensor([5.0, 4.0, 3.0, 2.0]))
    assert offsets(table, 6).shape == (6, 6, 1) and torch.equal(offsets(table, 6)[3, 3], table[3])  # the middle stays


def test_distances_of_a_window_have_no_sign() -> None:
    assert torch.equal(distances(2), torch.tensor([[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 1, 0]]))


def test_a_place_is_coded_as_x_then_y_on_a_frame_that_is_not_square() -> None:
    encoder: Any = PromptEncoder(8, 4)
    encoder.gaussian.copy_(torch.tensor([[1.0, 0.0, 0.25, 0.0], [0.0, 1.0, 0.0, 0.25]]))  # x in 0 and 2, y in 1 and 3
    code = encoder.encode(torch.tensor([30.0, 10.0]), (20, 120))  # x a quarter of 120, y a half of 20
    wanted = torch.tensor([2 * pi * -0.5, 0.0, 2 * pi * -0.125, 0.0])
    torch.testing.assert_close(code, torch.cat((wanted.sin(), wanted.cos())))


def test_a_list_of_points_is_closed_unless_a_box_is_given() -> None:
    encoder: Any = PromptEncoder(8, 4)
    points = {"points": torch.rand(2, 3, 2), "labels": torch.ones(2, 3)}
    tokens, dense = encoder(Prompts(**points), (4, 4), (64, 64))
    assert tokens.shape == (2, 4, 8) and torch.equal(tokens[:, 3], encoder.absent.expand(2, -1))
    assert encoder(Prompts(**points, boxes=torch.rand(2, 4)), (4, 4), (64, 64))[0].shape == (2, 5, 8)
    assert dense.shape == (1, 8, 1, 1)


def test_codes_of_the_grid_are_kept_and_follow_the_weights() -> None:
    encoder: Any = PromptEncoder(8, 4)
    first = encoder.positions((4, 5))
    assert encoder.positions((4, 5)) is first
    encoder.gaussian.add_(1)
    assert not torch.equal(encoder.positions((4, 5)), first)
    assert encoder.positions((3, 3)).shape == (1, 9, 8)


@pytest.mark.parametrize("multimask", [False, True])
def test_prompts_that_predict_too_little_are_not_drawn_and_the_others_are_as_ever(multimask: bool) -> None:
    torch.manual_seed(0)
    sam = SAM(SAMConfig(ViTConfig(64, 16, 24, 2, 2, (1,), 2))).eval()
    prompts = Prompts(points=torch.rand(6, 1, 2) * 64, labels=torch.ones(6, 1, dtype=torch.int64))
    with torch.inference_mode():
        features = sam.embed(torch.randn(1, 3, 64, 64))
        whole = sam.decode(features, prompts, multimask)
        best = whole.iou.amax(1)
        least = float(best.sort().values[2])  # three reach no more than this, and "better than" leaves out the one that equals it
        some = sam.decode(features, prompts, multimask, least_iou=least)
    worth = best > least
    assert worth.sum() == 3
    torch.testing.assert_close(some.iou, whole.iou, rtol=0, atol=0)
    torch.testing.assert_close(some.logits[worth], whole.logits[worth], rtol=0, atol=0)
    assert torch.isneginf(some.logits[~worth]).all() and torch.isfinite(some.logits[worth]).all()


@pytest.mark.parametrize("bf16", [False, True])
def test_prompts_that_are_answered_together_as_on_a_gpu_have_the_answers_of_each_alone(
    bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    sam = SAM(SAMConfig(ViTConfig(64, 16, 24, 2, 2, (1,), 2))).eval()
    prompts = Prompts(points=torch.rand(6, 1, 2) * 64, labels=torch.ones(6, 1, dtype=torch.int64))
    features, norm = torch.randn(1, 256, 4, 4), torch.nn.functional.layer_norm

    def on_a_gpu(x: torch.Tensor, *rest: Any) -> torch.Tensor:  # autocast of CUDA computes norms in float32
        with torch.autocast("cpu", enabled=False):
            return norm(x.float(), *rest)

    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        least = float(sam.decode(features, prompts, True).iou.amax(1).float().mean())
        alone = sam.decode(features, prompts, True, least_iou=least)
        monkeypatch.setattr(torch.nn.functional, "layer_norm", on_a_gpu)
        monkeypatch.setattr(mask_decoder, "in_parts", lambda image, count: [image.expand(count, -1, -1)])
        together = sam.decode(features, prompts, True, least_iou=least)
    bound = 0.1 if bf16 else 1e-4
    drawn = torch.isfinite(alone.logits)
    assert drawn.any() and not drawn.all()
    torch.testing.assert_close(together.iou.float(), alone.iou.float(), atol=bound, rtol=bound)
    torch.testing.assert_close(together.logits.float(), alone.logits.float(), atol=bound, rtol=bound)
