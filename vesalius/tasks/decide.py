"""How scores become a mask: one rule a task, decided on the scanner's own grid.

    Argmax      scores (K, Z, Y, X), channel 0 background  -> the label of the highest
    Regions     one sigmoid a region, nested or overlapping -> painted in order, later over earlier
    Objects     foreground and distance, `transforms.objects` -> numbered objects 1..n
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..transforms.objects import CHANNELS, decode


@dataclass(frozen=True)
class Argmax:
    """The class with the highest score; channel k > 0 becomes the k-th label's value."""

    kind: Literal["argmax"] = "argmax"

    def channels(self, labels: int) -> int:
        return labels + 1


@dataclass(frozen=True)
class Regions:
    """Region k where its logit is above 0, painted in label order (BraTS: whole tumour, core, enhancing)."""

    kind: Literal["regions"] = "regions"

    def channels(self, labels: int) -> int:
        return labels


@dataclass(frozen=True)
class Objects:
    """Objects told apart by `transforms.objects`; `foreground` is a probability, `peak` a normalised distance."""

    foreground: float = 0.5
    peak: float = 0.1
    min_area_px: int = 12
    kind: Literal["objects"] = "objects"

    def channels(self, labels: int) -> int:
        return len(CHANNELS)


Decision = Argmax | Regions | Objects
SURE = 10.0  # a logit of a network that has no doubt: a probability of 0.99995


def background(rule: Decision, channels: int) -> tuple[float, ...]:
    """Logits (K,) of nothing to be found, for what was cropped away: all equal ones would be probabilities of 1/K, or 1/2."""
    if isinstance(rule, Regions):
        return (-SURE,) * channels
    return (SURE if isinstance(rule, Argmax) else -SURE, *[0.0] * (channels - 1))


def decide(scores: np.ndarray, rule: Decision, values: tuple[int, ...]) -> np.ndarray:
    """Label map (*S) from logits (K, *S). `values` are the labels' values in channel order.

    Memory is that of the result and one channel: classes are compared one after the other. For Objects the result counts objects.
    """
    if isinstance(rule, Objects):
        planes = scores.swapaxes(0, 1)
        return np.stack([decode(p, foreground=rule.foreground, peak=rule.peak, min_area_px=rule.min_area_px) for p in planes])
    dtype = np.uint8 if max(values) <= 255 else np.uint16
    labels = np.zeros(scores.shape[1:], dtype)
    if isinstance(rule, Regions):
        for value, score in zip(values, scores, strict=True):
            labels[score > 0] = value
        return labels
    best = scores[0].copy()
    for value, score in zip(values, scores[1:], strict=True):
        higher = score > best
        labels[higher] = value
        np.maximum(best, score, out=best)
    return labels
