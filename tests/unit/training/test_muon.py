"""Muon: equal to torch's on matrices, kernels in any memory layout, AdamW for what is no matrix."""

import copy

import pytest
import torch
from torch import nn

from vesalius.training.muon import Muon, is_matrix, orthogonal
from vesalius.training.recipe import Recipe
from vesalius.training.trainer import make_optimiser


def steps(model, optimiser, count=3, seed=0):
    """`count` steps along drawn gradients."""
    draw = torch.Generator().manual_seed(seed)
    for _ in range(count):
        for weight in model.parameters():
            weight.grad = torch.randn(weight.shape, generator=draw).to(
                memory_format=torch.channels_last if weight.ndim == 4 else torch.contiguous_format
            )
        optimiser.step()
    return [weight.detach().clone() for weight in model.parameters()]


@pytest.mark.parametrize("shape", [(32, 48), (64, 16), (20, 20)])
def test_matrices_move_as_by_torch(shape):
    ours = nn.Linear(shape[1], shape[0], bias=False)
    theirs = copy.deepcopy(ours)
    muon = Muon([{"params": list(ours.parameters()), "weight_decay": 0.1}], lr=0.02)
    reference = torch.optim.Muon(theirs.parameters(), lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    before = ours.weight.detach().clone()
    (now,), (then,) = steps(ours, muon), steps(theirs, reference)
    assert (now - before).abs().mean() > 0.005
    torch.testing.assert_close(now, then, atol=1e-6, rtol=0)


def test_what_is_no_matrix_moves_as_by_adamw():
    ours = nn.Sequential(nn.Linear(64, 4), nn.LayerNorm(4), nn.Conv2d(1, 64, 3))
    theirs = copy.deepcopy(ours)
    assert not any(is_matrix(weight) for weight in ours.parameters())
    after = steps(ours, Muon([{"params": list(ours.parameters()), "weight_decay": 0.1}], lr=0.01))
    for now, then in zip(after, steps(theirs, torch.optim.AdamW(theirs.parameters(), 0.01, weight_decay=0.1)), strict=True):
        torch.testing.assert_close(now, then, atol=0, rtol=0)


def test_kernels_are_flattened_alike_in_either_layout():
    plain = nn.Conv2d(16, 32, 3, bias=False)
    last = copy.deepcopy(plain).to(memory_format=torch.channels_last)
    (one,), (other,) = (steps(m, Muon(m.parameters(), lr=0.02)) for m in (plain, last))
    torch.testing.assert_close(one, other)
    assert last.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_training_in_float32_takes_exact_steps():
    model = nn.Conv2d(16, 32, 3, bias=False)
    exact, rounded = (make_optimiser(model, Recipe(optimiser="muon"), bf16=bf16) for bf16 in (False, True))
    assert (exact.dtype, rounded.dtype) == (torch.float32, torch.bfloat16)
    matrix = torch.randn(16, 144, generator=torch.Generator().manual_seed(2))
    nudged = matrix * (1 + 1e-6 * torch.randn(matrix.shape, generator=torch.Generator().manual_seed(3)))
    off = (orthogonal(matrix, torch.float32) - orthogonal(nudged, torch.float32)).abs().max()
    assert off < 1e-5 < (orthogonal(matrix) - orthogonal(matrix, torch.float32)).abs().max()


@pytest.mark.parametrize("shape", [(16, 144), (144, 16), (64, 64)])
def test_singular_values_are_near_one(shape):
    values = torch.linalg.svdvals(orthogonal(torch.randn(shape, generator=torch.Generator().manual_seed(1))))
    assert values.min() > 0.5 and values.max() < 1.3


def test_a_step_is_as_long_as_adamws():
    model = nn.Conv2d(64, 128, 3, bias=False)
    before = model.weight.detach().clone()
    (after,) = steps(model, Muon([{"params": list(model.parameters()), "weight_decay": 0.0}], lr=0.01), count=1)
    assert (after - before).pow(2).mean().sqrt() == pytest.approx(0.2 * 0.01, rel=0.2)


def test_goes_on_from_its_saved_state_as_if_nothing_had_happened():
    whole, broken = (nn.Sequential(nn.Linear(32, 32), nn.BatchNorm1d(32)) for _ in range(2))
    broken.load_state_dict(whole.state_dict())
    through, first = Muon(whole.parameters(), lr=0.01), Muon(broken.parameters(), lr=0.01)
    steps(whole, through, seed=0), steps(broken, first, seed=0)
    second = Muon(broken.parameters(), lr=0.01)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for now, then in zip(steps(broken, second, seed=5), steps(whole, through, seed=5), strict=True):
        torch.testing.assert_close(now, then, atol=0, rtol=0)


def test_the_recipe_asks_for_it():
    model = nn.Sequential(nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16))
    assert isinstance(make_optimiser(model, Recipe()), Muon)
    assert not isinstance(make_optimiser(model, Recipe(optimiser="adamw")), Muon)
