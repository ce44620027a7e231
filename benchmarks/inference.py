"""Tiled inference, MONAI's against ours: one run, same weights, same roi, overlap 0.5, Gaussian weights. Prints JSON.

    python benchmarks/inference.py [--small] [-o FILE] [--only NAME]

Each measurement is a process of its own that imports what it needs, loads the weights, notes its resident memory, and
then goes from the image array to the label map: `peak_mb` is what it held beyond that at most, the image included.

    volume       1 x 192 x 192 x 160, 3 classes
    classes      1 x 256 x 384 x 384, 14 classes
    home         14 classes decided at 256 x 384 x 384, on scores from 128 x 192 x 192; ours alone
    agreement    trained weights on real volumes: the share of voxels decided alike (needs the shipped weights)

MONAI spaces its windows by a fixed step and we spread them evenly, as nnU-Net does; the number of tiles is the same.
MONAI raises Gaussian weights to 0.001 at least and we, as nnU-Net, do not: where all tiles over a voxel end near it, as
along the volume's border, an untrained network's labels differ for that, in fp32 too.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from measuring import apart, machine, memory, reset_peak

NET = {
    "dims": 3,
    "in_channels": 1,
    "widths": [16, 32, 96, 160],
    "convs": [1, 2, 2, 2],
    "decoder_convs": [1, 2, 2],
    "norm": "instance",
    "conv_bias": False,
}
CASES = {
    "volume": {"size": (192, 192, 160), "classes": 3, "roi": (64, 64, 64)},
    "classes": {"size": (256, 384, 384), "classes": 14, "roi": (64, 64, 64)},
}
SMALL = {
    "volume": {"size": (96, 96, 80), "classes": 3, "roi": (64, 64, 64)},
    "classes": {"size": (96, 192, 192), "classes": 14, "roi": (64, 64, 64)},
}
HERE = Path(__file__).resolve().parent


def main() -> None:
    """Run what was asked for; the measurements are processes of this same file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="small volumes: a quick check that it works")
    parser.add_argument("-o", "--out", type=Path, help="write the JSON here too")
    parser.add_argument("--only", help="one of volume, classes, home, agreement")
    parser.add_argument("--measure", nargs=2, metavar=("METHOD", "JSON"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure[0], json.loads(given.measure[1]))))
        return
    cases = SMALL if given.small else CASES
    result: dict = {"small": given.small, **machine()}
    with tempfile.TemporaryDirectory() as folder:
        for name, case in cases.items():
            if given.only in (None, name):
                result[name] = compare(case, Path(folder))
    if given.only in (None, "home"):
        result["home"] = apart(__file__, "home", json.dumps({**cases["classes"], "small": given.small}))
    if given.only in (None, "agreement"):
        result["agreement"] = apart(__file__, "agreement", json.dumps({"most": 2 if given.small else 12}))
    text = json.dumps(result, indent=2)
    print(text)
    if given.out:
        given.out.write_text(text + "\n", encoding="utf-8")


def compare(case: dict, folder: Path) -> dict:
    """MONAI's in fp32, ours in fp32 and as `auto` chooses: seconds, peak memory, and how far the masks agree."""
    found = {}
    for method in ("monai", "ours_fp32", "ours"):
        found[method] = apart(__file__, method, json.dumps({**case, "mask": str(folder / f"{method}.npy")}))
        print(f"{method}: {found[method]}", file=sys.stderr)
    masks = {method: np.load(folder / f"{method}.npy") for method in found}
    return {
        **{key: case[key] for key in ("size", "classes", "roi")},
        **found,
        "times_faster": ratio(found, "ours", "seconds"),
        "times_faster_fp32": ratio(found, "ours_fp32", "seconds"),
        "times_faster_cpu": ratio(found, "ours", "cpu_seconds"),  # where other work shares the machine, this one holds
        "memory_share": round(found["ours"]["peak_mb"] / found["monai"]["peak_mb"], 3),
        "untrained_agreement_fp32_monai": alike(masks["ours_fp32"], masks["monai"]),
        "untrained_agreement_bf16_fp32": alike(masks["ours"], masks["ours_fp32"]),
    }


def alike(mask: np.ndarray, other: np.ndarray) -> float:
    """The share of voxels with the same label; masks that hold one label only would prove nothing."""
    if len(np.unique(mask)) < 2:
        raise SystemExit("the untrained network gives one label everywhere: agreement means nothing")
    return round(float((mask == other).mean()), 6)


def ratio(found: dict, ours: str, key: str) -> float:
    """How many times as much MONAI took."""
    return round(found["monai"][key] / found[ours][key], 2)


def measure(method: str, case: dict) -> dict:
    """In the process of one measurement."""
    if method == "agreement":
        return agreement(case["most"])
    model = network(case["classes"])
    if method == "monai":
        import monai.inferers  # noqa: F401  (imported before memory is noted)
    walk = {"monai": monai_mask, "ours": our_mask, "ours_fp32": our_mask_fp32, "home": home_mask}[method]
    walk(model, volume(case["roi"]), case)  # kernels are chosen on the first call
    before = reset_peak()
    image = volume(case["size"] if method != "home" else [n // 2 for n in case["size"]])
    began, busy = time.perf_counter(), time.process_time()
    mask = walk(model, image, case)
    spent = {"seconds": round(time.perf_counter() - began, 2), "cpu_seconds": round(time.process_time() - busy, 2)}
    peak = memory("VmHWM") - before
    if "mask" in case:
        np.save(case["mask"], mask)
    return {**spent, "peak_mb": round(peak / 2**20), "before_mb": round(before / 2**20)}


def monai_mask(model, image: np.ndarray, case: dict) -> np.ndarray:
    """As one would write it: fp32, the whole scores, then argmax."""
    import torch
    from monai.inferers import sliding_window_inference

    with torch.inference_mode():
        scores = sliding_window_inference(
            torch.from_numpy(image)[None], case["roi"], 1, lambda x: model(x).main, overlap=0.5, mode="gaussian"
        )
        return scores.argmax(1)[0].to(torch.uint8).numpy()


def our_mask(model, image: np.ndarray, case: dict, precision: str = "auto") -> np.ndarray:
    """The pipeline's way: slabs are decided as they come."""
    import torch

    from vesalius.pipeline.decision import label_map
    from vesalius.pipeline.tiled import tiled
    from vesalius.transforms.spatial import prepare

    model.to(memory_format=torch.channels_last_3d)  # as predictor.load does
    small, restore = prepare(whole(image), ())
    slabs = tiled(model, small.array, patch=case["roi"], overlap=0.5, precision=precision)
    return label_map(restore.stream(slabs), restore, task(case))


def our_mask_fp32(model, image: np.ndarray, case: dict) -> np.ndarray:
    """The same in fp32."""
    return our_mask(model, image, case, "fp32")


def home_mask(model, image: np.ndarray, case: dict) -> np.ndarray:
    """Scores at half the resolution, brought home to the full one class by class and slab by slab, under --max-ram."""
    import torch

    from vesalius.pipeline.predictor import Predictor
    from vesalius.pipeline.segment import SegmentOptions, segment_image
    from vesalius.transforms.spatial import Resample

    fine = np.repeat(np.repeat(np.repeat(image.astype(np.float16), 2, 1), 2, 2), 2, 3)
    record = task(case, steps=(Resample(spacing_mm=(2.0, 2.0, 2.0)),))
    predictor = Predictor(record, (model,), "", torch.device("cpu"), "auto")
    return segment_image(whole(fine), predictor, SegmentOptions(max_ram=1_500_000_000)).mask.array


def task(case: dict, steps: tuple = ()):
    """A task record that decides between the classes."""
    from vesalius.core.labels import Label, Labels
    from vesalius.tasks.task import Inference, ModelSpec, Task

    labels = Labels(tuple(Label(k, f"structure {k}") for k in range(1, case["classes"])))
    config = {**NET, "classes": case["classes"]}
    return Task(
        name="benchmark", title="untrained", dims=3, channels=("any",), labels=labels, steps=steps,
        model=ModelSpec(name="unet", config=config), inference=Inference(patch=tuple(case["roi"])),
    )  # fmt: skip


def agreement(most: int) -> dict:
    """The shipped hippocampus weights on real volumes: MONAI in fp32 on the prepared volume against ours in bf16.

    Where a volume is smaller than the task's patch, MONAI is given the tile that ours shrinks to, and the same roi holds.
    """
    from vesalius.core.errors import InputError
    from vesalius.io.files import find_inputs, read
    from vesalius.pipeline.decision import label_map
    from vesalius.pipeline.predictor import load
    from vesalius.pipeline.tiled import plan_tiles, tiled
    from vesalius.transforms.spatial import prepare

    places = HERE.parent / "examples", HERE.parent.parent / "shared" / "data"
    folders = [place / "hippocampus" / "images" for place in places]
    try:
        predictor = load("hippocampus", precision="auto")
        inputs = [path for folder in folders if folder.is_dir() for path in find_inputs(folder)]
    except InputError as error:  # no weights, or no images
        return {"measured": False, "why": str(error)}
    same, voxels = 0, 0
    record, roi = predictor.task, predictor.task.inference.patch
    for path in inputs[:most]:
        small, restore = prepare(read(path), record.steps)
        seen = plan_tiles(predictor.models, small.array.shape, patch=roi).patch
        reference = monai_mask(predictor.models[0], small.array, {"roi": seen})
        slabs = tiled(predictor.models, small.array, patch=roi, precision="auto")
        ours = label_map(restore.stream(slabs), restore, record)
        reference = restore.labels(reference)
        same += int((ours == reference).sum())
        voxels += reference.size
    return {"measured": True, "volumes": len(inputs[:most]), "arithmetic": predictor.arithmetic, "voxels_alike": same / voxels}


def network(classes: int):
    """The same untrained weights in every process."""
    import torch

    from vesalius.models.catalog import build

    torch.manual_seed(0)
    return build("unet", {**NET, "classes": classes}).eval().requires_grad_(False)


def volume(size) -> np.ndarray:
    """(1, Z, Y, X) float32 of noise with structure: the same in every process."""
    rng = np.random.default_rng(0)
    image = np.empty((1, *size), np.float32)
    wave = np.sin(np.arange(size[2], dtype=np.float32) / 9)
    for z, plane in enumerate(image[0]):
        rng.standard_normal(size[1:], dtype=np.float32, out=plane)
        plane += 2 * wave * np.cos(z / 7)
    return image


def whole(array: np.ndarray):
    """The array as an image of 1 mm."""
    from vesalius.core.image import Grid, Image

    return Image(array, Grid(array.shape[1:], np.eye(4)))


if __name__ == "__main__":
    main()
