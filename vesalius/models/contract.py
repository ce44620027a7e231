"""What a model promises: one `Outputs` from every forward pass, and a straight answer about the sizes it takes."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor


class Outputs(NamedTuple):
    """What every model returns, always.

    main       (B, K, *S) logits
    auxiliary  what else the loss needs; () outside training. Deep supervision: further logits, the finest first; each that is
               coarser than the one before weighs half of it in the loss, those of one size weigh the same
    """

    main: Tensor
    auxiliary: tuple[Tensor, ...] = ()


@runtime_checkable
class Segmenter(Protocol):
    """A network from image to class logits, built from a frozen `config` alone.

    Sizes are spatial, in (Z, Y, X) or (Y, X) order, in voxels or pixels.
    """

    config: Any
    dims: int
    in_channels: int
    classes: int

    @property
    def divisor(self) -> tuple[int, ...]:
        """Input sizes step by this much per axis."""
        ...

    @property
    def smallest(self) -> tuple[int, ...]:
        """The smallest input size."""
        ...

    def nearest_size(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """The nearest input size the network takes; `size` itself when it fits."""
        ...

    def output_size(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """The size of `Outputs.main` for an input of `size`; raises ShapeError for a size that does not fit."""
        ...

    def __call__(self, image: Tensor) -> Outputs:
        """(B, C, *S) -> Outputs; raises ChannelError or ShapeError before any computing."""
        ...
