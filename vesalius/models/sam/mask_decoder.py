"""SAM's mask decoder: prompt tokens and image look at each other twice, then tokens become the weights that draw the masks.

    tokens = [quality, mask 0, masks 1..3, prompts]          image = features + map of the mask prompt
    twice    tokens look at each other, tokens at the image, MLP, image at the tokens;  positions added, a norm after each
    once     tokens look at the image
    mask m   = hyper_m(token m) . upscale(image)             quality = MLP(token 0)

Mask 0 answers a prompt that says enough; masks 1 to 3 the whole, the part and the part's part. SAM-HQ (`hq.py`) adds a token
after the masks' and corrects what they draw.

Paper    Kirillov et al. 2023, arXiv:2304.02643, section 3 and appendix A, fig. 14
Shapes   features (1 or P, D, h, w), tokens (P, T, D) -> logits (P, M, 4 h, 4 w), quality (P, M)
Differs  what all prompts share is computed once (keys and values of the first look at the image); where a prompt has an image of
         its own, it is not projected: with few tokens it is quicker to bring their queries, keys and values to the image's
         channels, (W_q t) . (W_k x) = (W_k^T W_q t) . x; prompts go one after the other, so that their images stay in the cache;
         the transposed convolutions, with kernel = stride, are linear layers on tokens, and pixels are put in order at the very
         end, in the M masks alone; only the masks asked for are drawn, and of prompts that are not worth it none
Parity   tests/parity/compare_sam.py, tests/parity/test_transformers_sam.py
"""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..blocks import MLP, CrossAttention, tokens_of
from .hq import HQ
from .upscaling import Upscale, in_order

MASKS = 4  # one for a prompt that says enough, three for one that does not


def look_at_image(layer: CrossAttention, tokens: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """layer(tokens, keys, values) for few tokens (B, T, D) and an image (B, N, D) of their own: 2 T heads / D of the work."""
    q = layer.q(tokens).unflatten(-1, (layer.heads, -1))  # (B, T, heads, d)
    asked = torch.einsum("bthd,hdc->bhtc", q, layer.k.weight.unflatten(0, (layer.heads, -1)))  # k's bias moves no softmax
    looks = keys @ (asked.flatten(1, 2) * q.shape[-1] ** -0.5).transpose(1, 2)  # (B, N, heads T): the image is never turned
    seen = (looks.transpose(1, 2).softmax(-1) @ values).unflatten(1, (layer.heads, -1))  # (B, heads, T, D)
    found = torch.einsum("bhtc,hdc->bthd", seen, layer.v.weight.unflatten(0, (layer.heads, -1))).flatten(2)
    return layer.proj(found + layer.v.bias.to(found.dtype))


def look_at_tokens(layer: CrossAttention, image: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """layer(image, keys, values) for an image (1 or B, N, D) and few tokens (B, T, D): (B, N, D)."""
    k, v = (part(t).unflatten(-1, (layer.heads, -1)) for part, t in ((layer.k, keys), (layer.v, values)))  # (B, T, heads, d)
    k, (t, heads) = k * k.shape[-1] ** -0.5, k.shape[1:3]
    wanted = torch.einsum("bthd,hdc->bcth", k, layer.q.weight.unflatten(0, (heads, -1))).flatten(2)  # (B, D, T heads)
    level = torch.einsum("bthd,hd->bth", k, layer.q.bias.unflatten(0, (heads, -1))).flatten(1)[:, None]
    looks = torch.baddbmm(level, image.expand(len(k), -1, -1), wanted).transpose(1, 2).unflatten(1, (t, heads))
    looks = looks.softmax(1).flatten(1, 2).transpose(1, 2)  # (B, N, T heads); the softmax over few tokens likes N at the end
    given = torch.einsum("bthd,chd->bthc", v, layer.proj.weight.unflatten(1, (heads, -1))).flatten(1, 2)  # (B, T heads, D)
    return torch.baddbmm(layer.proj.bias, looks.contiguous(), given)


class TwoWayBlock(nn.Module):
    """Tokens among themselves, tokens to image, MLP, image to tokens. The first block has no positions, nor its way around."""

    def __init__(self, width: int, heads: int, mlp: int, first: bool):
        super().__init__()
        self.first = first
        self.among = CrossAttention(width, heads)
        self.to_image, self.to_tokens = (CrossAttention(width, heads, width // 2) for _ in range(2))
        self.mlp = MLP((width, mlp, width), act="relu")
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))

    def ask(self, tokens: Tensor, image: Tensor, placed: Tensor, codes: Tensor) -> Tensor:
        """What the tokens (P, T, D) see in the image (1 or P, N, D), with and without its positions: (P, T, D)."""
        if self.first:
            tokens = self.norms[0](self.among(tokens, tokens, tokens))
        else:
            coded = tokens + codes
            tokens = self.norms[0](tokens + self.among(coded, coded, tokens))
        tokens = self.norms[1](tokens + at_image(self.to_image, tokens + codes, placed, image))
        return self.norms[2](tokens + self.mlp(tokens))

    def answer(self, tokens: Tensor, image: Tensor, placed: Tensor, codes: Tensor) -> Tensor:
        """What the image (1 or P, N, D) makes of the tokens (P, T, D): (P, N, D)."""
        return self.norms[3](image + look_at_tokens(self.to_tokens, placed, tokens + codes, tokens))


def at_image(layer: CrossAttention, tokens: Tensor, placed: Tensor, image: Tensor) -> Tensor:
    """Tokens look at an image; one image for many prompts is projected once."""
    look = layer if len(image) < len(tokens) else partial(look_at_image, layer)
    return look(tokens, placed, image)


class TwoWayTransformer(nn.Module):
    """Blocks and a last look at the image: first `begin` with all prompts, then `finish` with some of them."""

    def __init__(self, width: int, heads: int, mlp: int, depth: int):
        super().__init__()
        self.blocks = nn.ModuleList(TwoWayBlock(width, heads, mlp, first=i == 0) for i in range(depth))
        self.last, self.norm = CrossAttention(width, heads, width // 2), nn.LayerNorm(width)

    def begin(self, codes: Tensor, image: Tensor, places: Tensor) -> Tensor:
        """The first block's tokens (P, T, D), as long as the image (1 or P, N, D) may still be one for all."""
        return self.blocks[0].ask(codes, image, image + places, codes) if len(self.blocks) else codes  # type: ignore[operator]

    def finish(self, tokens: Tensor, image: Tensor, codes: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """All the rest: tokens (P, T, D), image (P, N, D)."""
        for i, block in enumerate(self.blocks):
            placed = image + places
            tokens = block.ask(tokens, image, placed, codes) if i else tokens  # type: ignore[operator]
            image = block.answer(tokens, image, placed, codes)  # type: ignore[operator]
        return self.norm(tokens + at_image(self.last, tokens + codes, image + places, image)), image


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
        tokens, wanted = self.transformer.begin(codes, image, places), range(1, MASKS) if multimask else range(1)
        step, found = 1 if image.is_cpu else len(tokens), list[tuple[Tensor, Tensor]]()
        parts = (tokens, codes, image, features[:, width:].flatten(2))
        for own, code, map_, fine in zip(*(t.expand(len(tokens), -1, -1).split(step) for t in parts), strict=True):
            own, map_ = self.transformer.finish(own, map_, code, places)
            quality = self.quality(own[:, 0])[:, wanted.start : wanted.stop]
            fine = fine.unflatten(2, grid)
            if least == -math.inf:
                found.append((self.draw(own, map_, fine, wanted), quality))
                continue
            worth = (quality.float() > least).any(1)
            drawn = map_.new_full((len(own), len(wanted), 4 * grid[0], 4 * grid[1]), -math.inf)
            if worth.any():
                drawn[worth] = self.draw(own[worth], map_[worth], fine[worth], wanted)
            found.append((drawn, quality))
        logits, qualities = zip(*found, strict=True)
        return torch.cat(logits), torch.cat(qualities)

    def draw(self, tokens: Tensor, image: Tensor, fine: Tensor, wanted: range) -> Tensor:
        """The masks `wanted` (P, M, 4 h, 4 w); fine (P, 2 D, h, w), of SAM-HQ alone."""
        image = F.gelu(self.upscale(image)).flatten(1, 3)  # (P, N * 16, D / 8)
        drawing = torch.stack([self.hyper[i](tokens[:, 1 + i]) for i in wanted], 1)  # (P, M, D / 8)
        logits = in_order((image @ drawing.transpose(1, 2)).transpose(1, 2), (fine.shape[2], fine.shape[3]))
        return logits if self.hq is None else logits + self.hq(tokens[:, 1 + MASKS], image, fine)


def arithmetic(x: Tensor) -> torch.dtype:
    """What products of x are computed in: bfloat16 where autocast says so."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if kind != "meta" and torch.is_autocast_enabled(kind) else x.dtype
