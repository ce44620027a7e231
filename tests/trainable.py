"""Small datasets that a tiny network can learn from in seconds, and a recipe to do it with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vesalius.training.loop import TrainOptions

RECIPE = """
batch = 4
steps_per_epoch = 5
epochs = 4
validate_every = 2
lr = 1e-2
ema = 0.9
workers = 1
precision = "fp32"
patch = {patch}
[model]
widths = [4, 8, 12]
dropout = 0.1
[augment]
rotate_p = 0.5
elastic_p = 0.5
elastic_px = 1.0
flip_axes = [1, 2]
"""


def recipe(path: Path, patch: list[int], **changes: str) -> Path:
    """A recipe file that trains the smallest network; `changes` replace lines, such as epochs="2"."""
    lines = RECIPE.format(patch=patch).strip().splitlines()
    head = [f"{key} = {value}" for key, value in changes.items()]
    path.write_text("\n".join([*head, *[line for line in lines if line.split(" = ")[0] not in changes]]), encoding="utf-8")
    return path


def disks(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Object numbers uint16 (Y, X) of a few disks, some touching."""
    y, x = np.ogrid[: size[0], : size[1]]
    numbers = np.zeros(size, np.uint16)
    for number in range(1, 7):
        cy, cx, r = rng.uniform(4, size[0] - 4), rng.uniform(4, size[1] - 4), rng.uniform(3, 7)
        numbers[(y - cy) ** 2 + (x - cx) ** 2 < r * r] = number
    return numbers


def pictures(root: Path, count: int = 10, size: tuple[int, int] = (48, 44), instances: bool = False) -> Path:
    """`images` with bright disks on noise, RGB PNG; `masks` 0/255, or `labels` that number them."""
    from PIL import Image

    rng = np.random.default_rng(3)
    masks = root / ("labels" if instances else "masks")
    for folder in (root / "images", masks):
        folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        numbers = disks(rng, size)
        grey = 60 + 110 * (numbers > 0) + rng.normal(0, 12, size)
        tint = np.array([1.0, 0.8, 0.9]) if i % 5 else np.array([0.5, 0.2, 1.0])
        rgb = np.clip(grey[..., None] * tint, 0, 255).astype(np.uint8)
        Image.fromarray(rgb).save(root / "images" / f"case_{i:02d}.png")
        Image.fromarray(numbers if instances else (255 * (numbers > 0)).astype(np.uint8)).save(masks / f"case_{i:02d}.png")
    return root


def volumes(root: Path, count: int = 8, spacings: tuple[tuple[float, float, float], ...] = ((1.0, 1.0, 1.0),)) -> Path:
    """`images` and `labels`, NIfTI of about 20 x 24 x 22 voxels: two blocks, the second darker. Spacings (x, y, z) take turns."""
    import nibabel

    rng = np.random.default_rng(5)
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        mask = np.zeros((20, 24, 22 + i % 3), np.uint8)
        a, b, c = rng.integers(2, 6, 3)
        mask[a : a + 7, b : b + 9, c : c + 8] = 1
        mask[a + 7 : a + 13, b : b + 9, c : c + 8] = 2
        image = rng.normal(0, 20, mask.shape) + 200 * (mask == 1) + 90 * (mask == 2)
        affine = np.diag([*spacings[i % len(spacings)], 1.0])
        nibabel.save(nibabel.Nifti1Image(image.astype(np.float32), affine), root / "images" / f"case_{i}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(mask, affine), root / "labels" / f"case_{i}.nii.gz")
    return root


def options(tmp_path: Path, patch: list[int], **more: Any) -> TrainOptions:
    """Options of a run of two steps; those of a recipe (epochs="3") among them replace its lines."""
    changes = {key: more.pop(key) for key in ("epochs", "steps_per_epoch", "workers", "validate_every") if key in more}
    file = recipe(tmp_path / "quick.toml", patch, **{"workers": "0", "epochs": "1", "steps_per_epoch": "2", **changes})
    return TrainOptions(recipe=file, quiet=True, device="cpu", **more)


# A shoot-out of two networks that takes a second or two.
TINY_SHOOT_OUT = """
base = "shootout"
batch = 2
steps_per_epoch = 2
precision = "fp32"
patch = [1, 16, 16]
workers = 0
[each.unet.model]
widths = [4, 6]
[each.unetpp.model]
widths = [4, 6]
"""
