"""SAM and vesalius_mini against others, in one run and with the same weights. Tables on stderr, JSON on stdout.

    python benchmarks/sam.py [--small] [--part encode|decode|everything|memory|mini] [--rounds 3] [--side 32] [--mini FILE]

    encode      ViT-B at 1024: transformers' SamModel in fp32, the official arrangement, ours in fp32 and bf16; how far
                the features are from transformers' fp32
    decode      one box, one click with three masks, and 16 clicks at once, on ViT-B: transformers' fp32, the official
                arrangement, ours in fp32 and bf16
    everything  --side x --side clicks on ViT-B: ours against decoding and upsampling every candidate. Random weights draw nothing
                that survives the filters, so the decoder runs and its masks are then replaced by scripted ones, on both sides.
                Ours draws no masks for clicks whose (scripted) predicted IoU rules all three out
    memory      peak of both everything modes and of the encoders, each in a process of its own
    mini        vesalius_mini: a box answered, view and encoding included; 300 boxes; everything mode; bf16 against fp32.
                --mini names trained weights; without, they are random, and then its masks mean nothing

The official arrangement is in official_sam.py. Fewer threads: OMP_NUM_THREADS=1. Where other work runs beside it,
`of_the_processor` is the ratio to trust.
"""

from __future__ import annotations

import argparse
import json
import math
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from measuring import HERE, alternating, apart, machine, memory, reset_peak, show, times
from official_sam import CLICKS_AT_ONCE, official_decode, official_encode, official_everything
from torch import Tensor

from vesalius.models.contract import Answers, Prompts
from vesalius.models.sam.frame import Frame
from vesalius.models.sam.image_encoder import ViTConfig
from vesalius.models.sam.sam import SAM, SAMConfig
from vesalius.models.weights import keep_bf16
from vesalius.pipeline.everything import EverythingOptions, everything
from vesalius.pipeline.looks import Asked
from vesalius.pipeline.memory import keep_freed_memory
from vesalius.pipeline.prompter import FramePrompter

PARTS = ("encode", "decode", "everything", "memory", "mini")
FULL, SMALL = ViTConfig(), ViTConfig(128, 16, 48, 3, 3, (1,), 5)
DISCS = 80  # objects of the scripted scene


def main() -> None:
    """Run the parts asked for; `--measure` is one measurement in its own process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a tiny encoder and picture: a quick check that it works")
    parser.add_argument("--part", action="append", choices=PARTS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", type=int, default=32, help="clicks along each side in everything mode")
    parser.add_argument("--mini", type=Path, help="weights of vesalius_mini")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    if options.measure:
        print(json.dumps(peak(options.measure[0], **json.loads(options.measure[1]))))
        return
    if options.small:
        options.side, options.rounds = min(options.side, 6), 1
    result: dict[str, Any] = {"small": options.small, **machine()}
    parts = {"encode": encode, "decode": decode, "everything": everything_modes, "memory": memories, "mini": mini}
    for name in options.part or PARTS:
        result[name] = parts[name](options)
    text = json.dumps(result, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


# Weights and models


def theirs(small: bool) -> Any:
    """transformers' SamModel with random weights."""
    from transformers import SamConfig, SamMaskDecoderConfig, SamModel, SamPromptEncoderConfig, SamVisionConfig

    c = config(small)
    vision = SamVisionConfig(
        hidden_size=c.width, num_hidden_layers=c.depth, num_attention_heads=c.heads, image_size=c.image_size, patch_size=c.patch,
        window_size=c.window, global_attn_indexes=list(c.global_blocks), mlp_dim=4 * c.width,
    )  # fmt: skip
    prompts = SamPromptEncoderConfig(image_size=c.image_size, patch_size=c.patch)
    decoder = SamMaskDecoderConfig(layer_norm_eps=1e-5)  # the original's
    torch.manual_seed(0)
    model = SamModel(SamConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder))
    model = model.eval().requires_grad_(False)
    for name, value in model.named_parameters():
        if "norm" in name:
            value.fill_(1.0 if name.endswith("weight") else 0.0)
        else:  # transformers starts with 1e-10, where nothing is left to compare
            value.normal_(std=0.1 if "_pos" in name or "pos_" in name else value.shape[-1] ** -0.5 if value.ndim > 1 else 0.02)
    return model


def ours_like(model: Any) -> SAM:
    """Ours with the weights of transformers' model."""
    from vesalius.models.sam.official import config_of, to_ours

    state = {name: value.clone() for name, value in model.state_dict().items()}
    own = SAM(config_of(state))
    own.load_state_dict(to_ours(state))
    return own.eval().requires_grad_(False)


def config(small: bool) -> ViTConfig:
    return SMALL if small else FULL


def prompter(model: Any, bf16: bool, size: int) -> FramePrompter:
    """As load_prompter does it: a model of its own in bf16."""
    keep_freed_memory()
    return FramePrompter("sam", keep_bf16(deepcopy(model)) if bf16 else model, Frame(size), "benchmark", bf16=bf16)


# Encoding


def encode(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds and errors of the image encoders."""
    reference, size = theirs(options.small), config(options.small).image_size
    own = ours_like(reference)
    image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    kept: dict[str, Tensor] = {}

    def keeping(name: str, call: Any, bf16: bool = False) -> Any:
        def run() -> None:
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                kept[name] = call(image).float()

        return run

    sides = {
        "transformers fp32": keeping("transformers fp32", reference.get_image_embeddings),
        "official arrangement fp32": keeping("official arrangement fp32", lambda x: official_encode(own.image_encoder, x)),
        "official arrangement bf16": keeping("official arrangement bf16", lambda x: official_encode(own.image_encoder, x), True),
        "ours fp32": keeping("ours fp32", own.embed),
        "ours bf16": keeping("ours bf16", prompter(own, True, size).model.embed, True),
    }
    found = alternating(sides, options.rounds)
    exact = kept["transformers fp32"]
    for name, row in found.items():
        wrong = kept[name] - exact
        row["largest_error"] = float(f"{wrong.abs().max().item():.3g}")
        row["relative_error"] = float(f"{(wrong.norm() / exact.norm()).item():.3g}")
    show("image encoding", found)
    slow = [name for name in sides if not name.startswith("ours")]
    ratios = {f"{one} / {quick}": times(found, one, quick) for one in slow for quick in ("ours fp32", "ours bf16")}
    show("times faster", ratios)
    return {"size": size, "features_deviation": round(exact.std().item(), 3), "sides": found, "times_faster": ratios}


# Decoding


def decode(options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of prompts on features that are there already."""
    reference, size = theirs(options.small), config(options.small).image_size
    own = ours_like(reference)
    grid = size // config(options.small).patch
    features = torch.randn(1, 256, grid, grid, generator=torch.Generator().manual_seed(1))
    features = features.contiguous(memory_format=torch.channels_last)  # as `embed` gives them
    clicks = torch.rand(16, 1, 2, generator=torch.Generator().manual_seed(2)) * size
    asked = {
        "a box": (Prompts(boxes=torch.tensor([[0.1, 0.2, 0.5, 0.6]]) * size), False),
        "a click": (Prompts(clicks[:1], torch.ones(1, 1, dtype=torch.int64)), True),
        "16 clicks": (Prompts(clicks, torch.ones(16, 1, dtype=torch.int64)), True),
    }
    found = {}
    for name, (prompts, multimask) in asked.items():
        sides = {"transformers fp32": lambda p=prompts, m=multimask: answers_of(reference, features, p, m)}
        for arithmetic, bf16 in (("fp32", False), ("bf16", True)):
            by = prompter(own, bf16, size)

            def run(p: Prompts = prompts, m: bool = multimask, by: FramePrompter = by) -> Tensor:
                with by.computing():
                    return by.model.decode(features, p, m).logits.float()

            sides[f"ours {arithmetic}"] = run

        def official(p: Prompts = prompts, m: bool = multimask) -> Tensor:
            with torch.inference_mode():
                return official_decode(own, features, p, m).logits

        sides["official arrangement fp32"] = official
        outputs = {side: call() for side, call in sides.items()}  # and warms up
        found[name] = alternating(sides, options.rounds * (5 if len(prompts) == 1 else 1))
        for side, logits in outputs.items():
            wrong = (logits - outputs["transformers fp32"]).abs().max() / outputs["transformers fp32"].std()
            found[name][side]["largest_error_in_deviations"] = float(f"{wrong.item():.2g}")
        show(f"decoding {name}", found[name])
    return found


def answers_of(reference: Any, features: Tensor, prompts: Prompts, multimask: bool) -> Tensor:
    """The logits (P, M, h, w) of transformers' model."""
    given = {"input_points": prompts.points, "input_labels": prompts.labels, "input_boxes": prompts.boxes}
    with torch.inference_mode():
        given = {key: value[None] for key, value in given.items() if value is not None}
        return reference(image_embeddings=features, multimask_output=multimask, **given).pred_masks[0]


# Everything mode


@dataclass(eq=False)
class Scripted:
    """A SAM whose decoder works for nothing: the masks are those of a scene of discs, whatever it answers.

    A click on a disc takes it, a smaller one within it and one smaller still; one beside all of them a blurred patch, little
    trusted. Edges are steep or not, so that the stability filter has work to do.
    """

    sam: SAM
    size: int
    official: bool = False  # decodes in the official arrangement

    def __post_init__(self) -> None:
        random = np.random.default_rng(0)
        self.places = torch.from_numpy(random.uniform(0.05, 0.95, (DISCS, 2))).float() * self.size
        self.radii = torch.from_numpy(random.uniform(0.02, 0.08, DISCS)).float() * self.size
        self.trust = torch.from_numpy(random.uniform(0.8, 1.0, (DISCS, 3))).float()
        self.steep = torch.from_numpy(random.uniform(0.5, 8, DISCS)).float() * 1024 / self.size

    def modules(self) -> Any:
        return self.sam.modules()

    def embed(self, image: Tensor) -> Tensor:
        return torch.randn(1, 256, self.size // 16, self.size // 16, generator=torch.Generator().manual_seed(1))

    def decode(
        self, features: Tensor, prompts: Prompts, multimask: bool = False, *, least_iou: float = -math.inf
    ) -> Answers:
        assert prompts.points is not None and prompts.labels is not None
        points = prompts.points[:, 0]
        apart = torch.cdist(points, self.places) / self.radii  # (P, discs)
        near, which = apart.min(1)
        hit = near < 1
        places = torch.where(hit[:, None], self.places[which], points)
        radii = torch.where(hit, self.radii[which], self.size / 10)
        steep = torch.where(hit, self.steep[which], 8 / self.size)
        wobble = 0.01 * torch.sin(points.sum(1))[:, None]  # each click's answer is its own
        iou = torch.where(hit[:, None], self.trust[which] + wobble, 0.5 + wobble)
        if self.official:
            official_decode(self.sam, features, prompts, multimask)
        else:  # the decoder's own quality is noise: it draws what the scripted one is worth
            waiting = F.pad(iou, (1, 0))

            def told(module: Any, given: Any, quality: Tensor) -> Tensor:
                nonlocal waiting
                now, waiting = waiting.split((len(quality), len(waiting) - len(quality)))
                return now

            with self.sam.mask_decoder.quality.register_forward_hook(told):
                self.sam.decode(features, prompts, multimask, least_iou=least_iou)
        cells = (torch.arange(self.size // 4) + 0.5) * 4
        across, down = ((cells - places[:, i : i + 1]) ** 2 for i in (0, 1))
        far = (down[:, :, None] + across[:, None]).sqrt()  # (P, h, w)
        shares = torch.tensor([1.0, 0.7, 0.4])[:, None, None] * (1 + 2 * wobble[:, :, None, None])
        logits = shares * radii[:, None, None, None] - far[:, None]
        logits = logits.mul_(steep[:, None, None, None]).clamp_(-20, 20)
        return Answers(logits, iou)


def scene(small: bool) -> tuple[np.ndarray, Any]:
    """A picture, and the scripted model for it."""
    size = config(small).image_size
    torch.manual_seed(0)
    return np.zeros((size * 3 // 4, size, 3), np.uint8), Scripted(
        SAM(SAMConfig(config(small))).eval().requires_grad_(False), size
    )


def everything_modes(options: argparse.Namespace) -> dict[str, Any]:
    """Both, on the same masks; one round, as each takes minutes."""
    picture, model = scene(options.small)
    kept: dict[str, list[dict[str, Any]]] = {}
    sides = {}
    for name, bf16, mode in (("official arrangement fp32", False, official_everything), ("ours fp32", False, our_everything),
                             ("ours bf16", True, our_everything)):  # fmt: skip
        by = prompter(replace(model, official=mode is official_everything), bf16, model.size)

        def run(name: str = name, by: FramePrompter = by, mode: Any = mode) -> None:
            kept[name] = mode(picture, by, options.side)

        sides[name] = run
    found = alternating(sides, 1)
    first = kept["official arrangement fp32"]
    for name, records in kept.items():
        found[name]["masks"] = len(records)
        found[name]["same_as_official"] = same(records, first)
    show(f"everything mode, {options.side} x {options.side} clicks", found)
    ratios = {quick: times(found, "official arrangement fp32", quick) for quick in ("ours fp32", "ours bf16")}
    show("times faster than decoding and upsampling every candidate", ratios)
    return {"side": options.side, "sides": found, "times_faster": ratios}


def same(records: list[dict[str, Any]], others: list[dict[str, Any]]) -> bool:
    """Whether the same masks survived, in the same order."""
    pairs = zip(records, others, strict=False)
    return len(records) == len(others) > 0 and all(
        a["segmentation"] == b["segmentation"] and a["bbox"] == b["bbox"] for a, b in pairs
    )


def our_everything(picture: np.ndarray, by: FramePrompter, side: int) -> list[dict[str, Any]]:
    return everything(picture, by.look, EverythingOptions(side, CLICKS_AT_ONCE, output_mode="uncompressed_rle"))


# Memory


def memories(options: argparse.Namespace) -> dict[str, Any]:
    """Peaks above what the loaded models take. Two batches of clicks are enough to see the official arrangement's."""
    given = json.dumps({"small": options.small, "side": min(options.side, 12)})
    names = ("encode official", "encode ours", "everything official", "everything ours")
    found = {name: apart(__file__, name, given) for name in names}
    for what in ("encode", "everything"):
        share = found[f"{what} ours"]["peak_mb"] / max(1, found[f"{what} official"]["peak_mb"])
        found[f"{what} ours"]["share"] = round(share, 3)
    show("peak memory above the loaded model", found)
    return found


def peak(what: str, small: bool, side: int) -> dict[str, Any]:
    """In its own process; the official arrangement in fp32, ours in bf16."""
    mode, kind = what.split()
    picture, model = scene(small)
    by = prompter(replace(model, official=kind == "official"), kind == "ours", model.size)
    tiny = torch.randn(1, 3, 32, 32)
    with by.computing():
        by.model.sam.embed(tiny)  # kernels are chosen on the first call
    image = torch.randn(1, 3, model.size, model.size)
    before = reset_peak()
    if mode == "everything":
        (our_everything if kind == "ours" else official_everything)(picture, by, side)
    else:
        with by.computing():
            by.model.sam.embed(image) if kind == "ours" else official_encode(model.sam.image_encoder, image)  # type: ignore[arg-type]
    return {"peak_mb": round((memory("VmHWM") - before) / 2**20), "before_mb": round(before / 2**20)}


# vesalius_mini


def mini(options: argparse.Namespace) -> dict[str, Any]:
    """Times, and on the examples' nuclei how far bf16 and fp32 agree."""
    from vesalius.io.files import read, read_mask

    folder = HERE.parent / "examples" / "nuclei"
    picture = np.ascontiguousarray(read(folder / "images" / "fluorescence.png").array[:3, 0].transpose(1, 2, 0))
    if picture.shape[2] == 1:
        picture = np.repeat(picture, 3, 2)
    labels = read_mask(folder / "labels" / "fluorescence.png").array[0]
    boxes = boxes_of(labels)
    many = np.concatenate([boxes] * -(-300 // len(boxes)))[: 30 if options.small else 300]
    pair = {"fp32": glancer(options.mini, False), "bf16": glancer(options.mini, True)}
    clicks, found = 4 if options.small else 8, {}
    works = {
        "one box": lambda by: whole(by, picture, boxes[:1]),
        f"{len(many)} boxes": lambda by: whole(by, picture, many),
        f"everything, {clicks} x {clicks} clicks": lambda by: everything(picture, by.look, EverythingOptions(clicks)),
    }
    for name, work in works.items():
        sides = {arithmetic: lambda by=by, work=work: work(by) for arithmetic, by in pair.items()}
        for call in sides.values():
            call()
        found[name] = alternating(sides, 1 if "everything" in name else options.rounds * (10 if name == "one box" else 1))
        show(f"vesalius_mini: {name}, on {picture.shape[1]} x {picture.shape[0]} px", found[name])
    exact, quick = (whole(by, picture, boxes) for by in pair.values())
    alike = [(a & b).sum() / max(1, (a | b).sum()) for a, b in zip(exact, quick, strict=True)]
    agreement = {
        "weights": str(options.mini or "random"),
        "objects": len(boxes),
        "mean": float(np.mean(alike)),
        "least": float(min(alike)),
    }
    show("vesalius_mini: IoU of bf16 with fp32 masks", {"boxes": agreement})
    return {**found, "agreement": agreement}


def glancer(path: Path | None, bf16: bool) -> Any:
    """vesalius_mini with weights from a file, or random ones."""
    from vesalius.models.blocks import fold_norms
    from vesalius.models.catalog import build
    from vesalius.pipeline.glancer import GlancePrompter
    from vesalius.pipeline.prompter import load_prompter

    if path is not None:
        return load_prompter(path, precision="bf16" if bf16 else "fp32")
    torch.manual_seed(0)
    model: Any = build("vesalius_mini").eval().requires_grad_(False).to(memory_format=torch.channels_last)
    model = fold_norms(model).to(torch.bfloat16 if bf16 else torch.float32)  # as load_glancer does
    return GlancePrompter("vesalius_mini", model, "random", bf16=bf16)


def whole(by: Any, picture: np.ndarray, boxes: np.ndarray) -> list[np.ndarray]:
    """From the picture to a mask on its pixels for each box."""
    look = by.look(picture)
    proposals = look.ask(Asked(boxes=boxes), multimask=False)
    return [look.full(state[:1])[0].numpy() > 0 for state in proposals.state]


def boxes_of(labels: np.ndarray) -> np.ndarray:
    """(n, 4) tight boxes, x1 and y1 exclusive, of the objects of a map of numbered objects."""
    from scipy.ndimage import find_objects

    slices = [s for s in find_objects(labels.astype(np.int32)) if s is not None]
    return np.array([[x.start, y.start, x.stop, y.stop] for y, x in slices], float)


if __name__ == "__main__":
    main()
