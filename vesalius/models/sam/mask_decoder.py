"""SAM's mask decoder: prompt tokens and image look at each other twice, then tokens become the weights that draw the masks.

    tokens = [quality, mask 0, masks 1..3, prompts]          image = features + map of the mask prompt
    twice    tokens look at each other, tokens at the image, MLP, image at the tokens;  positions added, a norm after each
    once     tokens look at the image
    mask m   = hyper_m(token m) . upscale(image)             quality = MLP(token 0)

Mask 0 answers a prompt that says enough; masks 1 to 3 the whole, the part and the part's part. SAM-HQ (`hq.py`) adds a token
after the masks' and corrects what they draw.

Paper    Kirillov et al. 2023, arXiv:2304.02643, section 3 and appendix A, fig. 14
Shapes   features (1 or P, D, h, w), tokens (P, T, D) -> logits (P, M, 4 h, 4 w), quality (P, M)
Differs  what all prompts share is computed once (what they look at first, and what that asks of them); where a prompt has an
         image of its own, it is not projected: with few tokens it is quicker to bring their queries, keys and values to the
         image's channels, (W_q t) . (W_k x) = (W_k^T W_q t) . x; images go one after the other, so that they stay in the cache,
         while their tokens go together; the last look is for the tokens that are read; the transposed convolutions, with
         kernel = stride, are linear layers on tokens, and pixels are put in order at the very end, in the M masks alone; only
         the masks asked for are drawn, and of prompts that are not worth it none
Parity   tests/parity/compare_sam.py, tests/parity/test_transformers_sam.py
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..blocks import MLP, CrossAttention, tokens_of
from .hq import HQ
from .upscaling import Upscale, in_order

Images = Sequence[Tensor]  # of P prompts, in parts (p, N, D): on a CPU one at a time, which stays in its cache
AT_ONCE = 16  # parts whose tokens go together
MASKS = 4  # one for a prompt that says enough, three for one that does not


def look_at_image(layer: CrossAttention, tokens: Tensor, keys: Images, values: Images) -> Tensor:
    """layer(tokens, keys, values) for few tokens (P, T, D) and images of their own: 2 T heads / D of the work."""
    q = layer.q(tokens).unflatten(-1, (layer.heads, -1))  # (P, T, heads, d)
    asked = torch.einsum("bthd,hdc->bhtc", q, layer.k.weight.unflatten(0, (layer.heads, -1)))  # k's bias moves no softmax
    looks = (asked.flatten(1, 2) * q.shape[-1] ** -0.5).split(len(keys[0]))  # (p, heads T, D): the image is never turned
    seen = [torch.bmm(torch.bmm(a, k.transpose(1, 2)).softmax(-1), v) for a, k, v in zip(looks, keys, values, strict=True)]
    found = torch.cat(seen).unflatten(1, (layer.heads, -1))  # (P, heads, T, D)
    found = torch.einsum("bhtc,hdc->bthd", found, layer.v.weight.unflatten(0, (layer.heads, -1))).flatten(2)
    return layer.proj(found + layer.v.bias.to(found.dtype))


def add_tokens(layer: CrossAttention, images: Images, placed: Images | Tensor, keys: Tensor, values: Tensor) -> Images:
    """image + layer(placed image, keys, values) for few tokens (P, T, D); `placed` is `queries` where one image is for all."""
    k, v = (part(t).unflatten(-1, (layer.heads, -1)) for part, t in ((layer.k, keys), (layer.v, values)))  # (P, T, heads, d)
    k, heads = k.transpose(1, 2) * k.shape[-1] ** -0.5, layer.heads
    given = torch.einsum("bthd,chd->bhtc", v, layer.proj.weight.unflatten(1, (heads, -1)))
    given = (given + layer.proj.bias.to(given.dtype) / heads).flatten(1, 2)  # a head's looks sum to 1
    looks = looks_at_tokens(k, placed, len(images[0])) if isinstance(placed, Tensor) else looks_of_own(layer, k, placed)
    parts = zip(images, looks, given.split(len(images[0])), strict=True)
    return [torch.baddbmm(image, look.softmax(2).flatten(1, 2).transpose(1, 2), part) for image, look, part in parts]


def queries(layer: CrossAttention, placed: Tensor) -> Tensor:
    """What an image (1, N, D) asks, (heads, d, N)."""
    return layer.q(placed)[0].unflatten(-1, (layer.heads, -1)).permute(1, 2, 0).contiguous()


def looks_at_tokens(k: Tensor, asked: Tensor, each: int) -> Iterator[Tensor]:
    """Scores (p, heads, T, N) of one image's queries (heads, d, N) with keys (P, heads, T, d), `each` prompts at a time."""
    for part in k.split(each):
        looks = torch.bmm(part.transpose(0, 1).flatten(1, 2), asked)
        yield looks.unflatten(1, (len(part), -1)).transpose(0, 1)


def looks_of_own(layer: CrossAttention, k: Tensor, placed: Images) -> Iterator[Tensor]:
    """The same for images of their own (p, N, D), which are not turned into queries."""
    wanted = torch.einsum("bhtd,hdc->bhtc", k, layer.q.weight.unflatten(0, (layer.heads, -1))).flatten(1, 2)  # (P, heads T, D)
    level = torch.einsum("bhtd,hd->bht", k, layer.q.bias.unflatten(0, (layer.heads, -1))).flatten(1)[..., None]
    for image, of_tokens, at_all in zip(placed, *(part.split(len(placed[0])) for part in (wanted, level)), strict=True):
        yield torch.baddbmm(at_all, of_tokens, image.transpose(1, 2)).unflatten(1, (layer.heads, -1))  # `@` copies the image


class TwoWayBlock(nn.Module):
    """Tokens among themselves, tokens to image, MLP, image to tokens. The first block has no positions, nor its way around."""

    def __init__(self, width: int, heads: int, mlp: int, first: bool):
        super().__init__()
        self.first = first
        self.among = CrossAttention(width, heads)
        self.to_image, self.to_tokens = (CrossAttention(width, heads, width // 2) for _ in range(2))
        self.mlp = MLP((width, mlp, width), act="relu")
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))

    def ask(self, tokens: Tensor, images: Images, placed: Images, codes: Tensor) -> Tensor:
        """What the tokens (P, T, D) see in the images, with and without their positions: (P, T, D)."""
        if self.first:
            tokens = self.norms[0](self.among(tokens, tokens, tokens))
        else:
            coded = tokens + codes
            tokens = self.norms[0](tokens + self.among(coded, coded, tokens))
        tokens = self.norms[1](tokens + at_image(self.to_image, tokens + codes, placed, images))
        return self.norms[2](tokens + self.mlp(tokens))

    def answer(self, tokens: Tensor, images: Images, placed: Images | Tensor, codes: Tensor) -> Images:
        """What the images make of the tokens (P, T, D); `placed` as `add_tokens` has it."""
        return [self.norms[3](image) for image in add_tokens(self.to_tokens, images, placed, tokens + codes, tokens)]


def at_image(layer: CrossAttention, tokens: Tensor, placed: Images, images: Images) -> Tensor:
    """Tokens look at their images; one image for many prompts is projected once."""
    if sum(map(len, images)) < len(tokens):
        return layer(tokens.flatten(0, 1)[None], placed[0], images[0]).view_as(tokens)
    return look_at_image(layer, tokens, placed, images)


class TwoWayTransformer(nn.Module):
    """Blocks and a last look at the image: first `begin` with all prompts, then `finish` with some of them."""

    def __init__(self, width: int, heads: int, mlp: int, depth: int):
        super().__init__()
        self.blocks = nn.ModuleList(TwoWayBlock(width, heads, mlp, first=i == 0) for i in range(depth))
        self.last, self.norm = CrossAttention(width, heads, width // 2), nn.LayerNorm(width)

    def begin(self, codes: Tensor, image: Tensor, places: Tensor) -> tuple[Tensor, Images | Tensor]:
        """The first block's tokens (P, T, D), as long as the image (1 or P, N, D) may still be one for all, and what it answers
        them by: `queries`, or images of their own with their positions."""
        first, placed = self.blocks[0], image + places
        tokens = first.ask(codes, [image], [placed], codes)  # type: ignore[operator]
        return tokens, queries(first.to_tokens, placed) if len(image) < len(codes) else in_parts(placed, len(codes))  # type: ignore[arg-type]

    def finish(
        self, tokens: Tensor, images: Images, placed: Images | Tensor, codes: Tensor, places: Tensor, wanted: list[int]
    ) -> tuple[Tensor, Images]:
        """All the rest: of the tokens (P, T, D) those `wanted`, and their images."""
        for i, block in enumerate(self.blocks):
            if i:
                placed = [image + places for image in images]
                tokens = block.ask(tokens, images, placed, codes)  # type: ignore[operator]
            images = block.answer(tokens, images, placed, codes)  # type: ignore[operator]
        tokens, codes, placed = tokens[:, wanted], codes[:, wanted], [image + places for image in images]
        return self.norm(tokens + at_image(self.last, tokens + codes, placed, images)), images


class MaskDecoder(nn.Module):
    """Prompts to masks and their quality. `early`: the width of SAM-HQ's early features; 0 for a SAM without them."""

    def __init__(self, width: int, heads: int, mlp: int, depth: int, iou_width: int, early: int = 0):
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(1 + MASKS + bool(early), width))  # quality, masks, HQ
        self.transformer = TwoWayTransformer(width, heads, mlp, depth)
        self.upscale = Upscale(width, width // 4, width // 8)
        self.hyper = nn.ModuleList(MLP((width, width, width, width // 8), act="relu") for _ in range(MASKS))
        self.quality = MLP((width, iou_width, iou_width, MASKS), act="relu")
        self.hq = HQ(width, early) if early else None

    def forward(
        self,
        features: Tensor,
        places: Tensor,
        prompts: Tensor,
        dense: Tensor,
        multimask: bool,
        least: float = -math.inf,
    ) -> tuple[Tensor, Tensor]:
        """features (1 or P, D, h, w), of SAM-HQ (.., 3 D, ..) with the fine ones behind; places (1, h * w, D), prompts (P, T, D),
        dense as the prompt encoder gives it. Where no quality is above `least`, nothing is drawn: -inf."""
        grid, width = (features.shape[2], features.shape[3]), self.tokens.shape[1]
        image = tokens_of(features[:, :width] + dense).to(arithmetic(features)).contiguous()
        codes, places = torch.cat((self.tokens.expand(len(prompts), -1, -1), prompts), 1), places.to(image.dtype)
        tokens, placed = self.transformer.begin(codes, image, places)
        wanted = range(1, MASKS) if multimask else range(1)
        named = [0, *(1 + i for i in wanted), *range(1 + MASKS, len(self.tokens))]
        images, found = in_parts(image, len(tokens)), list[tuple[Tensor, Tensor]]()
        fine = features[:, width:].flatten(2).unflatten(2, grid).expand(len(tokens), -1, -1, -1)
        each = AT_ONCE * len(images[0])
        for i, (own, code, below) in enumerate(zip(*(t.split(each) for t in (tokens, codes, fine)), strict=True)):
            these = slice(i * AT_ONCE, (i + 1) * AT_ONCE)
            told = placed if isinstance(placed, Tensor) else placed[these]
            own, seen = self.transformer.finish(own, images[these], told, code, places, named)
            quality = self.quality(own[:, 0])[:, wanted.start : wanted.stop]
            worth = (quality.float() > least).any(1) if least > -math.inf else None
            found.append((self.draw(own[:, 1:], seen, below, wanted, worth), quality))
        logits, qualities = zip(*found, strict=True)
        return torch.cat(logits), torch.cat(qualities)

    def draw(self, tokens: Tensor, images: Images, fine: Tensor, wanted: range, worth: Tensor | None) -> Tensor:
        """The masks `wanted` (P, M, 4 h, 4 w) by their tokens (P, M, D), -inf for prompts that are not `worth` it (P,); of SAM-HQ
        there is a token more, and fine (P, 2 D, h, w)."""
        drawing = torch.stack([self.hyper[i](tokens[:, j]) for j, i in enumerate(wanted)], 1)  # (P, M, D / 8)
        found = list[Tensor]()
        for i, image in enumerate(images):
            of_image = slice(i * len(image), (i + 1) * len(image))
            parts = (drawing[of_image], tokens[of_image, -1], image, fine[of_image])
            if worth is None or worth[of_image].all():
                found.append(self._drawn(*parts))
                continue
            drawn = image.new_full((len(image), len(wanted), 4 * fine.shape[2], 4 * fine.shape[3]), -math.inf)
            if worth[of_image].any():
                drawn[worth[of_image]] = self._drawn(*(part[worth[of_image]] for part in parts)).to(drawn)  # CUDA norms in fp32
            found.append(drawn)
        return torch.cat(found)

    def _drawn(self, drawing: Tensor, last: Tensor, image: Tensor, fine: Tensor) -> Tensor:
        """(P, M, 4 h, 4 w) of drawing (P, M, D / 8), the last token (P, D), which is SAM-HQ's, and image (P, N, D)."""
        image = F.gelu(self.upscale(image)).flatten(1, 3)  # (P, N * 16, D / 8)
        logits = in_order(torch.bmm(drawing, image.transpose(1, 2)), (fine.shape[2], fine.shape[3]))
        return logits if self.hq is None else logits + self.hq(last, image, fine)


def in_parts(image: Tensor, prompts: int) -> Images:
    """An image (1 or P, N, D), shared or not, in the parts that P prompts are answered in."""
    return list(image.split(1)) * (prompts // len(image)) if image.is_cpu else [image.expand(prompts, -1, -1)]


def arithmetic(x: Tensor) -> torch.dtype:
    """What products of x are computed in: bfloat16 where autocast says so."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if kind != "meta" and torch.is_autocast_enabled(kind) else x.dtype
