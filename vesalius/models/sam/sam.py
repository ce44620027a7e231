"""Segment Anything: an image is embedded once, then any prompt is answered in milliseconds.

    features     = image encoder(image)                     ViT-B, L, H, or MobileSAM's TinyViT
    tokens, map  = prompt encoder(points, boxes, masks, text)
    masks, IoU   = mask decoder(features, tokens, map)

Paper    Kirillov et al. 2023, arXiv:2304.02643; MobileSAM: arXiv:2306.14289; MedSAM: 10.1038/s41467-024-44824-z;
         SAM-HQ: Ke et al. 2023, arXiv:2306.01567
Shapes   embed: (B, 3, S, S), as a Frame prepares it -> (B, D, S / 16, S / 16); decode: P prompts -> logits (P, M, S / 4, S / 4)
Needs    sides divisible by 16; otherwise ShapeError names the nearest size
Parity   tests/parity/compare_sam.py, tests/parity/test_transformers_sam.py, test_transformers_sam_hq.py
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from ...core.errors import ChannelError, InputError, ShapeError
from ..contract import Answers, Prompts
from .image_encoder import ImageEncoder, ViTConfig
from .mask_decoder import MaskDecoder
from .prompt_encoder import PromptEncoder
from .tiny_encoder import TinyEncoder, TinyViTConfig

VIT_B = ViTConfig()
VIT_L = ViTConfig(width=1024, depth=24, heads=16, global_blocks=(5, 11, 17, 23))
VIT_H = ViTConfig(width=1280, depth=32, heads=16, global_blocks=(7, 15, 23, 31))


@dataclass(frozen=True)
class SAMConfig:
    """What to build; the defaults are SAM ViT-B.

    mask_channels  inner width of the mask prompt's convolutions
    text           width of text embeddings; 0: text prompts are refused
    hq             SAM-HQ: a token more, and finer features behind the others. Raises InputError with TinyViT

    Raises InputError for a decoder of no depth.
    """

    encoder: Annotated[ViTConfig | TinyViTConfig, Field(discriminator="kind")] = VIT_B
    mask_channels: int = 16
    decoder_depth: int = 2
    decoder_heads: int = 8
    decoder_mlp: int = 2048
    iou_width: int = 256
    text: int = 0
    hq: bool = False

    def __post_init__(self) -> None:
        if self.hq and isinstance(self.encoder, TinyViTConfig):
            raise InputError("SAM-HQ is here for the encoders ViT-B, L and H alone", fix="give one of them")
        if self.decoder_depth < 1:
            raise InputError(f"a mask decoder of {self.decoder_depth} blocks answers nothing", fix="give decoder_depth=1 or more")

    @property
    def channels(self) -> int:
        """The width D of features and tokens."""
        return self.encoder.channels


PRESETS = {
    "vit_b": SAMConfig(VIT_B),
    "vit_l": SAMConfig(VIT_L),
    "vit_h": SAMConfig(VIT_H),
    "tiny": SAMConfig(TinyViTConfig()),  # MobileSAM
    "hq_vit_b": SAMConfig(VIT_B, hq=True),
    "hq_vit_l": SAMConfig(VIT_L, hq=True),
    "hq_vit_h": SAMConfig(VIT_H, hq=True),
}


class SAM(nn.Module):
    """The three parts, together a PromptSegmenter."""

    in_channels = 3

    def __init__(self, config: SAMConfig):
        super().__init__()
        self.config, encoder = config, config.encoder
        self.image_encoder: ImageEncoder | TinyEncoder
        if isinstance(encoder, TinyViTConfig):
            self.image_encoder = TinyEncoder(encoder)
        else:
            self.image_encoder = ImageEncoder(encoder)
        self.prompt_encoder = PromptEncoder(config.channels, config.mask_channels, config.text)
        early = encoder.width if config.hq and isinstance(encoder, ViTConfig) else 0
        self.mask_decoder = MaskDecoder(
            config.channels, config.decoder_heads, config.decoder_mlp, config.decoder_depth, config.iou_width, early
        )

    @property
    def frame_size(self) -> int:
        """The side of the square that the weights were trained for."""
        return self.config.encoder.image_size

    @property
    def knows_text(self) -> bool:
        return bool(self.config.text)

    def embed(self, image: Tensor) -> Tensor:
        """(B, 3, H, W), prepared -> (B, D, H / 16, W / 16), of SAM-HQ (B, 3 D, ..): its fine features stand behind the others.

        Raises ChannelError, or ShapeError with the nearest size.
        """
        if image.ndim != 4 or image.shape[1] != self.in_channels:
            raise ChannelError(f"the image is {tuple(image.shape)}, not (B, 3, H, W)", fix="repeat a grey picture three times")
        size, step = tuple(image.shape[2:]), self.image_encoder.stride
        if any(n % step or not n for n in size):
            nearest = " x ".join(str(max(step, round(n / step) * step)) for n in size)
            raise ShapeError(f"SAM takes no {size[0]} x {size[1]}", fix=f"the nearest size is {nearest}")
        if self.mask_decoder.hq is None:
            return self.image_encoder(image)
        features, early = self.image_encoder.looked(image)
        return torch.cat((features, self.mask_decoder.hq.fine(features, early)), 1)

    def decode(
        self, features: Tensor, prompts: Prompts, multimask: bool = False, *, least_iou: float = -math.inf
    ) -> Answers:
        """Features (1 or P, D or 3 D, h, w) and P prompts -> logits (P, M, 4 h, 4 w) and predicted IoU (P, M), M = 3 or 1.

        Prompts of which no mask is predicted better than `least_iou` are not drawn: their logits are -inf.
        Raises InputError for prompts that these weights do not know, ShapeError for mask prompts of another size.
        """
        if len(features) not in (1, len(prompts)) or not len(prompts):
            raise InputError(f"{len(prompts)} prompts about {len(features)} images", fix="give one image, or one a prompt")
        grid = (features.shape[2], features.shape[3])
        step = self.image_encoder.stride
        tokens, dense = self.prompt_encoder(prompts, grid, (grid[0] * step, grid[1] * step))
        places = self.prompt_encoder.positions(grid)
        return Answers(*self.mask_decoder(features, places, tokens, dense, multimask, least_iou))

    def forward(self, image: Tensor, prompts: Prompts, multimask: bool = False) -> Answers:
        """Both steps: one image for all prompts, or one a prompt."""
        return self.decode(self.embed(image), prompts, multimask)
