"""SAM's mask decoder: prompt tokens and image look at each other twice, then tokens become the weights that draw the masks.

    tokens = [quality, mask 0, masks 1..3, prompts]          image = features + map of the mask prompt
    twice    tokens look at each other, tokens at the image, MLP, image at the tokens;  positions added, a norm after each
    once     tokens look at the image
    mask m   = hyper_m(token m) . upscale(image)             quality = MLP(token 0)

Mask 0 answers a prompt that says enough; masks 1 to 3 the whole, the part and the part's part. SAM-HQ (`hq.py`) adds a token
after the masks' and corrects what they draw.

Paper    Kirillov et al. 2023, arXiv:2304.02643, section 3 and appendix A, fig. 14
Shapes   features (1 or P, D, h, w), tokens (P, T, D) -> logits (P, M, 4 h, 4 w), quality (P, M)
Differs  what all prompts share is computed once (keys and values of the first look at the image); the transposed convolutions,
         with kernel = stride, are linear layers on tokens, and pixels are put in order at the very end, in the M masks alone;
         only the masks asked for are drawn
Parity   tests/parity/compare_sam.py, tests/parity/test_transformers_sam.py
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..blocks import MLP, CrossAttention, tokens_of
from .hq import HQ
from .upscaling import Upscale, in_order

MASKS = 4  # one for a prompt that says enough, three for one that does not


class TwoWayBlock(nn.Module):
    """Tokens among themselves, tokens to image, MLP, image to tokens. The first block has no positions, nor its way around."""

    def __init__(self, width: int, heads: int, mlp: int, first: bool):
        super().__init__()
        self.first = first
        self.among = CrossAttention(width, heads)
        self.to_image, self.to_tokens = (CrossAttention(width, heads, width // 2) for _ in range(2))
        self.mlp = MLP((width, mlp, width), act="relu")
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))

    def forward(self, tokens: Tensor, image: Tensor, codes: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        if self.first:
            tokens = self.norms[0](self.among(tokens, tokens, tokens))
        else:
            coded = tokens + codes
            tokens = self.norms[0](tokens + self.among(coded, coded, tokens))
        placed = image + places
        tokens = self.norms[1](tokens + self.to_image(tokens + codes, placed, image))
        tokens = self.norms[2](tokens + self.mlp(tokens))
        image = self.norms[3](image + self.to_tokens(placed, tokens + codes, tokens))
        return tokens, image


class TwoWayTransformer(nn.Module):
    """Blocks and a last look at the image: tokens (P, T, D), image (1 or P, N, D) -> both (P, ...)."""

    def __init__(self, width: int, heads: int, mlp: int, depth: int):
        super().__init__()
        self.blocks = nn.ModuleList(TwoWayBlock(width, heads, mlp, first=i == 0) for i in range(depth))
        self.last, self.norm = CrossAttention(width, heads, width // 2), nn.LayerNorm(width)

    def forward(self, tokens: Tensor, image: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        codes = tokens
        for block in self.blocks:
            tokens, image = block(tokens, image, codes, places)
        return self.norm(tokens + self.last(tokens + codes, image + places, image)), image


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
        self, features: Tensor, places: Tensor, prompts: Tensor, dense: Tensor, multimask: bool
    ) -> tuple[Tensor, Tensor]:
        """features (1 or P, D, h, w), of SAM-HQ (.., 3 D, ..) with the fine ones behind; places (1, h * w, D), prompts (P, T, D),
        dense as the prompt encoder gives it."""
        grid, width = (features.shape[2], features.shape[3]), self.tokens.shape[1]
        image = tokens_of(features[:, :width] + dense)
        tokens = torch.cat((self.tokens.expand(len(prompts), -1, -1), prompts), 1)
        tokens, image = self.transformer(tokens, image, places)
        image = F.gelu(self.upscale(image)).flatten(1, 3)  # (P, N * 16, D / 8)
        wanted = range(1, MASKS) if multimask else range(1)
        drawing = torch.stack([self.hyper[i](tokens[:, 1 + i]) for i in wanted], 1)  # (P, M, D / 8)
        logits = in_order(drawing @ image.transpose(1, 2), grid)
        if self.hq is not None:
            logits = logits + self.hq(tokens[:, 1 + MASKS], image, features[:, width:])
        return logits, self.quality(tokens[:, 0])[:, wanted.start : wanted.stop]
