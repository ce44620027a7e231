"""Losses by name: what the catalog entry or the recipe names, this file maps.

    loss(scores (B, K, *S) float, target, weight=None) -> scalar

Class targets are (B, *S) integers with IGNORED where nobody knows; object targets are (B, T, *S) floats.
With several processes every loss is that of the global batch, and so is its gradient once DDP has averaged it: the
sums that a ratio needs are exchanged (`together`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import InputError, unknown_name
from .processes import together

IGNORED = -1
Loss = Callable[..., Tensor]


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


TEACHES = {"objects": ("objects",), "regions": ("dice_bce",)}  # by how a task decides; all others teach classes


def check_loss(name: str, decides: str) -> None:
    """Raises UnknownName for an unknown loss, InputError for one whose scores mean something else to who `decides`."""
    find_loss(name)
    special = [one for losses in TEACHES.values() for one in losses]
    fitting = TEACHES.get(decides, tuple(one for one in LOSSES if one not in special))
    if name not in fitting:
        raise InputError(f"the loss '{name}' does not teach a task that decides by '{decides}'", fix=f"take {', '.join(fitting)}")


def find_loss(name: str) -> Loss:
    """The loss of that name; raises UnknownName."""
    if name not in LOSSES:
        raise unknown_name("loss", name, LOSSES)
    return LOSSES[name]


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
