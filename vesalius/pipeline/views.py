"""What a promptable model is shown of an image: one slice as an RGB picture of 8 bits, windowed by a rule that is said.

8-bit pictures and volumes   as they are, or through the window given
anything else                the window given, or else the weights' own rule (`core/greys.py`): a window for CT, or percentiles
                             over the whole image; where all but a few pixels are alike and both percentiles therefore too, its
                             least and greatest value
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from ..core.errors import ChannelError, InputError
from ..core.greys import GreyRule
from ..core.image import Grid, Image
from ..core.prompts import Plane
from ..transforms.intensity import Window, percentiles

COLOURS = ("red", "green", "blue")


@dataclass(frozen=True, eq=False)
class View:
    """An image, the grey values `limits` that become black and white (None: 8 bits as they are), and the rule in words."""

    image: Image
    limits: tuple[float, float] | None
    rule: str

    @classmethod
    def of(cls, image: Image, window: tuple[float, float] | None, rule: GreyRule) -> View:
        """Through `window`, or by the weights' `rule` where the image needs it and no window is given.

        Raises ChannelError unless grey or RGB, InputError for NaN and infinity, and for a window that does not rise.
        """
        file, several = image.source.path if image.source else None, f"the image has {len(image.array)} channels"
        if len(image.array) not in (1, 3):
            raise ChannelError(several, file=file, fix="prompts need a grey or an RGB image")
        if len(image.array) == 3 and image.grid.dims == 3 and image.channels != COLOURS:
            fix = f"give one of them alone; where they are colours, Image(..., channels={COLOURS})"
            raise ChannelError(f"{several}, and nothing says that they are colours", file=file, fix=fix)
        if image.array.dtype.kind == "f" and not all(np.isfinite(plane).all() for channel in image.array for plane in channel):
            raise InputError("the image holds NaN or infinity", file=file, fix="replace them by a number")
        if image.array.dtype == bool:
            image = replace(image, array=image.array.astype(np.uint8) * np.uint8(255))
        if window is not None:
            if len(window) != 2 or not all(map(math.isfinite, window)):
                fix = "give (low, high), such as (-160, 240)"
                raise InputError(f"the window {tuple(window)} is not two grey values", fix=fix)
            checked = Window(*window)
            return cls(image, (checked.low, checked.high), f"window {checked.low:g} to {checked.high:g}, as given")
        if image.array.dtype == np.uint8:
            return cls(image, None, "8 bits as stored")
        if image.units == "HU" and rule.window_hu is not None:
            return cls(image, rule.window_hu, "window {:g} to {:g} HU, as the weights learned it".format(*rule.window_hu))
        positive = rule.positive and 0 <= image.array.min() < image.array.max()  # values below 0 are no empty background
        values = [channel[channel > 0] if positive else channel for channel in image.array]
        found = [percentiles(each, (rule.low, rule.high)) for each in values if each.size]  # of all: a picture keeps its colours
        low, high = min(low for low, _ in found), max(high for _, high in found)
        said = f"percentiles {rule.low:g} and {rule.high:g} of the {'values above 0' if positive else 'image'}"
        if low == high and image.array.min() < image.array.max():
            least, most = float(image.array.min()), float(image.array.max())
            return cls(image, (least, most), f"{said} are both {low:g}: from its least to its greatest, {least:g} to {most:g}")
        return cls(image, (low, high), f"{said}: {low:g} to {high:g}")

    def picture(self, plane: Plane) -> np.ndarray:
        """(H, W, 3) uint8, of the slice `plane`."""
        values = plane.take(self.image.array)
        if self.limits is not None:
            values = self._windowed(values)
        values = np.broadcast_to(values, (3, *values.shape[1:]))
        return np.ascontiguousarray(values.transpose(1, 2, 0))

    def volume(self) -> np.ndarray:
        """(Z, Y, X) uint8, of all slices; colours become grey."""
        found = np.empty(self.image.grid.shape, np.uint8)
        for z in range(len(found)):  # slice by slice: no second copy in floating point
            values = self.image.array[:, z]
            found[z] = np.rint((values if self.limits is None else self._windowed(values)).mean(0))
        return found

    def _windowed(self, values: np.ndarray) -> np.ndarray:
        assert self.limits is not None
        if not self.limits[0] < self.limits[1]:
            return np.zeros(values.shape, np.uint8)  # a constant image
        shown = Window(*self.limits).apply(Image(values[:, None], Grid((1, *values.shape[1:])))).array[:, 0]
        return np.rint(shown * 255).astype(np.uint8)
