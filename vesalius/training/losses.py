"""Losses by name: what the catalog entry or the recipe names, this file maps.

    loss(scores (B, K, *S) float, target, weight=None) -> scalar        of one map: LOSSES
    loss(outputs, target, weight=None) -> scalar                        of all that one kind of model answers: OWN

`find_loss` gives the second form for either: a map's loss becomes deep supervision over main and auxiliary maps.
Class targets are (B, *S) integers with IGNORED where nobody knows; object targets are (B, T, *S) floats.
With several processes every loss is that of the global batch, and so is its gradient once DDP has averaged it: the
sums that a ratio needs are exchanged (`together`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import InputError, unknown_name
from ..models.contract import Outputs
from .processes import together

IGNORED = -1
Loss = Callable[..., Tensor]
FOCAL_WEIGHT, NO_OBJECT = 20.0, 0.1  # Zhang et al. 2022, arXiv:2210.05844; what the released code has


def mean_over(values: Tensor, kept: Tensor) -> Tensor:
    """Mean of `values` weighted by `kept`, over the global batch."""
    return together((values * kept).sum()) / together(kept.sum().to(values.dtype)).clamp(min=1)


def soft_dice(
    found: Tensor,
    target: Tensor,
    *,
    kept: Tensor | None = None,
    batch: bool = True,
    smooth: float = 1e-5,
    smooth_top: float | None = None,
) -> Tensor:
    """1 - soft Dice, mean over channels: (2 tp + s) / (2 tp + fp + fn + s), nnU-Net's form.

    found, target (B, K, *S) in 0..1; kept (B, 1, *S) leaves voxels out. `batch` sums over the batch before the ratio
    (steadier where a structure is missing in some samples), else each sample has its own ratio. `smooth_top` is what is
    added above the line, where that is not `smooth`.
    """
    if kept is not None:
        found, target = found * kept, target * kept
    axes = tuple(range(2, found.ndim))
    overlap, total = (found * target).sum(axes), (found + target).sum(axes)  # (B, K)
    if batch:
        overlap, total = together(overlap.sum(0)), together(total.sum(0))
    top = smooth if smooth_top is None else smooth_top
    return 1 - ((2 * overlap + top) / (total + smooth + 1e-8)).mean()


def one_hot(target: Tensor, classes: int) -> Tensor:
    """(B, *S) integers -> (B, K, *S) float32; IGNORED becomes zero everywhere."""
    values = torch.arange(classes, device=target.device).view(1, -1, *[1] * (target.ndim - 1))
    return (target[:, None] == values).float()


def dice_ce(scores: Tensor, target: Tensor, weight: Tensor | None = None, *, batch: bool = True) -> Tensor:
    """Cross-entropy + soft Dice of the foreground classes (Isensee et al. 2021)."""
    scores, kept = scores.float(), target != IGNORED
    entropy = F.cross_entropy(scores, target, ignore_index=IGNORED, reduction="none")
    truth = one_hot(target, scores.shape[1])
    return mean_over(entropy, kept) + soft_dice(scores.softmax(1)[:, 1:], truth[:, 1:], kept=kept[:, None], batch=batch)


def dice(scores: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Soft Dice of all classes, the background too, sample by sample: 2 (tp + s) / (2 tp + fp + fn + s), s = 0.01.

    What the Attention U-Net was trained with (arXiv:1804.03999, section 3; the smoothing as in its code).
    """
    kept = (target != IGNORED)[:, None]
    truth = one_hot(target, scores.shape[1])
    return soft_dice(scores.float().softmax(1), truth, kept=kept, batch=False, smooth=0.01, smooth_top=0.02)


def squared_dice(found: Tensor, target: Tensor, *, kept: Tensor, smooth: float = 1e-5) -> Tensor:
    """1 - soft Dice with squared sums below: (2 sum p g + s) / (sum p^2 + sum g^2 + s), over the batch, mean over channels.

    found, target (B, K, *S) in 0..1; kept (B, 1, *S). TransUNet's form (Milletari et al. 2016, arXiv:1606.04797, eq. 2).
    """
    axes = (0, *range(2, found.ndim))
    found, target = found * kept, target * kept
    overlap, total = together((found * target).sum(axes)), together((found.square() + target.square()).sum(axes))
    return 1 - ((2 * overlap + smooth) / (total + smooth)).mean()


def squared_dice_ce(scores: Tensor, target: Tensor, weight: Tensor | None = None, *, dice: float = 0.5) -> Tensor:
    """(1 - dice) x cross-entropy + dice x squared Dice of all classes, the background too (TransUNet 0.5, Swin-Unet 0.6)."""
    scores, kept = scores.float(), target != IGNORED
    entropy = F.cross_entropy(scores, target, ignore_index=IGNORED, reduction="none")
    overlap = squared_dice(scores.softmax(1), one_hot(target, scores.shape[1]), kept=kept[:, None])
    return (1 - dice) * mean_over(entropy, kept) + dice * overlap


def dice_bce(scores: Tensor, target: Tensor, weight: Tensor | None = None, *, batch: bool = True) -> Tensor:
    """Binary cross-entropy + soft Dice on regions: region k is every voxel of label k or later, as Regions paints them.

    target (B, *S) integers, or the regions themselves (B, K, *S) in 0..1.
    """
    scores = scores.float()
    if target.ndim == scores.ndim:
        truth, kept = target.float(), torch.ones_like(scores[:, :1], dtype=torch.bool)
    else:
        levels = torch.arange(1, scores.shape[1] + 1, device=target.device).view(1, -1, *[1] * (target.ndim - 1))
        truth, kept = (target[:, None] >= levels).float(), (target != IGNORED)[:, None]
    entropy = F.binary_cross_entropy_with_logits(scores, truth, reduction="none")
    return mean_over(entropy, kept.expand_as(entropy)) + soft_dice(scores.sigmoid(), truth, kept=kept, batch=batch)


def border_ce(scores: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Cross-entropy weighted by the border map w(x), Ronneberger et al. 2015, eq. 1 and 2; weight (B, *S)."""
    entropy = F.cross_entropy(scores.float(), target, ignore_index=IGNORED, reduction="none")
    return mean_over(entropy * (1 if weight is None else weight), target != IGNORED)


def focal(scores: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Focal loss, gamma 2 (Lin et al. 2017), over softmax classes; MONAI's."""
    from monai.losses import FocalLoss  # 3 s to import: only who asks for it pays

    kept = (target != IGNORED)[:, None]
    values = FocalLoss(gamma=2.0, use_softmax=True, reduction="none")(scores.float(), one_hot(target, scores.shape[1]))
    return mean_over(values, kept.expand_as(values))


def tversky(scores: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Tversky loss with alpha 0.3 for false positives, beta 0.7 for misses (Salehi et al. 2017), per sample; MONAI's."""
    from monai.losses import TverskyLoss

    kept = (target != IGNORED)[:, None]
    found, truth = scores.float().softmax(1)[:, 1:] * kept, one_hot(target, scores.shape[1])[:, 1:]
    return TverskyLoss(alpha=0.3, beta=0.7, include_background=True)(found, truth)


def objects(scores: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Foreground (channel 0): BCE + Dice; every further channel (distances): smooth L1, weighted by 2.

    scores, target (B, T, *S); targets of channel 0 in 0..1. A background pixel weighs a sixth of a foreground one, since
    distances there are read only where the foreground is wrong.
    """
    scores = scores.float()
    inside, truth = scores[:, :1], target[:, :1]
    everywhere = torch.ones_like(truth, dtype=torch.bool)
    found = mean_over(F.binary_cross_entropy_with_logits(inside, truth, reduction="none"), everywhere)
    found = found + soft_dice(inside.sigmoid(), truth, kept=everywhere)
    if scores.shape[1] == 1:
        return found
    apart = F.smooth_l1_loss(scores[:, 1:], target[:, 1:], reduction="none", beta=0.2)
    return found + 2 * mean_over(apart, (truth + 0.2).expand_as(apart))


class Terms(NamedTuple):
    """What SegViT's loss adds up at one stage, weighted."""

    ce: Tensor
    mask: Tensor
    dice: Tensor


def atm(outputs: Outputs, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """SegViT's loss: the terms of every stage, and binary cross-entropy of the boundaries where the model looks for them.

    outputs.auxiliary holds class logits and masks of each stage in turn, then perhaps boundaries (models/segvit.py). Raises
    InputError for what another kind of model answers.
    """
    stages, odd = divmod(len(outputs.auxiliary), 2)
    if not stages or outputs.auxiliary[0].ndim != 3:
        raise InputError("the loss 'atm' teaches SegViT, and this model answers otherwise", fix="take the model's own loss")
    total = target.new_zeros((), dtype=torch.float32)
    for i in range(stages):
        total = total + sum(atm_terms(outputs.auxiliary[2 * i], outputs.auxiliary[2 * i + 1], target))
    return total + boundary_bce(outputs.auxiliary[-1], target) if odd else total


def atm_terms(logits: Tensor, masks: Tensor, target: Tensor, *, unknown_is_outside: bool = False) -> Terms:
    """Zhang et al. 2022: query c answers for class c. logits (B, K, K + 1), masks (B, K, h, w), target (B, H, W).

    Cross-entropy over all queries, an absent class's weighing 0.1; for the classes present in an image, focal loss (alpha 0.25,
    gamma 2; mean over pixels) x 20 and Dice (smooth 1), both summed and divided by how many there are. Masks come up to
    the target's size. Pixels nobody knows are left out; the original takes them as outside of every mask (`unknown_is_outside`).
    """
    classes = logits.shape[1]
    inside = torch.where(target == IGNORED, classes, target).flatten(1)
    present = torch.zeros(len(target), classes + 1, dtype=torch.bool, device=target.device).scatter_(1, inside, True)[:, :classes]
    wanted = torch.where(present, torch.arange(classes, device=target.device), classes)  # (B, K)
    share = torch.where(present, 1.0, NO_OBJECT)
    entropy = F.cross_entropy(logits.float().transpose(1, 2), wanted, reduction="none")
    ce = together((entropy * share).sum()) / together(share.sum())
    image, query = present.nonzero(as_tuple=True)
    pairs = together(present.sum().float()).clamp(min=1)
    if len(image) == 0:
        return Terms(ce, together(0 * masks.float().sum()), together(0 * masks.float().sum()))
    found = F.interpolate(masks[image, query][:, None].float(), target.shape[1:], mode="bilinear", align_corners=False)[:, 0]
    truth = (target[image] == query[:, None, None]).float()  # (pairs, H, W)
    kept = torch.ones_like(truth) if unknown_is_outside else (target[image] != IGNORED).float()
    chance = found.sigmoid()
    miss = chance + truth - 2 * chance * truth  # 1 - p_t
    values = F.binary_cross_entropy_with_logits(found, truth, reduction="none") * miss**2 * (0.75 - 0.5 * truth)
    focal_ = (values * kept).sum((1, 2)) / kept.sum((1, 2))
    overlap, total = (chance * truth * kept).sum((1, 2)), ((chance + truth) * kept).sum((1, 2))
    dice = 1 - (2 * overlap + 1) / (total + 1)
    return Terms(ce, FOCAL_WEIGHT * together(focal_.sum()) / pairs, together(dice.sum()) / pairs)


def boundary_bce(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy of class boundaries (B, 1, h, w): cells of the down-sampled target that have another class beside."""
    small = at_size(target, logits.shape[2:])
    edge = torch.zeros_like(small, dtype=torch.bool)
    for axis in (1, 2):
        count = small.shape[axis] - 1
        first, second = small.narrow(axis, 0, count), small.narrow(axis, 1, count)
        differ = (first != second) & (first != IGNORED) & (second != IGNORED)
        edge.narrow(axis, 0, count).logical_or_(differ)
        edge.narrow(axis, 1, count).logical_or_(differ)
    entropy = F.binary_cross_entropy_with_logits(logits[:, 0].float(), edge.float(), reduction="none")
    return mean_over(entropy, small != IGNORED)


LOSSES: dict[str, Loss] = {
    "dice_ce": dice_ce,
    "dice": dice,
    "dice_bce": dice_bce,
    "squared_dice_ce_50": partial(squared_dice_ce, dice=0.5),
    "squared_dice_ce_60": partial(squared_dice_ce, dice=0.6),
    "border_ce": border_ce,
    "focal": focal,
    "tversky": tversky,
    "objects": objects,
}


OWN: dict[str, Callable[[Outputs, Tensor, Tensor | None], Tensor]] = {"atm": atm}  # each needs its kind of model
TEACHES = {"objects": ("objects",), "regions": ("dice_bce",)}  # by how a task decides; all others teach classes


def check_loss(name: str, decides: str, own: str | None = None) -> None:
    """Raises UnknownName for an unknown loss, InputError for one whose scores mean something else to who `decides`.

    `own` is the loss that the model's catalog entry names: one of OWN fits its own kind of model, and that model no other.
    """
    find_loss(name)
    special = [one for losses in TEACHES.values() for one in losses]
    fitting = TEACHES.get(decides, tuple(one for one in LOSSES if one not in special))
    if own in OWN:
        if decides in TEACHES:
            fix = "take another model"
            raise InputError(f"a model taught by '{own}' tells classes apart, and this task decides by '{decides}'", fix=fix)
        fitting = (str(own),)
    if name not in fitting:
        taught = "this model" if own in OWN or name in OWN else f"a task that decides by '{decides}'"
        raise InputError(f"the loss '{name}' does not teach {taught}", fix=f"take {', '.join(fitting)}")


def find_loss(name: str) -> Callable[[Outputs, Tensor, Tensor | None], Tensor]:
    """The loss of that name, over all that a model answers; raises UnknownName."""
    if name in OWN:
        return OWN[name]
    if name not in LOSSES:
        raise unknown_name("loss", name, [*LOSSES, *OWN])

    def whole(outputs: Outputs, target: Tensor, weight: Tensor | None) -> Tensor:
        return supervised(LOSSES[name], outputs.main, outputs.auxiliary, target, weight)

    return whole


def supervised(loss: Loss, main: Tensor, auxiliary: tuple[Tensor, ...], target: Tensor, weight: Tensor | None = None) -> Tensor:
    """`loss` on the main output and on the auxiliary ones (deep supervision), weights normalised to 1.

    One that is coarser than the one before weighs half of it, as in nnU-Net; one of the same size weighs the same: the heads
    of a U-Net++, all at full resolution, count alike, as in its paper.
    An output smaller than the target because its convolutions are valid is compared with the target's middle;
    auxiliary outputs may be coarser, so targets come down to them by nearest neighbour.
    """
    size = main.shape[2:]
    target, weight = middle(target, size), None if weight is None else middle(weight, size)
    shares = [1.0]
    for before, after in pairwise((main, *auxiliary)):
        shares.append(shares[-1] * (1.0 if after.shape[2:] == before.shape[2:] else 0.5))
    total = shares[0] * loss(main, target, weight)
    for share, scores in zip(shares[1:], auxiliary, strict=True):
        coarse = None if weight is None else at_size(weight, scores.shape[2:])
        total = total + share * loss(scores, at_size(target, scores.shape[2:]), coarse)
    return total / sum(shares)


def middle(array: Tensor, size: torch.Size) -> Tensor:
    """The centre of `array` (B, [T,] *S), of `size` voxels."""
    for axis, wanted in zip(range(array.ndim - len(size), array.ndim), size, strict=True):
        array = array.narrow(axis, (array.shape[axis] - wanted) // 2, wanted)
    return array


def at_size(array: Tensor, size: torch.Size) -> Tensor:
    """`array` (B, [T,] *S) at another size, each voxel the nearest one."""
    channels = array.ndim == len(size) + 2
    array = array if channels else array[:, None]
    small = F.interpolate(array.to(torch.float32), size, mode="nearest-exact").to(array.dtype)
    return small if channels else small[:, 0]
