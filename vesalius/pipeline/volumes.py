"""One object through a volume, from what was said about it on some slices, or in three dimensions.

A model that only knows pictures goes from slice to slice (`follow`); one with a sibling for volumes asks that (`find_whole`).

a prompt on slice k     its mask there is where propagation begins
points (x, y, z)        the same, on every slice with a point on the object; the others are heard in passing, or with what was
                        said of their slice
a box of six numbers    propagation begins on its middle slice, leaves it nowhere, and looks for the object within it
a mask of the volume    propagation begins on the slice where it is largest; with the box, where there is one
words                   said again on the slices where propagation begins
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..core.errors import InputError
from ..core.image import Grid
from ..core.prompts import ObjectPrompt, Plane, find_plane
from .cubes import lengths, put
from .glances import OUTSIDE
from .looks import Asked, Look
from .propagation import PropagateOptions, Reach, Seen, propagate
from .solids import Found, Told
from .upright import Upright

Answer = Callable[[ObjectPrompt, Plane], Seen]
Find = Callable[[np.ndarray, Told], Found]  # the sides of a voxel, what was said -> the answer; all of the upright volume


# What speaks against the mask of a volume; how many are doubted, and how good the others are: docs/models/vesalius_mini.md
LEAST_IOU, LEAST_AGREEMENT, MOST_GROWTH = 0.6, 0.7, 2.5


@dataclass(frozen=True)
class Trust:
    """How far a mask of a volume is to be trusted: the IoU that the model predicts; on the slices that were prompted, the IoU of
    what it found with their own masks; and the largest slice over the largest of those."""

    iou: float
    agreement: float = 1.0
    growth: float = 1.0

    @property
    def doubt(self) -> str | None:
        """What speaks against it, in words."""
        said = []
        if self.iou < LEAST_IOU:
            said.append(f"its predicted IoU is {self.iou:.2f}")
        if self.agreement < LEAST_AGREEMENT:
            said.append(f"on prompted slices it agrees with their masks by {self.agreement:.2f} alone")
        if self.growth > MOST_GROWTH:
            said.append(f"elsewhere a slice of it is {self.growth:.1f} times as large as where it was prompted")
        return "; ".join(said) or None


@dataclass(frozen=True, eq=False)
class Slices:
    """Logits (H, W) of one object by slice along house `axis`; it is nowhere else. They may be drawn when asked for."""

    axis: int
    logits: Mapping[int, np.ndarray]
    trust: Trust | None = None  # where a volume was seen as a whole

    def mask(self, grid: Grid) -> np.ndarray:
        """(Z, Y, X) boolean."""
        found = np.zeros(grid.shape, bool)
        for index, logits in self.logits.items():
            Plane(self.axis, index).put(found, logits > 0)
        return found


def follow(
    prompts: Sequence[ObjectPrompt], grid: Grid, answer: Answer, look: Callable[[Plane], Look], options: PropagateOptions
) -> Slices:
    """The object that all of `prompts` mean. `answer` gives the mask of a prompt on a slice.

    Raises InputError where prompts lie along different axes, or none says where the object is.
    """
    axis = _axis_of(prompts, grid)
    flat: dict[int, ObjectPrompt] = {}
    solid: list[ObjectPrompt] = []
    for prompt in prompts:
        plane = prompt.plane(grid)
        if plane is None:
            solid.append(prompt)
        else:
            flat[plane.index] = prompt
    reach, box = _limits(solid, grid, axis)
    mask = next((prompt.mask for prompt in solid if isinstance(prompt.mask, np.ndarray)), None)
    text = next((prompt.text for prompt in solid if prompt.text is not None), None)

    def begun(index: int, points: Any = (), labels: Any = ()) -> ObjectPrompt:
        """All that was said in three dimensions, on one slice."""
        marked = mask if mask is not None and Plane(axis, index).take(mask).any() else None
        return ObjectPrompt(points, labels, box, marked, text)

    heard = points_by_slice(solid, axis, grid)
    for index, prompt in heard.items():
        if index in flat:
            flat[index] = with_clicks(flat[index], prompt)
        elif 1 in prompt.labels:
            flat[index] = begun(index, prompt.points, prompt.labels)
    if not flat:
        start = _start(mask, axis, reach, box)
        flat[start] = begun(start)
    seeds = {index: answer(prompt, Plane(axis, index)) for index, prompt in flat.items()}

    def prompted(index: int, asked: Asked) -> Asked:
        return _within(_with_points(asked, heard.get(index)), box)

    logits = propagate(lambda index: look(Plane(axis, index)), seeds, reach, options, prompted=prompted)
    return Slices(axis, logits if box is None else Within(logits, box))


class Within(Mapping[int, np.ndarray]):
    """Logits (H, W) by slice, and nothing outside the box x0, y0, x1, y1 that the user gave of each; cut when asked for."""

    def __init__(self, logits: Mapping[int, np.ndarray], box: Sequence[float]):
        self.logits, (x0, y0, x1, y1) = logits, box
        self.inside = slice(math.floor(y0), math.ceil(y1)), slice(math.floor(x0), math.ceil(x1))

    def __getitem__(self, index: int) -> np.ndarray:
        logits = self.logits[index]
        cut = np.full_like(logits, OUTSIDE)
        cut[self.inside] = logits[self.inside]
        return cut

    def __iter__(self) -> Iterator[int]:
        return iter(self.logits)

    def __len__(self) -> int:
        return len(self.logits)


def find_whole(prompts: Sequence[ObjectPrompt], grid: Grid, answer: Answer, find: Find) -> Slices:
    """The object that all of `prompts` mean, by a model that sees volumes. Slices that were prompted keep their own answers, to
    which points in three dimensions belong that lie on them; where these are empty and nothing else is said, so is the rest.

    Raises InputError where prompts lie along different axes, or none says where the object is.
    """
    axis = _axis_of(prompts, grid)
    placed = [(prompt, prompt.plane(grid)) for prompt in prompts]
    solid = [prompt for prompt, plane in placed if plane is None]
    heard = points_by_slice(solid, axis, grid)
    flat = [(with_clicks(prompt, heard.get(plane.index)), plane) for prompt, plane in placed if plane is not None]
    seeds = {plane.index: answer(prompt, plane).logits for prompt, plane in flat}
    points = np.array([point[::-1] for prompt in solid for point in prompt.points], float).reshape(-1, 3) + 0.5
    labels = np.array([label for prompt in solid for label in prompt.labels], int)
    boxes = [np.array(prompt.box).reshape(2, 3)[:, ::-1] for prompt in solid if prompt.box is not None]
    masks = [prompt.mask for prompt in solid if isinstance(prompt.mask, np.ndarray)]
    told = Told(
        box=(boxes[-1][0], boxes[-1][1]) if boxes else None,
        points=points,
        labels=labels,
        axis=axis,
        sections={index: logits > 0 for index, logits in seeds.items()},
        mask=masks[-1] if masks else None,
    )
    if seeds and not (boxes or masks or (labels == 1).any() or any(mask.any() for mask in told.sections.values())):
        return Slices(axis, seeds)
    upright = Upright.of(grid)
    found = upright.back(find(upright.sides(lengths(grid)), upright.told(told)))
    slices = _sliced(found, grid, axis)
    return Slices(axis, slices | seeds, _trust(found.iou, slices, told.sections))


def _trust(iou: float, found: Mapping[int, np.ndarray], sections: Mapping[int, np.ndarray]) -> Trust:
    """Of what was found (logits by slice), beside the masks of prompted slices, of which empty ones say nothing."""
    said = {index: mask for index, mask in sections.items() if mask.any()}
    if not said:
        return Trust(iou)
    own = {index: found[index] > 0 if index in found else np.zeros_like(mask) for index, mask in said.items()}
    both = sum(int((own[index] & mask).sum()) for index, mask in said.items())
    either = sum(int((own[index] | mask).sum()) for index, mask in said.items())
    largest = max((int((logits > 0).sum()) for index, logits in found.items() if index not in said), default=0)
    return Trust(iou, both / either, largest / max(int(mask.sum()) for mask in said.values()))


def _sliced(found: Found, grid: Grid, axis: int) -> dict[int, np.ndarray]:
    """Logits (H, W) of the slices along `axis` that the object is on."""
    parts, logits = put(found.logits, found.cube, grid.shape)
    values, across = np.moveaxis(logits.numpy(), axis, 0), tuple(part for i, part in enumerate(parts) if i != axis)
    slices = {}
    for index, plane in enumerate(values, start=parts[axis].start):
        if (plane > 0).any():
            whole = np.full(Plane(axis, index).size(grid), OUTSIDE, np.float32)
            whole[across] = plane
            slices[index] = whole
    return slices


def _axis_of(prompts: Sequence[ObjectPrompt], grid: Grid) -> int:
    """The house axis along which all prompts are sliced."""
    said = {prompt.axis or "axial" for prompt in prompts if prompt.slice is not None or prompt.axis is not None}
    axes = {find_plane(grid, 0, axis).axis for axis in said or {"axial"}}  # one in three dimensions lies along any
    require_one_axis(axes)
    return axes.pop()


def require_one_axis(axes: set[int]) -> None:
    """Raises InputError unless the prompts of an object are sliced along one axis."""
    if len(axes) > 1:
        raise InputError("the prompts of one object lie along different axes", fix="give them all on slices of one axis")


def _limits(solid: Sequence[ObjectPrompt], grid: Grid, axis: int) -> tuple[Reach, tuple[float, ...] | None]:
    """The slices that the six-number boxes allow, and the box on each of them."""
    reach, flat = (0, grid.shape[axis]), None
    for prompt in solid:
        if prompt.box is not None:
            low, high = prompt.box[:3], prompt.box[3:]
            along = 2 - axis  # house axes are z, y, x; a prompt's x, y, z
            reach = int(np.floor(low[along])), int(np.ceil(high[along]))
            flat = tuple(value for corner in (low, high) for i, value in enumerate(corner) if i != along)
    return reach, flat


def points_by_slice(solid: Sequence[ObjectPrompt], axis: int, grid: Grid) -> dict[int, ObjectPrompt]:
    """The points x, y, z as points on their slices."""
    count, along, found = grid.shape[axis], 2 - axis, dict[int, tuple[list[tuple[float, ...]], list[int]]]()
    for prompt in solid:
        for point, label in zip(prompt.points, prompt.labels, strict=True):
            places, labels = found.setdefault(min(round(point[along]), count - 1), ([], []))
            places.append(tuple(value for i, value in enumerate(point) if i != along))
            labels.append(label)
    return {index: ObjectPrompt(tuple(places), tuple(labels)) for index, (places, labels) in found.items()}


def with_clicks(prompt: ObjectPrompt, heard: ObjectPrompt | None) -> ObjectPrompt:
    """A prompt on a slice, with the points in three dimensions that lie on that slice."""
    if heard is None:
        return prompt
    return replace(prompt, points=prompt.points + heard.points, labels=prompt.labels + heard.labels)


def _start(mask: np.ndarray | None, axis: int, reach: Reach, box: tuple[float, ...] | None) -> int:
    """Where no slice was prompted: the slice where the mask is largest, or the middle of the box."""
    if mask is not None:
        areas = mask.sum(axis=tuple(i for i in range(3) if i != axis))[slice(*reach)]
        if areas.any():
            return reach[0] + int(areas.argmax())
    if box is None:
        fix = "give a point on it, a box or a mask that is not empty"
        raise InputError("nothing says where in the volume the object is", fix=fix)
    return (reach[0] + reach[1]) // 2


def _with_points(asked: Asked, heard: ObjectPrompt | None) -> Asked:
    if heard is None:
        return asked
    return replace(asked, points=np.array(heard.points)[None], labels=np.array(heard.labels)[None])


def _within(asked: Asked, box: tuple[float, ...] | None) -> Asked:
    """The box asked for, cut to the one that the user gave; where they do not meet, the user's."""
    if box is None or asked.boxes is None:
        return asked
    low, high = np.maximum(asked.boxes[0, :2], box[:2]), np.minimum(asked.boxes[0, 2:], box[2:])
    inside = np.concatenate([low, high]) if (low < high).all() else np.array(box)
    return replace(asked, boxes=inside[None])
