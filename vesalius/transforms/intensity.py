"""Intensity steps: every one gives float32, channel by channel, and a constant channel gives zeros, never NaN.

Which one: ZScore for MRI, Window for CT in HU, Scale for 8-bit pictures, Percentile for 16-bit pictures
and fluorescence, whose exposure and bit depth (12 of 16 bits, say) differ from picture to picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..core.errors import InputError
from ..core.image import Image

_BLOCK = 1 << 20  # voxels looked at together, so that float64 sums need no float64 copy of the image


@dataclass(frozen=True)
class ZScore:
    """(x - mean) / sd of each channel; with `nonzero`, over voxels other than 0, and those that are 0 stay 0."""

    kind: Literal["zscore"] = "zscore"
    nonzero: bool = False

    def apply(self, image: Image) -> Image:
        out = np.empty(image.array.shape, np.float32)
        for channel, target in zip(image.array, out, strict=True):
            mean, sd = mean_and_sd(channel, self.nonzero)
            if sd <= 1e-9 * abs(mean):  # constant, but for rounding
                target[:] = 0
                continue
            for block, done in zip(blocks(channel), blocks(target), strict=True):
                np.subtract(block, mean, out=done, dtype=np.float64, casting="same_kind")
                done *= 1 / sd
                if self.nonzero:
                    done[block == 0] = 0
        return image.with_array(out)


@dataclass(frozen=True)
class Percentile:
    """Percentiles `low` and `high` (0..100) go to 0 and 1; beyond is clipped.

    Each channel has its own, over its voxels; `together`, all channels share the lowest and the highest of them: a
    picture keeps its colours, and an empty channel is not blown up to noise.
    """

    kind: Literal["percentile"] = "percentile"
    low: float = 0.5
    high: float = 99.5
    together: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 100:
            raise InputError(f"percentiles must rise between 0 and 100, not {self.low} and {self.high}")

    def apply(self, image: Image) -> Image:
        out = np.empty(image.array.shape, np.float32)
        limits = [percentiles(channel, (self.low, self.high)) for channel in image.array]
        if self.together:
            limits = [(min(low for low, _ in limits), max(high for _, high in limits))] * len(limits)
        for channel, target, (low, high) in zip(image.array, out, limits, strict=True):
            _to_unit(channel, target, low, high)
        return image.with_array(out)


@dataclass(frozen=True)
class Window:
    """A CT window: [low, high] in HU goes to [0, 1], beyond is clipped.

    With `mean` and `sd` (of the training set's foreground, in HU) the clipped values become
    (x - mean) / sd instead, as nnU-Net does for CT (Isensee 2021, supplement).
    """

    low: float
    high: float
    kind: Literal["window"] = "window"
    mean: float | None = None
    sd: float | None = None

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise InputError(f"a window must rise, not go from {self.low} to {self.high}")
        if (self.mean is None) != (self.sd is None) or (self.sd is not None and self.sd <= 0):
            raise InputError("a window needs both mean and a positive sd, or neither")

    def apply(self, image: Image) -> Image:
        out = np.empty(image.array.shape, np.float32)
        for channel, target in zip(image.array, out, strict=True):
            if self.mean is None or self.sd is None:
                _to_unit(channel, target, self.low, self.high)
                continue
            for block, done in zip(blocks(channel), blocks(target), strict=True):
                np.clip(block.astype(np.float32), self.low, self.high, out=done)
                done -= self.mean
                done /= self.sd
        return image.with_array(out)


@dataclass(frozen=True)
class Scale:
    """x / `divide`, for pictures stored in as many bits as `divide` needs: 8 for 255, 16 for 4095.

    InputError for a brighter voxel, for fractions, and for pictures stored in other bits, however dark they are.
    """

    kind: Literal["scale"] = "scale"
    divide: float = 255.0

    def __post_init__(self) -> None:
        if not self.divide > 0:
            raise InputError(f"cannot divide by {self.divide}")

    def apply(self, image: Image) -> Image:
        if problem := self._problem(image):
            bits = 8 * self._depth.itemsize
            raise InputError(
                f"{problem}, but the step 'scale' divides by {self.divide:g}, for pictures of {bits} bits",
                file=image.source.path if image.source else None,
                fix=f"save the picture in {bits} bits, or train with the step 'percentile'",
            )
        out = np.empty(image.array.shape, np.float32)
        np.divide(image.array, np.float32(self.divide), out=out, casting="same_kind")
        return image.with_array(out)

    @property
    def _depth(self) -> np.dtype[Any]:
        """The smallest type that holds `divide`."""
        return np.min_scalar_type(math.ceil(self.divide))

    def _problem(self, image: Image) -> str | None:
        """Why these intensities are not those that `divide` was meant for, or None."""
        stored, top = np.dtype(image.stored), float(image.array.max())
        if top > self.divide:
            return f"intensities reach {top:g}"
        if stored.kind == "f" and 0 < top <= 1 < self.divide:
            return f"intensities are fractions up to {top:g}"
        if stored != self._depth and (self.divide <= 255 or stored.kind not in "ui" or stored.itemsize != self._depth.itemsize):
            return f"voxels are stored as {stored}, the brightest {top:g}"
        return None


def blocks(channel: np.ndarray) -> Iterator[np.ndarray]:
    """Views of a channel (Z, Y, X), at most about a million voxels each, that cover it once."""
    rows = max(1, _BLOCK // channel.shape[2])
    slices = max(1, rows // channel.shape[1])
    for z in range(0, channel.shape[0], slices):
        for y in range(0, channel.shape[1], rows):
            yield channel[z : z + slices, y : y + rows]


def mean_and_sd(channel: np.ndarray, nonzero: bool = False) -> tuple[float, float]:
    """Mean and standard deviation in float64 of a channel (Z, Y, X), two passes of small blocks; (0, 0) if no voxel counts."""
    count, total = 0, 0.0
    for block in blocks(channel):
        total += float(block.sum(dtype=np.float64))
        count += int(np.count_nonzero(block)) if nonzero else block.size
    if count == 0:
        return 0.0, 0.0
    mean, squares = total / count, 0.0
    for block in blocks(channel):
        off = (block[block != 0] if nonzero else block) - np.float64(mean)
        squares += float(np.vdot(off, off))
    return mean, float(np.sqrt(squares / count))


def percentiles(channel: np.ndarray, q: tuple[float, ...]) -> tuple[float, ...]:
    """numpy's linear percentiles of a channel; integers up to 16 bits are counted, so nothing is copied or sorted."""
    if channel.dtype.kind not in "ui" or channel.dtype.itemsize > 2:
        return tuple(float(v) for v in np.percentile(channel, q))
    offset = int(channel.min())
    counts = np.zeros(int(channel.max()) - offset + 1, np.int64)
    for block in blocks(channel):
        counts += np.bincount(block.ravel().astype(np.int64) - offset, minlength=len(counts))
    cumulative = np.cumsum(counts)
    found = []
    for value in q:
        rank = value / 100 * (channel.size - 1)
        below, above = np.searchsorted(cumulative, [np.floor(rank), np.ceil(rank)], side="right")
        found.append(offset + float(below + (above - below) * (rank - np.floor(rank))))
    return tuple(found)


def _to_unit(channel: np.ndarray, target: np.ndarray, low: float, high: float) -> None:
    """[low, high] to [0, 1], clipped, into float32 `target`; zeros where low equals high."""
    if not high > low:
        target[:] = 0
        return
    for block, done in zip(blocks(channel), blocks(target), strict=True):
        np.subtract(block, low, out=done, dtype=np.float64, casting="same_kind")
        done *= 1 / (high - low)
        np.clip(done, 0, 1, out=done)
