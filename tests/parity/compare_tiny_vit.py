"""TinyViT: MobileSAM's image encoder alone."""

from __future__ import annotations

import torch
from reference import Folder, Found

INPUTS = ("x", "x_*")
NOT_COMPARED: dict[str, str] = {}


def compare(folder: Folder) -> Found:
    """The features of every input."""
    model = folder.module()
    for name in [n for n in folder.arrays if n == "x" or n.startswith("x_")]:
        with torch.inference_mode():
            yield f"y{name[1:]}", model(torch.from_numpy(folder.arrays[name])).numpy()
