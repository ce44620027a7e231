"""A promptable model that looks where the user points: a view around each prompt, at the prompt's own scale.

    a box         one view around it
    a mask        one view around it; an earlier answer is carried into the new view
    clicks alone  first a ladder of views, from the whole picture down by halves (ladder.py); what is most promising there is
                  looked at again as if a box had been drawn around it, and the mask that the model then trusts most is meant

Views of many prompts are answered together. A state is x, y, side of its view and the logits in it: (3 + h * w,).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.errors import InputError, WeightsError
from ..core.greys import USUAL, GreyRule
from ..models.blocks import fold_norms
from ..models.catalog import build, make_config
from ..models.checkpoints import LEARNED
from ..models.contract import Answers, Prompts
from ..models.mini import MASK_STRIDE, STRIDE, Mini
from ..models.weights import file_hash, load_into, load_state, read_metadata
from .embeddings import EmbeddingCache
from .glances import Mips, around, box_of, carry, normalised, put, take
from .ladder import agreement, rungs
from .looks import Asked, Proposals
from .propagation import Carry

IN_THE_BOX = "vesalius_mini"  # what answers prompts where no model is named
VIEWS_KEY = "vesalius_views"  # of a weights file's metadata: JSON with name, model, config, views, percentiles, sources
BATCH = 32  # views answered together
BELIEF = 10.0  # |logit| of a mask that the user gives
MEANINGS = 3  # masks that a click is answered with
CHECKED = 6  # of the masks that a click may mean, how many are looked at again
ALIKE = 0.8  # IoU of two boxes beyond which both mean the same


@dataclass(frozen=True)
class GlanceOptions:
    """How to look. Weights say what suits them.

    spread    the view's side over the longer side of what it looks at
    half_px   views of up to so many pixels of the picture around a box or mask are shown at half the size, which at 64 loses
              no pixel: a quarter of the time; 0: none are
    large     the side at which views of more pixels than the weights' own size are shown, around a box or mask: finer outlines
              of what is large; 0: at that size, as all others
    mirrored  the mean with the mirrored view, twice the time; the weights in the package gain up to 0.002 Dice
    """

    spread: float = 1.5
    half_px: float = 64.0
    large: int = 0
    mirrored: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.spread <= 6:
            raise InputError(f"a view of {self.spread:g} times the object was never trained", fix="give 1.1 to 2.4")
        if self.large % STRIDE or self.large < 0:
            raise InputError(f"there are no views of {self.large} pixels", fix=f"give a multiple of {STRIDE}, or 0")


@dataclass(frozen=True, eq=False)
class GlancePrompter:
    """A Mini with the views that belong to its weights; with `bf16` they are in bfloat16."""

    name: str
    model: Mini
    identity: str
    options: GlanceOptions = GlanceOptions()
    device: torch.device = torch.device("cpu")  # noqa: RUF009
    bf16: bool = False
    greys: GreyRule = USUAL
    learned: tuple[str, ...] = LEARNED  # it was trained so (training/interactive.py)
    refines: bool = True
    rates: bool = True
    stable: float = 0.8  # its outlines are softer than SAM's: at 0.95 hardly a mask is left
    carries: Carry = "mask"  # it fills boxes, also where the object has gone: docs/models/vesalius_mini.md

    def look(self, picture: np.ndarray, cache: EmbeddingCache | None = None) -> GlanceLook:
        """A picture (H, W, 3) uint8; nothing is worth keeping before it is known where to look."""
        return GlanceLook(self, picture)

    def words(self, text: str) -> Tensor:
        """Raises InputError: the model knows no words."""
        raise InputError(f"'{self.name}' knows no words", fix="give points or a box, or weights that declare text")


class GlanceLook:
    """A picture (H, W, 3) uint8 that is looked at in views."""

    taps = None  # the states of one picture lie in views of their own

    def __init__(self, prompter: GlancePrompter, picture: np.ndarray):
        self.prompter, self.options = prompter, prompter.options
        self.mips, self.size = Mips(picture), (picture.shape[0], picture.shape[1])
        self.side = prompter.model.frame_size
        self.large = max(self.side, self.options.large)
        self.cells = self.large // MASK_STRIDE  # of a state, along each side

    def ask(self, asked: Asked, *, multimask: bool) -> Proposals:
        """P prompts -> M states each. Raises InputError for text."""
        if asked.text is not None:
            raise InputError(f"'{self.prompter.name}' knows no words", fix="give points, a box or a mask")
        if asked.boxes is None and asked.states is None:
            return self._searched(asked, MEANINGS if multimask else 1)
        glances, earlier = np.stack([self._glance(asked, i) for i in range(_count(asked))]), None
        if asked.states is not None:
            earlier = torch.stack([self._carried(state, at) for state, at in zip(asked.states, glances, strict=True)])
        answers = self._answers(asked, glances, earlier, multimask)
        return Proposals(answers.iou, packed(answers.logits, glances))

    def full(self, state: Tensor) -> Tensor:
        """States (n, 3 + h * w) -> logits (n, H, W)."""
        with torch.inference_mode():
            found = [put(*self._unpacked(one), self.size) for one in state]
            return found[0][None] if len(found) == 1 else torch.stack(found)

    def believed(self, mask: np.ndarray) -> Tensor:
        """(1, 3 + h * w): a mask (H, W), in a view around it."""
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = (0, 0, *self.size[::-1]) if not len(rows) else (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        glance = around([box], self.options.spread)
        share = take(Mips((255 * mask).astype(np.uint8)[..., None]), glance, self.cells)[0] / 255
        return packed((2 * share - 1) * BELIEF, glance)[:, 0]

    def _glance(self, asked: Asked, i: int) -> np.ndarray:
        """(3,) the view around prompt i's box or earlier mask, and its points."""
        box = None if asked.boxes is None else np.asarray(asked.boxes[i], np.float64)
        if box is None and asked.states is not None:
            found = box_of(*self._unpacked(asked.states[i]))
            box = np.array(found if found is not None else (0, 0, *self.size[::-1]))
        assert box is not None
        view = around([box], self.options.spread)[0]
        points = _points(asked, i)
        if len(points) and np.abs(points - view[:2]).max() > view[2] / 2:
            low, high = np.minimum(box[:2], points.min(0)), np.maximum(box[2:], points.max(0))
            view = around([[*low, *high]], self.options.spread)[0]
        return view

    def _searched(self, asked: Asked, most: int) -> Proposals:
        """What clicks alone mean: `most` masks each, the likeliest first."""
        assert asked.points is not None and asked.labels is not None
        points, labels = np.asarray(asked.points, np.float64), np.asarray(asked.labels)
        found = [self._meant(Asked(points[i : i + 1], labels[i : i + 1]), most) for i in range(len(points))]
        return Proposals(*(torch.stack(part) for part in zip(*found, strict=True)))

    def _meant(self, clicks: Asked, most: int) -> tuple[Tensor, Tensor]:
        """Predicted IoU (M,) and states (M, 3 + h * w) of what the clicks of one prompt may mean.

        Of the masks on all rungs the most promising are looked at again, as if the user had drawn the box around each.
        """
        views = rungs(self.size, _points(clicks, 0), _points(clicks, 0, label=1))
        answers = self._answers(_repeated(clicks, len(views)), views, None, True, own_size=True)
        promise = answers.iou + agreement(answers.logits, views)
        masks = answers.iou.shape[1]
        boxes: list[np.ndarray] = []
        for i in promise.flatten().argsort(descending=True).tolist():
            box = box_of(answers.logits[i // masks, i % masks], views[i // masks])
            if box is not None and len(boxes) < CHECKED:
                boxes.append(np.clip(box, 0, (*self.size[::-1], *self.size[::-1])))
        if not boxes:
            boxes.append(np.array((0.0, 0.0, *self.size[::-1])))
        drawn = replace(_repeated(clicks, len(boxes)), boxes=np.stack(boxes))
        glances = np.stack([self._glance(drawn, i) for i in range(len(boxes))])
        checked = self._answers(drawn, glances, None, False)
        iou, held = checked.iou[:, 0], self._held(checked.logits[:, 0], glances, _points(clicks, 0, label=1))
        iou = torch.where(held, iou, 0) if held.any() else iou  # without the click on it, it is not what was meant
        chosen = _unlike(drawn.boxes, iou, most)
        return iou[chosen], packed(checked.logits, glances)[chosen, 0]

    def _held(self, logits: Tensor, glances: np.ndarray, points: np.ndarray) -> Tensor:
        """(n,) whether each of the masks (n, h, w) holds all `points` (N, 2), in pixel edges."""
        cells = (points[None] - glances[:, None, :2]) / glances[:, None, 2:] + 0.5
        x, y = torch.from_numpy((cells * self.cells).astype(int).clip(0, self.cells - 1)).unbind(-1)
        return (logits[torch.arange(len(logits))[:, None], y, x] > 0).all(1)

    def _carried(self, state: Tensor, glance: np.ndarray) -> Tensor:
        logits, source = self._unpacked(state)
        return carry(logits, source, glance)

    def _unpacked(self, state: Tensor) -> tuple[Tensor, list[float]]:
        """Logits (h, w) and the view x, y, side of a state."""
        return state[3:].reshape(self.cells, self.cells).cpu(), state[:3].tolist()

    def _answers(
        self, asked: Asked, glances: np.ndarray, earlier: Tensor | None, multimask: bool, own_size: bool = False
    ) -> Answers:
        """Each prompt in its own view: logits (P, M, h, w) and IoU (P, M), float32 on the CPU."""
        sides = np.full(len(glances), self.side)
        if not own_size:
            sides[glances[:, 2] > self.side] = self.large
            sides[glances[:, 2] <= self.options.half_px] = self.side // 2
        sized = [(np.flatnonzero(sides == side), side) for side in np.unique(sides)[::-1].tolist()]
        parts = [(index[i : i + BATCH], side) for index, side in sized for i in range(0, len(index), BATCH)]
        found = [self._answered(asked, glances, earlier, multimask, index, side) for index, side in parts]
        order = torch.from_numpy(np.concatenate([index for index, _ in parts])).argsort()
        return Answers(*(torch.cat(part)[order] for part in zip(*found, strict=True)))

    def _answered(
        self, asked: Asked, glances: np.ndarray, earlier: Tensor | None, multimask: bool, index: np.ndarray, side: int
    ) -> Answers:
        """The prompts numbered `index` in views of `side`; the logits on as many cells as in views of full size."""
        views = normalised(*take(self.mips, glances[index], side))
        prompts = self._prompts(asked, glances, index, earlier, side)
        answers = self._computed(views, prompts, multimask)
        if self.options.mirrored:
            turned = self._computed(views.flip(3), _mirrored(prompts, side), multimask)
            answers = Answers((answers.logits + turned.logits.flip(3)) / 2, (answers.iou + turned.iou) / 2)
        if side == self.large:
            return answers
        return Answers(F.interpolate(answers.logits, (self.cells, self.cells), mode="bilinear"), answers.iou)

    def _computed(self, views: Tensor, prompts: Prompts, multimask: bool) -> Answers:
        kind = torch.bfloat16 if self.prompter.bf16 else torch.float32
        with torch.inference_mode():
            views = views.to(self.prompter.device, kind).contiguous(memory_format=torch.channels_last)
            answers = self.prompter.model(views, prompts, multimask)
        return Answers(answers.logits.float().cpu(), answers.iou.float().cpu())

    def _prompts(self, asked: Asked, glances: np.ndarray, index: np.ndarray, earlier: Tensor | None, side: int) -> Prompts:
        """The prompts on their views' own pixels."""
        place, at = self.prompter.device, glances[index]
        scale = side / at[:, 2]
        corner = at[:, :2] - at[:, 2:] / 2

        def tensor(values: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(values)).float().to(place)

        points = labels = boxes = masks = None
        if asked.points is not None and asked.labels is not None:
            middles = np.asarray(asked.points, np.float64)[index] + 0.5  # in pixel edges
            points = tensor((middles - corner[:, None]) * scale[:, None, None] - 0.5)
            labels = torch.from_numpy(np.asarray(asked.labels)[index]).to(place)
        if asked.boxes is not None:
            boxes = tensor((np.asarray(asked.boxes, np.float64)[index] - np.tile(corner, 2)) * scale[:, None])
        if earlier is not None:
            masks = F.interpolate(earlier[torch.from_numpy(index), None], (side // MASK_STRIDE,) * 2, mode="area").to(place)
        return Prompts(points, labels, boxes, masks)


def find_views(what: str | Path) -> Path | None:
    """The weights of `what`: our own in the package by their name, or a file; None for any other name.

    Raises WeightsError where our own are not in this installation.
    """
    if str(what) != IN_THE_BOX:
        return Path(what) if Path(what).is_file() else None
    path = Path(str(files("vesalius") / "weights" / f"{IN_THE_BOX}.safetensors"))
    if not path.is_file():
        fix = f"name others (vesalius models download sam_vit_b), or train it: vesalius train DATA -o RUN --model {IN_THE_BOX}"
        raise WeightsError(f"this installation has no weights of '{IN_THE_BOX}'", file=path, fix=fix)
    return path


def read_views(path: Path) -> dict[str, Any] | None:
    """What a weights file says of the views that belong to it; None where it says nothing."""
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    metadata = read_metadata(path)
    return json.loads(metadata[VIEWS_KEY]) if VIEWS_KEY in metadata else None


def load_glancer(path: Path, entry: dict[str, Any], device: torch.device, bf16: bool) -> GlancePrompter:
    """The model in a file, as its entry says. Raises WeightsError where they do not fit."""
    model: Any = build(entry["model"], entry["config"])
    load_into(model, load_state(path)[0], file=path)
    kind = torch.bfloat16 if bf16 else torch.float32
    settled: Any = fold_norms(model.eval().requires_grad_(False))
    settled = settled.to(device, kind).to(memory_format=torch.channels_last)
    options, greys = make_config(GlanceOptions, entry["views"]), GreyRule(*entry["percentiles"])
    return GlancePrompter(entry["name"], settled, file_hash(path), options, device, bf16, greys)


def _mirrored(prompts: Prompts, side: int) -> Prompts:
    """The prompts in the mirrored view of that side."""
    points, boxes = prompts.points, prompts.boxes
    if points is not None:
        points = torch.stack([side - 1 - points[..., 0], points[..., 1]], -1)
    if boxes is not None:
        x0, y0, x1, y1 = boxes.unbind(1)
        boxes = torch.stack([side - x1, y0, side - x0, y1], 1)
    return Prompts(points, prompts.labels, boxes, None if prompts.masks is None else prompts.masks.flip(3))


def packed(logits: Tensor, glances: np.ndarray) -> Tensor:
    """Logits (P, M, h, w) and their views (P, 3) -> states (P, M, 3 + h * w)."""
    places = torch.from_numpy(glances).float()[:, None].expand(-1, logits.shape[1], -1)
    return torch.cat([places, logits.flatten(2)], 2)


def _repeated(clicks: Asked, count: int) -> Asked:
    """The clicks of one prompt, that many times."""
    assert clicks.points is not None and clicks.labels is not None
    return Asked(np.repeat(clicks.points, count, 0), np.repeat(clicks.labels, count, 0))


def _unlike(boxes: np.ndarray | None, iou: Tensor, most: int) -> list[int]:
    """The `most` of largest IoU whose boxes (n, 4) differ; where those are fewer, then the others, and the last again."""
    assert boxes is not None
    order, kept = iou.argsort(descending=True).tolist(), list[int]()
    for i in order:
        low, high = np.maximum(boxes[i, :2], boxes[kept, :2]), np.minimum(boxes[i, 2:], boxes[kept, 2:])
        both = np.clip(high - low, 0, None).prod(1)
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        if (both <= ALIKE * (areas[i] + areas[kept] - both)).all():
            kept.append(i)
    kept += [i for i in order if i not in kept]
    return (kept + [kept[-1]] * most)[:most]


def _count(asked: Asked) -> int:
    return len(next(part for part in (asked.boxes, asked.points, asked.states) if part is not None))


def _points(asked: Asked, i: int, label: int | None = None) -> np.ndarray:
    """(n, 2) the points of prompt i, in pixel edges; those of one label, or all that are points."""
    if asked.points is None or asked.labels is None:
        return np.zeros((0, 2))
    labels = np.asarray(asked.labels[i])
    return np.asarray(asked.points[i], np.float64)[labels == label if label is not None else labels >= 0] + 0.5
