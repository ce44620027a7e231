"""What a training step of each network costs, as a shoot-out plans it from random weights. Table, JSON.

    OMP_NUM_THREADS=1 python benchmarks/planned.py [--side 352] [--batch 2] [--recipe FILE] [--rounds 3] [--out FILE]

Pictures of noise, three channels and two classes; the whole step counts: forward, loss, backward, optimiser, running average.
Where other work runs beside it, `cpu_seconds` is what to trust.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import alternating, machine, show
from PIL import Image

from vesalius.models.catalog import gflops, parameter_count
from vesalius.training.data import Order, batches
from vesalius.training.footprint import noise
from vesalius.training.loop import limit_of, make_samples
from vesalius.training.plan import Plan, outline, read_plan
from vesalius.training.recipe import read_recipe
from vesalius.training.shootout import shoot_out
from vesalius.training.trainer import Trainer


def main() -> None:
    """Plan all, then a step of each in turn; the first of each, which chooses kernels, is not counted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=352)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--recipe", default="shootout")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    plans = planned(options)
    sides = {name: step(plan, options.rounds + 1) for name, plan in plans.items()}
    alternating(sides, 1)
    rows: dict[str, dict[str, Any]] = alternating(sides, options.rounds)
    for name, plan in plans.items():
        net: Any = outline(name, plan.model.config)
        counted = round(gflops(net, (1, 3, options.side, options.side)), 2)
        rows[name] = {"parameters": parameter_count(net), "batch": plan.recipe.batch, "gflops": counted, **rows[name]}
    show(f"a step at {options.side} px", rows)
    text = json.dumps({**machine(), "side": options.side, "planned": rows}, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


def planned(options: argparse.Namespace) -> dict[str, Plan]:
    """The plans of all networks for pictures of noise."""
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder, "data"), Path(folder, "out")
        draw(data, options.side)
        recipe = read_recipe(options.recipe).model_copy(update={"patch": (1, options.side, options.side), "batch": options.batch})
        shoot_out(data, out, recipe=recipe, plan_only=True, say=lambda line: None)
        return {path.parent.name: read_plan(path) for path in sorted(out.glob("*/plan.toml"))}


def draw(data: Path, side: int) -> None:
    """Six pictures of noise with a square each."""
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (data / folder).mkdir(parents=True)
    mask = np.zeros((side, side), np.uint8)
    mask[side // 4 : side // 2, side // 4 : side // 2] = 255
    for i in range(6):
        Image.fromarray(rng.integers(0, 255, (side, side, 3), dtype=np.uint8)).save(data / "images" / f"{i}.png")
        Image.fromarray(mask).save(data / "masks" / f"{i}.png")


def step(plan: Plan, count: int) -> Any:
    """A call that takes the next step; the batches are cut before, which is not the network's work."""
    stream = batches(make_samples([noise(plan, plan.patch)], plan), Order(0, plan.recipe.batch or 1), workers=0)
    given = iter([next(stream) for _ in range(count)])
    trainer = Trainer(plan, torch.device("cpu"), limit_of(plan.recipe))
    return lambda: trainer.advance(next(given), 0.0)


if __name__ == "__main__":
    main()
