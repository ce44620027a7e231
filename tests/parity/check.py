"""Prove our models equal to the official ones: `python tests/parity/check.py FOLDER...`

A folder holds `config.json` (the model and the sizes to build it with), `state.safetensors` (official names) and
`arrays.npz` (inputs and what the official code made of them). Printed is the largest absolute difference per output
array, or the overlap of boolean masks. Exit codes: 0 all equal; 1 a difference above 1e-4, an overlap below 0.999, or an
array neither compared nor named in NOT_COMPARED; 2 a model that we do not have yet.

Each model has its file `compare_NAME.py`: INPUTS, the arrays that go into the official code; NOT_COMPARED, outputs left
out, with the reason; `compare(folder)`, which yields our value for every other array. ROUNDED, where there is one, names arrays
in which float32 rounding is amplified beyond 1e-4, with the reason: there 1e-4 holds for the root mean square, and 1e-3 for the
largest difference.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType

import compare_attention_unet
import compare_sam
import compare_segvit
import compare_swin_unet
import compare_tiny_vit
import compare_transunet
import compare_unet
import compare_unetpp
import numpy as np
from reference import Folder

TOLERANCE, LEAST_IOU = 1e-4, 0.999
AMPLIFIED = 1e-3  # the largest difference where the root mean square is within TOLERANCE, for the arrays in ROUNDED

COMPARE: dict[str, ModuleType] = {
    "segvit": compare_segvit,
    "sam": compare_sam,
    "tiny_vit": compare_tiny_vit,
    "unet": compare_unet,
    "unetpp": compare_unetpp,
    "attention_unet": compare_attention_unet,
    "transunet": compare_transunet,
    "swin_unet": compare_swin_unet,
}


def difference(ours: np.ndarray, theirs: np.ndarray, rounded: str | None = None) -> tuple[str, bool]:
    """What to print about a pair of arrays, and whether it is near enough; `rounded`: why single values may differ by more."""
    if ours.shape != theirs.shape:
        return f"shape {ours.shape} instead of {theirs.shape}", False
    if theirs.dtype == bool:
        union = (ours | theirs).sum()
        iou = float((ours & theirs).sum() / union) if union else 1.0
        return f"IoU {iou:.5f}", iou >= LEAST_IOU
    gaps = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
    gap = float(gaps.max(initial=0))
    if rounded and gap > TOLERANCE:
        mean = float(np.sqrt(np.square(gaps).mean()))
        return f"{gap:.2e} (root mean square {mean:.1e}; {rounded})", gap <= AMPLIFIED and mean <= TOLERANCE
    return f"{gap:.2e}", gap <= TOLERANCE  # NaN is no match


def matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def reason(name: str, reasons: dict[str, str]) -> str | None:
    """What a literal list of patterns says about an array."""
    return next((why for pattern, why in reasons.items() if fnmatchcase(name, pattern)), None)


def check(path: str | Path) -> int:
    """Compare one folder and print a line per array; 0, 1 or 2 as in the head of this file."""
    folder = Folder.open(path)
    if folder.model not in COMPARE:
        print(f"{path}: no such model yet: {folder.model}")
        return 2
    room = COMPARE[folder.model]
    waiting = {name for name in folder.arrays if not matches(name, room.INPUTS)}
    good = True
    for name, ours in room.compare(folder):
        if name in waiting:
            text, near = difference(ours, folder.arrays[name], reason(name, getattr(room, "ROUNDED", {})))
            good &= near
            waiting.discard(name)
            print(f"{folder.path.name:20s} {name:20s} {text}{'' if near else '   DIFFERS'}")
    for name in sorted(waiting):
        why = reason(name, room.NOT_COMPARED)
        good &= why is not None
        print(f"{folder.path.name:20s} {name:20s} {'not compared: ' + why if why else 'NOT COMPARED, and no reason given'}")
    return 0 if good else 1


def main(paths: list[str]) -> int:
    """The worst code over all folders: 1 before 2 before 0."""
    if not paths:
        print(__doc__)
        return 1
    codes = set()
    for path in paths:
        try:
            codes.add(check(path))
        except Exception as error:  # whatever is wrong with one folder, the others have their turn
            print(f"{path}: {type(error).__name__}: {error}")
            codes.add(1)
    return 1 if 1 in codes else 2 if 2 in codes else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
