"""How a picture reaches SAM and how its masks come back. It belongs to the weights: the same network was trained with others.

    SAM, MobileSAM   the long side to S (bilinear, antialiased, uint8), normalise, zeros below and to the right up to S x S;
                     logits to S x S, the filling cut off, then to the picture's size; above 0 is the object
    MedSAM           both sides to S whatever the aspect (bicubic, antialiased, uint8), min-max to [0, 1];
                     probabilities straight to the picture's size; above 0.5 is the object

    picture (H, W, 3) uint8  --prepare-->  (1, 3, S, S)  --embed, decode-->  (P, M, h, w)  --restore-->  (P, M, H, W)

Paper    Kirillov et al. 2023, arXiv:2304.02643, section 3; Ma et al. 2024 (MedSAM), 10.1038/s41467-024-44824-z
Parity   tests/parity/compare_sam.py
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from PIL import Image as Picture
from torch import Tensor

from ...core.errors import ChannelError, InputError


@dataclass(frozen=True)
class Frame:
    """One preparation and its way back.

    size       S, the side of the square that the network sees
    aspect     "keep": the long side becomes S, zeros fill the rest; "stretch": both sides become S
    intensity  "normalise": (value - mean) / sd; "min_max": the picture's own range to [0, 1]
    decide     what is interpolated to the picture's size: "logits" (the object is above 0) or "probabilities" (above 0.5)
    """

    size: int = 1024
    aspect: Literal["keep", "stretch"] = "keep"
    intensity: Literal["normalise", "min_max"] = "normalise"
    decide: Literal["logits", "probabilities"] = "logits"
    mean: tuple[float, ...] = (123.675, 116.28, 103.53)  # of ImageNet, in the order red, green, blue
    sd: tuple[float, ...] = (58.395, 57.12, 57.375)

    @property
    def threshold(self) -> float:
        """What `restore` returns is the object above this."""
        return 0.0 if self.decide == "logits" else 0.5

    def inner(self, shape: tuple[int, int]) -> tuple[int, int]:
        """The part (h, w) of the square, from its upper left corner, that a picture of `shape` (H, W) covers."""
        if self.aspect == "stretch":
            return self.size, self.size
        scale = self.size / max(shape)
        return max(1, int(shape[0] * scale + 0.5)), max(1, int(shape[1] * scale + 0.5))

    def resize(self, picture: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 -> (h, w, 3) uint8, `inner` large; raises InputError for another type, ChannelError unless RGB."""
        if picture.dtype != np.uint8:
            raise InputError(f"SAM takes pictures of 8 bits, not {picture.dtype}", fix="window the intensities to 0..255 first")
        if picture.ndim != 3 or picture.shape[2] != 3:
            raise ChannelError(f"SAM takes (H, W, 3), not {picture.shape}", fix="repeat a grey picture three times")
        size = self.inner(picture.shape[:2])
        if self.aspect == "keep":
            return np.asarray(Picture.fromarray(picture).resize(size[::-1], Picture.Resampling.BILINEAR))
        from skimage.transform import resize  # as MedSAM did: splines after a Gaussian, cut off to whole numbers

        return resize(picture, size, order=3, preserve_range=True, anti_aliasing=True).astype(np.uint8)

    def fill(self, resized: Tensor) -> Tensor:
        """(B, 3, h, w), resized already, values 0..255 -> (B, 3, S, S) float32 as the network takes it."""
        x = resized.float()
        if self.intensity == "min_max":
            low, high = x.amin((1, 2, 3), keepdim=True), x.amax((1, 2, 3), keepdim=True)
            x = (x - low) / (high - low).clamp_min(1e-8)
        else:
            x = (x - x.new_tensor(self.mean)[:, None, None]) / x.new_tensor(self.sd)[:, None, None]
        return F.pad(x, (0, self.size - x.shape[-1], 0, self.size - x.shape[-2]))

    def prepare(self, picture: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 -> (1, 3, S, S) float32; raises as `resize` does."""
        return self.fill(torch.from_numpy(self.resize(picture).transpose(2, 0, 1).copy())[None])

    def points(self, points: ArrayLike, shape: tuple[int, int]) -> Tensor:
        """(..., 2) x, y on a picture of `shape` (H, W) -> the same on the square, float32."""
        h, w = self.inner(shape)
        return torch.from_numpy(np.asarray(points, np.float32) * np.array((w / shape[1], h / shape[0]), np.float32))

    def boxes(self, boxes: ArrayLike, shape: tuple[int, int]) -> Tensor:
        """(..., 4) x0, y0, x1, y1 on a picture of `shape` (H, W) -> the same on the square, float32."""
        corners = np.asarray(boxes, np.float32)
        return self.points(corners.reshape(*corners.shape[:-1], 2, 2), shape).flatten(-2)

    def restore(self, logits: Tensor, shape: tuple[int, int]) -> Tensor:
        """Low-resolution logits (P, M, h, w) -> scores (P, M, H, W) on a picture of `shape`: the object is above `threshold`."""
        scores = logits.float()
        if self.decide == "probabilities":
            scores = scores.sigmoid()
        if self.aspect == "keep":
            h, w = self.inner(shape)
            scores = F.interpolate(scores, (self.size, self.size), mode="bilinear", align_corners=False)[..., :h, :w]
        if tuple(scores.shape[-2:]) == tuple(shape):
            return scores  # the picture is as large as the square's part: interpolation would change nothing
        return F.interpolate(scores, shape, mode="bilinear", align_corners=False)
