"""What a value in a mask means: name, colour and the SNOMED code that DICOM-SEG asks for."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Iterator
from dataclasses import dataclass

from .errors import LabelError, unknown_name

VALUE_MOST = 65535  # of a label, as a mask in uint16 holds it
OTHER_SIDE = {"left": "right", "right": "left"} | {"l": "r", "r": "l", "lt": "rt", "rt": "lt", "lh": "rh", "rh": "lh"}
SIDE = re.compile(r"left|right|(?<![a-z])(?:[lr][th]?)(?![a-z])")


@dataclass(frozen=True)
class Code:
    """A coded concept: `value` in `scheme` (SCT for SNOMED CT), and its `meaning` in words."""

    value: str
    meaning: str
    scheme: str = "SCT"


@dataclass(frozen=True)
class Label:
    """One structure: its `value` in the mask (never 0), `name`, `colour` RGB 0..255, DICOM codes.

    Where regions are nested, `region` names the one that this label and all later ones make up; `name` then says what is
    left of it in a label map: "whole tumour without tumour core".
    """

    value: int
    name: str
    colour: tuple[int, int, int] | None = None
    category: Code | None = None
    type: Code | None = None
    region: str | None = None

    @property
    def rgb(self) -> tuple[int, int, int]:
        """The colour, or one far from its neighbours' (golden angle on the hue circle)."""
        if self.colour:
            return self.colour
        r, g, b = colorsys.hsv_to_rgb((0.02 + self.value * 0.61803399) % 1, 0.75, 0.95)
        return int(r * 255), int(g * 255), int(b * 255)


@dataclass(frozen=True)
class Labels:
    """The labels of a task in order of value, without background (0). `ignore` marks unlabelled voxels."""

    items: tuple[Label, ...]
    ignore: int | None = None

    def __post_init__(self) -> None:
        items = tuple(self.items)
        object.__setattr__(self, "items", items)
        values, names = [label.value for label in items], [label.name for label in items]
        if len(set(values)) != len(values) or len(set(names)) != len(names):
            raise LabelError("two labels share a value or a name", fix="give each its own")
        if any(value < 1 or value > VALUE_MOST for value in values) or values != sorted(values):
            raise LabelError(f"label values must rise between 1 and {VALUE_MOST}, not {values}")

    def __iter__(self) -> Iterator[Label]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    @property
    def values(self) -> tuple[int, ...]:
        return tuple(label.value for label in self.items)

    @property
    def nested(self) -> bool:
        """Whether the labels paint nested regions, the outermost first."""
        return any(label.region for label in self.items)

    @property
    def sided(self) -> bool:
        """Whether a label has its counterpart of the other side: kidney_left and kidney_right, L lung and R lung."""
        names = [label.name.lower() for label in self.items]
        return any(SIDE.search(name) and SIDE.sub(lambda side: OTHER_SIDE[side[0]], name) in names for name in names)

    def named(self, name: str) -> Label:
        """The label called `name`; raises UnknownName."""
        for label in self.items:
            if label.name == name:
                return label
        raise unknown_name("label", name, [label.name for label in self.items])
