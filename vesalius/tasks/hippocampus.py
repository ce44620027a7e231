"""The two parts of the hippocampus in T1-weighted MRI, cropped around it (Medical Segmentation Decathlon, task 4)."""

from __future__ import annotations

from ..core.labels import Code, Label, Labels
from ..transforms.intensity import ZScore
from ..transforms.spatial import Orient, Resample
from .task import Inference, ModelSpec, Task, WeightsSpec

ANATOMY = Code("91723000", "Anatomical Structure")
PART = Code("5366008", "Hippocampus")

HIPPOCAMPUS = Task(
    name="hippocampus",
    title="Anterior and posterior hippocampus in T1-weighted MRI cropped around it",
    dims=3,
    channels=("T1",),
    labels=Labels(
        (
            Label(1, "anterior", (230, 90, 70), category=ANATOMY, type=PART),
            Label(2, "posterior", (70, 130, 230), category=ANATOMY, type=PART),
        )
    ),
    steps=(Orient(), Resample(spacing_mm=(1.0, 1.0, 1.0)), ZScore()),
    model=ModelSpec(
        name="unet",
        config={
            "dims": 3,
            "in_channels": 1,
            "classes": 3,
            "widths": [16, 32, 96, 160],
            "convs": [1, 2, 2, 2],
            "decoder_convs": [1, 2, 2],
            "norm": "instance",
            "conv_bias": False,
            "deep_supervision": "training",
        },
    ),
    inference=Inference(patch=(48, 64, 48), flips=(2,)),
    nsd_tolerance_mm=1.0,
    weights=WeightsSpec(
        file="unet_hippocampus.safetensors",
        sha256="4bb61727607cb9f0c6d636d9ba48d87d9ca0800bb9a3b12ab4c5bd6020faca31",
        licence="CC BY-SA 4.0",
        data="Medical Segmentation Decathlon, task 4, 152 volumes",
    ),
)
