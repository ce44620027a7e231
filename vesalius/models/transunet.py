"""TransUNet: a vision transformer at the bottom of a U-Net, behind a residual network or on its own.

    f, skips = resnet(x)                           1/16 and 1/8, 1/4, 1/2; plain ViT: f = x, no skips
    d = widen(vit(f))                              tokens back on their grid
    d = conv(conv(concat(up(d), skip)))            four times, finer each time
    main = head(d)

Paper    Chen et al. 2021, arXiv:2102.04306, fig. 1
Shapes   image (B, C, H, W) float -> logits (B, K, H, W) float; one grey channel is repeated to three
Needs    H and W divisible by 16 (plain ViT: by `patch_size`), at least two patches; otherwise ShapeError names the nearest size
Differs  any input size, by interpolating the positions; q, k and v are one matrix
Parity   tests/parity/test_fixtures.py, folders transunet, transunet_from_flax and transunet_synapse_losses
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import InputError
from .blocks import ConvUnit, LinearUp, conv, in_colours, map_of, with_skip
from .contract import Outputs
from .naming import Convert, State
from .needs import Needs
from .resnet_v2 import GROUPS, ResNetV2, unit_name
from .sizes import Axes, Multiples, TakesMultiples
from .vit import VisionTransformer

SHRINK = 16  # of the residual network
THREE = (3, 3)
# A planned network: half the depth of ViT-S/16 behind a ResNet of half the width. Ours; the paper's has 105 M parameters.
SMALL: dict[str, Any] = {
    "hidden": 384,
    "mlp": 1536,
    "heads": 6,
    "layers": 6,
    "resnet_width": 32,
    "bottleneck": 256,
    "decoder_channels": (128, 64, 32, 16),
}


@dataclass(frozen=True)
class TransUNetConfig:
    """The paper's R50-ViT-B/16 by default.

    image_size        height and width that positions are learned for; other sizes interpolate them
    hidden, mlp       channels of a token, and within its MLP
    resnet_units      units per block of the residual network; () for a plain ViT
    resnet_width      channels at 1/2 of the size, a multiple of 32
    patch_size        pixels a token stands for; behind the residual network a multiple of 16
    bottleneck        channels that enter the decoder
    decoder_channels  of each up-sampling by two; four of them bring patches of 16 px back to full size, three those of 8 px.
                      Another number can be built and loaded; `output_size` refuses it, and so does whatever asks for it
    skips             how many of the residual network's three maps the decoder is given, the coarsest first
    dropout           on the embedded patches and in each MLP
    """

    in_channels: int = 3
    classes: int = 9
    image_size: tuple[int, int] = (224, 224)
    hidden: int = 768
    mlp: int = 3072
    heads: int = 12
    layers: int = 12
    resnet_units: tuple[int, ...] = (3, 4, 9)
    resnet_width: int = 64
    patch_size: int = 16
    bottleneck: int = 512
    decoder_channels: tuple[int, ...] = (256, 128, 64, 16)
    skips: int = 3
    dropout: float = 0.1

    def __post_init__(self) -> None:
        hybrid = bool(self.resnet_units)
        if min(self.image_size) < 1 or any(n % self.patch_size for n in self.image_size):
            raise InputError(f"image_size {self.image_size} is no multiple of patch_size {self.patch_size}", fix="change one")
        if self.hidden % self.heads:
            raise InputError(f"{self.hidden} channels cannot be shared by {self.heads} heads", fix="change one")
        if hybrid and (len(self.resnet_units) != 3 or min(self.resnet_units) < 1):
            raise InputError(
                f"resnet_units {self.resnet_units} are not three blocks", fix="give three counts, or () for a plain ViT"
            )
        if hybrid and (self.resnet_width % GROUPS or self.resnet_width < 1):
            raise InputError(f"resnet_width {self.resnet_width} does not fit its norms", fix=f"give a multiple of {GROUPS}")
        if hybrid and self.patch_size % SHRINK:
            raise InputError(
                f"patch_size {self.patch_size} is no multiple of {SHRINK}", fix=f"the residual network shrinks by {SHRINK}"
            )
        if not 0 <= self.skips <= min(3, len(self.decoder_channels)):
            raise InputError(f"there are no {self.skips} skips", fix="give 0 to 3, and as many decoder_channels")
        if self.skips and not (hybrid and self.patch_size == SHRINK):
            raise InputError("only a residual network with patches of 16 px has skips that fit", fix="set skips to 0")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens in an image of `image_size`."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size


class DecoderStage(nn.Module):
    """Twice as fine, joined with the skip, two convolutions."""

    def __init__(self, inputs: int, skip: int, outputs: int):
        super().__init__()
        self.up = LinearUp((2, 2), align_corners=True)
        self.first = ConvUnit(inputs + skip, outputs, THREE, bias=False)
        self.second = ConvUnit(outputs, outputs, THREE, bias=False)

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        x = self.up(x)
        return self.second(self.first(x if skip is None else with_skip(x, skip, skip_first=False)))


class TransUNet(nn.Module, TakesMultiples):
    """The network of a TransUNetConfig. `(B, C, H, W) -> Outputs`; raises ChannelError and ShapeError before computing."""

    dims = 2
    repeats_grey = True  # one channel stands for each of three

    def __init__(self, config: TransUNetConfig):
        super().__init__()
        c = self.config = config
        self.in_channels, self.classes = c.in_channels, c.classes
        self.sizes = Multiples("TransUNet", (c.patch_size,) * 2, voxels=2)
        self.resnet: ResNetV2 | None = None
        widths: tuple[int, ...] = ()
        if c.resnet_units:
            self.resnet = ResNetV2(c.in_channels, c.resnet_width, c.resnet_units)  # type: ignore[arg-type]
            widths = self.resnet.skip_widths[: c.skips]
        self.vit = VisionTransformer(
            16 * c.resnet_width if self.resnet else c.in_channels,
            c.grid,
            c.patch_size // SHRINK if self.resnet else c.patch_size,
            c.hidden,
            layers=c.layers,
            heads=c.heads,
            mlp=c.mlp,
            dropout=c.dropout,
        )
        self.widen = ConvUnit(c.hidden, c.bottleneck, THREE, bias=False)
        inputs, skips = (c.bottleneck, *c.decoder_channels), (*widths, *[0] * len(c.decoder_channels))
        self.decoder = nn.ModuleList([DecoderStage(inputs[i], skips[i], n) for i, n in enumerate(c.decoder_channels)])
        self.head = conv(inputs[-1], c.classes, THREE)

    def forward(self, image: Tensor) -> Outputs:
        x = in_colours(image, self.in_channels)
        self.sizes.check_image(x, self.in_channels)
        size = (x.shape[2], x.shape[3])
        skips: tuple[Tensor, ...] = ()
        if self.resnet is not None:
            x, skips = self.resnet(x)
        x = map_of(self.vit(x), (size[0] // self.config.patch_size, size[1] // self.config.patch_size))
        x = self.widen(x)
        for i, stage in enumerate(self.decoder):
            x = stage(x, skips[i] if i < self.config.skips else None)
        return Outputs(self.head(x))

    def output_size(self, size: Axes) -> Axes:
        """The size of `Outputs.main`, that of the input. Raises ShapeError; InputError where the decoder undoes no such patches.

        An answer of another size would be taken for that of a valid convolution: for the middle of the image, at its scale.
        """
        size, patch, stages = self.sizes.check(size), self.config.patch_size, len(self.config.decoder_channels)
        if 2**stages != patch:
            needed = undoing(patch)
            raise InputError(
                f"{stages} decoder_channels turn a patch of {patch} px into one of {2**stages}: the answer fits no image",
                fix="make patch_size a power of 2" if needed is None else f"give {needed} decoder_channels",
            )
        return size


def undoing(patch: int) -> int | None:
    """How many up-samplings by two bring patches of so many pixels back to full size; None where no number does."""
    return patch.bit_length() - 1 if patch.bit_count() == 1 else None


def derive_transunet(needs: Needs) -> dict[str, Any]:
    """A TransUNet that learns from random weights, a fifth of the paper's work; positions for the run's own patch.

    The paper's sizes are pretrained: the recipe 'transunet' chooses them. A plain ViT has no skips, nor have patches of other
    than 16 px, whose decoder is as long as they need. A pretrained ResNet keeps its three channels, of which a grey image fills
    each: its first weights are standardised over all three, so no kernel for one channel answers as they do.
    """
    patch = needs.chosen.get("patch_size", TransUNetConfig.patch_size)
    derived: dict[str, Any] = {**SMALL, "image_size": Multiples("TransUNet", (patch, patch), voxels=2).nearest(needs.patch)}
    if (stages := undoing(patch)) is not None:
        widths = SMALL["decoder_channels"]
        derived["decoder_channels"] = (*widths, *widths[-1:] * stages)[:stages]
    hybrid = bool(needs.chosen.get("resnet_units", True))
    if hybrid and needs.pretrained and needs.in_channels == 1:
        derived["in_channels"] = 3
    return derived if hybrid and patch == SHRINK else {**derived, "skips": 0}


def official(config: dict[str, Any]) -> tuple[TransUNetConfig, Convert]:
    """Our configuration for a reference file's `config`, and the conversion of its tensors."""
    size = config["image_size"]
    size = (size, size) if isinstance(size, int) else tuple(size)
    units, grid, patch = tuple(config.get("resnet_layers") or ()), config.get("grid"), config.get("patch_size") or SHRINK
    patch = patch if isinstance(patch, int) else patch[0]
    if units and grid:
        patch = size[0] // SHRINK // grid[0] * SHRINK
    ours = TransUNetConfig(
        in_channels=config.get("in_channels", 3),
        classes=config["classes"],
        image_size=size,
        hidden=config["hidden"],
        mlp=config["mlp"],
        heads=config["heads"],
        layers=config["layers"],
        resnet_units=units,
        resnet_width=int(64 * (config.get("width_factor") or 1)),
        patch_size=patch,
        decoder_channels=tuple(config["decoder_channels"]),
        skips=(config.get("skips") or 0) if units else 0,  # a plain ViT has none to give, whatever is asked
    )
    return ours, lambda state: _convert(state, ours.grid)


PARTS = {
    "attention_norm": "norm1",
    "ffn_norm": "norm2",
    "attn.out": "attention.proj",
    "ffn.fc1": "mlp.layers.0",
    "ffn.fc2": "mlp.layers.1",
}


def _rename(name: str) -> str | None:
    if found := re.fullmatch(r"transformer\.encoder\.layer\.(\d+)\.(attention_norm|ffn_norm|attn\.out|ffn\.fc[12])\.(\w+)", name):
        return f"vit.layers.{found[1]}.{PARTS[found[2]]}.{found[3]}"
    if found := re.fullmatch(r"transformer\.encoder\.encoder_norm\.(\w+)", name):
        return f"vit.norm.{found[1]}"
    if found := re.fullmatch(r"transformer\.embeddings\.patch_embeddings\.(\w+)", name):
        return f"vit.embed.conv.{found[1]}"
    if found := re.fullmatch(r"transformer\.embeddings\.hybrid_model\.root\.(conv|gn)\.(\w+)", name):
        return f"resnet.root.{'conv' if found[1] == 'conv' else 'norm'}.{found[2]}"
    unit = r"transformer\.embeddings\.hybrid_model\.body\.block(\d)\.unit(\d+)\."
    if found := re.fullmatch(unit + r"(conv|gn)(\d|_proj)\.(\w+)", name):
        return unit_name(int(found[1]) - 1, int(found[2]) - 1, found[3], found[4], found[5])
    if found := re.fullmatch(unit + r"downsample\.(\w+)", name):
        return unit_name(int(found[1]) - 1, int(found[2]) - 1, "conv", "_proj", found[3])
    if found := re.fullmatch(r"decoder\.conv_more\.([01])\.(\w+)", name):
        return f"widen.{('conv', 'norm')[int(found[1])]}.{found[2]}"
    if found := re.fullmatch(r"decoder\.blocks\.(\d+)\.conv([12])\.([01])\.(\w+)", name):
        return f"decoder.{found[1]}.{('first', 'second')[int(found[2]) - 1]}.{('conv', 'norm')[int(found[3])]}.{found[4]}"
    found = re.fullmatch(r"segmentation_head\.0\.(\w+)", name)
    return f"head.{found[1]}" if found else None


def _convert(state: State, grid: tuple[int, int]) -> State:
    """Renamed; query, key and value joined to one matrix; positions (1, N, D) laid out on their grid."""
    state, ours = dict(state), State()
    for name in [n for n in state if re.fullmatch(r"transformer\.encoder\.layer\.\d+\.attn\.query\.(weight|bias)", n)]:
        parts = [name.replace("query", part) for part in ("query", "key", "value")]
        if all(part in state for part in parts):
            layer, kind = name.split(".")[3], name.rsplit(".", 1)[1]
            ours[f"vit.layers.{layer}.attention.qkv.{kind}"] = torch.cat([state.pop(part) for part in parts])
    positions = "transformer.embeddings.position_embeddings"
    if positions in state and state[positions].shape[1] == grid[0] * grid[1]:
        ours["vit.positions"] = state.pop(positions).unflatten(1, grid)
    return ours | {_rename(name) or name: tensor for name, tensor in state.items()}
