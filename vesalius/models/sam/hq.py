"""SAM-HQ: one more token draws a correction from finer features, and it is added to SAM's own masks.

    fine     = up(features) + up(early)              early: the image encoder after its first global block; once an image
    pixels   = conv(upscale(image)) + fine           upscale: SAM's own map that masks are drawn from
    mask m   = SAM's mask m + hyper(HQ token) . pixels

Paper    Ke et al. 2023, arXiv:2306.01567, section 3.2 and fig. 2
Shapes   features (B, D, h, w), early (B, h, w, E) -> fine (B, 2 D, h, w): the D / 8 channels of each cell's 4 x 4 pixels
Differs  the transposed convolutions are linear layers on tokens, as in the mask decoder; of three masks the original returns the
         one of the highest predicted IoU, here all three are drawn and the session takes the best; the correction alone
         (`hq_token_only`) is not offered
Parity   tests/parity/test_transformers_sam_hq.py
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..blocks import MLP, LayerNorm2d, map_of, tokens_of
from .upscaling import Upscale, in_order

AT_ONCE = 8  # prompts whose maps are refined together: 24 MB each at SAM's size


class HQ(nn.Module):
    """What SAM-HQ adds to SAM; the token itself is the last of the mask decoder's."""

    def __init__(self, width: int, early: int):
        super().__init__()
        self.width = width
        self.early, self.late = Upscale(early, width, width // 8), Upscale(width, width // 4, width // 8)
        self.refine = nn.Sequential(
            nn.Conv2d(width // 8, width // 4, 3, padding=1),
            LayerNorm2d(width // 4),
            nn.GELU(),
            nn.Conv2d(width // 4, width // 8, 3, padding=1),
        )
        self.hyper = MLP((width, width, width, width // 8), act="relu")

    def fine(self, features: Tensor, early: Tensor) -> Tensor:
        """Features (B, D, h, w) and the early ones (B, h, w, E) -> (B, 2 D, h, w)."""
        found = self.late(tokens_of(features)) + self.early(early.flatten(1, 2))  # (B, N, 4, 4, D / 8)
        return map_of(found.flatten(2), (features.shape[2], features.shape[3]))

    def forward(self, token: Tensor, image: Tensor, fine: Tensor) -> Tensor:
        """HQ token (P, D), upscaled image (P, N * 16, D / 8), fine (1 or P, 2 D, h, w) -> correction (P, 1, 4 h, 4 w)."""
        grid = (fine.shape[2], fine.shape[3])
        drawing = self.hyper(token)[:, None]  # (P, 1, D / 8)
        known = tokens_of(fine).unflatten(2, (16, -1)).flatten(1, 2)  # (1 or P, N * 16, D / 8)
        drawn = in_order(drawing @ known.transpose(1, 2), grid)
        parts = zip(drawing.split(AT_ONCE), image.split(AT_ONCE), strict=True)
        return drawn + torch.cat([self._refined(each, pixels, grid) for each, pixels in parts])

    def _refined(self, drawing: Tensor, image: Tensor, grid: tuple[int, int]) -> Tensor:
        pixels = self.refine(in_order(image.transpose(1, 2), grid))
        return torch.einsum("pmc,pchw->pmhw", drawing, pixels)
