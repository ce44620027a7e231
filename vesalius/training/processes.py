"""Several processes, one model: what must be computed over the global batch although each process sees a part of it.

DDP averages gradients over the processes. That is the gradient of the global batch only where the loss is a mean over
samples of equal weight; a ratio of sums (Dice, a mean over the voxels that count) and batch norm need an exchange.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function


def count() -> int:
    """How many processes work together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def together(value: Tensor) -> Tensor:
    """The sum of `value` over all processes, for a loss that is the same in all of them.

    Its gradient is that of this process's part times their number: averaged over them, as DDP does, it becomes the
    gradient of the global sum, and nothing is exchanged on the way back.
    """
    if count() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total + count() * (value - value.detach())


class Exchange(Function):
    """The sum over all processes, forwards and backwards: for what lies inside the network, where each process goes on with
    samples of its own and the others' losses depend on this process's part."""

    @staticmethod
    def forward(_: object, value: Tensor) -> Tensor:  # type: ignore[override]
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


class GlobalBatchNorm(nn.Module):
    """Batch norm over the global batch, with the parameters and buffers of the one it stands in for (torch's needs CUDA)."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, norm: nn.BatchNorm2d | nn.BatchNorm3d):
        super().__init__()
        self.eps, self.momentum = norm.eps, norm.momentum or 0.1
        self.weight, self.bias = norm.weight, norm.bias
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            self.register_buffer(name, getattr(norm, name))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return nn.functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        wide, axes, shape = x.float(), (0, *range(2, x.ndim)), (1, -1, *[1] * (x.ndim - 2))
        voxels = count() * x.numel() / x.shape[1]  # every process has as many
        mean = Exchange.apply(wide.sum(axes)) / voxels
        centred = wide - mean.view(shape)
        variance = Exchange.apply((centred**2).sum(axes)) / voxels
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * voxels / (voxels - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale.view(shape) + self.bias.view(shape)).to(x.dtype)


def join_norms(model: nn.Module) -> None:
    """Put a GlobalBatchNorm in the place of every batch norm of `model`; nothing is done in a single process."""
    if count() == 1:
        return
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d | nn.BatchNorm3d):
                setattr(parent, name, GlobalBatchNorm(child))
