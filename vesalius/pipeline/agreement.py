"""How far bfloat16 agrees with float32 on this very image: measured on its middle, not assumed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..tasks.decide import decide
from .predictor import Predictor
from .tiled import tiled


@dataclass(frozen=True)
class Agreement:
    """`share` (0..1) of the voxels of a central tile of `shape` that both decide alike (of objects: whether inside of one);
    bf16 was `speedup` times as fast."""

    share: float
    shape: tuple[int, ...]
    speedup: float

    def __str__(self) -> str:
        size = " x ".join(map(str, self.shape))
        return f"{100 * self.share:.3f} % of the voxels decided as in fp32, {self.speedup:.1f} times as fast (one tile of {size})"


def measure_agreement(predictor: Predictor, array: np.ndarray) -> Agreement:
    """Run one tile from the middle of a prepared `array` (C, Z, Y, X) in fp32 and in bf16; the whole where it is smaller."""
    task = predictor.task
    patch = task.inference.patch
    low = [max(n - p, 0) // 2 for n, p in zip(array.shape[1:], patch, strict=True)]
    part = array[(slice(None), *(slice(start, start + p) for start, p in zip(low, patch, strict=True)))]
    decided, seconds = [], []
    for precision in ("bf16", "fp32"):
        walk = partial(tiled, predictor.models, part, patch=patch, precision=precision, context=task.context)
        if predictor.engine == "openvino":
            list(walk())  # compiles the network, which is not its speed
        began = time.perf_counter()
        scores = np.concatenate([slab for _, slab in walk()], axis=1)
        seconds.append(time.perf_counter() - began)
        labels = decide(scores, task.decide, task.labels.values)
        decided.append(labels > 0 if task.instances else labels)  # objects are numbered anew each time
    return Agreement(float((decided[0] == decided[1]).mean()), part.shape[1:], seconds[1] / seconds[0])
