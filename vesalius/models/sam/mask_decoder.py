"""SAM's mask decoder: prompt tokens and image look at each other twice, then tokens become the weights that draw the masks.

    tokens = [quality, mask 0, masks 1..3, prompts]          image = features + map of the mask prompt
    twice    tokens look at each other, tokens at the image, MLP, image at the tokens;  positions added, a norm after each
    once     tokens look at the image
    mask m   = hyper_m(token m) . upscale(image)             quality = MLP(token 0)

Mask 0 answers a prompt that says enough; masks 1 to 3 the whole, the part and the part's part.

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

MASKS = 4  # one for a prompt that says enough, three for one that does not


class Spread(nn.Module):
    """A transposed convolution with kernel = stride = 2, on tokens: each becomes its four. (..., D) -> (..., 4, C)."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(4 * outputs, inputs)), nn.Parameter(torch.zeros(outputs))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight).unflatten(-1, (4, -1)) + self.bias


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
    """Prompts to masks and their quality."""

    def __init__(self, width: int, heads: int, mlp: int, depth: int, iou_width: int):
        super().__init__()
        self.tokens = nn.Parameter(torch.randn(1 + MASKS, width))  # quality, masks
        self.transformer = TwoWayTransformer(width, heads, mlp, depth)
        self.up1, self.up2 = Spread(width, width // 4), Spread(width // 4, width // 8)
        self.norm = nn.LayerNorm(width // 4, eps=1e-6)
        self.hyper = nn.ModuleList(MLP((width, width, width, width // 8), act="relu") for _ in range(MASKS))
        self.quality = MLP((width, iou_width, iou_width, MASKS), act="relu")

    def forward(
        self, features: Tensor, places: Tensor, prompts: Tensor, dense: Tensor, multimask: bool
    ) -> tuple[Tensor, Tensor]:
        """features (1 or P, D, h, w), places (1, h * w, D), prompts (P, T, D), dense as the prompt encoder gives it."""
        grid = (features.shape[2], features.shape[3])
        image = tokens_of(features + dense)
        tokens = torch.cat((self.tokens.expand(len(prompts), -1, -1), prompts), 1)
        tokens, image = self.transformer(tokens, image, places)
        image = F.gelu(self.up2(F.gelu(self.norm(self.up1(image)))))  # (P, N, 4, 4, D / 8)
        wanted = range(1, MASKS) if multimask else range(1)
        drawing = torch.stack([self.hyper[i](tokens[:, 1 + i]) for i in wanted], 1)  # (P, M, D / 8)
        logits = drawing @ image.flatten(1, 3).transpose(1, 2)  # (P, M, N * 16)
        return in_order(logits, grid), self.quality(tokens[:, 0])[:, wanted.start : wanted.stop]


def in_order(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """(P, M, h * w * 16), each cell's pixels in two levels of 2 x 2 -> (P, M, 4 h, 4 w)."""
    x = x.unflatten(2, (*grid, 2, 2, 2, 2))  # h, w, then y, x of the first level and y, x of the second
    return x.permute(0, 1, 2, 4, 6, 3, 5, 7).flatten(5, 7).flatten(2, 4)
