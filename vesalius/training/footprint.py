"""How much memory a planned network takes, measured in a process of its own, so that no other one's peak leaks into it.

    python -m vesalius.training.footprint RUN/plan.toml DEVICE THREADS      prints {"inference_bytes": .., "training_bytes": ..}

Both are what the process holds at its peak beyond what it held before the network was made: weights, maps, the convolution
library's own copies; in training also gradients, optimiser and running average. On a GPU it is what PyTorch holds there.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from ..core.errors import InputError, VesaliusError
from ..models.catalog import build
from ..pipeline.predictor import choose_device
from ..pipeline.tiled import tiled
from .data import Order, Prepared, batches, spots_of
from .loop import limit_of, make_samples
from .plan import Plan, read_plan
from .trainer import Trainer

STEPS = 2  # of training: the optimiser makes its moments in the first
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Footprint(NamedTuple):
    """Peak bytes of one tile in use, and of a training step with the plan's batch."""

    inference_bytes: int
    training_bytes: int


class Meter:
    """The memory of this process, or of its GPU, beyond what it held when the meter was made."""

    def __init__(self, device: torch.device):
        self.device = device
        self.restart()
        self.before = self._highest()

    def restart(self) -> None:
        """Forget the peak so far, where the system can (Linux, CUDA); elsewhere a later peak must be higher to be seen."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif CLEAR.exists():
            CLEAR.write_text("5")

    def peak(self) -> int:
        """Bytes at the peak since `restart`."""
        return self._highest() - self.before

    def _highest(self) -> int:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if STATUS.exists():  # ru_maxrss would count what the parent held when it started this process
            return 1024 * int(STATUS.read_text().split("VmHWM:")[1].split()[0])
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def footprint(plan: Path, device: torch.device) -> Footprint:
    """Measure the network of a plan in a child process; raises InputError where it fails there, or is killed for its memory."""
    words = [sys.executable, "-m", __name__, str(plan), device.type, str(torch.get_num_threads())]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode < 0:
        raise InputError(f"a training step was killed by signal {-done.returncode}, as the system does when memory is short")
    try:
        told = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, json.JSONDecodeError):
        told = {"error": (done.stderr.strip().splitlines() or ["the child process said nothing"])[-1]}
    if "error" in told:
        raise InputError(told["error"].rstrip("."))
    return Footprint(**told)


def measure(plan: Plan, device: torch.device) -> Footprint:
    """In this process: one tile through the network, then STEPS training steps, on noise."""
    warm_up(device)
    meter = Meter(device)
    layout = torch.channels_last if plan.dims == 2 else torch.channels_last_3d
    model = build(plan.model.name, plan.model.config).eval().requires_grad_(False).to(device)
    model.to(memory_format=layout)  # type: ignore[call-overload]
    array = noise(plan, plan.task.inference.patch).image
    context = plan.task.slices.context if plan.task.slices else 0
    for _ in tiled(model, array, patch=plan.task.inference.patch, precision=plan.recipe.precision, context=context):
        pass
    inference = meter.peak()
    del model
    stream = batches(make_samples([noise(plan, plan.patch)], plan), Order(0, plan.recipe.batch or 1), workers=0)
    given = [next(stream) for _ in range(STEPS)]  # before the meter runs: cutting and augmenting is not the network's
    meter.restart()
    trainer = Trainer(plan, device, limit_of(plan.recipe))
    for batch in given:
        trainer.advance(batch, 0.0)
    return Footprint(inference, meter.peak())


def warm_up(device: torch.device) -> None:
    """Load what the libraries load on their first convolution, forwards and backwards: it is nobody's memory."""
    first = nn.Conv2d(4, 8, 3).to(device)
    with torch.autocast(device.type, torch.bfloat16):
        first(torch.zeros(1, 4, 16, 16, device=device)).float().sum().backward()
    torch.optim.AdamW(first.parameters()).step()


def noise(plan: Plan, size: tuple[int, ...]) -> Prepared:
    """A prepared case of noise: every class, or a few objects, everywhere."""
    rng = np.random.default_rng(0)
    channels = plan.model.config.get("in_channels", len(plan.task.channels))
    channels //= plan.task.slices.planes if plan.task.slices else 1  # the neighbours are added where samples and tiles are cut
    mask = rng.integers(0, 2 if plan.task.instances else len(plan.task.labels) + 1, size).astype(np.int32)
    return Prepared("noise", rng.random((channels, *size), dtype=np.float32), mask, spots_of(mask, plan.task))


def main() -> None:
    """One JSON object on stdout, and exit code 1 where it is an error."""
    path, device, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    try:
        told = measure(read_plan(path), choose_device(device))._asdict()
    except (VesaliusError, RuntimeError, MemoryError) as error:
        told = {"error": str(error) or type(error).__name__}
    print(json.dumps(told))
    sys.exit("error" in told)


if __name__ == "__main__":
    main()
