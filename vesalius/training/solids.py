"""Exercises in three dimensions: a cubic view with an object, and what is said about it. Exercise n depends on (seed, n) alone.

    {'image' (1, S, S, S) normalised, 'target' (1, S, S, S) share of the object, 'box' (6,), 'points' (N, 3), 'labels' (N,),
     'known' (1, S, S, S), 'earlier' (1, S, S, S) logits}

    a box       around the object, now and then with an earlier mask and a click where that is wrong
    sections    on one to five slices, outlined as well as a picture model outlines them; the view lies around the sections (a
                first look), or around the object, then with a shape that is nearly right (a second look)
    clicks      at any scale (`Prompting.click` of the views; boxes and sections come equally often)

Some views (`Prompting.as_stored`) are as stored, for what an organ looks like and how it lies is worth knowing; the others are
turned and retoned strongly, for what comes in other guises.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from torch.utils.data import Dataset

from ..models.contract import Answers
from ..models.solid import Hints
from ..pipeline.cubes import Cube, around, inside, normalised, take
from ..pipeline.hints import CERTAIN, known_layers, shaped, signed_distance
from .bodies import Body, Part
from .colours import toned, varied
from .lumps import lump
from .prompting import Prompting, Source

BOX, SECTIONS, CLICKS = range(3)
LEAST_CELLS = 40  # of the view that an object must fill
POINTS = 4
NUDGE, SLOPPY = 0.02, 0.1  # a box's sides off by up to this share of them, in 40 and in 15 % of the boxes


class SolidExercises(Dataset):
    """Drawn by the sources' shares, in a source any volume as often as the others."""

    def __init__(self, bodies: list[Body], sources: dict[str, Source], prompting: Prompting, seed: int):
        self.bodies, self.prompting, self.seed = bodies, prompting, seed
        names = [each.source for each in bodies]
        shares = {name: sources.get(name, Source()).share for name in dict.fromkeys(names)}
        shares |= {name: each.share for name, each in sources.items() if each.made == "shapes" and each.share}
        self.names, self.shares = list(shares), np.array(list(shares.values())) / sum(shares.values())
        self.of = {name: [i for i, each in enumerate(names) if each == name] for name in dict.fromkeys(names)}

    def __getitem__(self, n: int) -> dict[str, Tensor]:
        rng, size = np.random.default_rng([self.seed, n]), self.prompting.size
        while True:
            kind = CLICKS if rng.random() < self.prompting.click else int(rng.integers(CLICKS))
            name = self.names[rng.choice(len(self.names), p=self.shares)]
            stored = rng.random() < self.prompting.as_stored
            if name in self.of:
                body = self.bodies[self.of[name][rng.integers(len(self.of[name]))]]
                view, target, known, axis, first = self._seen(body, kind, stored, rng)
            else:
                view, target = (torch.from_numpy(part) for part in lump(size, rng))
                known, axis, first = torch.ones_like(target, dtype=torch.bool), int(rng.integers(3)), False
            if (target > 0.5).sum() >= LEAST_CELLS:
                break
        image = normalised(varied(view, rng) if stored else retoned(view, rng), known)
        return {"image": image[None], "target": target[None], **said(target, kind, axis, first, rng)}

    def _seen(self, body: Body, kind: int, stored: bool, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor, int, bool]:
        """View, target, what of it is volume; the axis of the sections, and whether one lies in the middle (a first look)."""
        part, axis = body.parts[rng.integers(len(body.parts))], int(rng.integers(3))
        first, size = kind == SECTIONS and rng.random() < 0.35, self.prompting.size
        start, object_ = outlined(body, part)
        cube = self._first_look(body, start, object_, axis, rng) if first else self._cube(body, part, kind, rng)
        view, known = take(body.image, cube, size), inside(body.image.shape, cube, size)
        target = take(object_.astype(np.uint8), Cube(cube.middle - start, cube.sides), size)
        parts = torch.stack([view, target, known.float()])
        if not stored:
            parts, axis = turned(parts, axis, self.prompting.turn_p, rng)
        elif rng.random() < 0.5:  # left is like right, more often than not
            parts = parts.flip(3)
        return parts[0], parts[1], parts[2] > 0.5, axis, first

    def _cube(self, body: Body, part: Part, kind: int, rng: np.random.Generator) -> Cube:
        """Around the object; for clicks, which do not know it yet, at any scale."""
        p = self.prompting
        spread = np.exp(rng.uniform(np.log(1.15), np.log(p.wide))) if kind == CLICKS else rng.uniform(*p.spread)
        exact = around(part.low, part.high, body.voxel, spread)
        room = np.maximum(0.0, exact.sides - (part.high - part.low)) / 2
        shift = rng.uniform(-1, 1, 3) * room * (0.7 if rng.random() < 0.4 else 0.2)
        return Cube(exact.middle + shift, exact.sides * stretched(rng))

    def _first_look(self, body: Body, start: np.ndarray, object_: np.ndarray, axis: int, rng: np.random.Generator) -> Cube:
        """Around one section, which the view's middle layer shows."""
        filled = np.flatnonzero(object_.any(tuple(i for i in range(3) if i != axis)))
        at = float(np.clip(rng.normal(0.5, 0.14), 0.1, 0.9))
        index = int(filled[0] + at * (filled[-1] - filled[0]))
        section = np.moveaxis(object_, axis, 0)[index]
        low, high = np.zeros(3), np.zeros(3)
        low[axis], high[axis] = index + 0.5, index + 0.5
        for i, other in enumerate([i for i in range(3) if i != axis]):
            places = np.flatnonzero(section.any(1 - i))
            low[other], high[other] = places[0], places[-1] + 1
        cube = around(low + start, high + start, body.voxel, rng.uniform(1.4, 2.6))
        return Cube(cube.middle, cube.sides * stretched(rng))


def outlined(body: Body, part: Part) -> tuple[np.ndarray, np.ndarray]:
    """An object's own crop (boolean, with a voxel around it where there is one), and where it starts (3,)."""
    start = np.maximum(part.low.astype(int) - 1, 0)
    stop = np.minimum(part.high.astype(int) + 1, body.numbers.shape)
    return start, body.numbers[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] == part.number


def stretched(rng: np.random.Generator) -> np.ndarray:
    """(3,) factors of the sides, in half of the views."""
    return np.exp(rng.uniform(-0.15, 0.15, 3)) if rng.random() < 0.5 else np.ones(3)


def turned(parts: Tensor, axis: int, turn_p: float, rng: np.random.Generator) -> tuple[Tensor, int]:
    """Views (n, S, S, S) turned a little, or by a symmetry of the cube; and where `axis` then lies."""
    if rng.random() < turn_p:
        parts = tilted(parts, rng)
    for flipped in range(3):
        if rng.random() < (0.5 if flipped == 2 else 0.25):
            parts = parts.flip(1 + flipped)
    if rng.random() < 0.4:
        order = [int(i) for i in rng.permutation(3)]
        parts, axis = parts.permute(0, *(1 + i for i in order)), order.index(axis)
    return parts.contiguous(), axis


def tilted(parts: Tensor, rng: np.random.Generator) -> Tensor:
    """Views (n, S, S, S) turned by up to 25 degrees around their middle."""
    axis, angle = rng.standard_normal(3), rng.uniform(-0.45, 0.45)
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    matrix = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    affine = torch.from_numpy(np.column_stack([matrix, np.zeros(3)]).astype(np.float32))
    grid = F.affine_grid(affine[None], [1, 1, *parts.shape[1:]], align_corners=False)
    return F.grid_sample(parts[None], grid, align_corners=False)[0]


def said(target: Tensor, kind: int, axis: int, first: bool, rng: np.random.Generator) -> dict[str, Tensor]:
    """What is known of the object (S, S, S) at first."""
    size = len(target)
    hints = {
        "box": torch.zeros(6),
        "points": torch.zeros(POINTS, 3),
        "labels": torch.full((POINTS,), -1),
        "known": torch.zeros(1, size, size, size),
        "earlier": torch.zeros(1, size, size, size),
    }
    corrected = rng.random() < (0.15 if kind == BOX else 0.3) and not first
    if kind == BOX:
        hints["box"] = torch.from_numpy(jittered(box_of(target), rng).astype(np.float32))
    if kind == SECTIONS:
        sections = outlines(target, axis, first, rng)
        hints["known"][0] = known_layers({layer: d > 0 for layer, d in sections.items()}, axis, size)
        hints["earlier"][0] = shaped(sections, axis, size)
    if corrected:
        hints["earlier"][0] = disturbed(target, rng)
    if kind == CLICKS or (corrected and rng.random() < 0.6):
        earlier = hints["earlier"][0] if corrected else None
        for i in range(int(rng.integers(1, POINTS)) if kind == CLICKS else 1):
            click(hints, i, target, earlier if i or kind != CLICKS else None, rng)
    return hints


def box_of(target: Tensor) -> np.ndarray:
    """(6,) the object's box in cell edges; a cell that it fills in part is entered as far."""
    low, high = np.zeros(3), np.zeros(3)
    for axis in range(3):
        most = target.amax([i for i in range(3) if i != axis]).numpy()
        filled = np.flatnonzero(most > 0.1)
        low[axis], high[axis] = filled[0] + 1 - most[filled[0]], filled[-1] + most[filled[-1]]
    return np.concatenate([low, np.maximum(high, low + 1)])


def jittered(box: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A box (6,) as people draw it: often exact, sometimes a little off, seldom sloppy."""
    draw = rng.random()
    reach = SLOPPY if draw < 0.15 else NUDGE if draw < 0.55 else 0.0
    return box + rng.uniform(-1, 1, 6) * reach * np.tile(box[3:] - box[:3], 2)


def outlines(target: Tensor, axis: int, first: bool, rng: np.random.Generator) -> dict[int, np.ndarray]:
    """Signed distances (S, S) of one to five sections, a layer thick or several, as a picture model outlines them."""
    size, filled = len(target), np.flatnonzero(_filled(target, axis))
    begin, end = (int(filled[0]), int(filled[-1])) if len(filled) else (size // 2, size // 2)
    count = 1 if first or rng.random() < 0.3 else int(rng.integers(2, 6))
    if first:
        places = [size / 2 - 0.5 + rng.uniform(-0.5, 0.5)]
    elif count == 1:
        places = [begin + (end - begin) * float(np.clip(rng.normal(0.5, 0.2), 0.05, 0.95))]
    else:
        margins = (end - begin) * rng.uniform(0, 0.5 / count, 2)
        places = list(np.linspace(begin + margins[0], end - margins[1], count) + rng.uniform(-0.5, 0.5, count))
    thick, found = int(rng.choice([1, 1, 1, 2, 3])), {}
    for place in places:
        middle = int(np.clip(round(place), 0, size - 1))
        distance = wavering(signed_distance(target.select(axis, middle).numpy() > 0.5), rng)
        for layer in range(max(0, middle - (thick - 1) // 2), min(size, middle + thick // 2 + 1)):
            found[layer] = distance
    return found


def _filled(target: Tensor, axis: int) -> np.ndarray:
    """(S,) whether the object is on each layer along an axis."""
    return np.asarray((target > 0.5).numpy().any(tuple(i for i in range(3) if i != axis)))


def wavering(distance: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Signed distances of an outline that errs: by up to a tenth of the section's width, smoothly."""
    width = float(np.sqrt((distance > 0).sum()))
    noise = gaussian_filter(rng.standard_normal(distance.shape).astype(np.float32), float(rng.uniform(1.5, 4)))
    return distance + noise / (noise.std() + 1e-6) * rng.uniform(0, 0.07) * width + rng.normal(0, 0.03) * width


def disturbed(target: Tensor, rng: np.random.Generator) -> Tensor:
    """Logits (S, S, S) as an earlier answer may have had them: smoother, shifted, wrong in places, cut off by a view's end."""
    wide = int(rng.choice([3, 5, 7]))
    soft = F.avg_pool3d(target[None, None], wide, 1, wide // 2)
    noise = torch.from_numpy(rng.standard_normal((1, 1, 6, 6, 6), np.float32))
    soft = soft + float(rng.uniform(0, 0.3)) * F.interpolate(noise, soft.shape[2:], mode="trilinear")
    shift = [int(i) for i in rng.integers(-2, 3, 3)]
    logits = (float(rng.uniform(6, 20)) * (soft[0, 0] - float(rng.uniform(0.3, 0.7)))).roll(shift, (0, 1, 2))
    if rng.random() < 0.3:
        filled, axis = np.argwhere(target.numpy() > 0.5), int(rng.integers(3))
        cut = int(np.quantile(filled[:, axis], rng.uniform(0.6, 0.95)))
        logits.narrow(axis, cut, len(target) - cut).fill_(-CERTAIN)
    return logits.clamp(-CERTAIN, CERTAIN)


def click(hints: dict[str, Tensor], i: int, target: Tensor, earlier: Tensor | None, rng: np.random.Generator) -> None:
    """Point i: where the earlier mask is wrong; without one, on the object."""
    wanted = target > 0.5
    region = wanted if earlier is None else (earlier > 0) != wanted
    if i and earlier is None and rng.random() < 0.4:  # near the object, beside it
        region = (F.max_pool3d(wanted[None].float(), 9, 1, 4)[0] > 0) & ~wanted
    places = region.nonzero()
    if len(places):
        z, y, x = (int(v) for v in places[rng.integers(len(places))])
        hints["points"][i] = torch.tensor([z + 0.5, y + 0.5, x + 0.5])
        hints["labels"][i] = int(wanted[z, y, x])


def retoned(view: Tensor, rng: np.random.Generator) -> Tensor:
    """The view (S, S, S) of 0..255 as it might have looked otherwise: tones, contrast, light, noise, sharpness, thick slices."""
    x = toned(view, rng) if rng.random() < 0.35 else view
    if rng.random() < 0.15:
        x = 255 - x
    if rng.random() < 0.5:
        x = (x - x.mean()) * float(rng.uniform(0.6, 1.5)) + x.mean() + float(rng.uniform(-40, 40))
    if rng.random() < 0.2:
        light = torch.from_numpy(rng.uniform(0.6, 1.4, (1, 1, 3, 3, 3)).astype(np.float32))
        x = x * F.interpolate(light, x.shape, mode="trilinear", align_corners=True)[0, 0]
    if rng.random() < 0.15:
        x = F.avg_pool3d(x[None], 3, 1, 1, count_include_pad=False)[0]
    if rng.random() < 0.15:  # slices thicker than the view's cells
        thin = list(x.shape)
        thin[int(rng.integers(3))] = int(rng.integers(len(x) // 4, len(x)))
        small = F.interpolate(x[None, None], thin, mode="area")
        x = F.interpolate(small, x.shape, mode="trilinear")[0, 0]
    if rng.random() < 0.3:
        coarse = 1 if rng.random() < 0.7 else 2
        noise = torch.from_numpy(rng.standard_normal([n // coarse for n in x.shape], np.float32))[None, None]
        x = x + float(rng.uniform(1, 25)) * F.interpolate(noise, x.shape)[0, 0]
    return x.clamp(0, 255)


def teach(model: nn.Module, batch: dict[str, Tensor], computing: Callable[[], AbstractContextManager]) -> Tensor:
    """The mean loss of the answers to a batch of exercises."""
    hints = Hints(batch["box"], batch["points"], batch["labels"], batch["known"], batch["earlier"])
    with computing():
        answers = model(batch["image"], hints)
    return loss(Answers(*answers), batch["target"])


def loss(answers: Answers, target: Tensor) -> Tensor:
    """2 BCE + Dice of the masks (B, 1, S, S, S), and the squared error of their predicted IoU."""
    logits = answers.logits.float()
    bce = F.binary_cross_entropy_with_logits(logits, target)
    chance, axes = logits.sigmoid(), (1, 2, 3, 4)
    dice = 1 - (2 * (chance * target).sum(axes) + 1) / ((chance + target).sum(axes) + 1)
    found, wanted = logits.detach() > 0, target > 0.5
    real = (found & wanted).sum(axes).float() / (found | wanted).sum(axes).clamp(min=1)
    return 2 * bce + dice.mean() + F.mse_loss(answers.iou[:, 0].float(), real)
