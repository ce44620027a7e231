"""From the tensor names of an official file to ours: over whole state dicts, since some tensors are split or joined."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

State = dict[str, Tensor]
Rename = Callable[[str], str | None]  # an official tensor name -> ours; None: not a tensor of this network
Convert = Callable[[State], State]  # an official state dict -> ours; names it does not know stay, and are reported as unused


def unwrapped(state: State) -> State:
    """Without the `module.` that torch's DataParallel puts in front of every name."""
    wrapped = bool(state) and all(name.startswith("module.") for name in state)
    return {name.removeprefix("module."): tensor for name, tensor in state.items()} if wrapped else state


def renamed(rename: Rename) -> Convert:
    """The conversion that only renames."""
    return lambda state: {rename(name) or name: tensor for name, tensor in state.items()}
