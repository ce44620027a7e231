"""What networks with levels share beside their layers: which image sizes they take, and which configurations are none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Protocol

from torch import Tensor

from ..core.errors import ChannelError, InputError, ShapeError

Axes = tuple[int, ...]


@dataclass(frozen=True)
class Multiples:
    """The sizes of a network that halves its maps and takes no rest: every axis a multiple of `divisor`.

    name     of the network, for messages: 'U-Net++'
    voxels   least number of voxels on the coarsest grid; an instance norm needs 2, one alone has no variance to divide by
    """

    name: str
    divisor: Axes
    voxels: int = 1

    @property
    def smallest(self) -> Axes:
        """The smallest size."""
        return self.nearest((1,) * len(self.divisor))

    def nearest(self, size: Axes) -> Axes:
        """The nearest size that fits, the larger one when two are equally near."""
        steps = [max(1, (2 * n + d) // (2 * d)) for n, d in zip(size, self.divisor, strict=True)]
        if prod(steps) < self.voxels:
            steps[cheapest(size, self.divisor, self.voxels)] = self.voxels
        return tuple(s * d for s, d in zip(steps, self.divisor, strict=True))

    def check(self, size: Axes) -> Axes:
        """`size` itself; raises ShapeError that names the nearest size."""
        if len(size) != len(self.divisor):
            raise ShapeError(f"this {self.name} takes {len(self.divisor)} axes, not {len(size)}")
        if self.nearest(size) != tuple(size):
            shapes = [" x ".join(map(str, s)) for s in (size, self.nearest(size))]
            raise ShapeError(f"this {self.name} cannot take a size of {shapes[0]}", fix=f"use {shapes[1]}")
        return tuple(size)

    def check_image(self, image: Tensor, in_channels: int) -> None:
        """Raises ShapeError or ChannelError where `image` is not (B, in_channels, *S) with a size that fits."""
        dims = len(self.divisor)
        if image.ndim != dims + 2:
            raise ShapeError(f"this {self.name} takes (batch, channels) and {dims} axes, not {tuple(image.shape)}")
        if image.shape[1] != in_channels:
            raise ChannelError(
                f"the image has {image.shape[1]} channels, this {self.name} takes {in_channels}",
                fix="give the channels the model was trained with, in their order",
            )
        self.check(tuple(image.shape[2:]))


def cheapest(size: Axes, divisor: Axes, steps: int) -> int:
    """Which axis of an image of `size` is nearest to `steps` times its divisor, where all would have one; the last of equals."""
    costs = [abs(steps * d - n) - abs(d - n) for n, d in zip(size, divisor, strict=True)]
    return max(axis for axis, cost in enumerate(costs) if cost == min(costs))


def shrink(strides: tuple[Axes, ...]) -> Axes:
    """How many times smaller the coarsest grid is, per axis."""
    return tuple(prod(axis) for axis in zip(*strides, strict=True))


class TakesMultiples(Protocol):
    """What `contract.Segmenter` says of sizes, answered by a network's `sizes`; it gives as large a map as it takes."""

    sizes: Multiples

    @property
    def divisor(self) -> Axes:
        """Input sizes step by this much per axis."""
        return self.sizes.divisor

    @property
    def smallest(self) -> Axes:
        """The smallest input size per axis."""
        return self.sizes.smallest

    def nearest_size(self, size: Axes) -> Axes:
        """The nearest input size the network takes, the larger one when two are equally near."""
        return self.sizes.nearest(size)

    def output_size(self, size: Axes) -> Axes:
        """`size` itself; raises ShapeError for one that does not fit."""
        return self.sizes.check(size)


def check_levels(
    name: str, dims: int, widths: Axes, least: int, per_level: Mapping[str, tuple[tuple[Axes | int, ...], int]]
) -> None:
    """Raises InputError unless `widths` are at least `least` levels and every list of `per_level` has the length beside it.

    Entries of per_level that are tuples have one positive number an axis; those of lists named *kernels are odd.
    """
    if dims not in (2, 3):
        raise InputError(f"a {name} has 2 or 3 dimensions, not {dims}", fix="set dims to 2 or 3")
    if len(widths) < least or min(widths) < 1:
        raise InputError(f"widths {widths} are no {name}", fix=f"give at least {least} levels of at least one channel")
    for field, (given, length) in per_level.items():
        if len(given) not in (0, length):
            raise InputError(f"{field} has {len(given)} entries", fix=f"give {length}, for {len(widths)} widths")
        for axes in given:
            if isinstance(axes, tuple) and (len(axes) != dims or min(axes) < 1):
                raise InputError(f"{axes} does not fit {dims} dimensions", fix=f"give {dims} positive numbers")
            if field.endswith("kernels") and isinstance(axes, tuple) and any(k % 2 == 0 for k in axes):
                raise InputError("kernels must be odd", fix="use 1, 3 or 5 per axis")
