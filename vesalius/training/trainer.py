"""One network being trained: a step, its learning rate, its running average, and where it stands.

accelerate carries it: one process, or several started by `accelerate launch` or `torchrun`, each with its share of the
same global batch. Draws inside the network (dropout) follow from (seed, step, rank), so a resumed run repeats them.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from torch import Tensor, nn

from ..core.errors import InputError, VesaliusError
from ..models.catalog import build, entry
from ..models.contract import Outputs
from ..models.pretrained import begin_with, head_of
from ..pipeline.tiled import use_bf16
from .losses import find_loss
from .muon import Muon
from .plan import Plan
from .processes import join_norms
from .recipe import Recipe

# From the network, a batch on its device and the arithmetic of the forward pass to the loss.
Teach = Callable[[nn.Module, dict[str, Tensor], Callable[[], AbstractContextManager]], Tensor]
POLY_POWER = 0.9  # nnU-Net, and DeepLab before it


@dataclass(frozen=True)
class Limit:
    """Where the run ends, and with it the schedule: after `seconds`, or after `steps`."""

    seconds: float | None = None
    steps: int | None = None

    def progress(self, step: int, elapsed: float) -> float:
        """0 at the start, 1 at the end."""
        by_time = elapsed / self.seconds if self.seconds else 0.0
        by_step = step / self.steps if self.steps else 0.0
        return min(1.0, max(by_time, by_step))


def rate(recipe: Recipe, progress: float) -> float:
    """The learning rate at `progress` in 0..1: a linear rise over `warmup`, then cosine or poly down to zero."""
    rise = min(1.0, max(progress, 1e-3) / recipe.warmup) if recipe.warmup else 1.0
    fall = 0.5 * (1 + math.cos(math.pi * progress)) if recipe.schedule == "cosine" else (1 - progress) ** POLY_POWER
    return recipe.lr * rise * fall


def supervise(name: str) -> Teach:
    """The lesson of a Segmenter: its outputs against the target, by the loss of that name."""
    loss = find_loss(name)

    def teach(model: nn.Module, batch: dict[str, Tensor], computing: Callable[[], AbstractContextManager]) -> Tensor:
        with computing():
            outputs = model(batch["image"])
        return loss(Outputs(*outputs), batch["target"], batch.get("weight"))

    return teach


class Trainer:
    """Model, running average and optimiser of a plan on a device. `precision` as in the recipe; `teach`: the lesson of a step."""

    def __init__(self, plan: Plan | Any, device: torch.device, limit: Limit, teach: Teach | None = None):
        self.plan, self.recipe, self.limit = plan, plan.recipe, limit
        self.accelerator = Accelerator(cpu=device.type == "cpu")
        wanted = int(os.environ.get("WORLD_SIZE", "1"))
        if self.accelerator.num_processes != wanted:
            raise VesaliusError(f"{wanted} processes were started and {self.accelerator.num_processes} work together")
        self.bf16 = use_bf16(self.recipe.precision, device)
        self.layout = torch.channels_last if plan.dims == 2 else torch.channels_last_3d
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.recipe.seed)
            model = build(plan.model.name, plan.model.config)
            self.average = build(plan.model.name, plan.model.config)
        self.average.load_state_dict(model.state_dict())
        self.average.requires_grad_(False).eval().to(self.accelerator.device)
        self.average.to(memory_format=self.layout)  # type: ignore[call-overload]
        join_norms(model)
        model.to(memory_format=self.layout)  # type: ignore[call-overload]
        optimiser = make_optimiser(model, self.recipe, entry(plan.model.name).head, bf16=self.bf16)
        self.model, self.optimiser = self.accelerator.prepare(model, optimiser)
        self.teach = teach or supervise(plan.loss)
        self.step, self.before, self.started = 0, 0.0, time.monotonic()

    @property
    def bare(self) -> nn.Module:
        """The model without the wrapping of several processes."""
        return self.accelerator.unwrap_model(self.model)

    @property
    def elapsed(self) -> float:
        """Seconds of training, earlier parts of a resumed run included."""
        return self.before + time.monotonic() - self.started

    def start(self) -> None:
        """The clock runs from here: preparing the cases is not training time."""
        self.started = time.monotonic()

    def progress(self) -> float:
        """How far the run is, the same number in every process."""
        done = self.limit.progress(self.step, self.elapsed)
        return self.agree(done) if self.limit.seconds else done  # clocks differ, steps do not

    def agree(self, value: float) -> float:
        """Rank 0's `value`, in every process."""
        if self.accelerator.num_processes == 1:
            return value
        return float(broadcast(torch.tensor(value, dtype=torch.float64, device=self.accelerator.device)))

    def advance(self, batch: dict[str, Tensor], progress: float) -> float:
        """One step on this rank's share of the batch; returns the loss. Raises InputError when it is not finite."""
        seed = (self.recipe.seed * 1_000_003 + self.step) * 64 + self.accelerator.process_index
        torch.manual_seed(seed % 2**63)
        for group in self.optimiser.param_groups:
            group["lr"] = rate(self.recipe, progress) * group.get("factor", 1.0)
        device = self.accelerator.device
        given = {key: value.to(device) for key, value in batch.items()}
        given["image"] = given["image"].contiguous(memory_format=self.layout)
        self.model.train()
        loss = self.teach(self.model, given, lambda: torch.autocast(device.type, torch.bfloat16, enabled=self.bf16))
        value = float(loss.detach())
        if not math.isfinite(value):
            raise InputError(
                f"the loss is not finite at step {self.step}", fix="lower recipe.lr, or look for broken images with --plan-only"
            )
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.follow()
        self.step += 1
        return value

    @torch.no_grad()
    def follow(self) -> None:
        """Move the running average: decay min(ema, (1 + n) / (10 + n)), so that early weights are soon forgotten."""
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        state = list(zip(self.average.state_dict().values(), self.bare.state_dict().values(), strict=True))
        floating = [(mean, now) for mean, now in state if mean.is_floating_point()]
        torch._foreach_lerp_([mean for mean, _ in floating], [now for _, now in floating], 1 - decay)
        for mean, now in state:
            if not mean.is_floating_point():
                mean.copy_(now)

    def begin(self, file: str | Path) -> str:
        """Start from a file's weights instead of from random ones, as `begin_with` has it. Raises WeightsError."""
        told = begin_with(self.bare, file, head_of(self.plan.model.name, self.plan.model.config))
        self.average.load_state_dict(self.bare.state_dict())
        return f"beginning with {told}"

    def state(self) -> dict[str, Any]:
        """What `restore` needs to go on as if nothing had happened."""
        return {
            "model": self.bare.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "elapsed": self.elapsed,
            "processes": self.accelerator.num_processes,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Stand where `state` was taken."""
        self.bare.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.before = state["step"], state["elapsed"]
        self.start()


def make_optimiser(model: nn.Module, recipe: Recipe, head: tuple[str, ...] = (), bf16: bool = True) -> torch.optim.Optimizer:
    """AdamW, Muon or SGD; norms and biases do not decay, and what begins with `head` learns at `head_lr` times the rate.

    `bf16`: whether the training is rounded anyway, so that Muon may be.

    Raises InputError where the recipe gives the head a rate of its own and the model names none.
    """
    parts = [(list(model.parameters()), 1.0)]
    if recipe.head_lr != 1:
        named = list(model.named_parameters())
        new = [p for name, p in named if name.startswith(head)]
        if not new:
            raise InputError("head_lr is for a model that names its head", fix="leave head_lr out of the recipe")
        parts = [([p for name, p in named if not name.startswith(head)], 1.0), (new, recipe.head_lr)]
    groups: list[dict[str, Any]] = []
    for parameters, factor in parts:
        for decay, matrices in ((recipe.weight_decay, True), (0.0, False)):
            chosen = [p for p in parameters if (p.ndim > 1) == matrices]
            groups.append({"params": chosen, "weight_decay": decay, "factor": factor})
    if recipe.optimiser == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr)
    if recipe.optimiser == "muon":
        return Muon(groups, recipe.lr, torch.bfloat16 if bf16 else torch.float32)
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov)
