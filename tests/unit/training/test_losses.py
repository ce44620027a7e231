"""Losses: against nnU-Net's recorded values, against MONAI's, and what they must ignore."""

import numpy as np
import pytest
import torch

from vesalius.core.errors import UnknownName
from vesalius.training.losses import (
    IGNORED,
    LOSSES,
    dice,
    dice_bce,
    dice_ce,
    find_loss,
    focal,
    objects,
    one_hot,
    squared_dice,
    squared_dice_ce,
    supervised,
    tversky,
)


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(2, 3, 6, 7, 5, generator=generator).requires_grad_()
    return scores, torch.randint(0, 3, (2, 6, 7, 5), generator=generator)


@pytest.fixture(scope="module")
def recorded(shared_parity):
    return np.load(shared_parity / "unet_3d" / "arrays.npz")


@pytest.mark.parametrize("name, batch", [("l_dc_ce_bd1", True), ("l_dc_ce_bd0", False)])
def test_dice_ce_is_nnunets(recorded, name, batch):
    scores, target = torch.from_numpy(recorded["l_logits"]), torch.from_numpy(recorded["l_target"])[:, 0].long()
    ours = float(dice_ce(scores, target, batch=batch)) - 1  # nnU-Net adds -Dice, we add 1 - Dice
    assert ours == pytest.approx(float(recorded[name]), abs=1e-5)


def test_dice_bce_on_regions_is_nnunets(recorded):
    scores, regions = torch.from_numpy(recorded["l_logits"]), torch.from_numpy(recorded["l_regions"])
    assert float(dice_bce(scores, regions)) - 1 == pytest.approx(float(recorded["l_dc_bce"]), abs=1e-5)


@pytest.mark.parametrize("batch", [True, False])
def test_dice_ce_is_monais(pair, batch):
    from monai.losses import DiceCELoss

    scores, target = pair
    monai = DiceCELoss(include_background=False, softmax=True, to_onehot_y=True, batch=batch, smooth_nr=1e-5, smooth_dr=1e-5)
    ours, theirs = dice_ce(scores, target, batch=batch), monai(scores, target[:, None])
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)


@pytest.mark.parametrize("name", ["dice_ce", "dice", "dice_bce", "squared_dice_ce_60", "border_ce", "focal", "tversky"])
def test_ignored_voxels_change_neither_loss_nor_gradient(pair, name):
    scores, target = pair
    target = target.clone()
    target[:, 2:4] = IGNORED
    loss = LOSSES[name](scores, target)
    (gradient,) = torch.autograd.grad(loss, scores)
    assert bool((gradient[:, :, 2:4] == 0).all()) and bool((gradient[:, :, 5] != 0).any())
    other = scores.detach().clone()
    other[:, :, 2:4] = torch.randn_like(other[:, :, 2:4]) * 9
    assert float(LOSSES[name](other, target)) == pytest.approx(float(loss), abs=1e-6)


def test_squared_dice_is_the_equation_summed_over_the_batch(pair):
    scores, target = pair
    p, g = scores.detach().softmax(1), one_hot(target, 3)
    ratios = [(2 * (p[:, k] * g[:, k]).sum() + 1e-5) / ((p[:, k] ** 2).sum() + (g[:, k] ** 2).sum() + 1e-5) for k in range(3)]
    found = squared_dice(p, g, kept=torch.ones_like(target, dtype=torch.bool)[:, None])
    assert float(found) == pytest.approx(1 - float(sum(ratios)) / 3, abs=1e-6)


def test_the_squared_mixtures_share_out_cross_entropy_and_dice(pair):
    scores, target = pair
    dice, entropy = float(squared_dice_ce(scores, target, dice=1.0)), float(squared_dice_ce(scores, target, dice=0.0))
    assert entropy == pytest.approx(float(torch.nn.functional.cross_entropy(scores, target)), abs=1e-6)
    assert float(LOSSES["squared_dice_ce_50"](scores, target)) == pytest.approx(0.5 * entropy + 0.5 * dice, abs=1e-6)
    assert float(LOSSES["squared_dice_ce_60"](scores, target)) == pytest.approx(0.4 * entropy + 0.6 * dice, abs=1e-6)


@pytest.mark.parametrize("loss", [dice_ce, squared_dice_ce, focal, tversky])
def test_the_right_answer_costs_next_to_nothing(pair, loss):
    _, target = pair
    perfect = 40 * (one_hot(target, 3) - 0.5)
    assert float(loss(perfect, target)) < 1e-3 < 0.3 < float(loss(-perfect, target))


def test_a_batch_of_ignored_voxels_is_finite(pair):
    scores, target = pair
    assert torch.isfinite(dice_ce(scores, torch.full_like(target, IGNORED)))


def test_objects_weigh_the_distance_by_six_inside():
    target = torch.zeros(1, 2, 8, 8)
    target[:, 0, :4] = 1
    scores = torch.where(target > 0, 30.0, -30.0)
    scores[:, 1] = 0
    inside, outside = scores.clone(), scores.clone()
    inside[:, 1, 1, 1], outside[:, 1, 6, 6] = 1, 1
    nothing = float(objects(scores, target))
    ratio = (float(objects(inside, target)) - nothing) / (float(objects(outside, target)) - nothing)
    assert ratio == pytest.approx(6, rel=1e-3)


def test_deep_supervision_halves_each_level_and_sums_to_one(pair):
    _, target = pair
    sizes = [(6, 7, 5), (3, 4, 3), (2, 2, 2)]
    outputs = [torch.zeros(2, 3, *size) for size in sizes]
    seen = []

    def loss(scores, wanted, weight):
        seen.append(tuple(wanted.shape[1:]))
        return torch.tensor(float(len(seen)))

    total = supervised(loss, outputs[0], tuple(outputs[1:]), target)
    assert seen == sizes
    assert float(total) == pytest.approx((1 * 1 + 0.5 * 2 + 0.25 * 3) / 1.75)


def test_outputs_of_one_size_weigh_the_same_and_see_the_whole_target(pair):
    _, target = pair
    sizes = [(6, 7, 5), (6, 7, 5), (3, 4, 3), (3, 4, 3)]
    outputs = [torch.full((2, 3, *size), float(i)) for i, size in enumerate(sizes)]
    total = supervised(lambda scores, wanted, weight: scores.mean(), outputs[0], tuple(outputs[1:]), target)
    assert float(total) == pytest.approx((0 + 1 + 0.5 * 2 + 0.5 * 3) / 3)


def test_a_valid_output_is_compared_with_the_middle_of_the_target():
    target = torch.zeros(1, 10, 10, dtype=torch.long)
    target[:, 3:7, 3:7] = 1
    scores = torch.stack([torch.full((1, 4, 4), -30.0), torch.full((1, 4, 4), 30.0)], 1)
    assert float(supervised(LOSSES["border_ce"], scores, (), target)) < 1e-6


def test_dice_counts_the_background_and_each_sample_for_itself():
    target = torch.zeros(2, 4, 4, dtype=torch.long)
    target[0, :2] = 1
    scores = 60 * (one_hot(target, 2) - 0.5)
    assert float(dice(scores, target)) == pytest.approx(1 - (2 * 8.01 / 16.01 * 2 + 2 * 16.01 / 32.01 + 2) / 4, abs=1e-5)


def test_an_unknown_loss_names_the_nearest():
    with pytest.raises(UnknownName, match="dice_ce"):
        find_loss("dice_cee")
