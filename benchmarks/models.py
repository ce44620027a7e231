"""Forward and training step of each segmenter at its paper's input size, beside independent implementations. Table, JSON.

    python benchmarks/models.py [--small] [--models unet_3d] [--part models|backbones|engines|where] [--rounds 3] [--out FILE]

    models      ours in fp32 and bf16: forward, training step (forward, cross-entropy, backward), peak memory of both, each peak
                in a process of its own; MONAI's nearest network beside it where there is one (nearest: not the same architecture)
    backbones   the same architecture and sizes as transformers': ViT, BEiT and Swin blocks, forward in fp32 (and ours in bf16).
                Ours must not be slower
    engines     forward of each by PyTorch and by OpenVINO (`segment --engine openvino`, an extra), in fp32 and bf16, how far the
                scores are apart, the seconds of compiling, and peak memory once compiled
    where       where a forward pass of the 3D U-Net spends its time in bf16

Fewer threads: OMP_NUM_THREADS=1. Where other work runs beside it, `cpu_seconds` and their ratios are what to trust.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from measuring import alternating, apart, machine, memory, reset_peak, show, times
from torch import Tensor, nn

from vesalius.models.catalog import build, gflops, parameter_count
from vesalius.models.compiled import Compiled

PARTS = ("models", "backbones", "engines", "where")


@dataclass(frozen=True)
class Case:
    """One model as its paper runs it.

    size     of the input, and `small` for a quick check
    config   fields that differ from the catalog's default, and `tiny` those of the quick check
    nearest  MONAI's class that comes nearest, and its arguments
    """

    model: str
    size: tuple[int, ...]
    small: tuple[int, ...]
    channels: int = 1
    classes: int = 2
    config: dict[str, Any] = field(default_factory=dict)
    tiny: dict[str, Any] = field(default_factory=dict)
    nearest: tuple[str, dict[str, Any]] | None = None

    @property
    def dims(self) -> int:
        return len(self.size)


WIDTHS_3D = {"dims": 3, "in_channels": 1, "classes": 3, "widths": (24, 48, 96, 160), "norm": "instance"}
TINY_3D = {"widths": (4, 6, 8, 12)}
MONAI_3D = {"spatial_dims": 3, "in_channels": 1, "out_channels": 3}
ATTENTION = {"spatial_dims": 3, "in_channels": 1, "out_channels": 3, "channels": (16, 32, 64, 128), "strides": (2, 2, 2)}
MINI_VIT = {"image_size": (64, 64), "patch": 16, "width": 48, "depth": 3, "heads": 3, "out_layers": (0, 1, 2)}

CASES = {
    "unet_2d": Case("unet", (512, 512), (64, 64), tiny={"widths": (4, 6, 8)}),
    "unet_3d": Case(
        "unet", (96, 96, 96), (32, 32, 32), 1, 3, WIDTHS_3D, TINY_3D,
        ("BasicUNet", {**MONAI_3D, "features": (24, 48, 96, 160, 160, 24)}),
    ),
    "unetpp_2d": Case(
        "unetpp", (224, 224), (64, 64), 3, config={"in_channels": 3}, tiny={"widths": (4, 6, 8, 10)},
        nearest=("BasicUNetPlusPlus", {"spatial_dims": 2, "in_channels": 3, "out_channels": 2}),
    ),
    "attention_unet_3d": Case(
        "attention_unet", (96, 96, 96), (32, 32, 32), 1, 3,
        {"dims": 3, "in_channels": 1, "classes": 3, "widths": (16, 32, 64, 128)}, {"widths": (4, 6, 8, 10)},
        ("AttentionUnet", ATTENTION),
    ),
    "transunet": Case("transunet", (224, 224), (224, 224), 3, 9),
    "swin_unet": Case(
        "swin_unet", (224, 224), (224, 224), 3, 9, tiny={"width": 24, "heads": (1, 2, 4, 8), "depths": (1, 1, 1, 1)},
        nearest=("SwinUNETR", {"in_channels": 3, "out_channels": 9, "spatial_dims": 2, "feature_size": 24}),
    ),
    "segvit": Case(
        "segvit", (512, 512), (64, 64), 3, config={"in_channels": 3}, tiny={"backbone": MINI_VIT, "head": {"heads": 3}}
    ),
    "segvit_v2": Case(
        "segvit_v2", (512, 512), (64, 64), 3, config={"in_channels": 3},
        tiny={"backbone": {**MINI_VIT, "positions": "relative"}, "head": {"heads": 3}},
    ),
}  # fmt: skip


def main() -> None:
    """Run the parts asked for; `--measure` is one measurement in its own process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="tiny networks and inputs: a quick check that it works")
    parser.add_argument("--models", type=lambda text: text.split(","), help=f"some of {', '.join(CASES)}")
    parser.add_argument("--part", action="append", choices=PARTS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        name, side, work, small = options.measure
        measured = engine_peak if work == "engine" else peak
        print(json.dumps(measured(CASES[name], side, work, small == "small")))
        return
    for name in options.models or ():
        if name not in CASES:
            parser.error(f"there is no '{name}': choose from {', '.join(CASES)}")
    result: dict[str, Any] = {"small": options.small, **machine()}
    parts = {"models": models, "backbones": backbones, "engines": engines, "where": where}
    for part in options.part or PARTS:
        result[part] = parts[part](options)
    text = json.dumps(result, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


# Whole models


def models(options: argparse.Namespace) -> dict[str, Any]:
    """Each model's seconds, memory, parameters and GFLOPs."""
    found = {}
    for name in options.models or CASES:
        case = CASES[name]
        found[name] = {"size": case.small if options.small else case.size, "nearest": case.nearest and f"MONAI {case.nearest[0]}"}
        sides = sides_of(case, options.small)
        own = sides["ours fp32"]
        shape = (1, case.channels, *found[name]["size"])
        found[name] |= {"parameters": parameter_count(own.net), "gflops": round(gflops(own.net, shape), 2)}
        for work in ("forward", "training"):
            calls = {side: getattr(one, work) for side, one in sides.items()}
            for call in calls.values():
                call()  # kernels are chosen on the first call
            rows = alternating(calls, options.rounds)
            for side, row in rows.items():
                row |= apart(__file__, name, side, work, "small" if options.small else "full")
            show(f"{name} {found[name]['size']}: {work}", rows)
            found[name][work] = {**rows, "bf16_times_faster": times(rows, "ours fp32", "ours bf16")["of_the_processor"]}
    return found


@dataclass(eq=False)
class Side:
    """A network, its input, and what is done with it."""

    net: nn.Module
    image: Tensor
    target: Tensor
    bf16: bool

    def scores(self) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            out = self.net(self.image)
        return out.main if hasattr(out, "main") else out[0] if isinstance(out, list | tuple) else out

    def forward(self) -> None:
        self.net.eval()
        with torch.inference_mode():
            self.scores()

    def training(self) -> None:
        self.net.train()
        self.net.zero_grad()
        nn.functional.cross_entropy(self.scores().float(), self.target).backward()


def sides_of(case: Case, small: bool, only: str | None = None) -> dict[str, Side]:
    """Ours in both arithmetics, and the nearest network."""
    size = case.small if small else case.size
    image = torch.randn(1, case.channels, *size, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    values = {**case.config, **(case.tiny if small else {})}
    layout: Any = torch.channels_last if case.dims == 2 else torch.channels_last_3d
    found: dict[str, Side] = {}
    if only != "nearest fp32":
        net: Any = build(case.model, {**values, **({} if "classes" in values else {"classes": case.classes})})
        target = torch.zeros(1, *net.output_size(size), dtype=torch.int64)
        ours = net.to(memory_format=layout), image.contiguous(memory_format=layout), target
        found = {"ours fp32": Side(*ours, bf16=False), "ours bf16": Side(*ours, bf16=True)}
    if case.nearest and not (small and case.model == "swin_unet") and only in (None, "nearest fp32"):
        import monai.networks.nets as nets

        other = getattr(nets, case.nearest[0])(**case.nearest[1])
        found["nearest fp32"] = Side(other, image, torch.zeros(1, *size, dtype=torch.int64), bf16=False)
    return found


def peak(case: Case, side: str, work: str, small: bool) -> dict[str, int]:
    """In its own process: what one step holds at most beyond the loaded network, gradients included in training."""
    one = sides_of(case, small, side)[side]
    before = reset_peak()
    getattr(one, work)()
    return {"peak_mb": round((memory("VmHWM") - before) / 2**20)}


# The same architectures


def backbones(options: argparse.Namespace) -> dict[str, Any]:
    """transformers' blocks and ours, random weights, same sizes."""
    found = {}
    for name, make in (("vit", vit_pair), ("beit", beit_pair), ("swin", swin_pair)):
        theirs, ours, image = make(options.small)
        calls = {
            "transformers fp32": quietly(theirs, image),
            "ours fp32": quietly(ours, image),
            "ours bf16": quietly(ours, image, True),
        }
        for call in calls.values():
            call()
        rows = alternating(calls, options.rounds)
        show(f"backbone {name} at {image.shape[-1]} px", rows)
        ratios = {f"{slow} / {quick}": times(rows, slow, quick)["of_the_processor"] for slow, quick in (
            ("transformers fp32", "ours fp32"), ("ours fp32", "ours bf16"),
        )}  # fmt: skip
        show("times faster", {name: ratios})
        counts = {"transformers": parameter_count(theirs), "ours": parameter_count(ours)}
        found[name] = {**rows, "times_faster": ratios, "parameters": counts}
    return found


def quietly(net: nn.Module, image: Tensor, bf16: bool = False) -> Callable[[], None]:
    net.eval()

    def run() -> None:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            net.encode(image) if hasattr(net, "encode") else net(image)

    return run


def vit_pair(small: bool) -> tuple[nn.Module, nn.Module, Tensor]:
    """ViT-B/16 at 512: 12 layers without the last norm; transformers' carries a class token more."""
    from transformers import ViTConfig as TheirConfig
    from transformers import ViTModel

    from vesalius.models.vit_backbone import Backbone, ViTConfig

    size, width, depth, heads = (64, 48, 2, 3) if small else (512, 768, 12, 12)
    theirs = TheirConfig(
        image_size=size, hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads, intermediate_size=4 * width
    )
    ours = Backbone(ViTConfig((size, size), 16, width, depth, heads, (depth - 1,)))
    return ViTModel(theirs, add_pooling_layer=False), ours, torch.randn(1, 3, size, size)


def beit_pair(small: bool) -> tuple[nn.Module, nn.Module, Tensor]:
    """BEiT-B/16 at 512 with a table of relative positions a layer."""
    from transformers import BeitConfig, BeitModel

    from vesalius.models.vit_backbone import Backbone, ViTConfig

    size, width, depth, heads = (64, 48, 2, 3) if small else (512, 768, 12, 12)
    theirs = BeitConfig(
        image_size=size, hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads, intermediate_size=4 * width,
        use_relative_position_bias=True, use_absolute_position_embeddings=False, layer_scale_init_value=0.1,
    )  # fmt: skip
    ours = Backbone(ViTConfig((size, size), 16, width, depth, heads, (depth - 1,), "relative", 0.1))
    return BeitModel(theirs, add_pooling_layer=False), ours, torch.randn(1, 3, size, size)


def swin_pair(small: bool) -> tuple[nn.Module, nn.Module, Tensor]:
    """Swin with two blocks a stage at 224, window 7: the encoder of Swin-Unet."""
    from transformers import SwinConfig, SwinModel

    from vesalius.models.swin_unet import SwinUnet, SwinUnetConfig

    width, depths, heads = (24, (1, 1, 1, 1), (1, 2, 4, 8)) if small else (96, (2, 2, 2, 2), (3, 6, 12, 24))
    theirs = SwinConfig(image_size=224, embed_dim=width, depths=list(depths), num_heads=list(heads), window_size=7)
    ours = SwinUnet(SwinUnetConfig(width=width, depths=depths, heads=heads))
    for part in ("decoder", "expand", "join", "up_norm", "up", "head"):  # only `encode` runs; the count is the encoder's
        delattr(ours, part)
    return SwinModel(theirs, add_pooling_layer=False), ours, torch.randn(1, 3, 224, 224)


# PyTorch and OpenVINO


def engines(options: argparse.Namespace) -> dict[str, Any]:
    """Each model's forward pass by both engines in both arithmetics."""
    found = {}
    for name in options.models or CASES:
        sides = engine_sides(CASES[name], options.small)
        scores, compiling = {}, {}
        for side, one in sides.items():
            began = time.process_time()
            with torch.inference_mode():
                scores[side] = one.scores().float()
            compiling[side] = time.process_time() - began
        rows = alternating({side: one.forward for side, one in sides.items()}, options.rounds)
        want = scores["PyTorch fp32"]
        for side, row in rows.items():
            row["difference"] = float(f"{(scores[side] - want).norm() / want.norm():.1e}")
            row["compiling_cpu_seconds"] = round(compiling[side] - row["cpu_seconds"], 1) if "OpenVINO" in side else 0.0
            row |= apart(__file__, name, side, "engine", "small" if options.small else "full")
        show(f"{name}: engines", rows)
        ratios = {f"{slow} / {quick}": times(rows, slow, quick)["of_the_processor"] for slow, quick in (
            ("PyTorch fp32", "PyTorch bf16"), ("PyTorch fp32", "OpenVINO fp32"), ("PyTorch fp32", "OpenVINO bf16"),
            ("PyTorch bf16", "OpenVINO bf16"),
        )}  # fmt: skip
        show("times faster", {name: ratios})
        found[name] = {**rows, "times_faster": ratios}
    return found


def engine_sides(case: Case, small: bool) -> dict[str, Side]:
    """One network in four ways."""
    own = sides_of(case, small, "ours")["ours fp32"]
    own.net.eval().requires_grad_(False)
    fast = Compiled(own.net)
    return {
        f"{engine} {'bf16' if bf16 else 'fp32'}": Side(net, own.image, own.target, bf16)
        for engine, net in (("PyTorch", own.net), ("OpenVINO", fast))
        for bf16 in (False, True)
    }


def engine_peak(case: Case, side: str, work: str, small: bool) -> dict[str, int]:
    """In its own process: what a forward pass holds at most, once kernels are chosen and networks compiled."""
    one = engine_sides(case, small)[side]
    one.forward()
    before = reset_peak()
    one.forward()
    return {"peak_mb": round((memory("VmHWM") - before) / 2**20), "resident_mb": round(before / 2**20)}


# Where the time goes


def where(options: argparse.Namespace) -> dict[str, Any]:
    """Shares of the processor's time by operation: the 3D U-Net's forward pass in both arithmetics."""
    sides, found = sides_of(CASES["unet_3d"], options.small), {}
    for side in ("ours fp32", "ours bf16"):
        sides[side].forward()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            sides[side].forward()
        spent = {event.key: event.self_cpu_time_total for event in profile.key_averages()}
        total = sum(spent.values())
        most = sorted(spent, key=lambda key: -spent[key])[:8]
        shares = {key.removeprefix("aten::"): round(spent[key] / total, 3) for key in most}
        found[side] = {"milliseconds": round(total / 1000, 1), "shares": shares}
        show(f"3D U-Net, {side}, {found[side]['milliseconds']} ms", {"shares": shares})
    return found


if __name__ == "__main__":
    main()
