"""Exercises of a promptable model: a view with an object, and what is first said about it. Exercise n depends on (seed, n) alone.

    {'image' (3, C, C) normalised, 'target' (1, C/2, C/2) share of the object, 'box' (4,), 'earlier' (1, C/2, C/2) logits, 'kind',
     'side' of the view, which lies in the upper left corner of the canvas of C, the largest side; the rest is 0}

The view is taken as in use (pipeline/glances.py, glancer.py: the more pixels it holds, the larger it is shown), shifted and, but
for some, turned and recoloured. `earlier` is a mask that knows less: that of the next slice of the volume, or the object's own,
moved and swollen.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from ..models.mini import MASK_STRIDE
from ..pipeline.glancer import BELIEF
from ..pipeline.glances import Mips, normalised, take
from .colours import recoloured, varied
from .gallery import Picture, Thing
from .prompting import Prompting, Source
from .scenes import patch, shape

BOX, CLICK, MASK, BOX_AND_MASK = range(4)  # what is said first
LEAST_CELLS = 24  # of the view's pixels that an object must cover
HALVED = 64  # side of the smallest views that are shown at half the size
Found = tuple[Tensor, Tensor, Tensor, Tensor | None, float]  # view, what of it is picture, target, earlier mask; its side, px


class Exercises(Dataset):
    """Drawn by the sources' shares; in a source, pictures by the root of how many objects they have."""

    def __init__(self, pictures: list[Picture], sources: dict[str, Source], prompting: Prompting, seed: int):
        self.prompting, self.seed, self.pictures = prompting, seed, pictures
        self.canvas = max(prompting.size, prompting.large)
        names = [each.source for each in pictures]
        real = {name: sources.get(name, Source()).share for name in dict.fromkeys(names)}
        made = {name: each.share for name, each in sources.items() if each.made and each.share}
        self.made = {name: sources[name].made for name in made}
        self.names, shares = list(real | made), np.array(list((real | made).values()))
        self.shares = shares / shares.sum()
        self.of = {name: np.flatnonzero([each == name for each in names]) for name in real}
        self.weights = {name: self._weights(index) for name, index in self.of.items()}

    def _weights(self, index: np.ndarray) -> np.ndarray:
        counts = np.sqrt([len(self.pictures[i].things) for i in index])
        return counts / counts.sum()

    def __getitem__(self, n: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.seed, n])
        while True:
            kind = self._kind(rng)
            name = self.names[rng.choice(len(self.names), p=self.shares)]
            stored = rng.random() < self.prompting.as_stored
            found = self._made(self.made[name], kind, rng) if name in self.made else self._real(name, kind, stored, rng)
            if found is not None and (found[2] > 0.5).sum() >= LEAST_CELLS:
                return self._sample(*found, kind, stored, rng)

    def _kind(self, rng: np.random.Generator) -> int:
        p = self.prompting
        return int(rng.choice(4, p=[1 - p.click - p.mask - p.box_and_mask, p.click, p.mask, p.box_and_mask]))

    def _size(self, kind: int, side: float) -> int:
        """The size at which a view of so many pixels is shown; what a click means is sought in views of one size."""
        return self.canvas if kind != CLICK and side > self.prompting.size else self.prompting.size

    def _made(self, how: str | None, kind: int, rng: np.random.Generator) -> Found | None:
        """View, what of it is picture, target (S, S); nothing earlier."""
        if how == "shapes":
            size = self._size(kind, rng.uniform(0, 1.5 * self.prompting.size))
            view, mask = shape(size, rng)
            return torch.from_numpy(view), torch.ones(1, size, size, dtype=torch.bool), torch.from_numpy(mask), None, size
        if not self.pictures:
            return None
        picture = self.pictures[rng.integers(len(self.pictures))]
        shorter = min(picture.mips.size)
        side = float(np.exp(rng.uniform(np.log(min(32, shorter)), np.log(shorter))))
        middle = [rng.uniform(side / 2, max(side / 2, n - side / 2)) for n in picture.mips.size[::-1]]
        views, inside = take(picture.mips, [(*middle, side)], self._size(kind, side))
        found = patch(views[0].numpy(), rng)
        return None if found is None else (views[0], inside[0], torch.from_numpy(found), None, side)

    def _real(self, name: str, kind: int, stored: bool, rng: np.random.Generator) -> Found:
        picture = self.pictures[self.of[name][rng.choice(len(self.of[name]), p=self.weights[name])]]
        thing = picture.things[rng.integers(len(picture.things))]
        glance = self._glance(picture, thing, kind, rng)
        turn = (np.eye(2) if stored else turned(rng, self.prompting.turn_p))[None]
        size = self._size(kind, glance[2])
        views, inside = take(picture.mips, [glance], size, turn)
        target = self._shown(None, picture, thing, glance, size, turn)
        earlier = None
        if kind in (MASK, BOX_AND_MASK) and picture.beside is not None and rng.random() < 0.7:
            earlier = self._shown(picture.beside, picture, thing, glance, size, turn)
        return views[0], inside[0], target, earlier, glance[2]

    def _shown(
        self, labels: np.ndarray | None, picture: Picture, thing: Thing, glance: tuple[float, ...], size: int, turn: np.ndarray
    ) -> Tensor:
        """(S, S) share of the object in the view: in its own picture, or (`labels`) near its place on the slice beside."""
        height, width = picture.numbers.shape
        x0, y0, x1, y1 = thing.box
        margin = 1 if labels is None else max(x1 - x0, y1 - y0) // 4 + 1
        x0, y0, x1, y1 = max(0, x0 - margin), max(0, y0 - margin), min(width, x1 + margin), min(height, y1 + margin)
        if labels is None:
            mask = picture.numbers[y0:y1, x0:x1] == thing.number
        else:
            mask = labels[y0:y1, x0:x1] > 0 if picture.joined else labels[y0:y1, x0:x1] == thing.label
        moved = (glance[0] - x0, glance[1] - y0, glance[2])
        return take(Mips((255 * mask).astype(np.uint8)[..., None]), [moved], size, turn)[0][0, 0] / 255

    def _glance(self, picture: Picture, thing: Thing, kind: int, rng: np.random.Generator) -> tuple[float, float, float]:
        """Where the view lies: around the object for a box, at any scale for a click, which does not know it yet."""
        p, (x0, y0, x1, y1) = self.prompting, thing.box
        longer, largest = max(x1 - x0, y1 - y0), 1.1 * max(picture.mips.size)
        spread = rng.uniform(*p.spread)
        if kind == CLICK and rng.random() < 0.6:
            spread = np.exp(rng.uniform(np.log(0.8), np.log(1.5 * p.wide)))
        elif rng.random() < p.wide_p:
            spread = np.exp(rng.uniform(np.log(p.spread[1]), np.log(p.wide)))
        side = max(8.0, min(spread * longer, max(largest, 1.1 * longer)))
        room = max(0.0, side - longer) / 2
        reach = 0.9 * room if kind == CLICK else 0.25 * room if rng.random() < 0.5 else 0.7 * room
        return (x0 + x1) / 2 + rng.uniform(-reach, reach), (y0 + y1) / 2 + rng.uniform(-reach, reach), side

    def _sample(
        self,
        view: Tensor,
        inside: Tensor,
        target: Tensor,
        earlier: Tensor | None,
        pixels: float,
        kind: int,
        stored: bool,
        rng: np.random.Generator,
    ) -> dict[str, Tensor]:
        """One exercise, from a view of so many pixels of the picture; without an earlier mask, the object's own is moved."""
        image = normalised((varied if stored else recoloured)(view, rng)[None], inside[None])[0]
        if kind in (MASK, BOX_AND_MASK) and earlier is None:
            earlier = distorted(target, rng)
        if earlier is None or not (earlier > 0.5).any():
            kind, earlier = CLICK if kind == CLICK else BOX, torch.full_like(target, 0.5)
        rows, columns = ((target > 0.5).any(axis).nonzero()[:, 0] for axis in (1, 0))
        box = torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=torch.float32)
        masks = F.avg_pool2d(torch.stack([target, earlier])[:, None].float(), MASK_STRIDE)
        known = (2 * masks[1] - 1) * BELIEF  # 0 where nothing is known
        shown = {"image": image.float(), "target": masks[0], "box": box, "earlier": known}
        small = kind != CLICK and pixels <= self.prompting.size / 2
        if len(image[0]) == self.prompting.size >= HALVED and (small or rng.random() < self.prompting.half_p):
            shown = halved(shown)
        side = shown["image"].shape[-1]
        for name, stride in (("image", 1), ("target", MASK_STRIDE), ("earlier", MASK_STRIDE)):
            room = (self.canvas - side) // stride
            shown[name] = F.pad(shown[name], (0, room, 0, room))
        return {**shown, "kind": torch.tensor(kind), "side": torch.tensor(side)}


def halved(shown: dict[str, Tensor]) -> dict[str, Tensor]:
    """The exercise in a view of half the size, with as much contrast as before."""
    image, target, earlier = (F.avg_pool2d(shown[name], 2) for name in ("image", "target", "earlier"))
    contrast = shown["image"].std() / image.std().clamp(min=1e-3)
    return {"image": image * contrast, "target": target, "earlier": earlier, "box": shown["box"] / 2}


def turned(rng: np.random.Generator, turn_p: float) -> np.ndarray:
    """(2, 2) from the view's x, y to the picture's: a symmetry of the square, sometimes also turned and stretched a little."""
    matrix = np.diag(rng.choice([-1.0, 1.0], 2))
    if rng.random() < 0.5:
        matrix = matrix[:, ::-1]
    if rng.random() < turn_p:
        angle, stretch = rng.uniform(-np.pi, np.pi), np.exp(rng.uniform(-0.2, 0.2))
        cos, sin = np.cos(angle), np.sin(angle)
        matrix = matrix @ np.array([[cos, -sin], [sin, cos]]) @ np.diag([stretch, 1 / stretch])
    return np.ascontiguousarray(matrix)


def distorted(target: Tensor, rng: np.random.Generator) -> Tensor:
    """The object (S, S) as an earlier answer might have had it: shifted, another size, and thicker or thinner."""
    scale = np.exp(rng.uniform(-0.25, 0.25, 2))
    rows, columns = (target > 0.5).nonzero().float().mean(0).tolist() if (target > 0.5).any() else (0.0, 0.0)
    size = len(target)
    middle = 2 * (np.array([columns, rows]) + 0.5) / size - 1
    area = float((target > 0.5).sum())
    shift = rng.normal(0, 0.12, 2) * np.sqrt(area) / size
    matrix = np.column_stack([np.diag(scale), middle * (1 - scale) + shift])
    grid = F.affine_grid(torch.from_numpy(matrix.astype(np.float32))[None], [1, 1, size, size], align_corners=False)
    moved = F.grid_sample(target[None, None].float(), grid, align_corners=False)[0, 0]
    wide = 2 * int(rng.integers(1, max(2, int(0.06 * np.sqrt(area)) + 2))) + 1
    grown = F.avg_pool2d(moved[None], wide, 1, wide // 2)[0]
    return (grown > rng.uniform(0.15, 0.85)).float()
