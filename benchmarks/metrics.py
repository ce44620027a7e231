"""Surface metrics against MONAI, in one run: HD95 and NSD of three classes.

    python benchmarks/metrics.py [--size 256 512 512] [--repeats 1]

Both sides get the same masks, each in the form it takes (MONAI one-hot tensors, ours label maps), each in a
process of its own; building them is not counted. Ours is timed as `score_case`, so with Dice, IoU, ASSD and volumes on top.
Prints JSON: seconds and processor seconds (steadier where the machine is shared), their ratios, peak memory above the
inputs, and the largest disagreement.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

SPACING_MM = (1.5, 0.8, 0.8)
TOLERANCE_MM = 2.0
# centre and radii as shares of the volume
ORGANS = (
    ((0.5, 0.5, 0.35), (0.36, 0.27, 0.25)),  # a liver
    ((0.4, 0.65, 0.75), (0.17, 0.08, 0.09)),  # a kidney
    ((0.5, 0.6, 0.52), (0.48, 0.02, 0.025)),  # a vessel along the body
)


def phantom(size: tuple[int, int, int], seed: int) -> np.ndarray:
    """Label map (Z, Y, X) uint8 of three ellipsoids whose surfaces wobble a few voxels, other for every `seed`."""
    rng = np.random.default_rng(seed)
    coarse = ndimage.gaussian_filter(rng.normal(size=[n // 8 + 1 for n in size]), 1.5)
    labels = np.zeros(size, np.uint8)
    y, x = (np.linspace(0, 1, n, dtype=np.float32) for n in size[1:])
    rows = [np.linspace(0, n // 8, m) for n, m in zip(size[1:], size[1:], strict=True)]
    for z in range(size[0]):
        slab = ndimage.map_coordinates(coarse, np.meshgrid([z / size[0] * (size[0] // 8)], *rows, indexing="ij"), order=1)[0]
        for value, (centre, radii) in enumerate(ORGANS, 1):
            across = ((y[:, None] - centre[1]) / radii[1]) ** 2 + ((x[None] - centre[2]) / radii[2]) ** 2
            along = ((z / size[0] - centre[0]) / radii[0]) ** 2
            labels[z][across + along + slab.astype(np.float32) < 1] = value
    return labels


def ours(pred: np.ndarray, ref: np.ndarray) -> Callable[[], np.ndarray]:
    """A call that returns HD95 and NSD (2, 3) of our own."""
    from vesalius.core.image import Grid, Mask
    from vesalius.metrics.score import Scoring, score_case

    grid = Grid(pred.shape, np.diag([*SPACING_MM, 1.0]))
    masks = Mask(pred, grid), Mask(ref, grid)

    def call() -> np.ndarray:
        scores = score_case(*masks, scoring=Scoring(nsd_tolerance_mm=TOLERANCE_MM)).values()
        return np.array([[score.metrics[name] for score in scores] for name in ("hd95_mm", "nsd")])

    return call


def monai(pred: np.ndarray, ref: np.ndarray) -> Callable[[], np.ndarray]:
    """The same of MONAI's."""
    import torch
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    one_hot = [torch.from_numpy(np.stack([mask == value for value in (1, 2, 3)])[None]) for mask in (pred, ref)]
    rest = {"include_background": True, "spacing": list(SPACING_MM)}

    def call() -> np.ndarray:
        hd95 = compute_hausdorff_distance(*one_hot, percentile=95, **rest)
        nsd = compute_surface_dice(*one_hot, class_thresholds=[TOLERANCE_MM] * 3, **rest)
        return np.stack([hd95[0].numpy(), nsd[0].numpy()])

    return call


def measure(side: Callable, folder: Path, repeats: int) -> dict[str, Any]:
    """Least seconds of `repeats`, peak MB above the inputs, and the values."""
    call = side(np.load(folder / "pred.npy"), np.load(folder / "ref.npy"))
    before = _resident_mb()
    seconds, cpu = [], []
    for _ in range(repeats):
        start, busy = time.perf_counter(), time.process_time()
        found = call()
        seconds.append(time.perf_counter() - start)
        cpu.append(time.process_time() - busy)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": min(seconds), "cpu_seconds": min(cpu), "peak_mb": peak - before, "values": found.tolist()}


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def main() -> None:
    """Measure both sides, one after the other, and print what they took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, nargs=3, default=(256, 512, 512), metavar=("Z", "Y", "X"))
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    sides = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, seed in (("ref", 0), ("pred", 1)):
            np.save(Path(folder) / f"{name}.npy", phantom(tuple(options.size), seed))
        for side in (ours, monai):
            with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
                sides[side.__name__] = process.submit(measure, side, Path(folder), options.repeats).result()
    gap = np.abs(np.array(sides["ours"]["values"]) - np.array(sides["monai"]["values"]))
    report = {
        "size": list(options.size),
        **sides,
        "times_faster": sides["monai"]["seconds"] / sides["ours"]["seconds"],
        "times_less_cpu": sides["monai"]["cpu_seconds"] / sides["ours"]["cpu_seconds"],
        "memory_ratio": sides["ours"]["peak_mb"] / sides["monai"]["peak_mb"],
        "largest_gap": {"hd95_mm": float(gap[0].max()), "nsd": float(gap[1].max())},
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
