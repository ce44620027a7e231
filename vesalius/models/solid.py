"""The sibling of `vesalius_mini` for volumes: a cubic view around what was said, and what is known about it, to a mask.

    view (1, S, S, S), folded to stride 2, and maps of the hints --strides 2, 4, 8, and up again--> logits (1, S, S, S), their IoU

    logits = network(view, maps) + prior        prior: the earlier mask, or else 6 (1 - r), r = 1 on the ellipsoid in the box

As in `vesalius_mini` the network starts from what is right for most voxels and learns the difference. Nothing is computed at full
resolution: eight voxels are the channels of one cell, and unfold at the end. Where views are taken from a volume, and what the
hints are made of, is pipeline/cubes.py's and pipeline/hints.py's business.

Paper    none
Shapes   image (B, 1, S, S, S) and Hints about each -> logits (B, 1, S, S, S), predicted IoU (B, 1)
Needs    sides divisible by 8; otherwise ShapeError names the nearest size
Frame    view cells, z before y before x; boxes and points in cell edges, so that (0, 0, 0, S, S, S) is the view
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.errors import ChannelError, ShapeError
from .blocks import MLP, ConvUnit, ResidualUnit, ShuffleUp
from .contract import Answers
from .mini import CLEAR, ELLIPSE, absent

STRIDE, FOLD = 8, 2
K3 = (3, 3, 3)
TWO = (FOLD,) * 3
CELLS = FOLD**3  # voxels a cell at stride 2
MAPS = 12  # see `draw`
NEAR, FAR = 2.0, 12.0  # view cells: the two scales at which distances are shown


@dataclass(frozen=True)
class SolidConfig:
    """What to build; the defaults are `vesalius_mini_3d`.

    size      the side S of the views that the weights were trained for; others are taken
    widths    channels at strides 2, 4, 8; `depths` residual units there on the way down
    """

    size: int = 40
    widths: tuple[int, int, int] = (32, 64, 96)
    depths: tuple[int, int, int] = (1, 2, 2)


class Hints(NamedTuple):
    """What is known about the object in each of P views, in view cells; what is not known of one among others is zero.

    boxes (P, 6) z0, y0, x0, z1, y1, x1; points (P, N, 3) with labels (P, N): 1, 0, and -1 for none; known (P, 1, S, S, S): 1 on
    the object, -1 beside it, 0 where nobody said; earlier (P, 1, S, S, S): the logits to start from.
    """

    boxes: Tensor
    points: Tensor
    labels: Tensor
    known: Tensor
    earlier: Tensor

    @classmethod
    def nothing(cls, image: Tensor) -> Hints:
        """Nothing said about any of the views (P, 1, S, S, S)."""
        count, blank = len(image), torch.zeros_like(image)
        points, labels = image.new_zeros(count, 1, 3), torch.full((count, 1), -1, device=image.device)
        return cls(image.new_zeros(count, 6), points, labels, blank, blank)


class Solid(nn.Module):
    """A small U-Net with residual units over views and hints; `(B, 1, S, S, S), Hints -> Answers`, one mask a view."""

    in_channels, dims = 1, 3

    def __init__(self, config: SolidConfig):
        super().__init__()
        self.config = config
        two, four, eight = config.widths
        self.stem = ConvUnit(3 * CELLS + MAPS, two, K3, bias=False)
        self.down = nn.ModuleList(ConvUnit(a, b, K3, stride=TWO, bias=False) for a, b in pairwise(config.widths))
        self.levels = nn.ModuleList(
            nn.Sequential(*[ResidualUnit(width, width, K3, bias=False) for _ in range(depth)])
            for width, depth in zip(config.widths, config.depths, strict=True)
        )
        self.up = nn.ModuleList(ShuffleUp(a, b, TWO) for a, b in ((eight, four), (four, two)))
        self.join = nn.ModuleList(ConvUnit(2 * width, width, K3, bias=False) for width in (four, two))
        self.head = ShuffleUp(two, 1, TWO)
        self.judge = MLP((two + eight + 2, 64, 1))

    @property
    def frame_size(self) -> int:
        """The side of the views that the weights were trained for."""
        return self.config.size

    def forward(self, image: Tensor, hints: Hints) -> Answers:
        """Views, normalised, with the hints about each -> logits (B, 1, S, S, S) and predicted IoU (B, 1).

        Raises ChannelError, or ShapeError with the nearest size.
        """
        check(image)
        size = (image.shape[2], image.shape[3], image.shape[4])
        prior = prior_of(hints, size)
        shown = [image, hints.known, prior / CLEAR]
        x = torch.cat([*(fold(part.float()) for part in shown), draw(hints, tuple(n // FOLD for n in size))], 1)
        two = self.levels[0](self.stem(x))
        four = self.levels[1](self.down[0](two))
        eight = self.levels[2](self.down[1](four))
        four = self.join[0](torch.cat([self.up[0](eight), four], 1))
        two = self.join[1](torch.cat([self.up[1](four), two], 1))
        logits = self.head(two).float() + prior
        return Answers(logits, self._iou(logits, two, eight))

    def _iou(self, logits: Tensor, two: Tensor, eight: Tensor) -> Tensor:
        """(B, 1) from what lies under the mask, the view as a whole, and how sure the mask is of itself."""
        chance = logits.detach().sigmoid()
        inside, area = (chance > 0.5).float(), chance.mean((2, 3, 4))
        sure = (2 * (chance * inside).mean((2, 3, 4)) + 1e-4) / (area + inside.mean((2, 3, 4)) + 1e-4)
        coarse = F.avg_pool3d(chance, FOLD)
        under = (two.float() * coarse).sum((2, 3, 4)) / (coarse.sum((2, 3, 4)) + 1e-3)
        found = torch.cat([under, eight.float().mean((2, 3, 4)), sure, area], 1)
        return self.judge(found).float().sigmoid()


def check(image: Tensor) -> None:
    """Raises ChannelError or ShapeError unless (B, 1, D, H, W) with sides divisible by 8."""
    if image.ndim != 5 or image.shape[1] != 1:
        raise ChannelError(f"the view is {tuple(image.shape)}, not (B, 1, D, H, W)", fix="give one grey view a prompt")
    size = tuple(image.shape[2:])
    if any(n % STRIDE or not n for n in size):
        nearest = " x ".join(str(max(STRIDE, round(n / STRIDE) * STRIDE)) for n in size)
        raise ShapeError(f"the model takes no {' x '.join(map(str, size))}", fix=f"the nearest size is {nearest}")


def fold(x: Tensor) -> Tensor:
    """(B, C, D, H, W) -> (B, 8 C, D / 2, H / 2, W / 2): a cell's eight voxels become its channels."""
    batch, channels, *size = x.shape
    d, h, w = (n // FOLD for n in size)
    parts = x.reshape(batch, channels, d, FOLD, h, FOLD, w, FOLD).permute(0, 1, 3, 5, 7, 2, 4, 6)
    return parts.reshape(batch, channels * CELLS, d, h, w)


def draw(hints: Hints, size: tuple[int, ...]) -> Tensor:
    """(P, 12, d, h, w) at stride 2: signed distance to the box near and far, the ellipsoid's profile, whether there is a box;
    clicks on the object near and far, beside it near and far, whether there are either; whether anything is known, or earlier."""
    device = hints.boxes.device
    maps = torch.zeros(len(hints.boxes), MAPS, *size, device=device)
    given = boxed(hints.boxes)[:, None, None, None]
    inside = distance_inside(hints.boxes, size, FOLD)
    profile = (1 - radius(hints.boxes, size, FOLD)).clamp(min=-1)
    drawn = torch.stack([(inside / NEAR).tanh(), (inside / FAR).tanh(), profile, torch.ones_like(profile)], 1)
    maps[:, :4] = drawn * given[:, None]
    z, y, x = cells(size, FOLD, device)
    pz, py, px = hints.points.float()[..., None, None, None].unbind(2)  # (P, N, 1, 1, 1)
    apart = ((z - pz) ** 2 + (y - py) ** 2 + (x - px) ** 2).sqrt()
    for i, label in enumerate((1, 0)):
        said = (hints.labels == label)[..., None, None, None]
        for j, reach in enumerate((NEAR, FAR)):
            maps[:, 4 + 2 * i + j] = ((-apart / reach).exp() * said).amax(1)
        maps[:, 8 + i] = said.any(1).float()
    for i, part in enumerate((hints.known, hints.earlier)):
        maps[:, 10 + i] = absent(part).logical_not().float()[:, None, None, None]
    return maps


def prior_of(hints: Hints, size: tuple[int, ...]) -> Tensor:
    """(P, 1, D, H, W), from where the mask starts: the earlier mask, else the ellipsoid in the box, else nothing."""
    profile = (ELLIPSE * (1 - radius(hints.boxes, size, 1))).clamp(min=-CLEAR)
    ellipsoid = (profile * boxed(hints.boxes)[:, None, None, None])[:, None]
    given = hints.earlier.float().clamp(-CLEAR, CLEAR)
    return torch.where(absent(given)[:, None, None, None, None], ellipsoid, given)


def boxed(boxes: Tensor) -> Tensor:
    """(P,) whether there is a box."""
    return (boxes[:, 3] > boxes[:, 0]).float()


def cells(size: tuple[int, ...], stride: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The middles z (d, 1, 1), y (h, 1) and x (w,) of the cells of a map, in view cells."""
    z, y, x = (stride * (torch.arange(n, device=device) + 0.5) for n in size)
    return z[:, None, None], y[:, None], x


def radius(boxes: Tensor, size: tuple[int, ...], stride: int) -> Tensor:
    """(P, d, h, w): 0 in the middle of the box (P, 6), 1 on the ellipsoid inscribed in it."""
    low, high = boxes.float()[:, :, None, None, None].split(3, 1)  # (P, 3, 1, 1, 1)
    middle, half = (low + high) / 2, ((high - low) / 2).clamp(min=0.5)
    apart = [((at - middle[:, i]) / half[:, i]) ** 2 for i, at in enumerate(cells(size, stride, boxes.device))]
    return (apart[0] + apart[1] + apart[2]).sqrt()


def distance_inside(boxes: Tensor, size: tuple[int, ...], stride: int) -> Tensor:
    """(P, d, h, w): how many view cells a cell lies within the box, negative outside."""
    low, high = boxes.float()[:, :, None, None, None].split(3, 1)
    beyond = [torch.maximum(low[:, i] - at, at - high[:, i]) for i, at in enumerate(cells(size, stride, boxes.device))]
    outside = sum(part.clamp(min=0) ** 2 for part in beyond).sqrt()  # type: ignore[union-attr]
    return -torch.where(outside > 0, outside, torch.maximum(beyond[0], torch.maximum(beyond[1], beyond[2])))
