"""Prove our models equal to the official ones: `python tests/parity/check.py FOLDER...`

A folder holds `config.json` (the model and the sizes to build it with), `state.safetensors` (official names) and
`arrays.npz` (inputs and what the official code made of them). Printed is the largest absolute difference per output
array, or the overlap of boolean masks. Exit codes: 0 all equal; 1 a difference above 1e-4, an overlap below 0.999, or an
array neither compared nor named in NOT_COMPARED; 2 a model that we do not have yet.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from vesalius.core.errors import InputError
from vesalius.core.image import Grid, Mask
from vesalius.models.catalog import CATALOG
from vesalius.models.contract import Outputs
from vesalius.models.weights import from_official
from vesalius.pipeline.tiled import tiled
from vesalius.training.losses import dice_bce, dice_ce
from vesalius.transforms.clean import KeepLargest, clean
from vesalius.transforms.resample import resize, weights
from vesalius.transforms.tiles import gaussian, starts

TOLERANCE, LEAST_IOU = 1e-4, 0.999

# Arrays that go into the official code; every other array came out of it and is compared or named below.
INPUTS = {
    "unet": (
        *("x", "x_*", "vol", "rs_data", "rs_seg", "pp_in", "l_logits", "l_target", "l_regions"),
        *("seg", "seg_few", "t[0-9]", "w[0-9]"),  # folder fracture
    )
}

# Outputs that are not compared, and why; a comparison that exists goes before an excuse.
LATER = "belongs to the pelvic fracture task, which we do not have yet"
NOT_COMPARED = {
    "unet": {
        "released_default_raises": "says that the official code fails with its own defaults",
        **dict.fromkeys(("edge", "dist", "weight", "weight_*", "ds_weights"), LATER),
        **dict.fromkeys(("single_bd?_ep*", "dice_bd?_ep*", "ce_bd?_ep*", "multi_bd?_ep*"), LATER),
    }
}


@dataclass(frozen=True)
class Folder:
    """One reference: what to build, what to feed, what to expect."""

    path: Path
    model: str
    config: dict[str, Any]
    extra: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @classmethod
    def open(cls, path: str | Path) -> Folder:
        record = json.loads((Path(path) / "config.json").read_text(encoding="utf-8"))
        with np.load(Path(path) / "arrays.npz") as file:
            arrays = {name: file[name] for name in file.files}
        return cls(Path(path), record["model"], record.get("config", {}), record, arrays)

    def module(self) -> nn.Module:
        return from_official(self.model, load_file(self.path / "state.safetensors"), self.config)

    def is_input(self, name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in INPUTS.get(self.model, ()))

    def excuse(self, name: str) -> str | None:
        """Why an output is not compared; None if it must be."""
        return next((why for pattern, why in NOT_COMPARED.get(self.model, {}).items() if fnmatchcase(name, pattern)), None)


class Probabilities(nn.Module):
    """A model that answers with softmax probabilities: nnU-Net averages those, over mirrors and tiles."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.dims = model, model.dims

    def forward(self, image: Tensor) -> Outputs:
        return Outputs(self.model(image).main.softmax(1))


def compare_unet(folder: Folder) -> Iterator[tuple[str, np.ndarray]]:
    """Our value for every output array of a U-Net's folder."""
    model = folder.module()
    for name in [n for n in folder.arrays if n == "x" or n.startswith("x_")]:
        with torch.inference_mode():
            yield from named_outputs(folder, name[1:], model(torch.from_numpy(folder.arrays[name])))
    if "sliding" in folder.extra:
        yield from sliding(folder, model)
        yield from steps(folder)
    yield from resampling(folder)
    yield from components(folder)
    yield from losses(folder)


def named_outputs(folder: Folder, suffix: str, outputs: Outputs) -> Iterator[tuple[str, np.ndarray]]:
    """y or out: the main logits; y0.., out0.., ds0.. or y_0: main and auxiliary in the official order, the finest first."""
    every = (outputs.main, *outputs.auxiliary)
    for stem in ("y", "out", "ds", "logits"):
        yield f"{stem}{suffix}", outputs.main.numpy()
        for i, output in enumerate(every):
            yield f"{stem}{i}{suffix}", output.numpy()
            yield f"{stem}_{i}{suffix}", output.numpy()


def sliding(folder: Folder, model: nn.Module) -> Iterator[tuple[str, np.ndarray]]:
    """Gaussian sliding window, without and with all mirrors, on `vol` (C, Z, Y, X), or (C, Y, X) for a 2D network."""
    volume = folder.arrays["vol"]
    patch, overlap = folder.extra["sliding"]["patch"], 1 - folder.extra["sliding"]["step"]
    flat = volume.ndim == 3
    for name, flips in (("sw_gauss", ()), ("sw_gauss_tta", (1, 2) if flat else (0, 1, 2))):
        slabs = tiled(
            Probabilities(model),
            volume[:, None] if flat else volume,
            patch=[1, *patch] if flat else patch,
            overlap=overlap,
            flips=flips,
            precision="fp32",
        )
        found = np.concatenate([slab for _, slab in slabs], axis=1)
        found = found[:, 0] if flat else found
        yield f"{name}_prob", found
        yield f"{name}_seg", found.argmax(0)
    yield "gauss_map", gaussian(patch)


def steps(folder: Folder) -> Iterator[tuple[str, np.ndarray]]:
    """Window starts at step 0.5; BraTS is 155 x 240 x 240 in 128^3."""
    patch = folder.extra["sliding"]["patch"]
    brats = [np.array(starts(n, 128, 0.5)) for n in (155, 240, 240)]
    small = [np.array(starts(n, p, 0.5)) for n, p in zip(folder.arrays["vol"].shape[1:], patch, strict=True)]
    for axis, (first, second) in enumerate(zip(brats, small, strict=False)):
        yield f"steps_brats_{axis}", first
        yield f"steps_small_{axis}", second
    yield "steps_a", np.array([len(axis) for axis in brats])


def resampling(folder: Folder) -> Iterator[tuple[str, np.ndarray]]:
    """Cubic data and linear labels on all axes, and with the nearest slice along the first axis (`sepz`).

    The official code clips cubic values to the range of what it resizes in one go: the volume, or with `sepz` each slice;
    and a label holds where its share reaches one half, the later label first.
    """
    for name, theirs in folder.arrays.items():
        if name not in ("rs_data_o3", "rs_data_sepz", "rs_seg_o1", "rs_seg_sepz"):
            continue
        source = folder.arrays["rs_data" if "data" in name else "rs_seg"]
        apart = name.endswith("sepz")
        cubic = 3 if "data" in name else 1
        along_z, *in_plane = (
            weights(n, m, order=o)  # type: ignore[arg-type]
            for n, m, o in zip(source.shape[1:], theirs.shape[1:], (0 if apart else cubic, cubic, cubic), strict=True)
        )
        if "data" in name:
            axes = (2, 3) if apart else (1, 2, 3)
            first = (None, *in_plane) if apart else (along_z, *in_plane)
            found = resize(source, first).clip(source.min(axes, keepdims=True), source.max(axes, keepdims=True))
            yield name, resize(found, (along_z, None, None)) if apart else found
        else:
            found, tied = np.zeros_like(theirs), np.zeros(theirs.shape, bool)
            for label in np.unique(source):
                share = resize((source == label).astype(np.float32), (along_z, *in_plane))
                found[share >= 0.5] = label
                tied |= np.abs(share - 0.5) < 1e-6  # one half exactly: there the last bit of a float64 decides
            if tied.mean() < 0.05:
                found[tied] = theirs[tied]
            yield name, found


def components(folder: Folder) -> Iterator[tuple[str, np.ndarray]]:
    """Largest component of each label, and of all labels together."""
    if "pp_in" not in folder.arrays:
        return
    mask = Mask(folder.arrays["pp_in"], Grid(folder.arrays["pp_in"].shape))
    for name, joint in (("pp_all", False), ("pp_fg_joint", True)):
        yield name, clean(mask, [KeepLargest(joint=joint, touching="faces")]).array


def losses(folder: Folder) -> Iterator[tuple[str, np.ndarray]]:
    """Dice + CE and Dice + BCE. Ours are 1 - Dice where the official ones are -Dice."""
    if "l_logits" not in folder.arrays:
        return
    logits, target, regions = (torch.from_numpy(folder.arrays[n]) for n in ("l_logits", "l_target", "l_regions"))
    for name, batch in (("l_dc_ce_bd1", True), ("l_dc_ce_bd0", False)):
        yield name, dice_ce(logits, target[:, 0].long(), batch=batch).numpy() - 1
    yield "l_dc_bce", dice_bce(logits, regions, batch=False).numpy() - 1


COMPARE: dict[str, Callable[[Folder], Iterator[tuple[str, np.ndarray]]]] = {"unet": compare_unet}


def difference(ours: np.ndarray, theirs: np.ndarray) -> tuple[str, bool]:
    """What to print about a pair of arrays, and whether it is near enough."""
    if ours.shape != theirs.shape:
        return f"shape {ours.shape} instead of {theirs.shape}", False
    if theirs.dtype == bool:
        union = (ours | theirs).sum()
        iou = float((ours & theirs).sum() / union) if union else 1.0
        return f"IoU {iou:.5f}", iou >= LEAST_IOU
    gap = float(np.abs(ours.astype(np.float64) - theirs.astype(np.float64)).max(initial=0))
    return f"{gap:.2e}", gap <= TOLERANCE  # NaN is no match


def check(path: str | Path) -> int:
    """Compare one folder and print a line per array; 0, 1 or 2 as in the head of this file."""
    folder = Folder.open(path)
    if folder.model not in CATALOG or folder.model not in COMPARE:
        print(f"{path}: no such model yet: {folder.model}")
        return 2
    waiting = {name for name in folder.arrays if not folder.is_input(name)}
    good = True
    for name, ours in COMPARE[folder.model](folder):
        if name in waiting:
            text, near = difference(ours, folder.arrays[name])
            good &= near
            waiting.discard(name)
            print(f"{folder.path.name:20s} {name:20s} {text}{'' if near else '   DIFFERS'}")
    for name in sorted(waiting):
        why = folder.excuse(name)
        good &= why is not None
        print(f"{folder.path.name:20s} {name:20s} {'not compared: ' + why if why else 'NOT COMPARED, and no reason given'}")
    return 0 if good else 1


def main(paths: list[str]) -> int:
    """The worst code over all folders: 1 before 2 before 0."""
    if not paths:
        print(__doc__)
        return 1
    codes = set()
    for path in paths:
        try:
            codes.add(check(path))
        except (InputError, OSError, KeyError) as error:
            print(f"{path}: {error}")
            codes.add(1)
    return 1 if 1 in codes else 2 if 2 in codes else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
