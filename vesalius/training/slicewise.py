"""2D models on volumes: whether a run goes slice by slice, and along which axis.

    S  o--o--o--o   axial planes follow each other along S, coronal ones along A, sagittal ones along R; the Orient step
    |               turns that axis to z, so everything behind it, tiles and patches, walks along z as always
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ..core.errors import InputError
from ..models.catalog import entry
from ..tasks.task import Slices, Task
from ..transforms.spatial import ORDERS, Slicing
from .inspect import Fingerprint
from .recipe import Recipe, Slicewise

THICKER = 1.25  # an axis is that of the slices where its voxels are so much larger than the next ones'; else axial ones are taken


def choose_slices(
    model: str, found: Fingerprint, recipe: Recipe, like: Task | None, say: Callable[[str], None]
) -> tuple[Slices | None, Slicing]:
    """What a 2D model sees of these volumes and which planes they are; None where the model sees the images as they are.

    A shipped task's steps stay as they are, so its planes are axial. Raises InputError where the recipe asks for slices
    that are not there.
    """
    dims = entry(model).dims
    if found.dims == 2:
        if recipe.slices:
            raise InputError("the recipe asks for slices, and these are pictures", fix="take [slices] out of the recipe")
        return None, "axial"
    if 2 not in dims and recipe.slices:
        raise InputError(f"the model '{model}' sees whole volumes only", fix="take [slices] out of the recipe")
    if 3 in dims and not recipe.slices:
        return None, "axial"
    wanted = recipe.slices or Slicewise()
    axis = wanted.axis or ("axial" if like else thickest(found))
    if like and axis != "axial":
        raise InputError(f"the task '{like.name}' looks at axial planes, not {axis} ones", fix="train without --task")
    if found.median_spacing is None and axis != "axial":
        raise InputError(f"without spacing and orientation {axis} planes cannot be found", fix="take axis out of the recipe")
    why = "as the recipe says" if recipe.slices else f"since '{model}' is a 2D model"
    planes = f"{axis} planes" if found.median_spacing else "planes along the first stored axis"
    sides = f"each with {wanted.context} neighbour{'s' * (wanted.context > 1)} on either side" if wanted.context else "each alone"
    say(f"slice by slice, {why}: {planes}, {sides}")
    return Slices(context=wanted.context), axis


def thickest(found: Fingerprint) -> Slicing:
    """The planes across the axis whose voxels are clearly the longest; axial ones where none is."""
    spacing = found.median_spacing
    if spacing is None or max(spacing) < THICKER * sorted(spacing)[1]:
        return "axial"
    names: tuple[Slicing, ...] = ("axial", "coronal", "sagittal")
    return names[int(np.argmax(spacing))]


def turned(found: Fingerprint, axis: Slicing) -> Fingerprint:
    """The fingerprint with sizes and spacings in the order that Orient gives for `axis`."""
    order = ORDERS[axis]
    if order == (0, 1, 2):
        return found
    z, y, x = order
    cases = []
    for case in found.cases:
        spacing = (case.spacing[z], case.spacing[y], case.spacing[x]) if case.spacing else None
        cases.append(replace(case, shape=(case.shape[z], case.shape[y], case.shape[x]), spacing=spacing))
    return replace(found, cases=tuple(cases))
