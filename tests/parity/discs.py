"""An analytic stand-in for a promptable model: three discs around every click, larger and flatter from the first to the third.

For a click at (cx, cy) the discs have radius 6 + 5|sin(cx/9)|, 12 + 6|cos(cy/7)|, 24 + 8|sin((cx+cy)/13)|, logits
(radius - distance) x (4, 1.6, 0.8) and predicted IoU 0.80 + 0.19|sin(cx/5)|, 0.84 + 0.15|cos(cy/6)|, 0.86 + 0.1|sin((cx-cy)/8)|.
"""

import numpy as np
import torch

from vesalius.pipeline.looks import Asked, Proposals

SLOPES = (4.0, 1.6, 0.8)


class Discs:
    """What it sees in a picture (H, W, C): nothing but its size. A state is (cx, cy, radius, slope)."""

    taps = None

    def __init__(self, picture: np.ndarray):
        self.size = picture.shape[:2]
        self.asked = 0
        self.made = 0

    def ask(self, asked: Asked, *, multimask: bool) -> Proposals:
        cx, cy = asked.points[:, 0, 0], asked.points[:, 0, 1]
        radii = (6 + 5 * abs(np.sin(cx / 9)), 12 + 6 * abs(np.cos(cy / 7)), 24 + 8 * abs(np.sin((cx + cy) / 13)))
        iou = (0.80 + 0.19 * abs(np.sin(cx / 5)), 0.84 + 0.15 * abs(np.cos(cy / 6)), 0.86 + 0.1 * abs(np.sin((cx - cy) / 8)))
        each = zip(radii, SLOPES, strict=True)
        state = np.stack([np.stack([cx, cy, radius, np.full_like(cx, slope)], -1) for radius, slope in each], 1)
        count = 3 if multimask else 1
        self.asked += len(cx)
        return Proposals(torch.from_numpy(np.stack(iou, 1)).float()[:, :count], torch.from_numpy(state)[:, :count])

    def full(self, state: torch.Tensor) -> torch.Tensor:
        y, x = (torch.arange(n, dtype=torch.float64) for n in self.size)
        cx, cy, radius, slope = (state[:, i, None, None] for i in range(4))
        self.made += len(state)
        return ((radius - ((x - cx) ** 2 + (y[:, None] - cy) ** 2).sqrt()) * slope).float()

    def believed(self, mask: np.ndarray) -> torch.Tensor:
        y, x = np.nonzero(mask)
        return torch.tensor([[x.mean(), y.mean(), (len(x) / np.pi) ** 0.5, 1.6]])
