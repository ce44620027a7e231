"""Views lie exactly where they are said to lie, and what is found in them comes back onto exactly the picture's pixels."""

import numpy as np
import pytest
import torch
from torch import Tensor

from vesalius.core.errors import InputError, WeightsError
from vesalius.core.image import Grid, Image
from vesalius.models.contract import Answers, Prompts
from vesalius.pipeline import glancer
from vesalius.pipeline.glancer import GlanceLook, GlanceOptions, GlancePrompter
from vesalius.pipeline.glances import Mips, around, box_of, carry, normalised, put, take
from vesalius.pipeline.session import Session


def ramp(height=40, width=60) -> np.ndarray:
    """Red is the column, green the row, in grey levels; blue is constant."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y, np.full_like(x, 9)], -1).astype(np.uint8)


def test_a_view_as_large_as_its_pixels_is_the_crop_itself():
    picture = np.random.default_rng(0).integers(0, 255, (40, 60, 3)).astype(np.uint8)
    views, inside = take(Mips(picture), [(24, 20, 16)], 16)
    assert inside.all()
    torch.testing.assert_close(views[0], torch.from_numpy(picture[12:28, 16:32].transpose(2, 0, 1)).float(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("side", [7.5, 16.0, 33.0])
def test_every_pixel_of_a_view_shows_what_lies_under_it(side):
    x, y, size = 31.2, 19.7, 16
    views, _ = take(Mips(ramp()), [(x, y, side)], size)
    steps = (torch.arange(size) + 0.5) / size - 0.5
    torch.testing.assert_close(views[0, 0], (x + side * steps - 0.5).expand(size, size), atol=0.6 if side > 32 else 1e-2, rtol=0)
    torch.testing.assert_close(
        views[0, 1], (y + side * steps - 0.5)[:, None].expand(size, size), atol=0.6 if side > 32 else 1e-2, rtol=0
    )


def test_a_turned_view_turns_about_its_middle():
    quarter = np.array([[[0.0, -1.0], [1.0, 0.0]]])  # the view's x runs down the picture
    views, _ = take(Mips(ramp()), [(30, 20, 16)], 16, quarter)
    plain, _ = take(Mips(ramp()), [(30, 20, 16)], 16)
    torch.testing.assert_close(views[0], plain[0].transpose(1, 2).flip(1), atol=1e-3, rtol=0)


def test_beyond_the_picture_there_is_nothing():
    views, inside = take(Mips(ramp(10, 20) + 50), [(0, 5, 16)], 16)
    assert inside[0, 0, 3:13, 8:].all() and not inside[0, 0, :, :8].any() and not inside[0, 0, :3].any()
    assert (views[~inside.expand_as(views)] == 0).all()
    shown = normalised(views, inside)
    assert (shown[~inside.expand_as(views)] == 0).all()
    assert abs(float(shown.sum())) < 1e-2


def test_halves_keep_their_place_in_pictures_of_odd_size():
    picture = np.zeros((37, 53, 1), np.uint8)
    picture[16:24, 32:40] = 200
    level = Mips(picture).level(3)
    assert level.shape == (1, 5, 7)
    assert level[0, 2, 4] == 200 and level.sum() == 200


def test_a_mask_goes_into_a_view_and_comes_back_pixel_by_pixel():
    truth = np.zeros((40, 60), bool)
    truth[9:16, 30:47] = True
    for glance in ((38.5, 12.5, 25.0), (38.5, 12.5, 40.0), (45.0, 12.0, 40.0)):
        share = take(Mips((255 * truth).astype(np.uint8)[..., None]), [glance], 64)[0][0, 0] / 255
        back = put((2 * share - 1) * 5, glance, truth.shape) > 0
        assert np.array_equal(back.numpy(), truth), glance
    truth[12, 41] = False  # a hole of one pixel, in a view of 2.6 cells a pixel
    share = take(Mips((255 * truth).astype(np.uint8)[..., None]), [(38.5, 12.5, 25.0)], 64)[0][0, 0] / 255
    assert np.array_equal((put(2 * share - 1, (38.5, 12.5, 25.0), truth.shape) > 0).numpy(), truth)


def test_a_planted_fault_is_noticed():
    """The same round trip, transposed, or one pixel beside."""
    truth = np.zeros((40, 60), bool)
    truth[9:16, 30:47] = True
    share = take(Mips((255 * truth).astype(np.uint8)[..., None]), [(38.5, 12.5, 25.0)], 64)[0][0, 0] / 255
    logits = 2 * share - 1
    for wrong in (put(logits.T, (38.5, 12.5, 25.0), truth.shape), put(logits, (39.5, 12.5, 25.0), truth.shape)):
        assert not np.array_equal(wrong.numpy() > 0, truth)


def test_what_a_view_does_not_reach_is_outside():
    found = put(torch.ones(8, 8), (2, 3, 8), (20, 30), outside=-7.0)
    assert (found[:7, :6] == 1).all() and (found[7:] == -7).all() and (found[:, 6:] == -7).all()
    assert (put(torch.ones(8, 8), (-50, 3, 8), (20, 30)) < 0).all()


def test_an_answer_is_carried_into_another_view():
    truth = np.zeros((64, 64), bool)
    truth[20:30, 24:44] = True
    one, two = (34.0, 25.0, 32.0), (30.0, 28.0, 48.0)
    logits = [take(Mips((255 * truth).astype(np.uint8)[..., None]), [g], 48)[0][0, 0] / 255 - 0.5 for g in (one, two)]
    moved = carry(logits[0], one, two)
    assert ((moved > 0) == (logits[1] > 0)).float().mean() > 0.995
    assert box_of(logits[1], two) == pytest.approx((24, 20, 44, 30), abs=0.51)


def test_a_part_of_a_level_is_the_same_without_the_rest_of_it(monkeypatch):
    rng = np.random.default_rng(0)
    monkeypatch.setattr("vesalius.pipeline.glances.STRIP", 16)
    whole, parts = Mips(picture := rng.integers(0, 256, (203, 301, 3), np.uint8)), Mips(picture)
    for k in range(4):
        size = np.array([-(-301 // 2**k), -(-203 // 2**k)])
        assert whole.level(k).shape[1:] == (size[1], size[0])
        for _ in range(20):
            low = rng.integers(0, size - 1)
            high = rng.integers(low + 1, np.minimum(low + size // 3, size) + 1)
            high = np.where(rng.random(2) < 0.3, size, high) if low.prod() > 0.5 * size.prod() else high
            expected = whole.level(k)[:, low[1] : high[1], low[0] : high[0]]
            assert torch.equal(parts.part(k, low, high), expected), (k, low, high)
    assert len(parts.levels) == 1
    assert parts.part(2, np.array([0, 0]), np.array([76, 51])).shape == (3, 51, 76) and len(parts.levels) == 3


def test_a_view_lies_around_its_box():
    assert np.allclose(around([[10, 20, 30, 24]], 1.5), [[20, 22, 30]])
    assert np.allclose(around([[10, 20, 11, 21]], 1.5), [[10.5, 20.5, 8]])


class Bright:
    """Answers with what is brighter than the view's mean, within the box where there is one. It counts the views it sees."""

    frame_size = 128

    def __init__(self):
        self.seen: list[Prompts] = []
        self.sides: list[int] = []

    def __call__(self, views: Tensor, prompts: Prompts, multimask: bool) -> Answers:
        self.seen.append(prompts)
        self.sides.append(views.shape[-1])
        grey = torch.nn.functional.avg_pool2d(views.float(), 2)[:, :1] * 8 - 4
        all_bright = (grey > 0).flatten(1).sum(1).clamp(min=1)
        if prompts.boxes is not None:
            at = torch.arange(views.shape[-1] // 2) * 2 + 1.0
            x0, y0, x1, y1 = prompts.boxes[:, :, None].unbind(1)
            rows, columns = (at >= y0) & (at <= y1), (at >= x0) & (at <= x1)
            grey = torch.where((rows[:, :, None] & columns[:, None])[:, None], grey, torch.tensor(-9.0))
        count = 3 if multimask else 1
        size = (grey > 0).flatten(1).float().mean(1)
        iou = 0.9 - (size - 0.3).abs()  # it trusts what fills a fair part of the view
        if prompts.boxes is not None:  # and a box that cuts nothing off
            iou = (grey > 0).flatten(1).sum(1) / all_bright
        return Answers(grey.expand(-1, count, -1, -1), torch.stack([iou - 0.1 * i for i in range(count)], 1))


def bright(**options) -> GlancePrompter:
    return GlancePrompter("bright", Bright(), "bright-1", GlanceOptions(**{"half_px": 0} | options))  # type: ignore[arg-type]


def picture() -> np.ndarray:
    """Two bright patches, neither square nor in the middle."""
    grey = np.full((90, 130), 20, np.uint8)
    grey[12:27, 80:118] = 220
    grey[50:80, 10:28] = 200
    return grey


def session(**options) -> Session:
    grey = picture()
    return Session(Image(grey[None, None], Grid((1, *grey.shape), dims=2)), bright(**options), cache=False)


UPPER, LOWER = np.zeros((90, 130), bool), np.zeros((90, 130), bool)
UPPER[12:27, 80:118], LOWER[50:80, 10:28] = True, True


def overlap(found: np.ndarray, truth: np.ndarray) -> float:
    return float((found & truth).sum() / (found | truth).sum())


@pytest.mark.parametrize("mirrored", [False, True])
def test_small_objects_are_seen_at_half_the_size_and_answered_in_their_places(mirrored):
    from vesalius.core.prompts import ObjectPrompt

    one = session(mirrored=mirrored, half_px=50)  # the upper object's view is 57 px wide, the lower one's 45
    boxes = [ObjectPrompt(box=box) for box in ((10, 50, 28, 80), (80, 12, 118, 27), (10, 50, 28, 80))]
    found = [seen.logits > 0 for _, seen in one.answers(boxes)]
    assert overlap(found[1], UPPER) > 0.95
    assert all(np.argwhere(found[i]).min(0).tolist() == [50, 11] for i in (0, 2))  # coarser, and in the middle of
    assert all(np.argwhere(found[i]).max(0).tolist() == [79, 26] for i in (0, 2))  # rows 50 to 79, columns 10 to 27
    sizes = [(len(prompts), side) for prompts, side in zip(one.prompter.model.seen, one.prompter.model.sides, strict=True)]
    assert sizes[:: 1 + mirrored] == [(1, 128), (2, 64)]
    one.predict(mask=LOWER)
    assert one.prompter.model.seen[-1].masks.shape == (1, 1, 32, 32)
    one.predict(points=[(20, 60)], labels=[1], box=(10, 50, 28, 80))
    assert one.prompter.model.seen[-2 if mirrored else -1].points[0, 0].tolist() == pytest.approx(
        [(20.5 + 3.5) * 64 / 45 - 0.5, (60.5 - 42.5) * 64 / 45 - 0.5], abs=1e-3
    )


def test_large_objects_are_seen_larger_and_answered_in_their_places():
    grey, upper, lower = (np.kron(each, np.ones((3, 3), each.dtype)) for each in (picture(), UPPER, LOWER))
    lower[230:] = False
    one = Session(Image(grey[None, None], Grid((1, *grey.shape), dims=2)), bright(large=192), cache=False)
    box = (240, 36, 354, 81)  # the upper object, in a view of 171 px
    assert overlap(one.predict(box=box), upper) > 0.97
    assert overlap(one.predict(mask=upper), upper) > 0.97
    assert overlap(one.predict(points=[(270, 60)], labels=[1], box=box), upper) > 0.97
    model = one.prompter.model
    assert model.sides == [192, 192, 192] and model.seen[1].masks.shape == (1, 1, 96, 96)
    assert overlap(one.predict(box=(30, 150, 84, 230)), lower) > 0.93
    one.predict(points=[(270, 60)])
    assert model.sides[3:5] == [128, 128]  # a view of 120 px; and what a click means is sought in views of one size
    with pytest.raises(InputError, match="no views of 200 pixels"):
        bright(large=200)


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_session_answers_a_box_on_its_own_pixels(mirrored):
    one = session(mirrored=mirrored)
    assert overlap(one.predict(box=(80, 12, 118, 27)), UPPER) > 0.95
    assert overlap(one.predict(box=(10, 50, 28, 80)), LOWER) > 0.95
    assert one.predict(box=(80, 12, 118, 27)).shape == (90, 130)


def test_boxes_of_many_objects_are_views_of_one_batch():
    one = session(mirrored=True)
    prompts = bright().look(np.repeat(picture()[..., None], 3, 2))
    assert isinstance(prompts, GlanceLook)
    from vesalius.core.prompts import ObjectPrompt

    boxes = [ObjectPrompt(box=(80, 12, 118, 27)), ObjectPrompt(box=(10, 50, 28, 80))]
    found = [seen.logits > 0 for _, seen in one.answers(boxes)]
    assert overlap(found[0], UPPER) > 0.95 and overlap(found[1], LOWER) > 0.95
    assert len(one.prompter.model.seen) == 2  # the views, and the same views mirrored
    assert torch.allclose(
        one.prompter.model.seen[0].boxes, torch.tensor([[21.3, 47.2, 106.7, 80.8], [38.4, 21.3, 89.6, 106.7]]), atol=0.2
    )


@pytest.mark.parametrize("at, truth", [((90, 20), UPPER), ((15, 70), LOWER)])
def test_a_lone_click_finds_its_own_scale(at, truth):
    one = session()
    found = one.predict(points=[at], details=True)
    assert found.masks.shape == (3, 90, 130)
    assert overlap(found.mask, truth) > 0.9


def test_clicks_are_shown_where_they_lie():
    one = session(mirrored=True)
    one.predict(points=[(90, 20)], labels=[0], box=(80, 12, 118, 27))
    plain, turned = one.prompter.model.seen
    # the view reaches from x = 70.5 to 127.5, y = -9 to 48; the middle of pixel 90 is 90.5
    assert plain.points[0, 0].tolist() == pytest.approx([(90.5 - 70.5) * 128 / 57 - 0.5, (20.5 + 9) * 128 / 57 - 0.5], abs=1e-3)
    assert turned.points[0, 0, 0] == pytest.approx(127 - float(plain.points[0, 0, 0]), abs=1e-3)
    assert plain.labels.tolist() == [[0]]


def test_an_earlier_mask_is_shown_in_the_new_view():
    one = session(mirrored=False)
    assert overlap(one.predict(mask=LOWER), LOWER) > 0.9
    shown = one.prompter.model.seen[0].masks
    assert shown.shape == (1, 1, 64, 64)
    rows, columns = np.flatnonzero((shown[0, 0] > 0).any(1)), np.flatnonzero((shown[0, 0] > 0).any(0))
    assert rows[-1] - rows[0] + 1 == pytest.approx(64 / 1.5, abs=2) and columns[-1] - columns[0] + 1 == pytest.approx(
        0.6 * 64 / 1.5, abs=2
    )


def test_our_own_weights_are_looked_for_in_the_package_and_their_absence_is_told_with_the_fix(monkeypatch, tmp_path):
    monkeypatch.setattr(glancer, "IN_THE_BOX", "absent")
    with pytest.raises(WeightsError, match=r"no weights of 'absent'.*download.*vesalius train") as refusal:
        glancer.find_views("absent")
    assert str(refusal.value.file).endswith("weights/absent.safetensors")
    assert glancer.find_views("sam_vit_b") is None and glancer.read_views(tmp_path / "no.safetensors") is None


def test_words_and_views_that_cut_the_object_off_are_refused():
    with pytest.raises(InputError, match="no words"):
        session().predict(text="the liver")
    with pytest.raises(InputError, match="never trained"):
        GlanceOptions(spread=0.5)
