"""Every model by name: who wrote it, what it takes, how it is built. A new model is one file and one entry here."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pydantic
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..core.errors import InputError, unknown_name
from . import attention_unet, layouts, measured, swin_unet, transunet, unetpp_layouts, vit_layouts
from .attention_unet import AttentionUNet, AttentionUNetConfig, derive_attention_unet
from .mini import Mini, MiniConfig
from .naming import Convert, State
from .needs import Derive, Needs, check_dims
from .sam import official as sam_official
from .sam.image_encoder import ViTConfig as SAMViTConfig
from .sam.sam import SAM, SAMConfig
from .sam.tiny_encoder import TinyEncoder, TinyViTConfig
from .segvit import HeadConfig, SegViT, SegViTConfig, SegViTv2Config, derive_segvit, derive_segvit_v2
from .solid import Solid, SolidConfig
from .swin_unet import SwinUnet, SwinUnetConfig, derive_swin_unet
from .transunet import TransUNet, TransUNetConfig, derive_transunet
from .unet import UNet, UNetConfig, derive_unet
from .unetpp import UNetPP, UNetPPConfig, derive_unetpp
from .vit_backbone import ViTConfig


@dataclass(frozen=True)
class Entry:
    """One model.

    kind      "segmenter": image to class logits; "prompts": a PromptSegmenter; "solid": views of volumes and hints to masks;
              "encoder": a part, for its weights alone
    tiny      the configurations of the contract tests
    loss      name of its loss, as training/losses.py lists it
    recipe    name of its default recipe, as training/recipe.py lists it
    official  from the config of a reference file to our config and the conversion of its state dict
    infer     from an official state dict to the config that `official` takes, where the shapes say it
    derive    from the Needs of a run to fields of the config; None: only in_channels, classes and dims follow from the data
    weights   where official weights are to be had, under which licence, and what reads them
    unused    parameters that the original carries and never uses, or that change nothing where prompts have images of their own
    head      names that the parameters of its head begin with: those that no pretrained backbone fills
    """

    builder: Callable[[Any], nn.Module]
    config: type
    paper: str
    licence: str
    description: str
    dims: tuple[int, ...]
    tiny: tuple[Any, ...]
    loss: str
    recipe: str
    weights: str
    official: Callable[[dict[str, Any]], tuple[Any, Convert]] | None = None
    derive: Derive | None = None
    infer: Callable[[State], dict[str, Any]] | None = None
    unused: tuple[str, ...] = field(default=())
    head: tuple[str, ...] = ()
    kind: Literal["segmenter", "prompts", "solid", "encoder"] = "segmenter"


CATALOG: dict[str, Entry] = {
    "unet": Entry(
        builder=UNet,
        config=UNetConfig,
        paper="Ronneberger et al. 2015, arXiv:1505.04597; Isensee et al. 2021, 10.1038/s41592-020-01008-z",
        licence="Apache-2.0 (our code)",
        description="U-Net in 2D and 3D, plain or residual, with deep supervision",
        dims=(2, 3),
        tiny=(
            UNetConfig(widths=(6, 8, 12), deep_supervision="training"),
            UNetConfig(3, 3, 3, (4, 6, 8), block="residual", norm="batch", up="linear", stem_stride=(1, 2, 2)),
        ),
        loss="dice_ce",
        recipe="default",
        weights="read by `models import`: github.com/milesial/Pytorch-UNet/releases (GPL-3), nnU-Net v1's of "
        "zenodo.org/record/4003545 (code Apache-2.0, each task under its data's terms), those of "
        "github.com/4uiiurz1/pytorch-nested-unet (code MIT)",
        official=layouts.official,
        infer=layouts.infer,
        derive=derive_unet,
    ),
    "unetpp": Entry(
        builder=UNetPP,
        config=UNetPPConfig,
        paper="Zhou et al. 2018, arXiv:1807.10165; Zhou et al. 2019, arXiv:1912.05074",
        licence="Apache-2.0 (our code)",
        description="U-Net++ in 2D and 3D: nested dense skips, heads of every depth, pruned to any of them",
        dims=(2, 3),
        tiny=(
            UNetPPConfig(widths=(4, 6, 8, 10)),
            UNetPPConfig(3, 3, 3, (4, 6, 8), ((1, 2, 2), (2, 2, 2)), norm="batch", up="linear", down="max", average=True),
            UNetPPConfig(3, 3, 2, (4, 6, 8), stem_stride=(2, 2)),
        ),
        loss="dice_ce",
        recipe="default",
        weights="read by `models import`: those of github.com/MrGiovanni/UNetPlusPlus, PyTorch (project licence of ASU), and of "
        "github.com/4uiiurz1/pytorch-nested-unet (code MIT)",
        official=unetpp_layouts.official,
        infer=measured.infer_unetpp,
        derive=derive_unetpp,
    ),
    "attention_unet": Entry(
        builder=AttentionUNet,
        config=AttentionUNetConfig,
        paper="Oktay et al. 2018, arXiv:1804.03999; Schlemper et al. 2019, arXiv:1808.08114",
        licence="Apache-2.0 (our code)",
        description="Attention U-Net in 2D and 3D: one or two grid attention gates a skip",
        dims=(2, 3),
        tiny=(
            AttentionUNetConfig(widths=(4, 6, 8, 10)),
            AttentionUNetConfig(2, 3, 3, (4, 6, 8), ((1, 2, 2), (2, 2, 2)), "single", norm="instance", deep_supervision=False),
            AttentionUNetConfig(3, 3, 2, (4, 6, 8), stem_stride=(2, 2)),
        ),
        loss="dice_ce",
        recipe="default",
        weights="read by `models import`: those of github.com/ozan-oktay/Attention-Gated-Networks (code MIT)",
        official=attention_unet.official,
        infer=measured.infer_attention_unet,
        derive=derive_attention_unet,
    ),
    "transunet": Entry(
        builder=TransUNet,
        config=TransUNetConfig,
        paper="Chen et al. 2021, arXiv:2102.04306",
        licence="Apache-2.0 (our code)",
        description="TransUNet: a vision transformer behind a ResNet, or alone, under a U-Net's decoder",
        dims=(2,),
        tiny=(
            TransUNetConfig(3, 3, (32, 32), 16, 32, 2, 2, (1, 1, 1), 32, bottleneck=16, decoder_channels=(16, 12, 8, 6), skips=2),
            TransUNetConfig(2, 2, (32, 24), 16, 24, 4, 1, (), patch_size=8, bottleneck=12, decoder_channels=(12, 8, 6), skips=0),
        ),
        loss="squared_dice_ce_50",
        recipe="transunet",
        weights="encoders for `train --weights`: storage.googleapis.com/vit_models/imagenet21k/R50+ViT-B_16.npz and ViT-B_16.npz "
        "(Apache-2.0), ViTs of timm and transformers on huggingface.co (as each says); read by `models import`: what "
        "github.com/Beckschen/TransUNet trains (Apache-2.0)",
        official=transunet.official,
        infer=measured.infer_transunet,
        derive=derive_transunet,
    ),
    "swin_unet": Entry(
        builder=SwinUnet,
        config=SwinUnetConfig,
        paper="Cao et al. 2021, arXiv:2105.05537; Swin: Liu et al. 2021, arXiv:2103.14030",
        licence="Apache-2.0 (our code)",
        description="Swin-Unet: a U-Net of shifted-window transformers, with patch expanding",
        dims=(2,),
        tiny=(
            SwinUnetConfig(3, 3, (64, 64), 4, 12, (2, 2, 2), (1, 2, 4), 4),
            SwinUnetConfig(1, 2, (48, 48), 2, 8, (2, 1), (2, 2), 3, mlp_ratio=2),
        ),
        loss="squared_dice_ce_60",
        recipe="swin_unet",
        weights="encoders for `train --weights`: github.com/SwinTransformer/storage/releases/download/v1.0.0/"
        "swin_tiny_patch4_window7_224.pth (MIT), huggingface.co/microsoft/swin-tiny-patch4-window7-224 (Apache-2.0), timm's; "
        "read by `models import`: what github.com/HuCaoFighting/Swin-Unet trains (no licence stated, none released)",
        official=swin_unet.official,
        infer=measured.infer_swin_unet,
        derive=derive_swin_unet,
    ),
    "segvit": Entry(
        builder=SegViT,
        config=SegViTConfig,
        paper="Zhang et al. 2022, arXiv:2210.05844",
        licence="Apache-2.0 (our code)",
        description="SegViT: a plain ViT whose class queries' attention is the mask; also its Shrink form",
        dims=(2,),
        tiny=(
            SegViTConfig(3, 3, backbone=ViTConfig((32, 48), 8, 24, 2, 3, (0, 1)), head=HeadConfig(heads=2, layers=1)),
            SegViTConfig(
                1,
                2,
                backbone=ViTConfig((24, 24), 8, 24, 2, 3, (0, 1), shrink_at=1),
                head=HeadConfig("atm_shrunk", heads=2, layers=1),
            ),
            SegViTConfig(2, 4, backbone=ViTConfig((32, 32), 8, 16, 1, 2, (0,)), head=HeadConfig("atm_single", heads=2, layers=2)),
        ),
        loss="atm",
        recipe="segvit",
        weights="read by `models import`: those listed at github.com/zbwxp/SegVit (AdelaiDet, non-commercial); encoders for "
        "`train --weights`: storage.googleapis.com/vit_models/augreg (Apache-2.0), timm's and transformers' on huggingface.co",
        official=vit_layouts.official_segvit,
        infer=measured.infer_segvit,
        derive=derive_segvit,
        head=("head.", "up."),
        unused=("backbone.cls_token",),
    ),
    "segvit_v2": Entry(
        builder=SegViT,
        config=SegViTv2Config,
        paper="Zhang et al. 2023, arXiv:2306.06289",
        licence="Apache-2.0 (our code)",
        description="SegViTv2: SegViT on BEiTv2, shrunk with more tokens kept at edges",
        dims=(2,),
        tiny=(
            SegViTv2Config(
                3,
                3,
                backbone=ViTConfig((40, 32), 8, 24, 3, 3, (0, 2), "relative", 0.1, 1, 0.125, drop_path=0.1),
                head=HeadConfig("atm_shrunk", heads=2, layers=1, positions=True),
            ),
        ),
        loss="atm",
        recipe="segvit",
        weights="none are public; encoders for `train --weights`: github.com/microsoft/unilm/tree/master/beit2 (MIT), "
        "huggingface.co/timm/beitv2_large_patch16_224.in1k_ft_in22k (Apache-2.0)",
        derive=derive_segvit_v2,
        head=("head.", "up."),
    ),
    "sam": Entry(
        builder=SAM,
        config=SAMConfig,
        paper="Kirillov et al. 2023, arXiv:2304.02643; MobileSAM: arXiv:2306.14289; MedSAM: 10.1038/s41467-024-44824-z; "
        "SAM-HQ: arXiv:2306.01567",
        licence="Apache-2.0 (our code)",
        description="Segment Anything: points, boxes and masks to masks; encoders ViT-B, L, H and TinyViT",
        dims=(2,),
        tiny=(
            SAMConfig(
                SAMViTConfig(64, 8, width=24, depth=3, heads=2, global_blocks=(1,), window=3, channels=16),
                mask_channels=8,
                decoder_heads=2,
                decoder_mlp=24,
                iou_width=12,
                text=10,
            ),
            SAMConfig(
                TinyViTConfig(64, (8, 12, 16, 320), (1, 1, 2, 1), (1, 2, 2, 5), (7, 3, 2, 3), channels=16),
                mask_channels=8,
                decoder_heads=2,
                decoder_mlp=24,
                iou_width=12,
            ),
            SAMConfig(
                SAMViTConfig(64, 8, width=24, depth=3, heads=2, global_blocks=(1,), window=3, channels=16),
                mask_channels=8,
                decoder_heads=2,
                decoder_mlp=24,
                iou_width=12,
                hq=True,
            ),
        ),
        loss="none yet",
        recipe="none yet",
        weights="`vesalius models download`: sam_vit_b, _l, _h, sam_hq_vit_b, _l, _h, mobile_sam, medsam (Apache-2.0)",
        official=sam_official.official,
        unused=tuple(  # one value added to every score of a query
            f"mask_decoder.transformer.{part}.k.bias" for part in ("blocks.0.to_image", "blocks.1.to_image", "last")
        ),
        kind="prompts",
    ),
    "vesalius_mini": Entry(
        builder=Mini,
        config=MiniConfig,
        paper="none: our own; prompts as in Kirillov et al. 2023, arXiv:2304.02643",
        licence="Apache-2.0 (our code); research only: weights trained on Kvasir-SEG, GlaS, CPM-15, ISBI 2012, PENGWIN",
        description="points, boxes and masks to masks in milliseconds: small, looks at a view around each prompt",
        dims=(2,),
        tiny=(MiniConfig(64, (8, 8, 12, 16), (1, 1, 1, 1), 1, 2, (6, 8, 10, 12)),),
        loss="interactive",
        recipe="vesalius_mini",
        weights="in the package, for research only: docs/models/vesalius_mini.md",
        kind="prompts",
    ),
    "vesalius_mini_3d": Entry(
        builder=Solid,
        config=SolidConfig,
        paper="none: our own",
        licence="Apache-2.0 (our code); research only: weights trained on the pelvic fractures of PENGWIN",
        description="the sibling of vesalius_mini for volumes: a box, sections or points in three dimensions to masks",
        dims=(3,),
        tiny=(SolidConfig(16, (6, 8, 10), (1, 1, 1)),),
        loss="solid",
        recipe="vesalius_mini_3d",
        weights="in the package, for research only: docs/models/vesalius_mini.md",
        kind="solid",
    ),
    "tiny_vit": Entry(
        builder=TinyEncoder,
        config=TinyViTConfig,
        paper="Wu et al. 2022, arXiv:2207.10666; Zhang et al. 2023, arXiv:2306.14289",
        licence="Apache-2.0 (our code)",
        description="the image encoder of MobileSAM alone",
        dims=(2,),
        tiny=(TinyViTConfig(64, (8, 12, 16, 320), (1, 1, 2, 1), (1, 2, 2, 5), (7, 3, 2, 3), channels=16),),
        loss="none",
        recipe="none",
        weights="part of mobile_sam",
        official=sam_official.official_tiny,
        kind="encoder",
    ),
}


def entry(name: str) -> Entry:
    """The entry of a model; raises UnknownName with the nearest name."""
    if name not in CATALOG:
        raise unknown_name("model", name, CATALOG)
    return CATALOG[name]


def build(name: str, config: dict[str, Any] | None = None) -> nn.Module:
    """The model `name` with `config`, a plain dict as TOML and JSON hold it; what it leaves out keeps its default.

    Raises UnknownName for a model or a field that does not exist, InputError for a value that does not fit.
    """
    found = entry(name)
    return found.builder(make_config(found.config, config or {}))


def make_config(kind: type, values: dict[str, Any]) -> Any:
    """A frozen config of `kind` from plain values (lists become tuples); every name, type and choice is checked."""
    known = {f.name for f in dataclasses.fields(kind)}
    for key in values:
        if key not in known:
            raise unknown_name(f"{kind.__name__} field", key, known)
        if isinstance(values[key], float) and not math.isfinite(values[key]):
            raise InputError(f"{key} = {values[key]} does not fit a {kind.__name__}", fix="give a number that is finite")
    try:
        return pydantic.TypeAdapter(kind).validate_python(values)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"{where} = {first['input']!r} does not fit a {kind.__name__}", fix=first["msg"]) from error


def plain(config: Any) -> dict[str, Any]:
    """A config as plain values, for TOML and JSON; `make_config` reads them back."""
    return pydantic.TypeAdapter(type(config)).dump_python(config, mode="json")


def derived(name: str, needs: Needs) -> dict[str, Any]:
    """The configuration of `name` for a run, as plain values.

    in_channels, classes and dims where its config has them, then what the entry's `derive` finds, then `needs.chosen`.
    Raises UnknownName, and InputError for data of other dimensions or values that do not fit.
    """
    found = entry(name)
    check_dims(name, found.dims, needs.dims)
    sizes = {"in_channels": needs.in_channels, "classes": needs.classes, "dims": needs.dims}
    known = {f.name for f in dataclasses.fields(found.config)}
    values: dict[str, Any] = {key: value for key, value in sizes.items() if key in known}
    for key, value in [*(found.derive(needs) if found.derive else {}).items(), *needs.chosen.items()]:
        parts = isinstance(value, Mapping) and isinstance(values.get(key), Mapping)  # a table is laid over another key by key
        values[key] = {**values[key], **value} if parts else value
    return plain(make_config(found.config, values))


def parameter_count(model: nn.Module) -> int:
    """How many trainable numbers the model has."""
    return sum(p.numel() for p in model.parameters())


def gflops(model: nn.Module, shape: tuple[int, ...]) -> float:
    """10^9 multiply-adds (one counts as 1) of a forward pass on a (B, C, *S) image, counted on a meta copy: no memory."""
    with torch.device("meta"):
        shadow = type(model)(model.config).eval().requires_grad_(False)  # type: ignore[call-arg]  # the counter trips over views
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            shadow(torch.empty(shape))
    return counter.get_total_flops() / 2e9  # the counter counts a multiply and an add as two
