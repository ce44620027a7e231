"""What a model promises.

A Segmenter gives one `Outputs` from every forward pass, and a straight answer about the sizes it takes. A PromptSegmenter looks
at an image once (`embed`) and then answers any number of prompts (`decode`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from ..core.errors import InputError


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


@dataclass(frozen=True)
class Prompts:
    """P prompts about one image, each for one object, as tensors on the model's frame; what is not prompted is None.

    points  (P, N, 2) float, x then y in pixels of the prepared image (B, 3, S, S), with
    labels  (P, N) integer: 1 on the object, 0 not on it, -1 no point at all, where one prompt has fewer than another
    boxes   (P, 4) float: x0, y0, x1, y1
    masks   (P, 1, h, w) float: logits of an earlier mask, as large as `decode` returns them
    text    (P, T) float: embeddings of a text encoder

    The order x, y is SAM's; the house's order ends here. Raises InputError for no prompt at all, or parts that do not fit.
    """

    points: Tensor | None = None
    labels: Tensor | None = None
    boxes: Tensor | None = None
    masks: Tensor | None = None
    text: Tensor | None = None

    def __post_init__(self) -> None:
        counts = {name: len(tensor) for name, tensor in vars(self).items() if tensor is not None}
        if not counts:
            raise InputError("there is no prompt", fix="give points with labels, boxes, masks or text")
        places, kinds = (() if t is None else tuple(t.shape[:2]) for t in (self.points, self.labels))
        if places != kinds:
            raise InputError("points and labels do not fit", fix="give one label a point: 1 on the object, 0 beside it")
        if len(set(counts.values())) > 1:
            raise InputError(f"the prompts differ in number: {counts}", fix="give as many of each kind")

    def __len__(self) -> int:
        """P."""
        return next(len(tensor) for tensor in vars(self).values() if tensor is not None)

    def part(self, start: int, stop: int) -> Prompts:
        """The prompts start to stop - 1, at least one: for decoding in chunks."""
        return Prompts(*(None if tensor is None else tensor[start:stop] for tensor in vars(self).values()))


class Answers(NamedTuple):
    """What `decode` returns: the masks of every prompt and how good the model thinks they are.

    logits  (P, M, h, w) at the model's low resolution; above 0 is the object
    iou     (P, M), the predicted IoU of each mask
    """

    logits: Tensor
    iou: Tensor


@runtime_checkable
class PromptSegmenter(Protocol):
    """A network that embeds an image once and then answers prompts about it.

    The image is prepared and masks are brought back by the `Frame` that belongs to the weights, not to the architecture.
    """

    config: Any
    in_channels: int

    def embed(self, image: Tensor) -> Tensor:
        """(B, 3, S, S), prepared -> features (B, D, S / 16, S / 16); raises ChannelError or ShapeError before any computing."""
        ...

    def decode(
        self, features: Tensor, prompts: Prompts, multimask: bool = False, *, least_iou: float = -math.inf
    ) -> Answers:
        """Features (1, D, s, s) of one image for all prompts, or (P, D, s, s), and P prompts -> logits (P, M, h, w), iou (P, M).

        M is 3 with multimask and 1 without; h = w = 4 s for SAM. The masks of a prompt of which none is predicted better than
        `least_iou` may be left undrawn: -inf throughout. Raises InputError for a prompt that the weights do not know.
        """
        ...
