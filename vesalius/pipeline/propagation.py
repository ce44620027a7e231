"""From one slice through a volume, or from one frame through a video: each mask prompts for the next.

    ... <- k-2 <- k-1 <- [k: prompted] -> k+1 -> k+2 -> ...

On the next slice the model is given the mask's logits and the box around it, a little wider. A model that learned no mask
prompts is given the box alone, as MedSAM's own are; one that fills a box is given the mask alone: a wider box a slice, and
its mask would grow until it fills the picture. It goes on, both ways, until the model no longer trusts its mask, the mask is
empty, or its area changes too much from one slice to the next, or outgrows the mask that was prompted.
Between two prompted slices both come together: the logits are averaged by how near each prompt is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from torch import Tensor

from ..core.errors import InputError, unknown_name
from .looks import Asked, Look

Carry = Literal["both", "mask", "box"]


@dataclass(frozen=True)
class PropagateOptions:
    """When to stop, and how wide to look: `margin` is a share of the box's sides.

    `least_iou` is what the model must at least predict of its own mask; None for one that never learned to. `most_change` is a
    ratio of areas from one slice to the next, `most_growth` that of a mask to the one that was prompted. `carry` is what
    prompts for the next slice: the mask, its box, or both; None for what suits the weights.
    """

    least_iou: float | None = 0.5
    most_change: float = 2.0
    most_growth: float = 4.0
    margin: float = 0.03
    carry: Carry | None = None

    def __post_init__(self) -> None:
        for name in ("most_change", "most_growth"):
            if not getattr(self, name) > 1:
                raise InputError(f"{name} = {getattr(self, name):g} stops at once", fix="give a ratio above 1, such as 2")
        if not self.margin >= 0:
            raise InputError(f"the margin {self.margin:g} is negative", fix="give a share of the box, such as 0.03")
        if self.carry not in (None, *get_args(Carry)):
            raise unknown_name("thing to carry", str(self.carry), get_args(Carry))


@dataclass(frozen=True)
class Seen:
    """A mask on one slice: logits (H, W), the state it came from, and the IoU that the model predicts."""

    logits: np.ndarray
    state: Tensor
    iou: float


Reach = tuple[int, int]  # slices first .. last - 1 that may be entered


class Drawn(Mapping[int, np.ndarray]):
    """Logits (H, W) by slice, drawn from the model's states whenever they are asked for: those of a video would fill any memory.

    A slice that two prompts reach has a state from each, with the share at which it counts.
    """

    def __init__(self, full: Callable[[Tensor], Tensor]):
        self._full = full
        self._parts: dict[int, list[tuple[Tensor, float]]] = {}

    def add(self, index: int, state: Tensor, share: float = 1.0) -> None:
        self._parts.setdefault(index, []).append((state, share))

    def __getitem__(self, index: int) -> np.ndarray:
        parts = self._parts[index]
        whole = sum(share for _, share in parts)  # less than 1 where one of two walks was lost before
        logits = [share / whole * self._full(state[None])[0].cpu().numpy() for state, share in parts]
        return logits[0] if len(logits) == 1 else sum(logits[1:], start=logits[0])

    def __iter__(self) -> Iterator[int]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)


def propagate(
    look: Callable[[int], Look],
    seeds: Mapping[int, Seen],
    reach: Reach,
    options: PropagateOptions | None = None,
    *,
    prompted: Callable[[int, Asked], Asked] = lambda index, asked: asked,
) -> Drawn:
    """Logits (H, W) of every slice reached from the `seeds` (slice -> its mask), the seeds' own among them, within `reach`.

    `prompted` may add to what is asked on a slice, such as clicks that lie on it.
    """
    options, order = options or PropagateOptions(), sorted(seeds)
    found = Drawn(look(list(seeds)[-1]).full)  # of any slice, as all are of one size; this one was seen last
    for index, seen in seeds.items():
        found.add(index, seen.state)
    for i, index in enumerate(order):
        before = order[i - 1] if i else reach[0] - 1
        after = order[i + 1] if i + 1 < len(order) else reach[1]
        for stops, step in ((before, -1), (after, 1)):
            for place, state in _walk(look, seeds[index], range(index + step, stops, step), options, prompted):
                found.add(place, state, 1 - abs(place - index) / abs(stops - index))
    return found


def _walk(
    look: Callable[[int], Look],
    seen: Seen,
    places: range,
    options: PropagateOptions,
    prompted: Callable[[int, Asked], Asked],
) -> Iterator[tuple[int, Tensor]]:
    """The slices reached in one direction, from the seed on, and the state of the mask on each."""
    mask, state = seen.logits > 0, seen.state
    most = options.most_growth * np.count_nonzero(mask)
    for place in places:
        if not mask.any():
            return
        here = look(place)
        boxes = None if options.carry == "mask" else _box_around(mask, options.margin)[None]
        asked = Asked(boxes=boxes, states=None if options.carry == "box" else state[None])
        proposals = here.ask(prompted(place, asked), multimask=False)
        state = proposals.state[0, 0]
        before, mask = np.count_nonzero(mask), here.full(state[None])[0].cpu().numpy() > 0
        now, iou = np.count_nonzero(mask), float(proposals.iou[0, 0])
        doubted = options.least_iou is not None and iou < options.least_iou
        if doubted or not now or now > most or not 1 / options.most_change <= now / before <= options.most_change:
            return
        yield place, state


def _box_around(mask: np.ndarray, margin: float) -> np.ndarray:
    """(4,) x0, y0, x1, y1 (exclusive) of a mask (H, W) that is not empty, wider by `margin` of each side, within the slice."""
    y, x = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    low, high = np.array([x[0], y[0]], float), np.array([x[-1] + 1, y[-1] + 1], float)
    wider = margin * (high - low)
    return np.concatenate([(low - wider).clip(min=0), np.minimum(high + wider, mask.shape[::-1])])
