"""From the tensor names of an official file to ours: over whole state dicts, since some tensors are split or joined."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

State = dict[str, Tensor]
Rename = Callable[[str], str | None]  # an official tensor name -> ours; None: not a tensor of this network
Convert = Callable[[State], State]  # an official state dict -> ours; names it does not know stay, and are reported as unused


def renamed(rename: Rename) -> Convert:
    """The conversion that only renames."""
    return lambda state: {rename(name) or name: tensor for name, tensor in state.items()}
