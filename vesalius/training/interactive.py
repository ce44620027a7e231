"""SAM's interactive training, on views: the model answers, is told where it is wrong, and answers again.

    round 1     a box, a click on the object, an earlier mask, or a box and a mask
    each next   a click from the error region, or none; the mask before is shown in most cases

Loss    2 BCE + Dice of the one mask, and of the best of the three; squared error of the predicted IoU of each
Paper   Kirillov et al. 2023, arXiv:2304.02643, section 3 and appendix A, where focal loss stands for BCE
Draws   from torch's generator, which `Trainer.advance` seeds by (seed, step)
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..models.contract import Answers, Prompts
from ..models.mini import MASK_STRIDE
from .exercises import BOX, BOX_AND_MASK, CLICK

SHOWN_P, SILENT_P, FIRM_P = 0.7, 0.15, 0.15  # the mask before is shown; no new click comes; the mask is shown as a user's, 0 or 1
NUDGE, SLOPPY = 0.02, 0.1  # a box's sides off by up to this share of them, in 40 and in 15 % of the boxes
UNCLEAR = 0.4  # what the one mask counts where a lone click may mean several things
THREE = 0.3  # what the three count where it is clear what is meant


@dataclass
class Said:
    """All that has been said about each of B objects so far. Zeros are no box; labels of -1 no point; masks of 0 no mask."""

    boxes: Tensor
    points: Tensor
    labels: Tensor
    masks: Tensor

    def prompts(self) -> Prompts:
        return Prompts(self.points, self.labels, self.boxes, self.masks)

    def click(self, points: Tensor, labels: Tensor) -> None:
        self.points, self.labels = torch.cat([self.points, points[:, None]], 1), torch.cat([self.labels, labels[:, None]], 1)


def teach(model: nn.Module, batch: dict[str, Tensor], computing: Callable[[], AbstractContextManager], rounds: int = 3) -> Tensor:
    """The mean loss over 1 to `rounds` answers to a batch of exercises, those of each size together."""
    count, sides = 1 + int(torch.randint(rounds, ())), batch["side"]
    losses = [(sides == side).sum() * taught(model, shown(batch, side), computing, count) for side in sides.unique().tolist()]
    return torch.stack(losses).sum() / len(sides)


def taught(model: nn.Module, batch: dict[str, Tensor], computing: Callable[[], AbstractContextManager], count: int) -> Tensor:
    """The mean loss over `count` answers to exercises of one size.

    Attention is spelled out: backwards, the fused kernel takes twice as long on the CPU where tokens are few.
    """
    target, kind = batch["target"], batch["kind"]
    with computing(), sdpa_kernel(SDPBackend.MATH):
        features = model.encode(batch["image"].contiguous(memory_format=torch.channels_last))
    said, lone = first_said(batch), kind == CLICK
    total = target.new_zeros(())
    for turn in range(count):
        with computing(), sdpa_kernel(SDPBackend.MATH):
            answers = model.answer(features, said.prompts())
        total = total + loss(answers, target, lone)
        if turn + 1 < count:
            lone = say_more(said, answers, target, lone)
    return total / count


def shown(batch: dict[str, Tensor], side: int) -> dict[str, Tensor]:
    """The exercises whose views are `side` wide, without the empty canvas around them."""
    part = {name: values[batch["side"] == side] for name, values in batch.items()}
    for name, cells in (("image", side), ("target", side // MASK_STRIDE), ("earlier", side // MASK_STRIDE)):
        part[name] = part[name][..., :cells, :cells]
    return part


def loss(answers: Answers, target: Tensor, lone: Tensor) -> Tensor:
    """Of logits and IoU (B, 4, ...) against the object's share (B, 1, h, w); `lone` (B,) where only one click was given."""
    logits, truth = answers.logits.float(), target.expand(-1, answers.logits.shape[1], -1, -1)
    bce = F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean((2, 3))
    chance = logits.sigmoid()
    dice = 1 - (2 * (chance * truth).sum((2, 3)) + 1) / ((chance + truth).sum((2, 3)) + 1)
    each = 2 * bce + dice  # (B, 4)
    one, best = each[:, 0], each[:, 1:].amin(1)
    masks = torch.where(lone, UNCLEAR * one + best, one + THREE * best).mean()
    return masks + F.mse_loss(answers.iou.float(), real_iou(logits, truth))


def real_iou(logits: Tensor, truth: Tensor) -> Tensor:
    """(B, M) of what is above 0 with what is more than half the object."""
    found, wanted = logits.detach() > 0, truth > 0.5
    return (found & wanted).sum((2, 3)).float() / (found | wanted).sum((2, 3)).clamp(min=1)


def first_said(batch: dict[str, Tensor]) -> Said:
    """What is said first, by each exercise's kind."""
    target, kind, boxes = batch["target"], batch["kind"], jittered(batch["box"])
    with_box = (kind == BOX) | (kind == BOX_AND_MASK)
    inside = (target[:, 0] > 0.5).float()
    points, found = spot(inside)
    clicked = (kind == CLICK) & found
    labels = torch.where(clicked, 1, -1)
    return Said(boxes * with_box[:, None], points[:, None], labels[:, None], batch["earlier"].clone())


def say_more(said: Said, answers: Answers, target: Tensor, lone: Tensor) -> Tensor:
    """Add a click where the answer is wrong, and show the answer; returns (B,) where still only one click was given."""
    with torch.no_grad():
        logits = answers.logits.detach().float()
        best = torch.where(lone, 1 + answers.iou[:, 1:].argmax(1), 0)
        given = logits[torch.arange(len(logits)), best][:, None]  # (B, 1, h, w)
        wanted = target > 0.5
        wrong = ((given > 0) != wanted)[:, 0].float()
        points, found = spot(wrong)
        silent = torch.rand(len(found), device=found.device) < SILENT_P
        column, row = ((points - 0.5) / MASK_STRIDE).round().long().unbind(1)
        on = wanted[torch.arange(len(wanted)), 0, row, column]
        said.click(points, torch.where(found & ~silent, on.long(), -1))
        firm = torch.rand(len(found), device=found.device) < FIRM_P
        shown = torch.rand(len(found), device=found.device) < SHOWN_P
        mask = torch.where(firm[:, None, None, None], torch.where(given > 0, 10.0, -10.0), given)
        said.masks = torch.where(shown[:, None, None, None], mask, torch.zeros_like(mask))
        return lone & ~shown & (silent | ~found)


def spot(region: Tensor) -> tuple[Tensor, Tensor]:
    """A click (B, 2) in view pixels within a region (B, h, w) of 0 and 1, and (B,) whether there is one.

    Half of the clicks lie anywhere in it, half where it is widest, which is what people aim at.
    """
    inner = region[:, None]
    for _ in range(3):
        inner = F.avg_pool2d(inner, 7, 1, 3)
    chance = torch.rand_like(region)
    aimed = torch.rand(len(region), 1, 1, device=region.device) < 0.5
    score = (torch.where(aimed, inner[:, 0] + 0.02 * chance, chance) + 1e-6) * region
    place = score.flatten(1).argmax(1)
    row, column = place // region.shape[2], place % region.shape[2]
    middle = torch.stack([column, row], 1).float() * MASK_STRIDE + (MASK_STRIDE - 1) / 2
    return middle, region.flatten(1).any(1)


def jittered(boxes: Tensor) -> Tensor:
    """Boxes (B, 4) as people draw them: many exact, some a little off, few sloppy."""
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    draw = torch.rand(len(boxes), 1, device=boxes.device)
    reach = torch.where(draw < 0.15, SLOPPY, torch.where(draw < 0.55, NUDGE, 0.0))
    return boxes + (2 * torch.rand_like(boxes) - 1) * reach * sides
