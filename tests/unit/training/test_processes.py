"""Two processes compute what one computes on the whole batch: every loss, its gradient, and batch norm."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from vesalius.training.losses import IGNORED, LOSSES
from vesalius.training.processes import join_norms, together


def case(name: str) -> tuple[torch.Tensor, ...]:
    """Scores, target and weight of a batch of 4, whose halves differ in what is ignored and in what they hold."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(4, 3, 6, 7, generator=generator)
    weight = 1 + torch.rand(4, 6, 7, generator=generator)
    if name == "objects":
        return scores, torch.rand(4, 3, 6, 7, generator=generator).round(decimals=1), weight
    target = torch.randint(0, 3, (4, 6, 7), generator=generator)
    target[:2, :4] = 0
    target[0, 2:] = IGNORED
    return scores, target, weight


def loss_and_gradient(name: str, part: slice = slice(None)) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of `part` of the batch, and its gradient towards a factor on all scores, as a network's weight would get."""
    scores, target, weight = (value[part] for value in case(name))
    factor = torch.tensor([1.0, 0.7, 1.3]).view(1, 3, 1, 1).requires_grad_()
    loss = LOSSES[name](scores * factor, target, weight)
    (gradient,) = torch.autograd.grad(loss, factor)
    return loss.detach(), gradient


def norm_and_gradient(part: slice = slice(None)) -> tuple[torch.Tensor, ...]:
    """The weights' gradient behind two batch norms, and what they remember."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.BatchNorm2d(2))
    join_norms(model)
    found = model(case("objects")[0][part])
    together((found**3).sum()).backward()
    return *[p.grad for p in model.parameters()], *[b.clone().float() for b in model.buffers()]


WORKER = """
import sys, torch
import torch.distributed as dist
sys.path.insert(0, sys.argv[3])
from test_processes import loss_and_gradient, norm_and_gradient
from vesalius.training.losses import LOSSES
rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
part = slice(rank, None, 2)
found = {name: loss_and_gradient(name, part) for name in LOSSES} | {"norm": norm_and_gradient(part)}
for name, values in found.items():
    for value in values[1:] if name in LOSSES else values:
        dist.all_reduce(value)
        value /= 2
torch.save(found, f"{folder}/{rank}.pt")
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> list[dict[str, tuple[torch.Tensor, ...]]]:
    """What either of two processes found, gradients averaged as DDP averages them."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "worker.py").write_text(WORKER)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[3])}
    here = str(Path(__file__).parent)
    words = [[sys.executable, str(folder / "worker.py"), rank, str(folder), here] for rank in ("0", "1")]
    started = [subprocess.Popen(one, env=environment, stderr=subprocess.PIPE, text=True) for one in words]
    for process in started:
        _, complaints = process.communicate(timeout=120)
        assert process.returncode == 0, complaints[-3000:]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


SAMPLE_WISE = ("tversky", "dice")  # their ratios are of one sample


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in SAMPLE_WISE])
def test_a_loss_and_its_gradient_are_those_of_the_whole_batch(both, name):
    loss, gradient = loss_and_gradient(name)
    for found in both:
        assert float(found[name][0]) == pytest.approx(float(loss), abs=1e-6)
        assert torch.allclose(found[name][1], gradient, atol=1e-6)


@pytest.mark.parametrize("name", SAMPLE_WISE)
def test_a_loss_that_each_sample_has_for_itself_is_averaged(both, name):
    loss, gradient = loss_and_gradient(name)
    assert float(sum(found[name][0] for found in both)) / 2 == pytest.approx(float(loss), abs=1e-6)
    assert torch.allclose(both[0][name][1], gradient, atol=1e-6)


def test_batch_norm_sees_the_whole_batch(both):
    for ours, theirs in zip(both[0]["norm"], norm_and_gradient(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4, rtol=1e-4)
