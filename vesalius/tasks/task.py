"""A task: everything a model needs to be used, and nothing about how it was trained.

The same record describes a shipped task, travels as JSON inside every weights file and heads the
plan of a training run, so that a file of weights alone is enough to segment with.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..core.errors import WeightsError
from ..core.labels import Labels
from ..transforms.clean import Rule
from ..transforms.spatial import Step
from .decide import Argmax, Decision


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelSpec(Record):
    """A catalog entry and the configuration it is built with."""

    name: str
    config: dict[str, Any] = Field(default_factory=dict)


class Inference(Record):
    """Tiling. `patch` (Z, Y, X) in voxels of the prepared grid; `flips` are axes (0 = Z) mirrored and averaged."""

    patch: tuple[int, int, int]
    overlap: float = Field(0.5, ge=0, lt=1)
    flips: tuple[int, ...] = ()


class Slices(Record):
    """A 2D model on volumes: it sees the planes along z of the prepared grid one by one (the Orient step says which those are).

    `context` neighbours on either side are further channels, plane after plane in order of z; at the ends the outermost
    plane is repeated. 0: the plane alone.
    """

    context: int = Field(1, ge=0)

    @property
    def planes(self) -> int:
        """How many planes the model sees at once."""
        return 2 * self.context + 1


class WeightsSpec(Record):
    """The file in the package, its hash, and what its training data permit."""

    file: str
    sha256: str
    licence: str
    data: str


class Task(Record):
    """What to segment in what, with which model, and how its scores become a mask on the scanner's grid.

    `dims` is that of the images; with `slices`, a 2D model walks through volumes.
    """

    name: str
    title: str
    dims: Literal[2, 3]
    channels: tuple[str, ...]
    labels: Labels
    steps: tuple[Annotated[Step, Field(discriminator="kind")], ...]
    model: ModelSpec
    inference: Inference
    slices: Slices | None = None
    decide: Annotated[Decision, Field(discriminator="kind")] = Argmax()
    clean: tuple[Annotated[Rule, Field(discriminator="kind")], ...] = ()
    nsd_tolerance_mm: float | None = None
    weights: WeightsSpec | None = None

    @model_validator(mode="after")
    def _fit(self) -> Task:
        if self.slices and self.dims == 2:
            raise ValueError("pictures have no slices")
        if self.model_dims == 2 and self.inference.patch[0] != 1:
            raise ValueError("a 2D task has patches (1, Y, X)")
        seen = len(self.channels) * (2 * self.context + 1)
        has = self.model.config.get("in_channels", seen)
        if self.slices and has != seen and (has, seen) != (3, 1):  # some repeat grey: `read_plan` knows which
            raise ValueError(f"{len(self.channels)} channels of {self.slices.planes} planes are {seen} in_channels of the model")
        return self

    @property
    def model_dims(self) -> int:
        """Dimensions of what the model sees at once: 2 for pictures and slices."""
        return 2 if self.slices else self.dims

    @property
    def context(self) -> int:
        """Neighbouring planes on either side that the model sees too."""
        return self.slices.context if self.slices else 0

    @property
    def instances(self) -> bool:
        """True where the mask counts objects instead of naming classes."""
        return self.decide.kind == "objects"

    @property
    def outputs(self) -> int:
        """Channels the model gives."""
        return self.decide.channels(len(self.labels))


def read_task(text: str, file: str = "weights") -> Task:
    """The Task in JSON `text`, as the metadata of a weights file carries it; raises WeightsError."""
    try:
        return Task.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise WeightsError(
            f"its task record does not fit this version ({where}: {first['msg']})", file=file, fix="use the version that wrote it"
        ) from error
