"""From the tensor names of an official file to ours: over whole state dicts, since some tensors are split or joined."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

State = dict[str, Tensor]
Rename = Callable[[str], str | None]  # an official tensor name -> ours; None: not a tensor of this network
Convert = Callable[[State], State]  # an official state dict -> ours; names it does not know stay, and are reported as unused


# What stands in front of every name where a network was saved as a part of something else: by torch's DataParallel, by
# torch.compile, by a LightningModule.
WRAPPINGS = ("module.", "_orig_mod.", "model.", "net.", "network.")


def unwrapped(state: State) -> State:
    """Without what stands in front of every name, one of WRAPPINGS or several."""
    for wrapping in WRAPPINGS:
        if state and all(name.startswith(wrapping) for name in state):
            return unwrapped({name.removeprefix(wrapping): tensor for name, tensor in state.items()})
    return state


def renamed(rename: Rename) -> Convert:
    """The conversion that only renames."""
    return lambda state: {rename(name) or name: tensor for name, tensor in state.items()}
