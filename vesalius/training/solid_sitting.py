"""Kept-back volumes, looked at as in use: `dice` from one tight box, the `ellipsoid` in it beside; from one section, from five.

Sections are the true masks of slices here: what a picture model makes of them is benchmarks/mini_volumes.py's to measure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from ..models.catalog import make_config
from ..pipeline.cubes import put
from ..pipeline.solids import CubeOptions, SolidPrompter, Told
from .bodies import Body, Part
from .solids import outlined
from .validate import Scores

OBJECTS = 4  # of a body that are looked at
FIVE = 5


@dataclass(frozen=True, eq=False)
class SolidSitting:
    """Bodies with their objects."""

    bodies: tuple[Body, ...]

    def __len__(self) -> int:
        return len(self.bodies)

    def some(self, most: int) -> SolidSitting:
        """`most` bodies, evenly spread."""
        chosen = np.unique(np.linspace(0, max(0, len(self.bodies) - 1), most).astype(int)) if self.bodies else ()
        return SolidSitting(tuple(self.bodies[i] for i in chosen))

    def examine(self, model: nn.Module, plan: Any) -> dict[str, Scores]:
        """Scores per body; its source is the label."""
        device, options = next(model.parameters()).device, make_config(CubeOptions, plan.views)
        prompter = SolidPrompter(plan.name, model.eval(), "in training", options, device)  # type: ignore[arg-type]
        return {f"{each.name} {i}": {each.source: scored(each, prompter)} for i, each in enumerate(self.bodies)}


def scored(body: Body, prompter: SolidPrompter) -> dict[str, float]:
    """Mean Dice over some of a body's objects."""
    chosen = np.unique(np.linspace(0, len(body.parts) - 1, min(OBJECTS, len(body.parts))).astype(int))
    each = [_scored(body, body.parts[i], prompter) for i in chosen]
    return {key: float(np.mean([one[key] for one in each])) for key in each[0]}


def _scored(body: Body, part: Part, prompter: SolidPrompter) -> dict[str, float]:
    start, object_ = outlined(body, part)
    filled = np.flatnonzero(object_.any((1, 2)))
    places = np.linspace(filled[0], filled[-1], FIVE + 2).round().astype(int)[1:-1]
    five = {int(z + start[0]): whole_section(body, start, object_, int(z)) for z in places}
    middle = int(filled[len(filled) // 2])
    one = {middle + int(start[0]): whole_section(body, start, object_, middle)}
    ways = {"dice": Told(box=(part.low, part.high)), "section": Told(sections=one), "sections": Told(sections=five)}
    found = {key: asked(body, start, object_, prompter, told) for key, told in ways.items()}
    return found | {"ellipsoid": dice(ellipsoid(object_.shape, part.low - start, part.high - start), object_)}


def whole_section(body: Body, start: np.ndarray, object_: np.ndarray, z: int) -> np.ndarray:
    """Slice z of an object's crop, on the volume's own slice (Y, X)."""
    mask = np.zeros(body.numbers.shape[1:], bool)
    mask[start[1] : start[1] + object_.shape[1], start[2] : start[2] + object_.shape[2]] = object_[z]
    return mask


def asked(body: Body, start: np.ndarray, object_: np.ndarray, prompter: SolidPrompter, told: Told) -> float:
    """Dice of what the model finds."""
    answer = prompter.find(body.image, body.voxel, told)
    parts, logits = put(answer.logits, answer.cube, body.image.shape)
    found = np.zeros(body.image.shape, bool)
    found[parts] = logits.numpy() > 0
    wanted = np.zeros(body.image.shape, bool)
    wanted[tuple(slice(a, a + n) for a, n in zip(start, object_.shape, strict=True))] = object_
    return dice(found, wanted)


def dice(found: np.ndarray, wanted: np.ndarray) -> float:
    """Of two boolean masks, the second not empty."""
    return float(2 * np.count_nonzero(found & wanted) / (np.count_nonzero(found) + np.count_nonzero(wanted)))


def ellipsoid(size: Sequence[int], low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """(Z, Y, X) boolean, or (Y, X): the ellipsoid inscribed in a box, the opponent that knows nothing of the volume."""
    apart = np.zeros(tuple(size))
    for axis, n in enumerate(size):
        at = (np.arange(n) + 0.5 - (low[axis] + high[axis]) / 2) / ((high[axis] - low[axis]) / 2)
        apart = apart + np.expand_dims(at**2, [i for i in range(len(size)) if i != axis])
    return apart <= 1
