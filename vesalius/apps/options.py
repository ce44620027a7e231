"""The options that several verbs share, and their choices."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

PROMPTS = "Prompts: pixels as stored, x to the right, the box's x1,y1 exclusive"
HELP = {"help_option_names": ["-h", "--help"]}


class Device(StrEnum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class Format(StrEnum):
    """What a mask is written as."""

    png = "png"
    tiff = "tiff"
    nifti = "nifti"
    dicom_seg = "dicom-seg"


class Axis(StrEnum):
    """The direction in which slices are counted."""

    axial = "axial"
    coronal = "coronal"
    sagittal = "sagittal"


class Precision(StrEnum):
    """Arithmetic of the model."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


class Engine(StrEnum):
    """What computes the network."""

    torch = "torch"
    openvino = "openvino"


Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout, everything else on stderr.")]
Where = Annotated[Device, typer.Option("--device", help="Where to compute; auto takes the best there is.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
