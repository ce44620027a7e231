"""Every error Vesalius raises on purpose, and what the command line makes of it.

    VesaliusError                       something we got wrong                        exit 3
    └── InputError                      something the user can mend                   exit 2
        ├── UnreadableFile              missing, truncated, of another format, NaN
        ├── GeometryError               shape, affine, spacing that do not fit
        ├── ChannelError                channels or modalities that do not fit
        ├── LabelError                  a label value nobody declared
        ├── ShapeError                  a size that a model cannot take
        ├── DatasetError                a folder that is no dataset, or a flawed one
        ├── UnknownName                 a task, model, recipe that does not exist
        ├── WeightsError                weights that do not fit or cannot be trusted
        └── OutputError                 the place to write to: exists, full, not allowed

A message names the file, the problem and the fix, in one line.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class VesaliusError(Exception):
    """Root of the tree; raised as itself only for faults of our own."""


class InputError(VesaliusError):
    """`problem` in a sentence without a full stop; `file` it concerns; `fix`, what to do about it."""

    def __init__(self, problem: str, *, file: str | Path | None = None, fix: str | None = None):
        self.problem, self.file, self.fix = problem, file, fix
        where = f"{file}: " if file is not None else ""
        then = f". {fix[:1].upper()}{fix[1:]}" if fix else ""
        super().__init__(" ".join(f"{where}{problem}{then}".split()))


class UnreadableFile(InputError):
    """The file is missing, truncated, of another format than its name says, or holds NaN."""


class GeometryError(InputError):
    """Shape, affine or spacing do not fit together, or are missing where they are needed."""


class ChannelError(InputError):
    """The image has other channels than the model needs."""


class LabelError(InputError):
    """A mask holds a value that no label declares."""


class ShapeError(InputError):
    """An image size or patch that a model cannot take; `fix` names the nearest size that works."""


class DatasetError(InputError):
    """A folder is no dataset, or its parts do not fit together."""


class UnknownName(InputError):
    """No task, model, recipe or option of that name."""


class WeightsError(InputError):
    """Weights that are missing, altered, unsafe or made for another architecture."""


class OutputError(InputError):
    """The output exists already, the disk is full, or the place may not be written."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UnknownName:
    """The error for an unknown `name`, with the nearest known one and the whole list."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return UnknownName(f"there is no {kind} '{name}'", fix=f"{hint}Known: {', '.join(known)}")
