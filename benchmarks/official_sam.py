"""The official arrangement of SAM's computing, written anew from the paper's equations; sam.py measures against it.

    encoder     windows padded before q, k and v; one matrix of scores for all heads, the relative terms added to it as
                (B, h, w, h, w); softmax
    decoder     an image for each prompt, projected to queries, keys and values each time it is looked at or looks; transposed
                convolutions on maps; all four masks drawn, the one or three asked for cut out
    everything  64 clicks at a time: all masks to full size, then predicted IoU, stability, boxes, run lengths; NMS at the end

Paper  Kirillov et al. 2023, arXiv:2304.02643, section 3, section 5 and appendix B; Li et al. 2022 (ViTDet), arXiv:2203.16527
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vesalius.models.blocks import CrossAttention
from vesalius.models.contract import Answers, Prompts
from vesalius.models.sam.image_encoder import Block, ImageEncoder, offsets
from vesalius.models.sam.sam import SAM
from vesalius.models.sam.upscaling import Spread
from vesalius.pipeline import rle
from vesalius.pipeline.crops import point_grid, suppress
from vesalius.pipeline.everything import EverythingOptions
from vesalius.pipeline.looks import Asked
from vesalius.pipeline.prompter import FramePrompter
from vesalius.pipeline.regions import mask_boxes, stability

CLICKS_AT_ONCE = 64


def official_encode(encoder: ImageEncoder, image: Tensor) -> Tensor:
    """Our weights in the official arrangement."""
    x = encoder.patches(image).permute(0, 2, 3, 1) + encoder.positions
    for block in encoder.blocks:
        x = official_block(block, x)  # type: ignore[arg-type]
    return encoder.neck(x.permute(0, 3, 1, 2))


def official_block(block: Block, x: Tensor) -> Tensor:
    """Padded windows, then attention, then the windows put together again, then the MLP."""
    shortcut, y, (b, h, w, d) = x, block.norm1(x), x.shape
    s = block.window
    if s is None:
        return official_rest(block, shortcut, official_attention(block, y))
    y = F.pad(y, (0, 0, 0, -w % s, 0, -h % s))
    high, wide = y.shape[1], y.shape[2]
    y = y.view(b, high // s, s, wide // s, s, d).permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, s, s, d)
    y = official_attention(block, y)
    y = y.view(b, high // s, wide // s, s, s, d).permute(0, 1, 3, 2, 4, 5).contiguous().view(b, high, wide, d)
    return official_rest(block, shortcut, y[:, :h, :w].contiguous())


def official_rest(block: Block, shortcut: Tensor, attended: Tensor) -> Tensor:
    x = shortcut + attended
    return x + block.mlp(block.norm2(x))


def official_attention(block: Block, x: Tensor) -> Tensor:
    """All scores of all heads at once, and the relative terms added to them."""
    layer, (b, h, w, _) = block.attention, x.shape
    heads = layer.heads
    qkv = layer.qkv(x).reshape(b, h * w, 3, heads, -1).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.reshape(3, b * heads, h * w, -1).unbind(0)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    grid = q.reshape(b * heads, h, w, -1)
    rows = torch.einsum("bhwc,hkc->bhwk", grid, offsets(layer.rows, h))
    columns = torch.einsum("bhwc,wkc->bhwk", grid, offsets(layer.columns, w))
    scores = scores.view(b * heads, h, w, h, w) + rows[..., None] + columns[..., None, :]
    y = scores.view(b * heads, h * w, h * w).softmax(-1) @ v
    return layer.proj(y.view(b, heads, h, w, -1).permute(0, 2, 3, 1, 4).reshape(b, h, w, -1))


def official_decode(sam: SAM, features: Tensor, prompts: Prompts, multimask: bool) -> Answers:
    """Our weights in the official arrangement."""
    grid, decoder, encoder = (features.shape[2], features.shape[3]), sam.mask_decoder, sam.prompt_encoder
    tokens, dense = encoder(prompts, grid, (16 * grid[0], 16 * grid[1]))
    codes = torch.cat((decoder.tokens.expand(len(tokens), -1, -1), tokens), 1)
    image = (features.repeat_interleave(len(tokens), 0) + dense).flatten(2).permute(0, 2, 1)
    places, own = encoder.positions(grid).repeat_interleave(len(tokens), 0), codes
    for i, block in enumerate(decoder.transformer.blocks):
        if i:
            own = own + looked(block.among, own + codes, own + codes, own)
        else:
            own = looked(block.among, own, own, own)
        own = block.norms[0](own)
        own = block.norms[1](own + looked(block.to_image, own + codes, image + places, image))
        own = block.norms[2](own + block.mlp(own))
        image = block.norms[3](image + looked(block.to_tokens, image + places, own + codes, own))
    own = decoder.transformer.norm(own + looked(decoder.transformer.last, own + codes, image + places, image))
    map_ = spread(decoder.upscale.up1, image.transpose(1, 2).unflatten(2, grid))
    mean, norm = map_.mean(1, keepdim=True), decoder.upscale.norm
    map_ = (map_ - mean) / ((map_ - mean).pow(2).mean(1, keepdim=True) + norm.eps).sqrt()
    map_ = F.gelu(norm.weight[:, None, None] * map_ + norm.bias[:, None, None])
    map_ = F.gelu(spread(decoder.upscale.up2, map_))
    drawing = torch.stack([draw(own[:, 1 + i]) for i, draw in enumerate(decoder.hyper)], 1)
    logits = (drawing @ map_.flatten(2)).unflatten(2, map_.shape[2:])
    wanted = slice(1, None) if multimask else slice(0, 1)
    return Answers(logits[:, wanted], decoder.quality(own[:, 0])[:, wanted])


def looked(layer: CrossAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention with everything projected and all scores at once."""
    parts = ((layer.q, q), (layer.k, k), (layer.v, v))
    q, k, v = (part(x).unflatten(-1, (layer.heads, -1)).transpose(1, 2) for part, x in parts)
    scores = (q @ k.transpose(2, 3)) / q.shape[-1] ** 0.5
    return layer.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


def spread(layer: Spread, map_: Tensor) -> Tensor:
    """The transposed convolution that `layer` is on tokens."""
    weight = layer.weight.unflatten(0, (2, 2, -1)).permute(3, 2, 0, 1)
    return F.conv_transpose2d(map_, weight, layer.bias, stride=2)


def official_everything(picture: np.ndarray, by: FramePrompter, side: int) -> list[dict[str, Any]]:
    """64 clicks at a time: all masks to full size, then predicted IoU, stability, boxes, run lengths; NMS at the end."""
    options = EverythingOptions()
    height, width = picture.shape[:2]
    look = by.look(picture)
    points = point_grid(side) * (width, height)
    found: list[tuple[Any, np.ndarray, float]] = []
    for start in range(0, len(points), CLICKS_AT_ONCE):
        batch = points[start : start + CLICKS_AT_ONCE]
        iou, state = look.ask(Asked(batch[:, None], np.ones((len(batch), 1), np.int64)), multimask=True)
        logits, iou = look.full(state.flatten(0, 1)), iou.flatten()
        good = iou > options.pred_iou_thresh
        logits, iou = logits[good], iou[good]
        good = stability(logits, options.stability_score_offset) >= options.least_stability
        masks, iou = logits[good] > 0, iou[good]
        boxes = mask_boxes(masks).numpy()
        found += [(rle.encode(m.numpy()), box, float(i)) for m, box, i in zip(masks, boxes, iou, strict=True)]
    if not found:
        return []
    kept = suppress(np.stack([box for _, box, _ in found]), np.array([i for *_, i in found]), options.box_nms_thresh)
    boxes = [found[i][1] for i in kept]
    return [{"segmentation": found[i][0], "bbox": [*box[:2], *(box[2:] - box[:2])]} for i, box in zip(kept, boxes, strict=True)]
