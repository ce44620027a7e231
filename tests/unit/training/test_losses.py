"""Losses: against nnU-Net's recorded values, against MONAI's, and what they must ignore."""

import numpy as np
import pytest
import torch

from vesalius.core.errors import InputError, UnknownName
from vesalius.models.contract import Outputs
from vesalius.training.losses import (
    IGNORED,
    LOSSES,
    atm_terms,
    boundary_bce,
    check_loss,
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


def test_coarser_targets_keep_to_the_middle_of_what_they_stand_for():
    seen = []
    supervised(lambda scores, wanted, weight: seen.append(wanted) or scores.sum(), torch.zeros(1, 1, 9), (torch.zeros(1, 1, 3),),
               torch.arange(9)[None])  # fmt: skip
    assert seen[1].tolist() == [[1, 4, 7]]


def test_regions_are_every_voxel_of_their_label_and_later_ones(pair):
    scores, target = pair
    regions = torch.stack([target >= k for k in (1, 2)], 1).float()
    assert dice_bce(scores[:, :2], target).item() == pytest.approx(dice_bce(scores[:, :2], regions).item(), abs=1e-6)


def test_focal_and_tversky_are_their_equations(pair):
    scores, target = pair
    p, g = scores.detach().softmax(1), one_hot(target, 3)
    right = (p * g).sum(1)
    assert focal(scores, target).item() == pytest.approx(float(((1 - right) ** 2 * -right.log()).mean()) / 3, rel=1e-4)
    axes = (2, 3, 4)
    tp, fp, fn = ((a * b).sum(axes)[:, 1:] for a, b in ((p, g), (p, 1 - g), (1 - p, g)))
    assert tversky(scores, target).item() == pytest.approx(1 - float((tp / (tp + 0.3 * fp + 0.7 * fn)).mean()), abs=1e-5)


def test_a_valid_output_is_compared_with_the_middle_of_the_target():
    target = torch.zeros(1, 10, 10, dtype=torch.long)
    target[:, 3:7, 3:7] = 1
    scores = torch.stack([torch.full((1, 4, 4), -30.0), torch.full((1, 4, 4), 30.0)], 1)
    assert float(supervised(LOSSES["border_ce"], scores, (), target)) < 1e-6


def test_the_border_map_weighs_the_cross_entropy_of_its_own_pixels(pair):
    scores, target = pair
    weight = torch.rand(target.shape, generator=torch.Generator().manual_seed(1)) * 10
    entropy = torch.nn.functional.cross_entropy(scores, target, reduction="none")
    assert LOSSES["border_ce"](scores, target, weight).item() == pytest.approx((entropy * weight).mean().item(), rel=1e-5)


def test_a_map_of_weights_comes_down_to_every_output_as_its_target_does():
    target = torch.arange(144).view(1, 12, 12)
    seen = []

    def loss(scores, wanted, weight):
        assert bool((weight == wanted / 2).all())
        seen.append(tuple(weight.shape[1:]))
        return scores.sum()

    supervised(loss, torch.zeros(1, 2, 8, 8), (torch.zeros(1, 2, 4, 4),), target, target / 2)
    assert seen == [(8, 8), (4, 4)]


def test_dice_counts_the_background_and_each_sample_for_itself():
    target = torch.zeros(2, 4, 4, dtype=torch.long)
    target[0, :2] = 1
    scores = 60 * (one_hot(target, 2) - 0.5)
    assert float(dice(scores, target)) == pytest.approx(1 - (2 * 8.01 / 16.01 * 2 + 2 * 16.01 / 32.01 + 2) / 4, abs=1e-5)


def test_an_unknown_loss_names_the_nearest():
    with pytest.raises(UnknownName, match="dice_ce"):
        find_loss("dice_cee")


def answers(target, classes=3, sure=30.0, grid=None):
    """Outputs of a SegViT of one stage that is right about every class and every pixel."""
    masks = sure * (2 * one_hot(target, classes) - 1)
    there = masks.amax((2, 3)) > 0
    logits = torch.full((len(target), classes, classes + 1), -sure)
    wanted = torch.where(there, torch.arange(classes), classes)
    logits.scatter_(2, wanted[..., None], sure)
    return logits.requires_grad_(), masks.requires_grad_()


@pytest.fixture
def labelled():
    target = torch.zeros(2, 8, 12, dtype=torch.long)
    target[0, 2:5, 3:9] = 2  # class 1 is in neither image, class 2 only in the first
    return target


def test_segvits_loss_is_nothing_for_the_right_answer_and_all_stages_count(labelled):
    right = answers(labelled)
    wrong = (-right[0], -right[1])
    loss = find_loss("atm")
    nothing = float(loss(Outputs(right[1], right), labelled, None))
    once, twice = (float(loss(Outputs(right[1], part), labelled, None)) for part in ((*right, *wrong), (*wrong, *wrong)))
    assert nothing < 1e-3 < 100 < once and twice == pytest.approx(2 * once, rel=1e-4)


def test_a_query_of_an_absent_class_weighs_a_tenth(labelled):
    logits, masks = answers(labelled)
    absent, present = logits.detach().clone(), logits.detach().clone()
    absent[1, 1], present[1, 0] = absent[1, 1].roll(1), present[1, 0].roll(1)
    ratio = atm_terms(present, masks, labelled).ce / atm_terms(absent, masks, labelled).ce
    assert float(ratio) == pytest.approx(10, rel=1e-3)


def test_segvits_masks_are_taught_by_focal_loss_and_dice_of_the_classes_present():
    target = torch.zeros(1, 4, 4, dtype=torch.long)
    target[0, 0] = 1  # a quarter
    logits, masks = torch.zeros(1, 3, 4), torch.tensor([-1.0, 2.0, 5.0])[None, :, None, None].expand(1, 3, 4, 4)
    focal_, dice_ = 0.0, 0.0
    for score, share in ((-1.0, 0.75), (2.0, 0.25)):  # class 2 is absent
        p = 1 / (1 + np.exp(-score))
        focal_ += share * 0.25 * (1 - p) ** 2 * -np.log(p) + (1 - share) * 0.75 * p**2 * -np.log(1 - p)
        dice_ += 1 - (2 * 16 * share * p + 1) / (16 * p + 16 * share + 1)
    terms = atm_terms(logits, masks, target)
    assert (float(terms.mask), float(terms.dice)) == pytest.approx((20 * focal_ / 2, dice_ / 2), rel=1e-5)


def test_segvits_loss_leaves_out_what_nobody_knows(labelled):
    logits, masks = (torch.randn_like(part).requires_grad_() for part in answers(labelled))
    labelled[:, 5:] = IGNORED
    loss = find_loss("atm")(Outputs(masks, (logits, masks)), labelled, None)
    (gradient,) = torch.autograd.grad(loss, masks)
    assert bool((gradient[:, :, 5:] == 0).all()) and bool((gradient[0, 2, :5] != 0).all())
    official = sum(atm_terms(logits, masks, labelled, unknown_is_outside=True))
    (gradient,) = torch.autograd.grad(official, masks)
    assert bool((gradient[0, 2, 5:] > 0).all())  # the original pushes masks down there


def test_segvits_loss_is_finite_where_nothing_is_known(labelled):
    logits, masks = answers(labelled)
    loss = find_loss("atm")(Outputs(masks, (logits, masks)), torch.full_like(labelled, IGNORED), None)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(masks.grad).all()


def test_boundaries_are_cells_with_another_class_beside(labelled):
    edges = torch.full((2, 1, 4, 6), -30.0)
    edges[0, 0, 1:3, 1:5] = 30  # the block's own cells, all at its rim
    edges[0, 0, 0, 1:5] = edges[0, 0, 3, 1:5] = edges[0, 0, 1:3, 0] = edges[0, 0, 1:3, 5] = 30
    target = labelled.clone()
    target[0] = 0
    target[0, 2:6, 2:10] = 2
    target[1, :2] = target[1, 6:] = IGNORED
    target[1, 2:6, :6] = 1
    edges[1, 0, 1:3, 2:4] = 30
    edges[1, 0, ::3] = 30  # nobody knows: costs nothing
    interior = edges.clone()
    interior[0, 0, 0, 0] = 30
    assert float(boundary_bce(edges, target)) < 1e-6 < 0.1 < float(boundary_bce(interior, target))


def test_a_models_own_loss_teaches_that_model_and_no_other():
    check_loss("atm", "argmax", "atm")
    for name, decides, own in (("atm", "argmax", "dice_ce"), ("dice_ce", "argmax", "atm"), ("objects", "objects", "atm")):
        with pytest.raises(InputError, match="Take"):
            check_loss(name, decides, own)
    with pytest.raises(InputError, match="teaches SegViT"):
        find_loss("atm")(Outputs(torch.zeros(1, 2, 4, 4), (torch.zeros(1, 2, 2, 2),) * 2), torch.zeros(1, 4, 4).long(), None)
