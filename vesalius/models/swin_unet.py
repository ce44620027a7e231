"""Swin-Unet: a U-Net of shifted-window transformers, without a single 3x3 convolution.

    e[0] = norm(embed(x))      e[i+1] = merge(blocks(e[i]))       encoder; the last stage does not merge
    d[L] = norm(blocks(e[L]))  d[i] = blocks(join(concat(expand(d[i+1]), e[i])))
    main = head(expand4(norm(d[0])))
    block: t + attention(windows(norm1(t)))  then  t + mlp(norm2(t)); every second block shifts its windows by half

Paper    Cao et al. 2021, arXiv:2105.05537, fig. 1; windows: Liu et al. 2021, arXiv:2103.14030, eq. 3 and 4
Shapes   image (B, C, H, W) float -> logits (B, K, H, W) float; one grey channel is repeated to three
Needs    H and W such that each stage is made of whole windows (224 px steps for window 7); otherwise ShapeError names the nearest
Differs  any such size, not only `image_size`; the decoder mirrors the encoder's depths, as the code does whatever its own
         DECODER_DEPTHS says
Parity   tests/parity/test_fixtures.py, folders swin_unet and swin_unet_from_swin_t
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import lcm
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import InputError
from .blocks import MLP, DropPath, PatchEmbed, SelfAttention, entries, in_colours, unwindows, windows
from .contract import Outputs
from .naming import Convert, renamed
from .needs import Needs
from .sizes import Multiples, TakesMultiples

WINDOWS = (7, 8, 6, 9, 10, 11, 12)  # of a planned network: the paper's, Swin V2's, then others by their nearness
SMALL_WINDOWS = (5, 4, 3, 2)  # where the patch has no room for six tokens at the deepest stage
APART = -100.0  # added to the scores of tokens that a shift brought into one window from opposite borders


@dataclass(frozen=True)
class SwinUnetConfig:
    """The paper's model by default: Swin-T's encoder, two blocks a stage.

    image_size   height and width it is built for: no stage has windows larger than its own map then
    width        channels of the first stage; each further one has twice as many
    depths       blocks per stage of the encoder, and mirrored of the decoder
    heads        attention heads per stage
    window       tokens along a window's side
    mlp_ratio    channels within an MLP, in channels of its token
    drop_path    chance at the deepest encoder block to be left out in training; less before it, mirrored in the decoder
    """

    in_channels: int = 3
    classes: int = 9
    image_size: tuple[int, int] = (224, 224)
    patch_size: int = 4
    width: int = 96
    depths: tuple[int, ...] = (2, 2, 2, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 7
    mlp_ratio: int = 4
    drop_path: float = 0.2

    def __post_init__(self) -> None:
        stages = len(self.depths)
        if stages < 2 or len(self.heads) != stages or min(self.depths) < 1:
            raise InputError(
                f"depths {self.depths} and heads {self.heads} do not fit", fix="give both for each stage, two at least"
            )
        if any(w % h for w, h in zip(self.widths, self.heads, strict=True)):
            raise InputError(f"widths {self.widths} cannot be shared by {self.heads} heads", fix="change one")
        if self.window < 1 or self.patch_size < 1 or min(self.image_size) < 1:
            raise InputError("window, patch_size and image_size are at least 1", fix="change the one that is not")
        if any(n % step for n, step in zip(self.image_size, self.divisor, strict=True)):
            nearest = whole_windows(self.patch_size, stages, self.window).nearest(self.image_size)
            raise InputError(
                f"windows of {self.window} do not divide every stage of an image of {self.image_size}",
                fix=f"set image_size to {nearest}, or another window",
            )

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels per stage."""
        return tuple(self.width * 2**i for i in range(len(self.depths)))

    @property
    def windows(self) -> tuple[int, ...]:
        """The window of each stage: a map smaller than `window` is one window, or the shorter of its sides is."""
        shorter = min(self.image_size) // self.patch_size
        return tuple(max(1, min(self.window, shorter >> i)) for i in range(len(self.depths)))

    @property
    def divisor(self) -> tuple[int, int]:
        """Image sizes step by this much: whole windows at each stage."""
        step = lcm(*(self.patch_size * 2**i * window for i, window in enumerate(self.windows)))
        return step, step

def whole_windows(patch_size: int, stages: int, window: int) -> Multiples:
    """The image sizes at which each of `stages` is made of whole windows of full size."""
    return Multiples("Swin-Unet", (patch_size * 2 ** (stages - 1) * window,) * 2)


class WindowAttention(nn.Module):
    """Attention within windows, with a learned bias per head for each offset of two tokens: (B n, N, D) -> (B n, N, D)."""

    offsets: Tensor

    def __init__(self, width: int, heads: int, window: int):
        super().__init__()
        self.attention = SelfAttention(width, heads)
        self.table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.table, std=0.02)
        self.register_buffer("offsets", offsets(window), persistent=False)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        bias = entries(self.table, self.offsets)[None]  # (1, heads, N, N)
        if mask is not None:
            bias = (bias + mask).repeat(len(x) // len(mask), 1, 1, 1)  # (B n, heads, N, N)
        return self.attention(x, bias)


class SwinBlock(nn.Module):
    """Attention in windows, shifted by `shift` tokens where the map is larger than one window; then the MLP."""

    def __init__(self, width: int, heads: int, window: int, *, shift: int, mlp_ratio: int, drop_path: float):
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = WindowAttention(width, heads, window)
        self.mlp, self.drop_path = MLP((width, mlp_ratio * width, width)), DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        size = (x.shape[1], x.shape[2])
        shift = self.shift if min(size) > self.window else 0
        y = self.norm1(x)
        if shift:
            y = torch.roll(y, (-shift, -shift), (1, 2))
        mask = borders(size, self.window, shift, y) if shift else None
        y = unwindows(self.attention(windows(y, self.window), mask), self.window, size)
        if shift:
            y = torch.roll(y, (shift, shift), (1, 2))
        x = x + self.drop_path(y)
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Merge(nn.Module):
    """Four neighbours become one token of twice the channels: (B, H, W, D) -> (B, H / 2, W / 2, 2 D)."""

    def __init__(self, width: int):
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(4 * width), nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # (B, H / 2, row, W / 2, column, D)
        x = x.permute(0, 1, 3, 4, 2, 5).flatten(3)  # the original's order: down the left column, then the right one
        return self.linear(self.norm(x))


class Expand(nn.Module):
    """Each token becomes a square of them: (B, H, W, D) -> (B, f H, f W, D'), `outputs` = D'."""

    def __init__(self, width: int, outputs: int, factor: int):
        super().__init__()
        self.factor = factor
        self.linear, self.norm = nn.Linear(width, factor * factor * outputs, bias=False), nn.LayerNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.squares(x).transpose(2, 3).flatten(3, 4).flatten(1, 2)

    def squares(self, x: Tensor) -> Tensor:
        """(B, H, W, row, column, D'): the tokens, normalised, not yet in place."""
        return self.norm(self.linear(x).unflatten(3, (self.factor, self.factor, -1)))


class SwinUnet(nn.Module, TakesMultiples):
    """The network of a SwinUnetConfig. `(B, C, H, W) -> Outputs`; raises ChannelError and ShapeError before computing."""

    dims = 2
    repeats_grey = True  # one channel stands for each of three

    def __init__(self, config: SwinUnetConfig):
        super().__init__()
        c = self.config = config
        self.in_channels, self.classes = c.in_channels, c.classes
        self.sizes = Multiples("Swin-Unet", c.divisor)
        stages, widths = len(c.depths), c.widths
        self.embed, self.embed_norm = PatchEmbed(c.in_channels, c.width, c.patch_size), nn.LayerNorm(c.width)
        self.encoder = nn.ModuleList([self._stage(i) for i in range(stages)])
        self.merge = nn.ModuleList([Merge(w) for w in widths[:-1]])
        self.norm = nn.LayerNorm(widths[-1])
        self.expand = nn.ModuleList([Expand(w, w // 2, 2) for w in widths[1:]])  # expand[i] leads to stage i
        self.join = nn.ModuleList([nn.Linear(2 * w, w) for w in widths[:-1]])
        self.decoder = nn.ModuleList([self._stage(i) for i in range(stages - 1)])
        self.up_norm, self.up = nn.LayerNorm(c.width), Expand(c.width, c.width, c.patch_size)
        self.head = nn.Conv2d(c.width, c.classes, 1, bias=False)
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.trunc_normal_(part.weight, std=0.02)  # as the original
                if part.bias is not None:
                    nn.init.zeros_(part.bias)

    def _stage(self, stage: int) -> nn.Sequential:
        c = self.config
        before, window = sum(c.depths[:stage]), c.windows[stage]
        last = max(1, sum(c.depths) - 1)
        return nn.Sequential(
            *(
                SwinBlock(
                    c.widths[stage],
                    c.heads[stage],
                    window,
                    shift=window // 2 if i % 2 else 0,
                    mlp_ratio=c.mlp_ratio,
                    drop_path=c.drop_path * (before + i) / last,
                )
                for i in range(c.depths[stage])
            )
        )

    def forward(self, image: Tensor) -> Outputs:
        image = in_colours(image, self.in_channels)
        self.sizes.check_image(image, self.in_channels)
        bottom, skips = self.encode(image)
        x = self.up.squares(self.up_norm(self.decode(bottom, skips)))
        scores = self.head(x.flatten(2, 4).movedim(-1, 1)).unflatten(3, (-1, self.up.factor, self.up.factor))
        return Outputs(scores.transpose(3, 4).flatten(4, 5).flatten(2, 3))  # few classes are put in place, not many channels

    def encode(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The bottom (B, H, W, D) and what entered each stage, the finest first."""
        x, entered = self.embed_norm(self.embed(image).movedim(1, -1)), list[Tensor]()
        for i, stage in enumerate(self.encoder):
            x = self.merge[i - 1](x) if i else x
            entered.append(x)
            x = stage(x)
        return self.norm(x), entered

    def decode(self, x: Tensor, entered: list[Tensor]) -> Tensor:
        """From the bottom up to the first stage's map (B, H / patch, W / patch, D)."""
        for i in reversed(range(len(self.decoder))):
            x = torch.cat((self.expand[i](x), entered[i]), dim=-1)
            x = self.decoder[i](self.join[i](x))
        return x


def offsets(window: int) -> Tensor:
    """(N, N) for N = window^2 tokens: the row of the table for the offset of each pair, rows first."""
    place = torch.arange(window)
    apart = place[:, None] - place + window - 1  # (window, window) in 0 .. 2 window - 2
    rows = apart[:, None, :, None] * (2 * window - 1)
    return (rows + apart[None, :, None, :]).flatten(2).flatten(0, 1)


def borders(size: tuple[int, int], window: int, shift: int, like: Tensor) -> Tensor:
    """(n, 1, N, N): 0 where two tokens of a shifted window were neighbours, APART where the shift brought them together."""
    across = [torch.arange(n, device=like.device) for n in size]
    parts = [(i >= n - window).long() + (i >= n - shift).long() for i, n in zip(across, size, strict=True)]
    part = windows((3 * parts[0][:, None] + parts[1])[None, :, :, None], window)[..., 0]  # (n, N)
    return torch.where(part[:, None, :] == part[:, :, None], 0.0, APART)[:, None].to(like.dtype)


def derive_swin_unet(needs: Needs) -> dict[str, Any]:
    """The window of WINDOWS with which the run's patch, or the nearest image to it, is made of whole windows at every stage.

    224 px have windows of 7, as in the paper; 256 px of 8, 352 px of 11. With 7 alone, sizes would go in steps of 224 px.
    """
    usual = SwinUnetConfig()
    patch, depths = (needs.chosen.get(key, getattr(usual, key)) for key in ("patch_size", "depths"))
    room = min(needs.patch) >= min(whole_windows(patch, len(depths), min(WINDOWS)).smallest)
    usable = WINDOWS if room else SMALL_WINDOWS
    tried = (needs.chosen["window"],) if "window" in needs.chosen else usable
    sizes = {window: whole_windows(patch, len(depths), window).nearest(needs.patch) for window in tried}
    window = min(sizes, key=lambda w: sum(abs(n - p) for n, p in zip(sizes[w], needs.patch, strict=True)))
    return {"image_size": sizes[window], "window": window}


def official(config: dict[str, Any]) -> tuple[SwinUnetConfig, Convert]:
    """Our configuration for a reference file's `config`, and the conversion of its tensors."""
    size = config["image_size"]
    ours = SwinUnetConfig(
        in_channels=config.get("in_channels", 3),
        classes=config["classes"],
        image_size=(size, size) if isinstance(size, int) else tuple(size),
        patch_size=config.get("patch_size", 4),
        width=config["embed_dim"],
        depths=tuple(config["depths"]),
        heads=tuple(config["heads"]),
        window=config["window"],
    )
    last = len(ours.depths) - 1
    return ours, renamed(lambda name: rename(name.removeprefix("swin_unet."), last))


PARTS = {
    "attn.qkv": "attention.attention.qkv",
    "attn.proj": "attention.attention.proj",
    "attn.relative_position_bias_table": "attention.table",
    "mlp.fc1": "mlp.layers.0",
    "mlp.fc2": "mlp.layers.1",
    "norm1": "norm1",
    "norm2": "norm2",
}
ALONE = {
    "patch_embed.proj": "embed.conv",
    "patch_embed.norm": "embed_norm",
    "norm": "norm",
    "norm_up": "up_norm",
    "output": "head",
}


def rename(name: str, last: int) -> str | None:
    """An official tensor name to ours; `last` is the number of the deepest stage. The encoder's names are Swin's own."""
    if found := re.fullmatch(r"layers(_up)?\.(\d+)\.blocks\.(\d+)\.(.+?)(\.weight|\.bias)?", name):
        side, stage = ("decoder", last - int(found[2])) if found[1] else ("encoder", int(found[2]))
        part = PARTS.get(found[4])
        return f"{side}.{stage}.{found[3]}.{part}{found[5] or ''}" if part else None
    if found := re.fullmatch(r"layers\.(\d+)\.downsample\.(norm|reduction)\.(\w+)", name):
        return f"merge.{found[1]}.{'norm' if found[2] == 'norm' else 'linear'}.{found[3]}"
    if found := re.fullmatch(r"layers_up\.(\d+)\.(?:upsample\.)?(expand|norm)\.(\w+)", name):
        return f"expand.{last - 1 - int(found[1])}.{'norm' if found[2] == 'norm' else 'linear'}.{found[3]}"
    if found := re.fullmatch(r"concat_back_dim\.(\d+)\.(\w+)", name):
        return f"join.{last - int(found[1])}.{found[2]}"
    if found := re.fullmatch(r"up\.(expand|norm)\.(\w+)", name):
        return f"up.{'norm' if found[1] == 'norm' else 'linear'}.{found[2]}"
    found = re.fullmatch(r"(patch_embed\.proj|patch_embed\.norm|norm|norm_up|output)\.(\w+)", name)
    return f"{ALONE[found[1]]}.{found[2]}" if found else None
