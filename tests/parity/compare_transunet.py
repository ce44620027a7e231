"""TransUNet: the network, Google's weights in it, its losses, its metric, and the slices that the Synapse evaluation feeds."""

from __future__ import annotations

import numpy as np
import torch
from reference import Folder, Found, named_outputs
from torch import Tensor, nn

from vesalius.metrics.overlap import confusion, dice
from vesalius.metrics.surface import SurfaceDistances
from vesalius.models.pretrained import load_backbone
from vesalius.training.losses import mean_over, one_hot, squared_dice, squared_dice_ce
from vesalius.transforms.resample import resize, weights

INPUTS = ("x", "x_*", "logits", "labels", "pred_mask", "gt_mask", "vol", "vol_label")
NOT_COMPARED = {"vol_metrics": "of a network whose weights were not kept"}
FLAX = "fake_R50ViT_jax.npz"


def compare(folder: Folder) -> Found:
    """Our value for every output array of a TransUNet's folder."""
    if (folder.path / "state.safetensors").is_file():
        yield from network(folder)
    if "logits" in folder.arrays:
        yield from losses(folder)
    if "gt_mask" in folder.arrays:
        yield from metric(folder)
    if "vol_net_inputs" in folder.arrays:
        yield from slices(folder)


def network(folder: Folder) -> Found:
    """The logits, and for the picture in colour what lies within the network."""
    model = folder.module()
    if (folder.path / FLAX).is_file():
        load_backbone(emptied(model), folder.path / FLAX)
    for name in [n for n in folder.arrays if n == "x" or n.startswith("x_")]:
        image = torch.from_numpy(folder.arrays[name])
        with torch.inference_mode():
            yield from named_outputs(folder, name[1:], model(image))
            if image.shape[1] == model.in_channels:
                yield from inside(model, image)


def inside(model: nn.Module, image: Tensor) -> Found:
    """Skips, the attention of the first layer (B, heads, N, N), and the tokens that leave the transformer."""
    x, skips = model.resnet(image) if model.resnet is not None else (image, ())
    for i, skip in enumerate(skips):
        yield f"skip{i}", skip.numpy()
    seen: list[Tensor] = []
    first = model.vit.layers[0].attention
    hook = first.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    yield "enc_tokens", model.vit(x).numpy()
    hook.remove()
    q, k, _ = (part.unflatten(-1, (first.heads, -1)).transpose(1, 2) for part in first.qkv(seen[0]).chunk(3, dim=-1))
    yield "attn0", (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(-1).numpy()


def emptied(model: nn.Module) -> nn.Module:
    """`model` with NaN throughout its encoder: what the weights of another file do not fill shows."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.split(".")[0] in ("resnet", "vit"):
                parameter.fill_(torch.nan)
    return model


def losses(folder: Folder) -> Found:
    """Cross-entropy, squared Dice over all classes, and their two mixtures."""
    scores, target = torch.from_numpy(folder.arrays["logits"]), torch.from_numpy(folder.arrays["labels"])
    kept = torch.ones_like(target, dtype=torch.bool)
    yield "dice_loss", squared_dice(scores.softmax(1), one_hot(target, scores.shape[1]), kept=kept[:, None]).numpy()
    yield "ce", mean_over(nn.functional.cross_entropy(scores, target, reduction="none"), kept).numpy()
    yield "loss_transunet", squared_dice_ce(scores, target, dice=0.5).numpy()
    yield "loss_swinunet", squared_dice_ce(scores, target, dice=0.6).numpy()


def metric(folder: Folder) -> Found:
    """Dice and HD95 in voxels; the official rule for empty masks: 1 and 0 for a false alarm, 0 and 0 for all others."""
    pred, ref = folder.arrays["pred_mask"] > 0, folder.arrays["gt_mask"] > 0
    none = np.zeros_like(pred)
    for name, found, true in (("both", pred, ref), ("pred_only", pred, none), ("gt_only", none, ref), ("none", none, none)):
        if found.any() and true.any():
            counts = confusion(found.astype(np.uint8), true.astype(np.uint8)).foreground()
            yield f"case_{name}", np.array([dice(counts), SurfaceDistances.of(found, true).hd95_pooled])
        else:
            yield f"case_{name}", np.array([float(found.any()), 0.0])


def slices(folder: Folder) -> Found:
    """Each slice of `vol` (Z, Y, X) with the network's size: a cubic spline, the outermost centres held."""
    volume, size = folder.arrays["vol"], folder.arrays["vol_net_inputs"].shape[2:]
    along = [weights(n, m, order=3, align="centres") for n, m in zip(volume.shape[1:], size, strict=True)]
    yield "vol_net_inputs", resize(volume[None], (None, *along))[0][:, None]
