"""SegViT: attention becomes the mask. One query a class asks a plain ViT's tokens; where it looks is where its class is.

    q[k] = decoder_k(q[k-1], lateral_k(tokens of layer k))     the deepest layer first, q[0] learned, one a class
    A[k] = mean over heads of q k^T / sqrt(d)                  the scores of the decoder's last layer, before the softmax
    M[k] = M[k-1] + A[k]       P[k] = softmax(classify(q[k]))  K classes and 'no object'
    main = log sum_q P[q, c] sigmoid(M[q])                     of the last stage, M brought to the image's size

Shrink form: the backbone drops three tokens of four half-way (vit_backbone.py), and learned queries, one a patch, read from an
early and from the last layer to draw the full grid again (QueryUp); one ATM stage follows, judged after each of its layers.

Paper    Zhang et al. 2022, arXiv:2210.05844 (eq. 1 to 5); SegViTv2: Zhang et al. 2023, arXiv:2306.06289
Shapes   image (B, C, H, W) float -> main (B, K, H, W) float. auxiliary, in training: per stage class logits (B, K, K + 1) and
         masks (B, K, h, w) on the grid of patches, the last stage at the end; behind them boundaries (B, 1, h, w) where the
         backbone looks for edges. The loss 'atm' takes all of it
Needs    H and W divisible by the patch; otherwise ShapeError names the nearest size
Differs  main is the logarithm of the original's score, so that its softmax sums to one over the classes and its argmax is the
         original's; it has the image's size, the original's is always that of training. Odd grids of patches work. Attention
         weights are not dropped out in training, branches are. For another grid QueryUp's queries are resized.
         SegViTv2 has no public code: edge head and selection (vit_backbone.py), and the positions that QueryUp adds to scattered
         tokens (its own queries where they lie), are our design. Classes learned one after the other are left out
Parity   tests/parity/test_fixtures.py, folders segvit and segvit_shrunk; the official names are in vit_layouts.py
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.errors import InputError
from .blocks import MLP, CrossAttention, SelfAttention, attend, resize_positions
from .contract import Outputs
from .needs import Needs
from .sizes import Multiples, TakesMultiples
from .vit import pick
from .vit_backbone import Backbone, Features, Grid, ViTConfig, beit_large

Stage = tuple[Tensor, Tensor]  # class logits (B, K, K + 1), masks (B, K, h, w) before the sigmoid
LEAST = 1e-30  # below any score that matters; the logarithm stays finite


@dataclass(frozen=True)
class HeadConfig:
    """The head. `width` 0 stands for half the backbone's.

    kind        'atm': a stage a layer, masks added up | 'atm_single': each layer of one decoder judged, masks not added up |
                'atm_shrunk': QueryUp, then 'atm_single'
    layers      of each decoder
    projection  tokens are brought to `width` and normalised first; without it the widths must be equal
    positions   QueryUp adds its queries to the tokens it reads, where they lie: for scattered or position-free tokens
    """

    kind: Literal["atm", "atm_shrunk", "atm_single"] = "atm"
    width: int = 0
    heads: int = 12
    layers: int = 3
    dropout: float = 0.1
    projection: bool = True
    positions: bool = False


@dataclass(frozen=True)
class SegViTConfig:
    """SegViT with a plain ViT: `backbone` and `head`. The default is ViT-B on 512 x 512."""

    in_channels: int = 3
    classes: int = 2
    dims: Literal[2] = 2
    backbone: ViTConfig = field(default_factory=ViTConfig)
    head: HeadConfig = HeadConfig()

    def __post_init__(self) -> None:
        check_parts(self.backbone, self.head, self.dims)


@dataclass(frozen=True)
class SegViTv2Config:
    """SegViTv2: the same fields, with BEiTv2-L; the default is its Shrink++ form, with an eighth of the tokens kept as edges."""

    in_channels: int = 3
    classes: int = 2
    dims: Literal[2] = 2
    backbone: ViTConfig = field(default_factory=lambda: beit_large(out_layers=(7, 23), shrink_at=8, edges=0.125))
    head: HeadConfig = HeadConfig("atm_shrunk", heads=16, positions=True)

    def __post_init__(self) -> None:
        check_parts(self.backbone, self.head, self.dims)


def check_parts(backbone: ViTConfig, head: HeadConfig, dims: int) -> None:
    """Raises InputError where backbone and head do not fit together."""
    width = head.width or backbone.width // 2
    if dims != 2:
        raise InputError(f"SegViT has 2 dimensions, not {dims}", fix="set dims to 2")
    if width % head.heads or head.layers < 1:
        raise InputError(f"{head.heads} heads do not share a head width of {width}", fix="use a multiple of the heads")
    if not head.projection and width != backbone.width:
        raise InputError(f"a head of width {width} needs a projection from {backbone.width}", fix="set head.projection to true")
    if backbone.edges and head.kind != "atm_shrunk":
        raise InputError("scattered tokens are no mask", fix="use head.kind 'atm_shrunk', or backbone.edges = 0")


def derive_segvit(needs: Needs) -> dict[str, Any]:
    """A SegViT from scratch: a ViT of width 192, its positions on the patch's grid. Ours: the paper's is pretrained."""
    return {"backbone": small_backbone(needs, (2, 3, 5)), "head": {"heads": 3, "layers": 1}}


def derive_segvit_v2(needs: Needs) -> dict[str, Any]:
    """The same with BEiT's relative positions, shrunk after a third of the blocks as in the paper."""
    trunk = small_backbone(needs, (1, 5)) | {"positions": "relative", "scale": 0.1, "shrink_at": 2, "edges": 0.125}
    return {"backbone": trunk, "head": {"kind": "atm_shrunk", "heads": 3, "layers": 1, "positions": True}}


def small_backbone(needs: Needs, out_layers: tuple[int, ...]) -> dict[str, Any]:
    """Half a ViT-Ti/16 as fields of ViTConfig; images under 128 pixels get patches of 8, so that a grid is left.

    Six layers: from random weights and few images twelve learn no more in a step, which costs them 2.3 times as much.
    """
    patch = 16 if min(needs.patch) >= 128 else 8
    size = Multiples("SegViT", (patch,) * len(needs.patch)).nearest(needs.patch)
    return {"image_size": size, "patch": patch, "width": 192, "depth": 6, "heads": 3, "out_layers": out_layers}


class SegViT(nn.Module, TakesMultiples):
    """The network of a SegViTConfig or SegViTv2Config. (B, C, H, W) -> Outputs; raises ChannelError and ShapeError."""

    def __init__(self, config: SegViTConfig | SegViTv2Config):
        super().__init__()
        c, head = config, config.head
        self.config = config
        self.dims, self.in_channels, self.classes = c.dims, c.in_channels, c.classes
        self.sizes = Multiples("SegViT", (c.backbone.patch,) * 2)
        self.backbone = Backbone(c.backbone, c.in_channels)
        stages = len(c.backbone.out_layers)
        self.up = QueryUp(c.backbone, head, stages) if head.kind == "atm_shrunk" else None
        self.head = ATMHead(c.backbone, head, c.classes, 0 if self.up else stages)

    def forward(self, image: Tensor) -> Outputs:
        self.sizes.check_image(image, self.in_channels)
        stages, features = self.stages(image)
        logits, masks = stages[-1]
        main = score(logits, masks, (image.shape[2], image.shape[3])).clamp_min(LEAST).log()
        if not self.training:
            return Outputs(main)
        edges = () if features.edges is None else (features.edges,)
        return Outputs(main, (*(part for stage in stages for part in stage), *edges))

    def stages(self, image: Tensor) -> tuple[list[Stage], Features]:
        """The answer of every stage, the last one's at the end, and the backbone's features."""
        features = self.backbone(image)
        tokens, sizes = features.tokens, features.sizes
        if self.up is not None:
            tokens, sizes = (self.up(features),), (features.grid,)
        return self.head(tokens[::-1], [size or features.grid for size in sizes[::-1]]), features


def score(logits: Tensor, masks: Tensor, size: Grid) -> Tensor:
    """The original's per-class score, sum_q P[q, c] sigmoid(M[q]) in 0..K: (B, K, K + 1), (B, K, h, w) -> (B, K, *size)."""
    chance = logits.float().softmax(-1)[..., :-1].transpose(1, 2)  # (B, c, q), without 'no object'
    masks = F.interpolate(masks.float(), size, mode="bilinear", align_corners=False).sigmoid()
    kind = masks.device.type.replace("meta", "cpu")  # autocast does not know where work is only counted
    with torch.autocast(kind, enabled=False):  # 8 bits are few for scores that are compared
        return torch.einsum("bcq,bqhw->bchw", chance, masks)


class ATMHead(nn.Module):
    """Attention to mask. Tokens, the deepest layer's first, and their sizes -> stages. `stages` 0: one decoder, no lateral."""

    def __init__(self, backbone: ViTConfig, head: HeadConfig, classes: int, stages: int):
        super().__init__()
        width = head.width or backbone.width // 2
        self.heads = head.heads
        self.every_layer = head.kind != "atm"  # each layer is a stage, and masks are not added up
        self.queries = nn.Parameter(torch.randn(classes, width))
        self.laterals = nn.ModuleList([lateral(backbone, head) if stages else nn.Identity() for _ in range(stages or 1)])
        self.decoders = nn.ModuleList([decoder(width, head) for _ in range(stages or 1)])
        self.classify = nn.Linear(width, classes + 1)

    def forward(self, tokens: Sequence[Tensor], sizes: Sequence[Grid]) -> list[Stage]:
        q = self.queries.expand(len(tokens[0]), -1, -1)
        answers, masks = list[Tensor](), list[Tensor]()
        for layers, project, each, size in zip(self.decoders, self.laterals, tokens, sizes, strict=True):
            memory = project(each)
            for layer in layers:  # type: ignore[attr-defined]
                q, looks = layer(q, memory, memory)
                if self.every_layer or layer is layers[-1]:  # type: ignore[index]
                    answers.append(q)
                    masks.append(attention_scores(looks[0], looks[1], self.heads).unflatten(-1, size))
        if not self.every_layer:
            at = masks[-1].shape[2:]
            masks = [m if m.shape[2:] == at else F.interpolate(m, at, mode="bilinear", align_corners=False) for m in masks]
            for i in range(1, len(masks)):
                masks[i] = masks[i - 1] + masks[i]
        return [(self.classify(q), mask) for q, mask in zip(answers, masks, strict=True)]


class QueryUp(nn.Module):
    """Query-based up-sampling: one learned query a patch reads each layer's tokens, earliest first. Features -> (B, h w, D)."""

    def __init__(self, backbone: ViTConfig, head: HeadConfig, stages: int):
        super().__init__()
        width = head.width or backbone.width // 2
        self.grid, self.positions = backbone.grid, head.positions
        self.queries = nn.Parameter(torch.randn(backbone.grid[0] * backbone.grid[1], width))
        self.laterals = nn.ModuleList([lateral(backbone, head) for _ in range(stages)])
        self.decoders = nn.ModuleList([decoder(width, head) for _ in range(stages)])
        if head.positions:
            self.start_in_place()

    @torch.no_grad()
    def start_in_place(self) -> None:
        """At first each query reads the tokens at its own place: with one orthogonal matrix for q and k, what both got from the
        place agrees. With two random ones all see the mean of all tokens, which from random weights is hard to leave.
        """
        for layers in self.decoders:
            for layer in layers:  # type: ignore[attr-defined]
                nn.init.orthogonal_(layer.cross.q.weight, gain=2**0.5)
                layer.cross.k.weight.copy_(layer.cross.q.weight)

    def forward(self, features: Features) -> Tensor:
        learned = resize_positions(self.queries.unflatten(0, self.grid)[None], features.grid).flatten(1, 2)
        q = learned.expand(len(features.tokens[0]), -1, -1)
        for layers, project, tokens, places in zip(
            self.decoders, self.laterals, features.tokens, features.places, strict=True
        ):
            memory = project(tokens)
            keys = memory + pick(learned.expand(len(places), -1, -1), places) if self.positions else memory
            for layer in layers:  # type: ignore[attr-defined]
                q, _ = layer(q, keys, memory)
        return q


def lateral(backbone: ViTConfig, head: HeadConfig) -> nn.Module:
    """Tokens to the head's width, normalised."""
    width = head.width or backbone.width // 2
    return nn.Sequential(nn.Linear(backbone.width, width), nn.LayerNorm(width)) if head.projection else nn.Identity()


def decoder(width: int, head: HeadConfig) -> nn.ModuleList:
    return nn.ModuleList([DecoderLayer(width, head.heads, head.dropout) for _ in range(head.layers)])


class DecoderLayer(nn.Module):
    """Queries look at each other, then at the tokens, then an MLP; each added, then normalised (Vaswani et al. 2017, fig. 1)."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.among = SelfAttention(width, heads)
        self.cross = CrossAttention(width, heads)
        self.mlp = MLP((width, 4 * width, width), "relu", dropout)
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(3)])
        self.dropout = nn.Dropout(dropout)

    def forward(self, q: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Stage]:
        """Queries (B, Q, D), keys and values (B, N, D) -> the queries, and what `attention_scores` needs: asked and seen."""
        q = self.norms[0](q + self.dropout(self.among(q)))
        asked, seen = self.cross.q(q), self.cross.k(keys)
        q = self.norms[1](q + self.dropout(self.cross.proj(attend(asked, seen, self.cross.v(values), self.cross.heads))))
        return self.norms[2](q + self.mlp(q)), (asked, seen)


def attention_scores(asked: Tensor, seen: Tensor, heads: int) -> Tensor:
    """Mean over heads of q_h k_h / sqrt(d), which is the product over all channels: (B, Q, D), (B, N, D) -> (B, Q, N)."""
    return asked @ seen.transpose(1, 2) * ((asked.shape[-1] // heads) ** -0.5 / heads)
