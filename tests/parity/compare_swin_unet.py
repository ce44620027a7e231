"""Swin-Unet: the network, what enters each stage, and the copy of a Swin checkpoint into encoder and decoder."""

from __future__ import annotations

import torch
from reference import Folder, Found, named_outputs
from torch import nn

from vesalius.models.pretrained import load_backbone

INPUTS = ("x", "x_*")
NOT_COMPARED: dict[str, str] = {}
SWIN = "fake_swin_t.safetensors"


def compare(folder: Folder) -> Found:
    """Our value for every output array of a Swin-Unet's folder."""
    model = folder.module()
    if (folder.path / SWIN).is_file():
        load_backbone(emptied(model), folder.path / SWIN)
    for name in [n for n in folder.arrays if n == "x" or n.startswith("x_")]:
        image = torch.from_numpy(folder.arrays[name])
        with torch.inference_mode():
            yield from named_outputs(folder, name[1:], model(image))
            if image.shape[1] == model.in_channels:  # the arrays within the network belong to the picture in colour
                bottom, entered = model.encode(image)
                yield "bottleneck", bottom.flatten(1, 2).numpy()
                yield "up_tokens", model.up_norm(model.decode(bottom, entered)).flatten(1, 2).numpy()
                for i, tokens in enumerate(entered):
                    yield f"skip{i}", tokens.flatten(1, 2).numpy()


def emptied(model: nn.Module) -> nn.Module:
    """`model` with NaN wherever a Swin checkpoint has something to say: what is not copied shows."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.split(".")[0] in ("embed", "embed_norm", "encoder", "merge", "norm", "decoder"):
                parameter.fill_(torch.nan)
    return model
