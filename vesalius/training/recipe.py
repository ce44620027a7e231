"""Recipes: how a model is trained, as plain numbers in one place.

A recipe is a literal in RECIPES; a TOML file overrides one (`base = "hippocampus"`, then the keys that
differ). The plan of a run repeats the recipe in full, so a run never depends on later edits here.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveInt, ValidationError

from ..core.errors import InputError, UnreadableFile, unknown_name
from ..transforms.spatial import Slicing
from .prompting import MINI_SOURCES, SOLID_SOURCES, Prompting, Source
from .record import Range, Record


class Augment(Record):
    """Strengths and probabilities of the changes made to every sample, in a worker process.

    `scale` above 1 enlarges the field of view (objects get smaller). Axes are 0 = Z, 1 = Y, 2 = X.
    Thick or few slices are turned, scaled, bent and coarsened in their plane alone.
    """

    rotate_deg: float = Field(30.0, ge=0, le=180)
    rotate_p: float = Field(0.2, ge=0, le=1)
    scale: Range = (0.7, 1.4)
    scale_p: float = Field(0.2, ge=0, le=1)
    scale_together_p: float = Field(1.0, ge=0, le=1)  # one factor for all axes; else each its own
    flip_axes: tuple[Literal[0, 1, 2], ...] = ()
    quarter_turns: bool = False
    elastic_px: float = Field(0.0, ge=0)  # standard deviation of the displacement at each node of a coarse grid
    elastic_nodes: int = Field(3, ge=2)
    elastic_p: float = Field(0.0, ge=0, le=1)
    noise: Range = (0.0, 0.1)  # standard deviation, in intensities after the task's steps
    noise_p: float = Field(0.1, ge=0, le=1)
    blur_px: Range = (0.5, 1.0)
    blur_p: float = Field(0.2, ge=0, le=1)
    brightness: Range = (0.75, 1.25)
    brightness_p: float = Field(0.15, ge=0, le=1)
    shift: float = Field(0.0, ge=0)  # standard deviation of what is added
    shift_p: float = Field(0.0, ge=0, le=1)
    contrast: Range = (0.75, 1.25)
    contrast_p: float = Field(0.15, ge=0, le=1)
    low_resolution: Range = (0.5, 1.0)
    low_resolution_p: float = Field(0.25, ge=0, le=1)
    gamma: Range = (0.7, 1.5)
    gamma_p: float = Field(0.3, ge=0, le=1)
    gamma_invert_p: float = Field(0.1, ge=0, le=1)
    invert_p: float = Field(0.0, ge=0, le=1)  # dark on bright becomes bright on dark: 1 - x, for intensities in 0..1
    grey_p: float = Field(0.0, ge=0, le=1)  # all channels replaced by their mean
    shuffle_p: float = Field(0.0, ge=0, le=1)  # channels change places
    channels_together: bool = True  # False: each channel draws its own intensity change (stains)
    border: Literal["zeros", "border", "reflection"] | None = None  # None: zeros for volumes, reflection for pictures


class Slicewise(Record):
    """A 2D model on volumes, with `context` neighbours on either side as channels; `axis` None: that of the thickest slices."""

    context: int = Field(1, ge=0)
    axis: Slicing | None = None


class Recipe(Record):
    """Everything training decides that the data do not. None means: derived from the data, see plan.py."""

    optimiser: Literal["adamw", "muon", "sgd"] = "muon"  # muon: orthogonal steps for kernels and matrices, AdamW for the rest
    lr: float = Field(3e-3, gt=0)
    head_lr: float = Field(1.0, gt=0)  # times lr, for the head that the model's catalog entry names
    weight_decay: float = Field(1e-2, ge=0)
    momentum: float = Field(0.99, ge=0, lt=1)  # SGD only
    nesterov: bool = True  # SGD only
    schedule: Literal["cosine", "poly"] = "cosine"
    warmup: float = Field(0.02, ge=0, lt=1)  # part of the run over which the rate rises from 0
    ema: float = Field(0.998, ge=0, lt=1)
    clip: float = Field(12.0, gt=0)
    batch: int | None = Field(None, ge=1)
    patch: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None  # voxels of the prepared grid (Z, Y, X)
    spacing_mm: tuple[float, float, float] | None = None
    foreground: float = Field(0.33, ge=0, le=1)  # part of the samples centred on a foreground voxel
    balance: Literal["none", "appearance"] = "none"
    loss: str | None = None  # None: the one the model's catalog entry names
    deep_supervision: bool = True
    steps_per_epoch: int = Field(100, ge=1)
    epochs: int | None = Field(None, ge=1)  # epochs, steps, minutes: the first reached ends the run, and the schedule with it
    steps: int | None = Field(None, ge=1)
    minutes: float | None = Field(None, gt=0)
    patience: int | None = Field(None, ge=1)  # epochs without a better Dice before an early stop; None: never
    keep: Literal["last", "best"] = "last"
    validate_every: int = Field(5, ge=1)  # epochs
    validation_fraction: float = Field(0.15, gt=0, lt=1)
    seed: int = Field(0, ge=0)
    workers: int = Field(1, ge=0)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    flips_at_test: bool = False
    start: str | None = None  # weights to begin with, of the same network or a pretrained encoder's; None: random ones
    slices: Slicewise | None = None  # None: volumes as volumes, where the model can; else slice by slice
    model: dict[str, Any] = Field(default_factory=dict)  # settings of the network, over those derived from the data
    each: dict[str, dict[str, Any]] | None = None  # model -> what differs for it, where one recipe trains several
    augment: Augment = Augment()
    sources: dict[str, Source] | None = None  # of a promptable model
    prompting: Prompting | None = None

    def of(self, model: str) -> Recipe:
        """The recipe for one model: what `each` says of it laid over the rest. Raises InputError."""
        if self.each is None:
            return self
        return override(self.model_copy(update={"each": None}), self.each.get(model, {}), f"recipe.each.{model}")


# A transformer from random weights: a lower rate than a convolutional network's, longer warm-up, tighter clipping. Ours.
FROM_SCRATCH: dict[str, Any] = {"lr": 2e-3, "weight_decay": 0.05, "warmup": 0.05, "clip": 1.0}

# What TransUNet and Swin-Unet were trained with on Synapse CT: no warm-up, no running average, no clipping to speak of.
SYNAPSE: dict[str, Any] = {
    "optimiser": "sgd",
    "momentum": 0.9,
    "nesterov": False,
    "weight_decay": 1e-4,
    "schedule": "poly",
    "warmup": 0.0,
    "ema": 0.0,
    "clip": 1e6,
    "batch": 24,
    "patch": (1, 224, 224),
    "foreground": 0.0,
    "steps_per_epoch": 92,
    "epochs": 150,
    "deep_supervision": False,
    "augment": Augment(
        rotate_deg=20,
        rotate_p=0.25,
        scale_p=0,
        flip_axes=(1, 2),
        quarter_turns=True,
        noise_p=0,
        blur_p=0,
        brightness_p=0,
        contrast_p=0,
        low_resolution_p=0,
        gamma_p=0,
        gamma_invert_p=0,
    ),
}


# The paper's TransUNet, to be filled with pretrained weights; without a recipe that says so a smaller one is planned.
R50_VIT_B: dict[str, Any] = {
    "hidden": 768,
    "mlp": 3072,
    "heads": 12,
    "layers": 12,
    "resnet_width": 64,
    "bottleneck": 512,
    "decoder_channels": [256, 128, 64, 16],
}

RECIPES: dict[str, Recipe] = {
    "default": Recipe(),
    # T1 MRI of 1 mm, volumes of about 35 x 50 x 35 (MSD task 4). Left and right hippocampi mirror each other: flips along X.
    "hippocampus": Recipe(
        lr=3e-3,
        batch=2,
        patch=(40, 56, 40),
        foreground=0.33,
        ema=0.998,
        steps_per_epoch=100,
        validate_every=4,
        validation_fraction=0.15,
        augment=Augment(
            rotate_deg=20,
            rotate_p=0.5,
            scale=(0.8, 1.25),
            scale_p=0.5,
            flip_axes=(2,),
            elastic_px=1.5,
            elastic_nodes=6,
            elastic_p=0.2,
            blur_p=0.1,
            low_resolution_p=0.1,
            noise_p=0.15,
        ),
    ),
    # Fluorescence, bright field and H&E at any magnification (DSB 2018); the rare stains are drawn more often. Gentle with
    # intensities: how far an outline reaches into the blur differs between the kinds of picture, which the network tells by them.
    "nuclei": Recipe(
        lr=3e-3,
        batch=8,
        patch=(1, 256, 256),
        foreground=0.35,
        ema=0.998,
        balance="appearance",
        steps_per_epoch=100,
        validate_every=5,
        augment=Augment(
            rotate_deg=180,
            rotate_p=0.3,
            scale=(0.7, 1.4),
            scale_p=0.4,
            flip_axes=(1, 2),
            quarter_turns=True,
            invert_p=0.08,
            grey_p=0.1,
            channels_together=False,
            gamma=(0.8, 1.25),
            gamma_p=0.2,
            contrast=(0.8, 1.25),
            brightness=(0.85, 1.2),
            blur_p=0.05,
            low_resolution_p=0.1,
            noise=(0, 0.06),
            noise_p=0.15,
        ),
    ),
    # Ronneberger et al. 2015: valid convolutions, border weights (eq. 2), elastic deformation, momentum 0.99, one large tile;
    # half the paper's channels.
    "ronneberger": Recipe(
        optimiser="sgd",
        lr=1e-3,
        momentum=0.99,
        nesterov=False,
        weight_decay=0.0,
        schedule="poly",
        warmup=0.02,
        ema=0.99,
        batch=1,
        patch=(1, 412, 412),
        foreground=0.0,
        loss="border_ce",
        deep_supervision=False,
        model={
            "widths": [32, 64, 128, 256, 512],
            "padding": "valid",
            "down": "max",
            "norm": "none",
            "activation": "relu",
            "dropout": 0.1,
        },
        augment=Augment(
            rotate_deg=180,
            rotate_p=0.5,
            scale=(1.0, 1.0),
            scale_p=0.0,
            flip_axes=(1, 2),
            elastic_px=10,
            elastic_p=0.9,
            noise_p=0,
            blur_p=0,
            low_resolution_p=0,
            brightness_p=0.3,
            contrast_p=0.3,
            gamma_p=0.3,
        ),
    ),
    # Chen et al. 2021, arXiv:2102.04306, and its code, which Swin-Unet took over: 150 epochs of 2211 slices in batches of 24.
    # The original sets lr = base x (1 - step / steps)^0.9, turns by quarters and flips half of the slices, and turns half of the
    # others by up to 20 degrees; it neither averages weights nor clips gradients.
    "transunet": Recipe(**SYNAPSE, lr=0.01, loss="squared_dice_ce_50", each={"transunet": {"model": R50_VIT_B}}),
    # Cao et al. 2021, arXiv:2105.05537: rate and mixture of losses differ.
    "swin_unet": Recipe(**SYNAPSE, lr=0.05, loss="squared_dice_ce_60"),
    # SegViT from scratch, which the paper never does. Ours.
    "segvit": Recipe(**FROM_SCRATCH, ema=0.998, augment=Augment(flip_axes=(2,))),
    # SegViT on pretrained weights (Zhang et al. 2022, ADE20K; of the released configs): linear decay after 1,500 of 160,000
    # steps; the head learns ten times faster.
    "segvit_finetune": Recipe(
        optimiser="adamw",
        lr=2e-5,
        head_lr=10.0,
        weight_decay=0.01,
        schedule="poly",
        warmup=1500 / 160_000,
        clip=35.0,
        batch=16,
        patch=(1, 512, 512),
        foreground=0.0,
        steps=160_000,
        augment=Augment(scale=(0.5, 2.0), scale_p=1.0, flip_axes=(2,), rotate_p=0, blur_p=0, noise_p=0, low_resolution_p=0),
    ),
    # One recipe for every model of a shoot-out. Only what a transformer needs to learn at all differs; deep supervision is each
    # model's own affair, and so is its loss (of the catalog entry).
    "shootout": Recipe(lr=2e-3, each={name: FROM_SCRATCH for name in ("transunet", "swin_unet", "segvit", "segvit_v2")}),
    # Our own promptable model: a view an object, from all sources at once; folders as in docs/models/vesalius_mini.md. Cosine
    # and EMA 0.998, 128 px and spreads of 1.1 to 2.4 are what the first trials used; Muon learns faster than AdamW at this rate.
    "vesalius_mini": Recipe(
        lr=1.2e-3,
        weight_decay=0.02,
        warmup=0.02,
        ema=0.998,
        clip=5.0,
        batch=32,
        steps_per_epoch=250,
        validate_every=4,
        validation_fraction=0.12,
        prompting=Prompting(large=192),
        sources=MINI_SOURCES,
    ),
    # Its sibling for volumes. A step is eight views and takes two thirds of a second on one CPU core: an hour is 5,000 steps, so
    # the running average forgets sooner.
    "vesalius_mini_3d": Recipe(
        lr=1.5e-3,
        weight_decay=0.02,
        warmup=0.04,
        ema=0.995,
        clip=5.0,
        batch=8,
        steps_per_epoch=100,
        validate_every=4,
        validation_fraction=0.12,
        prompting=Prompting(size=40, click=0.2, spread=(1.2, 1.8), wide=4.0, as_stored=0.5, turn_p=0.25, least_area_px=60),
        sources=SOLID_SOURCES,
    ),
}


def read_recipe(name_or_file: str | Path, above: tuple[Path, ...] = ()) -> Recipe:
    """The recipe of that name, or the TOML file that overrides one (`base`, default 'default'), itself base of those `above`.
    A base that is a file is looked for from the folder of the recipe that names it.

    Raises UnknownName, UnreadableFile (no TOML), InputError (an unknown key, a value out of range, a file that is its own base).
    """
    text = str(name_or_file)
    if not text.endswith(".toml"):
        if text not in RECIPES:
            raise unknown_name("recipe", text, RECIPES)
        return RECIPES[text]
    try:
        values = tomllib.loads(Path(text).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UnreadableFile("the recipe cannot be read", file=text, fix="check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UnreadableFile(f"this is not TOML: {error}", file=text, fix="mend that line") from error
    place = Path(text).resolve()
    if place in above:
        way = ", ".join(file.name for file in above[above.index(place) + 1 :])
        told = f"is its own base, by way of {way}" if way else "names itself as base"
        raise InputError(f"the recipe {told}", file=text, fix=f"take another base, such as {', '.join(RECIPES)}")
    base = str(values.pop("base", "default"))
    below = Path(text).parent / base if base.endswith(".toml") else base  # beside this file, wherever one stands
    return override(read_recipe(below, (*above, place)), values, text)


def override(recipe: Recipe, values: dict[str, Any], file: str = "recipe") -> Recipe:
    """`recipe` with `values` laid over it; tables (`augment`, `model`) key by key. Raises InputError."""
    try:
        return Recipe.model_validate(laid_over(recipe.model_dump(), values))
    except ValidationError as error:
        raise InputError(first_problem(error), file=file, fix="mend that line") from error


def laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`below` with the values of `above`, table by table."""
    merged = {**below, **above}
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            merged[key] = laid_over(below[key], value)
    return merged


def first_problem(error: ValidationError) -> str:
    """The first thing pydantic found wrong, as `key: what`."""
    first = error.errors()[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
