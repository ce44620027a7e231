"""Muon: the momentum of every kernel and matrix is made orthogonal before it is stepped along; AdamW for the rest.

Source   Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/ (momentum, Newton-Schulz iteration);
         Liu et al. 2025, arXiv:2502.16982 (steps as long as AdamW's, so that its rate and decay serve)
Equal    to torch.optim.Muon on matrices (tests); that one takes no kernels, which are most of our networks
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

MOMENTUM = 0.95
ITERATIONS = 5
A, B, C = 3.4445, -4.7750, 2.0315  # of the quintic iteration
AS_ADAMW = 0.2  # root mean square of AdamW's usual step, in learning rates
FEW = 16  # what has fewer rows or columns is left to AdamW


class Muon(torch.optim.AdamW):
    """AdamW in which kernels and matrices take orthogonal steps: one row per output, all else flattened into columns.

    Made orthogonal in `dtype`: rounded in bfloat16, as is usual, or, where the whole training is to be exact, in float32.
    """

    def __init__(self, params: Any, lr: float, dtype: torch.dtype = torch.bfloat16):
        super().__init__(params, lr=lr)
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None or not is_matrix(weight):
                    continue
                state = self.state[weight]
                if not state:
                    state["step"], state["momentum"] = torch.zeros(()), torch.zeros_like(weight)  # AdamW looks for a step
                momentum = state["momentum"].lerp_(weight.grad, 1 - MOMENTUM)
                ahead = weight.grad.lerp(momentum, MOMENTUM).flatten(1)
                length = group["lr"] * AS_ADAMW * max(ahead.shape) ** 0.5
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(orthogonal(ahead, self.dtype).view_as(weight), alpha=-length)
                weight.grad = None  # AdamW passes over it
        return super().step(closure)


def is_matrix(weight: Tensor) -> bool:
    """Whether a weight has rows and columns enough to be made orthogonal."""
    return weight.ndim > 1 and min(weight.shape[0], weight[0].numel()) >= FEW


def orthogonal(matrix: Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """The nearest matrix whose singular values are all 1, roughly (0.7 to 1.2), by Newton-Schulz iteration in `dtype`."""
    tall = len(matrix) > matrix.shape[1]
    x = matrix.to(dtype).T if tall else matrix.to(dtype)
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=B, alpha=C), x, beta=A)
    return (x.T if tall else x).to(matrix.dtype)
