"""Everything mode drops early only what the original drops late, and holds no more than a few masks at full size."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from discs import Discs
from reference_everything import plain_everything

from vesalius.core.errors import InputError
from vesalius.models.sam.frame import Frame
from vesalius.pipeline import everything as room
from vesalius.pipeline import rle
from vesalius.pipeline.bounds import Window, box_bounds, cut, extremes, iou_at_least, stability_at_most, window
from vesalius.pipeline.crops import crop_boxes, overlaps, suppress
from vesalius.pipeline.everything import EverythingOptions, everything
from vesalius.pipeline.looks import Proposals
from vesalius.pipeline.prompter import FrameLook, FramePrompter
from vesalius.pipeline.regions import drop_small, mask_boxes, stability

PICTURE = np.zeros((60, 84, 3), np.uint8)
LOOSE = EverythingOptions(6, 7, 0.86, 0.8, box_nms_thresh=0.6)


class Waves:
    """A look whose low-resolution logits are smooth random hills, one set a click, brought to full size by a SAM's frame."""

    def __init__(self, picture, frame=Frame(128), steep=6.0):
        self.inner = FrameLook(FramePrompter("waves", None, frame, "waves"), torch.zeros(1, 1, 8, 8), picture.shape[:2])
        self.size, self.taps, self.steep, self.made = self.inner.size, self.inner.taps, steep, 0

    def ask(self, asked, *, multimask):
        states, ious = [], []
        for x, y in asked.points[:, 0]:
            random = torch.Generator().manual_seed(int(1000 * x + y))
            coarse = torch.randn(3, 1, 6, 6, generator=random)
            states.append(torch.nn.functional.interpolate(coarse, (32, 32), mode="bicubic")[:, 0] * self.steep - 1)
            ious.append(0.8 + 0.2 * torch.rand(3, generator=random))
        return Proposals(torch.stack(ious), torch.stack(states))

    def full(self, state):
        self.made += len(state)
        return self.inner.full(state)


def same(ours, theirs):
    assert len(ours) == len(theirs) > 0
    for a, b in zip(ours, theirs, strict=True):
        assert np.array_equal(a.pop("segmentation"), b.pop("segmentation")) and a == b


@pytest.mark.parametrize("steep", [6.0, 20.0])
@pytest.mark.parametrize(
    "options", [LOOSE, replace(LOOSE, crop_n_layers=1, min_mask_region_area=9), replace(LOOSE, box_nms_thresh=0.2)]
)
def test_early_rejection_changes_nothing(options, steep):
    looks = []

    def look(picture):
        looks.append(Waves(picture, steep=steep))
        return looks[-1]

    ours = everything(PICTURE, look, options)
    made = sum(each.made for each in looks)
    looks.clear()
    same(ours, plain_everything(PICTURE, look, options))
    assert made < sum(each.made for each in looks) * 0.7  # of all candidates, far fewer were made at full size


@pytest.mark.parametrize("least_px", [0, 60])
def test_masks_found_in_crops_come_back_to_the_whole_picture(least_px):
    picture = np.zeros((150, 200, 3), np.uint8)
    options = replace(LOOSE, stability_score_thresh=0.84, crop_n_layers=1, min_mask_region_area=least_px)
    ours = everything(picture, Discs, options)
    assert sum(record["crop_box"] != [0, 0, 200, 150] for record in ours) > 10
    same(ours, plain_everything(picture, Discs, options))


def test_candidates_decided_early_for_want_of_memory_give_the_same(monkeypatch):
    calm = everything(PICTURE, Waves, LOOSE)
    monkeypatch.setattr(room, "HELD_BYTES", 20_000)
    same(everything(PICTURE, Waves, LOOSE), calm)


def test_few_masks_are_made_at_full_size_at_once(monkeypatch):
    monkeypatch.setattr(room, "CHUNK_PX", 3 * 60 * 84)
    sizes = []
    full = Discs.full
    monkeypatch.setattr(Discs, "full", lambda self, state: (sizes.append(len(state)), full(self, state))[1])
    everything(PICTURE, Discs, LOOSE)
    assert max(sizes) == 3


@pytest.mark.parametrize("layers", [0, 1])
def test_nothing_found_is_an_empty_list(layers):
    assert (
        everything(PICTURE, Discs, EverythingOptions(4, pred_iou_thresh=2.0, crop_n_layers=layers, min_mask_region_area=5)) == []
    )


@pytest.mark.parametrize("aspect", ["keep", "stretch"])
@pytest.mark.parametrize("shape", [(60, 84), (128, 97), (200, 141), (9, 40)])
def test_low_resolution_bounds_hold_at_full_size(shape, aspect):
    look = Waves(np.zeros((*shape, 3), np.uint8), Frame(128, aspect=aspect))
    random = torch.Generator().manual_seed(0)
    low = torch.randn(40, 32, 32, generator=random) * torch.logspace(-1, 1.5, 40)[:, None, None] - 0.5
    low[::4] = torch.nn.functional.avg_pool2d(low[::4], 9, 1, 4) * 5
    full = look.full(low)
    least, greatest = extremes(low, look.taps)
    rows, columns = (torch.repeat_interleave(torch.arange(len(runs.first)), runs.pixels) for runs in look.taps)
    assert full.shape == (40, len(rows), len(columns))
    assert bool((least[:, rows][:, :, columns] <= full).all() and (full <= greatest[:, rows][:, :, columns]).all())
    assert bool((stability_at_most(least, greatest, look.taps, 1.0) * (1 + 1e-6) >= stability(full, 1.0)).all())
    bounds, boxes = box_bounds(least, greatest, look.taps), mask_boxes(full > 0)
    sure = bounds.sure
    assert sure.any()
    assert bool((bounds.outer[sure, :2] <= boxes[sure, :2]).all() and (boxes[sure, :2] <= bounds.inner[sure, :2]).all())
    assert bool((bounds.outer[sure, 2:] >= boxes[sure, 2:]).all() and (boxes[sure, 2:] >= bounds.inner[sure, 2:]).all())
    others = np.array([[0, 0, 5, 5], [2, 3, 30, 8], [0, 0, shape[1] - 1, shape[0] - 1]])
    exact = np.stack([overlaps(box, others) for box in boxes.numpy()])
    assert (iou_at_least(bounds, others) <= np.nan_to_num(exact) + 1e-6).all()


def test_a_tighter_bound_than_the_truth_would_be_noticed():
    """The faults that the test above is there for: a pixel's cells cut short, and a lower bound on stability too high."""
    look = Waves(PICTURE)
    low = torch.randn(8, 32, 32, generator=torch.Generator().manual_seed(0)) * 3
    cut = tuple(runs._replace(last=runs.first) for runs in look.taps)
    _, greatest = extremes(low, cut)
    rows, columns = (torch.repeat_interleave(torch.arange(len(runs.first)), runs.pixels) for runs in cut)
    assert not (look.full(low) <= greatest[:, rows][:, :, columns]).all()


@pytest.mark.parametrize(
    ("shape", "aspect"), [((128, 96), "keep"), ((57, 131), "keep"), ((300, 211), "keep"), ((90, 60), "stretch")]
)
def test_what_is_cut_off_moves_no_pixel_that_counts(shape, aspect):
    look = Waves(np.zeros((*shape, 3), np.uint8), Frame(128, aspect=aspect))
    random = torch.Generator().manual_seed(1)
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    middles = 30 * torch.rand(24, 2, generator=random)  # small and large blobs, some cut off by the frame, over a rough ground
    apart = ((y - middles[:, :1, None]) ** 2 + (x - middles[:, 1:, None]) ** 2).sqrt()
    low = (torch.linspace(-2, 12, 24)[:, None, None] - apart) * 1.5 - torch.rand(24, 32, 32, generator=random)
    smaller = 0
    for threshold in (-1.0, 0.0, -3.5):
        near = window(low, look.taps, threshold) if threshold else Window(low, (0, 0), look.taps)
        for i, (mask, greatest) in enumerate(zip(low, extremes(near.low, near.taps)[1], strict=True)):
            kept = cut(near, i, greatest, None, threshold, (32, 32))
            before, after = look.full(mask[None])[0], look.full(kept.whole()[None])[0]
            counts = before > threshold
            assert torch.equal(counts, after > threshold) and torch.equal(before[counts], after[counts])
            outside = counts.clone()
            outside[kept.rows, kept.columns] = False
            assert not outside.any()
            smaller += kept.nbytes < mask.nbytes / 2
    assert smaller > 20


def test_a_stability_score_that_is_just_reached_is_enough():
    class Just(Discs):
        def full(self, state):
            logits = torch.full((len(state), *self.size), -5.0)
            logits[:, 10:15, 10:14], logits[:, 10, 10] = 3.0, 0.5  # 20 pixels above -1, 19 of them above 1
            return logits

    options = EverythingOptions(2, pred_iou_thresh=0, stability_score_thresh=0.95)
    same(everything(PICTURE, Just, options), plain_everything(PICTURE, Just, options))


def test_masks_that_waited_on_the_cpu_are_made_where_the_model_is():
    look = FrameLook(FramePrompter("far", None, Frame(128), "far"), torch.zeros(1, 1, 8, 8, device="meta"), (60, 84))
    assert look.full(torch.zeros(2, 32, 32)).device.type == "meta"


@pytest.mark.parametrize("lit", [(slice(28, 32), slice(0, 32)), (slice(0, 0), slice(0, 0)), (slice(0, 1), slice(0, 1))])
def test_masks_beside_the_picture_alone_or_nowhere_leave_a_window_all_the_same(lit):
    """A picture that is wider than high fills the upper part of a SAM's square: below it cells may be anything."""
    look = Waves(np.zeros((60, 128, 3), np.uint8))
    low = torch.full((2, 32, 32), -9.0)
    low[(slice(None), *lit)] = 5.0
    near = window(low, look.taps, -1.0)
    assert near.low.shape[1] >= 1 and near.low.shape[2] >= 1
    full, bounds = look.full(low) > 0, box_bounds(*extremes(near.low, near.taps), near.taps)
    kept = cut(near, 0, extremes(near.low, near.taps)[1][0], bounds, -1.0, (32, 32))
    assert torch.equal(look.full(kept.whole()[None]) > 0, full[:1])


def test_suppression_prefers_the_earlier_of_equals():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]])
    assert suppress(boxes, np.array([1.0, 1.0, 2.0]), 0.5).tolist() == [2, 0]
    assert suppress(boxes, np.array([1.0, 1.5, 2.0]), 0.5).tolist() == [2, 1]
    assert suppress(boxes[:2], np.ones(2), 0.9).tolist() == [0, 1]  # 0.9 is not more than 0.9
    assert suppress(np.zeros((3, 4)), np.ones(3), 0.5).tolist() == [0, 1, 2]  # without area nothing overlaps


def test_run_lengths_come_back_as_text_and_as_numbers():
    random = np.random.default_rng(0)
    masks = [random.random((37, 23)) > share for share in (0.02, 0.5, 0.98)] + [np.zeros((3, 4), bool), np.ones((300, 400), bool)]
    for mask in masks:
        runs = rle.encode(mask)
        assert np.array_equal(rle.decode(runs), mask) and rle.area(runs) == mask.sum()
        text = rle.to_text(runs)
        assert json.loads(json.dumps(text)) == text and rle.from_text(text) == runs and np.array_equal(rle.decode(text), mask)
    assert rle.encode(np.array([[0, 1, 1], [0, 0, 0]]))["counts"] == [2, 1, 1, 1, 1]
    # Worked out by hand from COCO's format: 5, 3, 100, and 2 - 3 = -1 after the third.
    assert rle.to_text({"size": [10, 11], "counts": [5, 3, 100, 2]})["counts"] == "53T3O"


@pytest.mark.parametrize(
    "broken",
    [{"size": [2, 2], "counts": counts} for counts in ([3], [3, -1, 2], "T", "é")],
)
def test_run_lengths_that_do_not_fill_the_mask_are_refused(broken):
    with pytest.raises(InputError):
        rle.decode(broken)


def test_small_holes_are_filled_and_of_small_islands_the_largest_stays():
    mask = np.zeros((20, 20), bool)
    mask[2:10, 2:10] = True
    mask[4:6, 4:6] = mask[7, 7] = False
    mask[15, 15:18] = True
    filled, changed = drop_small(mask, 5, "holes")
    assert changed and filled[2:10, 2:10].all() and filled[15, 15]
    assert drop_small(mask, 1, "holes")[1] is False
    assert drop_small(filled, 4, "islands")[0].sum() == 64
    assert drop_small(mask & (np.arange(20) > 12), 100, "islands")[0].sum() == 3
    assert drop_small(np.eye(20, dtype=bool), 20, "islands") == (pytest.approx(np.eye(20)), False)  # corners hold together


def test_crops_cover_the_picture_and_overlap():
    boxes, layers = crop_boxes(90, 130, 2, 0.3)
    assert layers.tolist() == [0] + [1] * 4 + [2] * 16
    for layer in (1, 2):
        covered = np.zeros((90, 130), int)
        for x0, y0, x1, y1 in boxes[layers == layer]:
            covered[y0:y1, x0:x1] += 1
        assert covered.min() == 1 and covered.max() == 4


@pytest.mark.parametrize("side, layers", [(5, 2), (20, 3), (135, 4), (399, 5)])
def test_crops_of_few_pixels_are_none_beyond_the_picture(side, layers):
    boxes, _ = crop_boxes(side, side, layers, 512 / 1500)
    assert (boxes[:, :2] < boxes[:, 2:]).all() and boxes.max() == side
    if side < 30:
        everything(np.zeros((side, side, 3), np.uint8), Discs, replace(LOOSE, points_per_side=1, crop_n_layers=layers))


@pytest.mark.parametrize(
    "wrong",
    [
        {"points_per_side": None},
        {"points_per_side": 0},
        {"points_per_batch": 0},
        {"crop_n_layers": -1},
        {"output_mode": "png"},
        {"points_per_side": 7, "crop_n_layers": 3, "crop_n_points_downscale_factor": 2},
        {"points_per_side": None, "point_grids": (np.zeros((1, 2)),), "crop_n_layers": 1},
    ],
)
def test_options_that_mean_nothing_are_refused(wrong):
    with pytest.raises(InputError):
        EverythingOptions(**wrong)


def test_a_grid_of_ones_own_and_masks_as_text():
    records = everything(
        PICTURE, Discs, replace(LOOSE, points_per_side=None, point_grids=(np.array([[0.5, 0.5]]),), output_mode="coco_rle")
    )
    assert {tuple(record["point_coords"][0]) for record in records} == {(42.0, 30.0)}
    assert rle.area(records[0]["segmentation"]) == records[0]["area"] and isinstance(records[0]["segmentation"]["counts"], str)
