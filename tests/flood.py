"""A stand-in for a promptable model that does exactly what is asked: it takes what has the grey value under a click.

A click on the object takes the connected patch of its grey value; one beside it gives its patch back; a box takes what is
brighter than 100 within it; an earlier mask what is brighter than 100 within it and one pixel around. So every mask is known to
the pixel. Asked for three masks it also offers the patch's bounding box and the whole picture, which it trusts less.
"""

from dataclasses import dataclass

import cc3d
import numpy as np
import torch
from scipy.ndimage import binary_dilation

from vesalius.core.errors import InputError
from vesalius.core.greys import GreyRule
from vesalius.pipeline.looks import Asked, Proposals

BRIGHT = 100
WHOLE = GreyRule(0.0, 100.0)
TRUST = (0.9, 0.8, 0.7)  # what it predicts of its own masks


class Flood:
    """One picture; a state is the logits (H, W) themselves."""

    taps = None

    def __init__(self, picture: np.ndarray):
        assert picture.dtype == np.uint8 and picture.shape[2] == 3
        self.grey = np.ascontiguousarray(picture[..., 0])
        self.size = self.grey.shape
        self.patches = cc3d.connected_components(self.grey.astype(np.int32) + 1, connectivity=4)

    def ask(self, asked: Asked, *, multimask: bool) -> Proposals:
        given = next(part for part in (asked.points, asked.boxes, asked.states, asked.text) if part is not None)
        masks = np.stack([self._answer(asked, i, multimask) for i in range(len(given))])
        iou = torch.tensor([TRUST[: masks.shape[1]]]).expand(len(masks), -1)
        return Proposals(iou, torch.from_numpy(np.where(masks, 3.0, -3.0)).float())

    def full(self, state: torch.Tensor) -> torch.Tensor:
        return state

    def believed(self, mask: np.ndarray) -> torch.Tensor:
        assert mask.shape == self.size
        return torch.from_numpy(np.where(mask, 10.0, -10.0))[None].float()

    def _answer(self, asked: Asked, i: int, multimask: bool) -> np.ndarray:
        mask = np.zeros(self.size, bool)
        if asked.boxes is not None:
            x0, y0, x1, y1 = (round(float(v)) for v in asked.boxes[i])
            mask[y0:y1, x0:x1] = self.grey[y0:y1, x0:x1] > BRIGHT
        if asked.states is not None:
            mask |= binary_dilation(asked.states[i].numpy() > 0, np.ones((3, 3))) & (self.grey > BRIGHT)
        if asked.points is not None:
            for (x, y), label in zip(asked.points[i], asked.labels[i], strict=True):
                patch = self.patches == self.patches[int(y), int(x)]
                mask = mask | patch if label == 1 else mask & ~patch
        if not multimask:
            return mask[None]
        y, x = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        filled = np.zeros(self.size, bool)
        filled[y[0] : y[-1] + 1, x[0] : x[-1] + 1] = True
        return np.stack([mask, filled, np.ones(self.size, bool)])


@dataclass
class FloodPrompter:
    """It counts its looks."""

    name: str = "flood"
    identity: str = "flood-1"
    greys: GreyRule = WHOLE
    looks: int = 0
    learned: tuple[str, ...] = ("points", "boxes", "masks")
    refines: bool = False
    rates: bool = True
    stable: float = 0.95

    @property
    def carries(self) -> str:
        return "both" if "masks" in self.learned else "box"

    def look(self, picture: np.ndarray, cache=None) -> Flood:
        self.looks += 1
        return Flood(picture)

    def words(self, text: str) -> torch.Tensor:
        raise InputError("these weights know no words", fix="give points or a box")
