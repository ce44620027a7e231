"""Run lengths of a mask, as COCO writes them: column by column from the top left, the first run counts zeros.

    0 1 1        columns  0 0 | 1 0 | 1 0
    0 0 0        runs     2 zeros, 1 one, 1 zero, 1 one, 1 zero   ->  {"size": [2, 3], "counts": [2, 1, 1, 1, 1]}

`to_text` and `from_text` turn the runs into COCO's compressed string and back: from the fourth run on the difference to
the run two before, in groups of five bits, the lowest first, a sixth bit where more follow, each + 48 as a character.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.errors import InputError

Rle = dict[str, Any]  # {"size": [height, width], "counts": runs or text}


def encode(mask: np.ndarray) -> Rle:
    """The runs of a boolean mask (H, W)."""
    flat = np.asarray(mask, bool).ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate(([0], changes, [flat.size]))).tolist()
    if flat.size and flat[0]:
        runs.insert(0, 0)
    return {"size": [int(n) for n in mask.shape], "counts": runs}


def decode(rle: Rle) -> np.ndarray:
    """The boolean mask (H, W) of runs or of compressed text; raises InputError where they do not fill the mask exactly."""
    runs = _runs(rle)
    height, width = rle["size"]
    if sum(runs) != height * width or min(runs, default=0) < 0:
        raise InputError(f"these run lengths do not fill a mask of {height} x {width} pixels")
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape(height, width, order="F")


def area(rle: Rle) -> int:
    """Pixels of the mask."""
    return sum(_runs(rle)[1::2])


def to_text(rle: Rle) -> Rle:
    """The same mask with its counts as COCO's compressed string."""
    runs, letters = _runs(rle), []
    for i, run in enumerate(runs):
        value = run - runs[i - 2] if i > 2 else run
        more = True
        while more:
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)  # the sign is in the fifth bit of the last group
            letters.append(chr(48 + bits + 32 * more))
    return {"size": list(rle["size"]), "counts": "".join(letters)}


def from_text(rle: Rle) -> Rle:
    """The same mask with its counts as numbers; raises InputError for text that is none of COCO's."""
    runs: list[int] = []
    value = shift = 0
    for letter in rle["counts"]:
        group = ord(letter) - 48
        if not 0 <= group < 64:
            raise InputError(f"'{letter}' is no letter of a compressed COCO mask")
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift:
        raise InputError("this compressed COCO mask is cut short")
    return {"size": list(rle["size"]), "counts": runs}


def _runs(rle: Rle) -> list[int]:
    counts = rle["counts"]
    return from_text(rle)["counts"] if isinstance(counts, str) else counts
