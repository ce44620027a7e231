"""The layers that models share: convolutions in two and three dimensions, then transformers. Each exists once, here.

Maps are (B, C, *S) with S = (Y, X) or (Z, Y, X); convolutions never reshape one, so channels_last stays channels_last. Tokens
are (B, N, D).
"""

from __future__ import annotations

from itertools import pairwise
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..core.errors import unknown_name

# Any: torch declares sizes as int or 2-tuples and takes tuples of any length.
CONV: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
UPCONV: dict[int, Any] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
MAX_POOL = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
BATCH_NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
LINEAR_MODE = {2: "bilinear", 3: "trilinear"}
POOL = {2: F.avg_pool2d, 3: F.avg_pool3d}

ACTIVATIONS = {
    "relu": lambda: nn.ReLU(inplace=True),
    "leaky_relu": lambda: nn.LeakyReLU(0.01, inplace=True),  # slope of nnU-Net
    "gelu": nn.GELU,
}


def activation(kind: str) -> nn.Module:
    """One of ACTIVATIONS; raises UnknownName."""
    if kind not in ACTIVATIONS:
        raise unknown_name("activation", kind, ACTIVATIONS)
    return ACTIVATIONS[kind]()


def norm(kind: str, channels: int, dims: int) -> nn.Module:
    """A normalisation over `channels` with learned scale and shift; raises UnknownName."""
    if kind == "batch":
        return BATCH_NORM[dims](channels)
    if kind == "instance":
        return InstanceNorm(channels)
    if kind == "group":
        return nn.GroupNorm(next(g for g in (8, 4, 2, 1) if channels % g == 0), channels)
    if kind == "none":
        return nn.Identity()
    raise unknown_name("norm", kind, ("batch", "instance", "group", "none"))


class InstanceNorm(nn.Module):
    """Each channel of each image to mean 0, variance 1, then a learned scale and shift; names as in nn.InstanceNorm.

    PyTorch's own leaves channels_last (4 times slower on a CPU), and its group norm with one channel a group keeps it, but
    takes variance as E[x^2] - E[x]^2 (at mean 100 and deviation 1 off by 0.14) and is 20 times slower backward.
    Batch norm of one image is the same thing, exact and quick in that layout.
    """

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.weight, self.bias, self.eps = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels)), eps

    def forward(self, x: Tensor) -> Tensor:
        if x.is_contiguous():
            return F.group_norm(x, x.shape[1], self.weight, self.bias, self.eps)
        parts = [F.batch_norm(i, None, None, self.weight, self.bias, True, 0.0, self.eps) for i in x.split(1)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)  # cat copies even one


def conv(
    inputs: int,
    outputs: int,
    kernel: tuple[int, ...],
    *,
    stride: tuple[int, ...] | None = None,
    bias: bool = True,
    valid: bool = False,
    groups: int = 1,
) -> nn.Module:
    """A convolution in len(kernel) dimensions; odd kernels are padded to keep the size unless `valid`."""
    padding = (0,) * len(kernel) if valid else tuple(k // 2 for k in kernel)
    return CONV[len(kernel)](inputs, outputs, kernel, stride or (1,) * len(kernel), padding, bias=bias, groups=groups)


class ConvUnit(nn.Module):
    """conv -> dropout -> norm -> activation."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, ...],
        *,
        norm_kind: str = "batch",
        act: str | None = "relu",
        stride: tuple[int, ...] | None = None,
        bias: bool = True,
        valid: bool = False,
        dropout: float = 0.0,
        groups: int = 1,
    ):
        super().__init__()
        self.conv = conv(inputs, outputs, kernel, stride=stride, bias=bias, valid=valid, groups=groups)
        self.dropout = (nn.Dropout2d, nn.Dropout3d)[len(kernel) - 2](dropout) if dropout else nn.Identity()
        self.norm = norm(norm_kind, outputs, len(kernel))
        self.act = activation(act) if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.dropout(self.conv(x))))


def fold_norms(model: nn.Module) -> nn.Module:
    """The model itself, for inference alone: the running statistics of batch norms have become part of the convolution before."""
    for unit in model.modules():
        if isinstance(unit, ConvUnit) and isinstance(unit.norm, nn.BatchNorm2d | nn.BatchNorm3d):
            fused: nn.Module = fuse_conv_bn_eval(unit.conv, unit.norm)  # type: ignore[type-var]
            unit.conv, unit.norm = fused, nn.Identity()
    return model


class ResidualUnit(nn.Module):
    """act( norm(conv(unit(x))) + shortcut(x) ); the shortcut averages where the unit strides, and widens by a 1x1 conv."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, ...],
        *,
        norm_kind: str = "batch",
        act: str = "relu",
        stride: tuple[int, ...] | None = None,
        bias: bool = True,
        dropout: float = 0.0,
    ):
        super().__init__()
        dims = len(kernel)
        self.stride = stride if stride and max(stride) > 1 else None
        self.first = ConvUnit(inputs, outputs, kernel, norm_kind=norm_kind, act=act, stride=stride, bias=bias, dropout=dropout)
        self.second = ConvUnit(outputs, outputs, kernel, norm_kind=norm_kind, act=None, bias=bias)
        self.widen: nn.Module = nn.Identity()
        if inputs != outputs:
            self.widen = ConvUnit(inputs, outputs, (1,) * dims, norm_kind=norm_kind, act=None, bias=False)
        self.act = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        short = x if self.stride is None else POOL[len(self.stride)](x, self.stride, self.stride)
        return self.act(self.second(self.first(x)) + self.widen(short))


class LinearUp(nn.Module):
    """Bi- or trilinear up-sampling by whole factors; no parameters."""

    def __init__(self, factor: tuple[int, ...], align_corners: bool = False):
        super().__init__()
        self.factor, self.align_corners = factor, align_corners

    def forward(self, x: Tensor) -> Tensor:
        size = [s * f for s, f in zip(x.shape[2:], self.factor, strict=True)]
        return F.interpolate(x, size=size, mode=LINEAR_MODE[len(size)], align_corners=self.align_corners)


class ShuffleUp(nn.Module):
    """1x1 conv to prod(factor) values a channel, laid out as a block of `factor`: a transposed conv with kernel = stride."""

    def __init__(self, inputs: int, outputs: int, factor: tuple[int, ...], bias: bool = True):
        super().__init__()
        self.factor, self.outputs = factor, outputs
        self.conv = conv(inputs, outputs * prod(factor), (1,) * len(factor), bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        dims = len(self.factor)
        x = self.conv(x)
        batch, size = x.shape[0], x.shape[2:]
        x = x.reshape(batch, self.outputs, *self.factor, *size)  # (B, K, *factor, *S)
        order = [axis for i in range(dims) for axis in (2 + dims + i, 2 + i)]  # S0, f0, S1, f1, ...
        return x.permute(0, 1, *order).reshape(batch, self.outputs, *(s * f for s, f in zip(size, self.factor, strict=True)))


def crop_to(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """The central part of x (B, C, *S) of `size`: a view. Odd differences leave the extra voxel at the end."""
    for axis, (have, want) in enumerate(zip(x.shape[2:], size, strict=True), start=2):
        x = x.narrow(axis, (have - want) // 2, want)
    return x


def pad_to(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """x (B, C, *S) with zeros around it up to `size`; odd differences put the extra voxel at the end."""
    if tuple(x.shape[2:]) == tuple(size):
        return x
    edges: list[int] = []
    for have, want in zip(reversed(x.shape[2:]), reversed(size), strict=True):
        edges += [(want - have) // 2, want - have - (want - have) // 2]
    return F.pad(x, edges)


def init_he(module: nn.Module, slope: float = 0.01) -> None:
    """He initialisation of every convolution, zero biases (He et al. 2015, eq. 14; slope as in nnU-Net)."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
            nn.init.kaiming_normal_(part.weight, a=slope)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def with_skip(up: Tensor, skip: Tensor, skip_first: bool) -> Tensor:
    """Concatenate along channels: (B, C1 + C2, *S)."""
    return torch.cat((skip, up) if skip_first else (up, skip), dim=1)


def in_colours(image: Tensor, channels: int) -> Tensor:
    """A grey image (B, 1, H, W) as (B, 3, H, W) where `channels` is 3, as networks for photographs expect; any other as it is."""
    return image.expand(-1, 3, -1, -1) if image.ndim == 4 and image.shape[1] == 1 and channels == 3 else image


# Tokens: (B, N, D). A map (B, D, H, W) is N = H * W tokens, row by row.


def tokens_of(x: Tensor) -> Tensor:
    """(B, D, H, W) -> (B, H * W, D)."""
    return x.flatten(2).transpose(1, 2)


def map_of(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, H * W, D) -> (B, D, H, W), `size` = (H, W)."""
    return tokens.transpose(1, 2).unflatten(2, size)


class PatchEmbed(nn.Module):
    """One token a patch: a convolution whose stride is its kernel. (B, C, H, W) -> (B, D, H / p, W / p)."""

    def __init__(self, in_channels: int, width: int, patch: int, bias: bool = True):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, width, patch, patch, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class MLP(nn.Module):
    """Linear layers with an activation between them: sizes (D, 4 D, D) is a transformer's."""

    def __init__(self, sizes: tuple[int, ...], act: str = "gelu", dropout: float = 0.0):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(a, b) for a, b in pairwise(sizes)])
        self.act, self.dropout = activation(act), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = self.dropout(self.act(layer(x)))
        return self.dropout(self.layers[-1](x))


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v in `heads` heads (Vaswani et al. 2017, eq. 1): (B, N, D), (B, M, D) x 2 -> (B, N, D).

    `bias` (B or 1, heads or 1, N, M) is added to the scores. Queries, or keys and values, of batch 1 serve the whole batch.
    """
    if len(q) != len(k):
        q, k, v = (x.expand(max(len(q), len(k)), -1, -1) for x in (q, k, v))
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))  # (B, heads, N, d)
    if bias is not None and bias.requires_grad and q.device.type == "cpu":
        # PyTorch's own, where a bias is learned, looks for empty rows: over a quarter of a Swin's step
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(2, 3) + bias
        return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(2)


def entries(table: Tensor, index: Tensor) -> Tensor:
    """(heads, *index.shape): the entries of a table (T, heads), as a bias that attention reads in order.

    Indexing the table itself would leave the heads innermost, and attention over 1,000 tokens takes twice as long.
    """
    return table.t().contiguous().index_select(1, index.flatten()).unflatten(1, index.shape)


class SelfAttention(nn.Module):
    """Tokens look at each other; q, k and v come from one matrix, in this order.

    `k_bias=False`: only q and v have a bias (BEiT; softmax subtracts that of k again). `asking` (B, n, D): only these look.
    """

    def __init__(self, width: int, heads: int, qkv_bias: bool = True, k_bias: bool = True):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width, bias=qkv_bias and k_bias), nn.Linear(width, width)
        apart = qkv_bias and not k_bias
        self.q_bias, self.v_bias = (nn.Parameter(torch.zeros(width)) if apart else None for _ in range(2))

    def forward(self, x: Tensor, bias: Tensor | None = None, asking: Tensor | None = None) -> Tensor:
        if asking is None:
            q, k, v = self.qkv(x).chunk(3, dim=-1)
        else:
            weight, shift, width = self.qkv.weight, self.qkv.bias, x.shape[-1]
            q = F.linear(asking, weight[:width], None if shift is None else shift[:width])
            k, v = F.linear(x, weight[width:], None if shift is None else shift[width:]).chunk(2, dim=-1)
        if self.q_bias is not None and self.v_bias is not None:
            q, v = q + self.q_bias.to(q.dtype), v + self.v_bias.to(v.dtype)
        return self.proj(attend(q, k, v, self.heads, bias))


class CrossAttention(nn.Module):
    """Tokens look at others, in `inner` channels: q of (B, N, D), k and v of (B, M, D) -> (B, N, D)."""

    def __init__(self, width: int, heads: int, inner: int | None = None):
        super().__init__()
        self.heads, inner = heads, inner or width
        self.q, self.k, self.v = (nn.Linear(width, inner) for _ in range(3))
        self.proj = nn.Linear(inner, width)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        return self.proj(attend(self.q(q), self.k(k), self.v(v), self.heads, bias))


class DropPath(nn.Module):
    """In training a residual branch is left out with probability `p`, image by image (Huang et al. 2016, arXiv:1603.09382)."""

    def __init__(self, p: float = 0.0):
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.p or not self.training:
            return x
        kept = x.new_empty((len(x), *[1] * (x.ndim - 1))).bernoulli_(1 - self.p)
        return x * kept / (1 - self.p)


class LayerNorm2d(nn.Module):
    """Each voxel's channels to mean 0, variance 1: layer norm for maps (B, C, H, W)."""

    def __init__(self, channels: int, eps: float = 1e-6):
        super().__init__()
        self.weight, self.bias, self.eps = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels)), eps

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.movedim(1, -1), (x.shape[1],), self.weight, self.bias, self.eps).movedim(-1, 1)


def windows(x: Tensor, size: int, filling: Tensor | None = None) -> Tensor:
    """(B, H, W, D) -> (B * n, size * size, D): n windows an image, row by row; zeros, or `filling` (D,), fill the last ones."""
    b, h, w, d = x.shape
    if filling is None or not (h % size or w % size):
        x = F.pad(x, (0, 0, 0, -w % size, 0, -h % size))
    else:
        full = filling.expand(b, h + -h % size, w + -w % size, d).clone()
        full[:, :h, :w] = x
        x = full
    x = x.unflatten(2, (-1, size)).unflatten(1, (-1, size))  # (B, rows, size, columns, size, D)
    return x.transpose(2, 3).reshape(-1, size * size, d)


def unwindows(x: Tensor, size: int, shape: tuple[int, int]) -> Tensor:
    """The way back: (B * n, size * size, D) -> (B, H, W, D), `shape` = (H, W); the filling is cut off."""
    rows, columns = -(-shape[0] // size), -(-shape[1] // size)
    x = x.reshape(-1, rows, columns, size, size, x.shape[-1]).transpose(2, 3)
    return x.flatten(3, 4).flatten(1, 2)[:, : shape[0], : shape[1]]


def resize_positions(positions: Tensor, size: tuple[int, int], mode: str = "bicubic", align_corners: bool = False) -> Tensor:
    """Learned positions (1, H, W, D) brought to another grid; the same tensor where the size is right."""
    if tuple(positions.shape[1:3]) == tuple(size):
        return positions
    return F.interpolate(positions.movedim(-1, 1), size, mode=mode, align_corners=align_corners).movedim(1, -1)
