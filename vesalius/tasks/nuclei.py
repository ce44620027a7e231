"""Nuclei in fluorescence, H&E and bright-field pictures: numbered objects, touching ones told apart."""

from __future__ import annotations

from ..core.labels import Code, Label, Labels
from ..transforms.intensity import Percentile
from .decide import Objects
from .task import Inference, ModelSpec, Task, WeightsSpec

NUCLEI = Task(
    name="nuclei",
    title="Nuclei in fluorescence, H&E and bright-field pictures",
    dims=2,
    channels=("red", "green", "blue"),
    labels=Labels(
        (Label(1, "nucleus", (64, 200, 120), category=Code("4421005", "Cell structure"), type=Code("84640000", "Nucleus")),)
    ),
    steps=(Percentile(together=True),),
    model=ModelSpec(
        name="unet",
        config={
            "dims": 2,
            "in_channels": 3,
            "classes": 2,
            "widths": [32, 64, 128, 192, 256],
            "convs": [1, 2, 2, 2, 2],
            "decoder_convs": [1, 2, 2, 2],
            "norm": "batch",
            "activation": "relu",
            "conv_bias": False,
            "stem_stride": [2, 2],
        },
    ),
    inference=Inference(patch=(1, 512, 512)),
    decide=Objects(),
    weights=WeightsSpec(
        file="unet_nuclei.safetensors",
        sha256="f9593a6367f3b281a6847c8fc4995ad40e4ac493574287cadd523c9144e4177f",
        licence="CC0",
        data="2018 Data Science Bowl, stage 1 (BBBC038), 272 pictures",
    ),
)
