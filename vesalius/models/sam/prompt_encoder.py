"""SAM's prompt encoder: points, box corners and text become tokens, a mask becomes a map.

    PE(x, y) = [sin(2 pi g), cos(2 pi g)],   g = G^T (2 x / W - 1, 2 y / H - 1)     G fixed, Gaussian (2, D / 2)
    token    = PE(x + 1/2, y + 1/2) + learned vector of its kind       not object, object, first corner, second corner
    tokens   = points, [no point], corners, text                       "no point" closes a list of points without a box

This is the one place of the house in which x comes before y.

Paper    Kirillov et al. 2023, arXiv:2304.02643, section 3 and appendix A; text: section 7.5 and appendix D.5
Shapes   P prompts -> tokens (P, T, D), map (P or 1, D, h, w)
Differs  text is not in the released code or weights: here, one linear layer from a CLIP embedding (normalised to length 1) to a
         token; only for weights that have it. The map of "no mask" stays (1, D, 1, 1): it is the same everywhere
Parity   tests/parity/compare_sam.py
"""

from __future__ import annotations

from math import pi

import torch
from torch import Tensor, nn

from ...core.errors import InputError, ShapeError
from ..blocks import LayerNorm2d
from ..contract import Prompts

ABSENT, NOT_OBJECT, OBJECT = -1, 0, 1  # labels of points


class PromptEncoder(nn.Module):
    """Prompts on a frame to tokens and a map. `text` is the width of the text embeddings, 0 where the weights know no text."""

    gaussian: Tensor

    def __init__(self, width: int, mask_channels: int, text: int = 0):
        super().__init__()
        self.register_buffer("gaussian", torch.randn(2, width // 2))
        self.kinds = nn.Parameter(torch.randn(4, width))  # not object, object, first corner, second corner
        self.absent, self.no_mask = nn.Parameter(torch.randn(width)), nn.Parameter(torch.randn(width))
        self.masks = nn.Sequential(
            nn.Conv2d(1, mask_channels // 4, 2, 2),
            LayerNorm2d(mask_channels // 4),
            nn.GELU(),
            nn.Conv2d(mask_channels // 4, mask_channels, 2, 2),
            LayerNorm2d(mask_channels),
            nn.GELU(),
            nn.Conv2d(mask_channels, width, 1),
        )
        self.text = nn.Linear(text, width) if text else None
        self._known: tuple[Tensor, tuple[int, int], Tensor] | None = None

    def forward(self, prompts: Prompts, grid: tuple[int, int], frame: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Tokens (P, T, D) and the map (P, D, *grid), or (1, D, 1, 1) without masks; `frame` (H, W) is the prepared image's size.

        Raises InputError for text that the weights do not know or of another width, ShapeError for masks of another size.
        """
        tokens = [self.kinds.new_empty(len(prompts), 0, self.kinds.shape[1])]
        if prompts.points is not None and prompts.labels is not None:
            tokens.append(self._points(prompts.points, prompts.labels, frame, closed=prompts.boxes is None))
        if prompts.boxes is not None:
            tokens.append(self.encode(prompts.boxes.unflatten(-1, (2, 2)) + 0.5, frame) + self.kinds[2:])
        if prompts.text is not None:
            tokens.append(self._text(prompts.text))
        return torch.cat(tokens, 1), self._map(prompts.masks, grid)

    def encode(self, places: Tensor, frame: tuple[int, int]) -> Tensor:
        """(..., 2) x, y in pixels of a `frame` (H, W) -> (..., D).

        The product with G is rounded once, as in the original's matrix product: the decoder amplifies the last bit a hundredfold.
        As a matrix product autocast would round it to bfloat16.
        """
        x, y = (2 * (places[..., i : i + 1].to(self.gaussian.dtype) / frame[1 - i]) - 1 for i in range(2))
        angle = 2 * pi * torch.addcmul(x * self.gaussian[0], y, self.gaussian[1])
        return torch.cat((angle.sin(), angle.cos()), -1)

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """The code of every cell's middle, (1, h * w, D), row by row; computed once a grid."""
        if self._known is not None and self._known[1] == grid and torch.equal(self._known[0], self.gaussian):
            return self._known[2]
        with torch.inference_mode(False), torch.no_grad():  # kept for training too
            y, x = (torch.arange(n, device=self.gaussian.device).to(self.gaussian) + 0.5 for n in grid)
            cells = torch.stack((x.expand(grid), y[:, None].expand(grid)), -1)
            code = self.encode(cells, grid).flatten(0, 1)[None]
            self._known = (self.gaussian.clone(), grid, code)
        return code

    def _points(self, points: Tensor, labels: Tensor, frame: tuple[int, int], closed: bool) -> Tensor:
        code = self.encode(points + 0.5, frame)  # (P, N, D)
        if closed:
            code = torch.cat((code, torch.zeros_like(code[:, :1])), 1)
            labels = torch.cat((labels, torch.full_like(labels[:, :1], ABSENT)), 1)
        label = labels[..., None]
        kind = torch.where(label == OBJECT, self.kinds[1], self.kinds[0])
        return torch.where(label == ABSENT, self.absent, code + kind)

    def _text(self, text: Tensor) -> Tensor:
        if self.text is None:
            raise InputError("these weights know no text prompts", fix="give points or a box, or weights trained with text")
        if text.shape[-1] != self.text.in_features:
            raise InputError(
                f"text embeddings are {text.shape[-1]} wide instead of {self.text.in_features}",
                fix="use the text encoder that the weights were trained with",
            )
        return self.text(nn.functional.normalize(text, dim=-1))[:, None]

    def _map(self, masks: Tensor | None, grid: tuple[int, int]) -> Tensor:
        if masks is None:
            return self.no_mask[None, :, None, None]
        want = (1, 4 * grid[0], 4 * grid[1])
        if masks.shape[1:] != want:
            have, fits = (" x ".join(map(str, shape)) for shape in (masks.shape[1:], want))
            raise ShapeError(f"mask prompts are {have}", fix=f"resize their logits to {fits}")
        return self.masks(masks)
