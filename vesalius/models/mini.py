"""Our own promptable model: small, for square views that lie around the prompt at the prompt's own scale.

    view (3, S, S) --convolutions at strides 2, 4, 8, 16, then attention--> features, made once a view
    prompts --drawn as maps at stride 4--> two convolutional scales down, attention, up again --> masks at stride 2, their IoU

    logits = network(features, maps) + prior        prior: the earlier mask, or else 6 (1 - r), r = 1 on the ellipse in the box

So the network starts from the ellipse, which is right for most of the pixels, and learns the difference. Plain convolutions
with batch norm: depthwise ones and large norms are what a CPU does badly. Where views are taken from a picture and how masks
come back is pipeline/glances.py's business.

Paper    none; prompts, three masks and predicted IoU as in Kirillov et al. 2023, arXiv:2304.02643
Shapes   embed: (B, 3, S, S) -> (B, D, S / 16, S / 16); decode: P prompts -> logits (P, M, S / 2, S / 2), IoU (P, M), M = 3 or 1
Needs    sides divisible by 16; otherwise ShapeError names the nearest size
Frame    points are pixels, the middle of the first at (0, 0); a box's sides are pixel edges, so that (0, 0, S, S) is the view
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.errors import ChannelError, InputError, ShapeError
from .blocks import MLP, ConvUnit, ResidualUnit, SelfAttention, ShuffleUp, map_of, resize_positions, tokens_of
from .contract import Answers, Prompts

STRIDE, MAP_STRIDE, MASK_STRIDE = 16, 4, 2
K3, K1 = (3, 3), (1, 1)
SCALES = (2, 4, 8, 16)  # strides of the features, by which a level is folded into stride 16: 8, 4, 2, 1
FOLDS = tuple(STRIDE // stride for stride in SCALES)
MAPS = 12  # see `draw`
ELLIPSE = 6.0  # logit in the middle of the box
NEAR_PX, FAR_PX = 4.0, 32.0  # the two scales at which distances are shown
CLEAR = 8.0  # logits beyond are as sure as can be: earlier masks and the ellipse are cut off there


@dataclass(frozen=True)
class MiniConfig:
    """What to build; the defaults are `vesalius_mini`.

    size      the side S of the views that the weights were trained for; others are taken, positions are interpolated
    widths    channels of the encoder at strides 2, 4, 8, 16; `depths` residual units there
    blocks    of attention at stride 16, with `heads`
    decoder   channels of the decoder at strides 2, 4, 8, 16
    """

    size: int = 128
    widths: tuple[int, int, int, int] = (32, 64, 128, 256)
    depths: tuple[int, int, int, int] = (1, 1, 2, 2)
    blocks: int = 3
    heads: int = 4
    decoder: tuple[int, int, int, int] = (24, 48, 96, 128)
    masks: int = 3


class Pyramid(NamedTuple):
    """Features (B, D_i, S / i, S / i) at strides i = 2, 4, 8, 16, as wide as the decoder."""

    two: Tensor
    four: Tensor
    eight: Tensor
    sixteen: Tensor


class AttentionBlock(nn.Module):
    """x + attention(norm(x)), then x + MLP(norm(x)); on tokens (B, N, D)."""

    def __init__(self, width: int, heads: int, ratio: int = 4):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), SelfAttention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width), MLP((width, ratio * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Encoder(nn.Module):
    """(B, 3, S, S) -> Pyramid."""

    def __init__(self, config: MiniConfig):
        super().__init__()
        widths, side = config.widths, config.size // STRIDE
        self.stages = nn.ModuleList(
            nn.Sequential(
                ConvUnit(before, width, K3, stride=(2, 2), bias=False),
                *[ResidualUnit(width, width, K3, bias=False) for _ in range(depth)],
            )
            for before, width, depth in zip((3, *widths), widths, config.depths, strict=False)
        )
        self.positions = nn.Parameter(0.02 * torch.randn(1, side, side, widths[3]))
        self.blocks = nn.Sequential(*[AttentionBlock(widths[3], config.heads) for _ in range(config.blocks)])
        self.necks = nn.ModuleList(ConvUnit(a, b, K1, act=None, bias=False) for a, b in zip(widths, config.decoder, strict=True))

    def forward(self, image: Tensor) -> Pyramid:
        x, levels = image, []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        size = (x.shape[2], x.shape[3])
        tokens = tokens_of(x) + resize_positions(self.positions, size).flatten(1, 2)
        levels[-1] = map_of(self.blocks(tokens), size)
        return Pyramid(*(neck(level) for neck, level in zip(self.necks, levels, strict=True)))


class Decoder(nn.Module):
    """Pyramid and maps (P, MAPS, S / 4, S / 4) -> logits (P, M + 1, S / 2, S / 2) without the prior, IoU (P, M + 1)."""

    def __init__(self, config: MiniConfig):
        super().__init__()
        two, four, eight, sixteen = config.decoder
        self.enter = nn.Sequential(ConvUnit(four + MAPS, four, K3, bias=False), ResidualUnit(four, four, K3, bias=False))
        self.down = nn.ModuleList(ConvUnit(a, b, K3, stride=(2, 2), bias=False) for a, b in pairwise((four, eight, sixteen)))
        self.level = nn.ModuleList(ResidualUnit(width, width, K3, bias=False) for width in (eight, sixteen))
        self.attention = AttentionBlock(sixteen, config.heads, ratio=2)
        self.up = nn.ModuleList(ShuffleUp(a, b, (2, 2)) for a, b in ((sixteen, eight), (eight, four), (four, two)))
        self.join = nn.ModuleList(ConvUnit(2 * width, width, K3, bias=False) for width in (eight, four, two))
        self.heads = nn.Conv2d(two, config.masks + 1, 1)
        self.judge = MLP((four + sixteen + 2, 64, 1))

    def forward(self, features: Pyramid, maps: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
        four = self.enter(torch.cat([features.four.expand(len(maps), -1, -1, -1), maps], 1))
        eight = self.level[0](self.down[0](four) + features.eight)
        sixteen = self.level[1](self.down[1](eight) + features.sixteen)
        sixteen = map_of(self.attention(tokens_of(sixteen)), (sixteen.shape[2], sixteen.shape[3]))
        eight = self.join[0](torch.cat([self.up[0](sixteen), eight], 1))
        four = self.join[1](torch.cat([self.up[1](eight), four], 1))
        two = self.join[2](torch.cat([self.up[2](four), features.two.expand(len(maps), -1, -1, -1)], 1))
        logits = self.heads(two).float() + prior
        return logits, self._iou(logits, four, sixteen)

    def _iou(self, logits: Tensor, four: Tensor, sixteen: Tensor) -> Tensor:
        """(P, M + 1) from what lies under each mask, the view as a whole, and how sure the mask is of itself."""
        chance = logits.detach().sigmoid()
        inside, area = (chance > 0.5).float(), chance.mean((2, 3))
        sure = (2 * (chance * inside).mean((2, 3)) + 1e-4) / (area + inside.mean((2, 3)) + 1e-4)
        coarse = F.avg_pool2d(chance, MAP_STRIDE // MASK_STRIDE).flatten(2).to(four.dtype)  # (P, M + 1, N)
        under = coarse @ tokens_of(four) / (coarse.sum(2, keepdim=True) + 1e-3)
        whole = sixteen.mean((2, 3))[:, None].expand(-1, under.shape[1], -1)
        found = torch.cat([under, whole, sure[..., None].to(under.dtype), area[..., None].to(under.dtype)], 2)
        return self.judge(found)[..., 0].float().sigmoid()


class Mini(nn.Module):
    """Encoder and decoder, together a PromptSegmenter. Mask 0 answers what is clear; the three others, what may mean several."""

    in_channels = 3

    def __init__(self, config: MiniConfig):
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)

    @property
    def frame_size(self) -> int:
        """The side of the views that the weights were trained for."""
        return self.config.size

    @property
    def knows_text(self) -> bool:
        return False

    def embed(self, image: Tensor) -> Tensor:
        """(B, 3, S, S), normalised -> (B, D, S / 16, S / 16): all levels folded into one tensor, to be kept.

        Raises ChannelError, or ShapeError with the nearest size.
        """
        levels = self.encode(image)
        return torch.cat([F.pixel_unshuffle(level, fold) for level, fold in zip(levels, FOLDS, strict=True)], 1)

    def decode(self, features: Tensor, prompts: Prompts, multimask: bool = False) -> Answers:
        """Features (1 or P, D, s, s) and P prompts -> logits (P, M, 8 s, 8 s) and predicted IoU (P, M), M = 3 or 1.

        Raises InputError for text, ShapeError for mask prompts of another size.
        """
        if len(features) not in (1, len(prompts)):
            raise InputError(f"{len(prompts)} prompts about {len(features)} images", fix="give one image, or one a prompt")
        parts = features.split([width * fold**2 for width, fold in zip(self.config.decoder, FOLDS, strict=True)], 1)
        levels = Pyramid(*(F.pixel_shuffle(part, fold) for part, fold in zip(parts, FOLDS, strict=True)))
        return chosen(self.answer(levels, prompts), multimask)

    def forward(self, image: Tensor, prompts: Prompts, multimask: bool = False) -> Answers:
        """Views (V, 3, S, S) with a prompt each, or one view and P prompts -> logits (P, M, S / 2, S / 2), IoU (P, M)."""
        return chosen(self.answer(self.encode(image), prompts), multimask)

    def encode(self, image: Tensor) -> Pyramid:
        """(B, 3, S, S) -> the features at all scales; raises ChannelError, or ShapeError with the nearest size."""
        if image.ndim != 4 or image.shape[1] != self.in_channels:
            raise ChannelError(f"the image is {tuple(image.shape)}, not (B, 3, H, W)", fix="repeat a grey picture three times")
        size = tuple(image.shape[2:])
        if any(n % STRIDE or not n for n in size):
            nearest = " x ".join(str(max(STRIDE, round(n / STRIDE) * STRIDE)) for n in size)
            raise ShapeError(f"the model takes no {size[0]} x {size[1]}", fix=f"the nearest size is {nearest}")
        return self.encoder(image)

    def answer(self, features: Pyramid, prompts: Prompts) -> Answers:
        """All four masks: logits (P, 4, S / 2, S / 2), IoU (P, 4); features of one view for all prompts, or of one a prompt."""
        if prompts.text is not None:
            raise InputError("these weights know no text", fix="give points, a box or a mask")
        size = (features.two.shape[2], features.two.shape[3])
        if prompts.masks is not None and tuple(prompts.masks.shape[1:]) != (1, *size):
            raise ShapeError(f"the mask prompt is {tuple(prompts.masks.shape[1:])}", fix=f"give 1 x {size[0]} x {size[1]}")
        maps = draw(prompts, (size[0] // 2, size[1] // 2), features.two.device)
        maps = maps.to(features.four.dtype).contiguous(memory_format=torch.channels_last)
        return Answers(*self.decoder(features, maps, prior(prompts, size)))


def chosen(answers: Answers, multimask: bool) -> Answers:
    """The three masks, or the one."""
    part = slice(1, None) if multimask else slice(0, 1)
    return Answers(answers.logits[:, part], answers.iou[:, part])


def draw(prompts: Prompts, size: tuple[int, int], device: torch.device) -> Tensor:
    """(P, 12, h, w) at stride 4: signed distance to the box near and far, the ellipse's profile; clicks on the object near
    and far, beside it near and far; the earlier mask; and whether there are a box, either click, a mask."""
    maps = torch.zeros(len(prompts), MAPS, *size, device=device)
    if prompts.boxes is not None:
        inside = distance_inside(prompts.boxes, size, MAP_STRIDE)
        profile = (1 - radius(prompts.boxes, size, MAP_STRIDE)).clamp(min=-1)
        drawn = torch.stack([(inside / NEAR_PX).tanh(), (inside / FAR_PX).tanh(), profile, torch.ones_like(profile)], 1)
        maps[:, [0, 1, 2, 8]] = drawn * boxed(prompts.boxes)[:, None, None, None]
    if prompts.points is not None and prompts.labels is not None:
        y, x = cells(size, MAP_STRIDE, device)
        px, py = (prompts.points.float() + 0.5)[..., None, None].unbind(2)  # (P, N, 1, 1)
        apart = ((x - px) ** 2 + (y - py) ** 2).sqrt()
        for i, label in enumerate((1, 0)):
            said = (prompts.labels == label)[..., None, None]
            for j, reach in enumerate((NEAR_PX, FAR_PX)):
                maps[:, 3 + 2 * i + j] = ((-apart / reach).exp() * said).amax(1)
            maps[:, 9 + i] = said.any(1).float()
    if prompts.masks is not None:
        maps[:, 7] = F.avg_pool2d(prompts.masks.float().clamp(-CLEAR, CLEAR), MAP_STRIDE // MASK_STRIDE)[:, 0] / CLEAR
        maps[:, 11] = absent(prompts.masks).logical_not().float()[:, None, None]
    return maps


def prior(prompts: Prompts, size: tuple[int, int]) -> Tensor | float:
    """(P, 1, h, w) at stride 2, from where the masks start: the earlier mask, else the ellipse in the box, else nothing."""
    ellipse: Tensor | float = 0.0
    if prompts.boxes is not None:
        profile = ELLIPSE * (1 - radius(prompts.boxes, size, MASK_STRIDE))
        ellipse = (profile.clamp(min=-CLEAR) * boxed(prompts.boxes)[:, None, None])[:, None]
    if prompts.masks is None:
        return ellipse
    given = prompts.masks.float().clamp(-CLEAR, CLEAR)
    return torch.where(absent(given)[:, None, None, None], ellipse, given)


def absent(masks: Tensor) -> Tensor:
    """(P,) whether a mask prompt says nothing, being 0 everywhere: a prompt without a mask among others with one."""
    return (masks == 0).flatten(1).all(1)


def boxed(boxes: Tensor) -> Tensor:
    """(P,) whether there is a box: a prompt without one, among others with one, has zeros."""
    return (boxes[:, 2] > boxes[:, 0]).float()


def cells(size: tuple[int, int], stride: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The middles y (h, 1) and x (w,) of the cells of a map, in pixels from the view's upper left edge."""
    y, x = (stride * (torch.arange(n, device=device) + 0.5) for n in size)
    return y[:, None], x


def radius(boxes: Tensor, size: tuple[int, int], stride: int) -> Tensor:
    """(P, h, w): 0 in the middle of the box (P, 4), 1 on the ellipse inscribed in it."""
    y, x = cells(size, stride, boxes.device)
    low, high = boxes.float()[:, :, None, None].split(2, 1)  # (P, 2, 1, 1)
    middle, half = (low + high) / 2, ((high - low) / 2).clamp(min=0.5)
    return (((x - middle[:, 0]) / half[:, 0]) ** 2 + ((y - middle[:, 1]) / half[:, 1]) ** 2).sqrt()


def distance_inside(boxes: Tensor, size: tuple[int, int], stride: int) -> Tensor:
    """(P, h, w): how many pixels a cell lies within the box, negative outside."""
    y, x = cells(size, stride, boxes.device)
    x0, y0, x1, y1 = boxes.float()[:, :, None, None].unbind(1)
    dx, dy = torch.maximum(x0 - x, x - x1), torch.maximum(y0 - y, y - y1)
    outside = (dx.clamp(min=0) ** 2 + dy.clamp(min=0) ** 2).sqrt()
    return -torch.where(outside > 0, outside, torch.maximum(dx, dy))
