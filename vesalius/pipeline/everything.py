"""Everything mode: a grid of clicks, and of all masks they give the confident, stable and different ones.

    crops -> points -> 3 masks each -> predicted IoU, stability, not cut by the crop -> NMS -> NMS across crops -> clean-up

The records equal those of the original, which makes every candidate at full size before it drops most of them. Here a
candidate is made at full size only if nothing rules it out before: its predicted IoU, its stability as bounded from low
resolution (`bounds.py`), and a better mask that surely overlaps its box too much. Candidates go from the best predicted IoU
down, as NMS does, so whatever suppresses is known before whatever it suppresses. Full-size logits exist for a few at a time.

Paper   Kirillov et al. 2023, arXiv:2304.02643, section 5 and appendix B
Differs  nothing surviving gives an empty list (the original fails with crops); the stability of an empty mask is 0, not NaN
Parity  tests/parity/compare_everything.py
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..core.errors import InputError, unknown_name
from . import rle
from .bounds import PART, BoxBounds, Cut, box_bounds, cut, extremes, iou_at_least, stability_at_most, window
from .crops import crop_boxes, cut_by_crop, overlaps, point_grid, suppress
from .looks import Asked, Look, Looker, Taps
from .regions import drop_small, mask_boxes, stability

Record = dict[str, Any]
Progress = Callable[[int, int], None]  # points asked, points in all

CHUNK_PX = 1 << 22  # full-size pixels made at once: 16 MB of logits
HELD_BYTES = 1 << 28  # of low-resolution logits that wait for their turn; beyond it they are decided early
ROUNDING = 1e-6  # of a float32 quotient, and more: a bound must beat a threshold by this


STABLE = 0.95  # the original's least stability score


@dataclass(frozen=True)
class EverythingOptions:
    """The original's parameters, by its names and with its defaults.

    A threshold of 0 or below is off; `stability_score_thresh=None` is what suits the weights, else the
    original's 0.95. `points_per_side` is divided by `crop_n_points_downscale_factor` with every layer of crops;
    `point_grids` replaces it: a grid (n, 2) of x, y in [0, 1] for each layer. `output_mode`: what `segmentation` holds.
    """

    points_per_side: int | None = 32
    points_per_batch: int = 64
    pred_iou_thresh: float = 0.88
    stability_score_thresh: float | None = None
    stability_score_offset: float = 1.0
    box_nms_thresh: float = 0.7
    crop_n_layers: int = 0
    crop_nms_thresh: float = 0.7
    crop_overlap_ratio: float = 512 / 1500
    crop_n_points_downscale_factor: int = 1
    point_grids: tuple[np.ndarray, ...] | None = None
    min_mask_region_area: int = 0
    output_mode: Literal["binary_mask", "uncompressed_rle", "coco_rle"] = "binary_mask"

    def __post_init__(self) -> None:
        if (self.points_per_side is None) == (self.point_grids is None):
            raise InputError("everything mode needs either points_per_side or point_grids", fix="give one of them")
        whole = {"points_per_batch": 1, "crop_n_layers": 0, "crop_n_points_downscale_factor": 1, "min_mask_region_area": 0}
        for name, least in {**whole, **({} if self.points_per_side is None else {"points_per_side": 1})}.items():
            if getattr(self, name) < least:
                raise InputError(f"{name} = {getattr(self, name)} is too small", fix=f"give {least} or more")
        layers, factor = self.crop_n_layers, self.crop_n_points_downscale_factor
        if self.points_per_side is not None and self.points_per_side < factor**layers:
            raise InputError(
                f"points_per_side = {self.points_per_side} leaves no point in layer {layers} of the crops",
                fix=f"give {factor**layers} or more, or a smaller crop_n_points_downscale_factor",
            )
        if self.point_grids is not None and len(self.point_grids) <= self.crop_n_layers:
            raise InputError(f"{self.crop_n_layers} layers of crops need {self.crop_n_layers + 1} point_grids")
        if self.output_mode not in OUTPUT_MODES:
            raise unknown_name("output mode", self.output_mode, OUTPUT_MODES)

    @property
    def least_iou(self) -> float:
        """What a predicted IoU must exceed."""
        return self.pred_iou_thresh if self.pred_iou_thresh > 0 else -math.inf

    @property
    def least_stability(self) -> float:
        """What a stability score must reach."""
        return STABLE if self.stability_score_thresh is None else self.stability_score_thresh

    def grid(self, layer: int) -> np.ndarray:
        """(n, 2) points x, y in [0, 1] for the crops of a layer."""
        if self.point_grids is not None:
            return np.asarray(self.point_grids[layer], np.float64)
        assert self.points_per_side is not None
        return point_grid(int(self.points_per_side / self.crop_n_points_downscale_factor**layer))


SETTINGS: dict[str, tuple[float, float]] = {  # what a user may set, and between what it means anything
    "points_per_side": (1, 512),
    "points_per_batch": (1, 4096),
    "pred_iou_thresh": (0, 1),
    "stability_score_thresh": (0, 1),
    "stability_score_offset": (0, 100),
    "box_nms_thresh": (0, 1),
    "crop_n_layers": (0, 5),
    "crop_nms_thresh": (0, 1),
    "crop_overlap_ratio": (0, 1),
    "crop_n_points_downscale_factor": (1, 512),
    "min_mask_region_area": (0, 2**31),
}


def read_settings(words: Sequence[str]) -> EverythingOptions:
    """Options from words such as "points_per_side=16", by the original's names; what is not said keeps its default.

    Raises UnknownName with the nearest name, InputError for a word of another form, a name that is set twice, and a value that
    is no number, no whole one where one is needed, or out of range.
    """
    said: dict[str, Any] = {}
    for word in words:
        name, is_set, text = word.partition("=")
        name = name.strip()
        if not is_set:
            raise InputError(f"'{word}' sets nothing", fix="write it as NAME=VALUE, such as points_per_side=16")
        if name not in SETTINGS:
            raise unknown_name("setting of everything mode", name, SETTINGS)
        if name in said:
            raise InputError(f"{name} is set twice", fix="say it once")
        said[name] = _setting(name, text.strip())
    return EverythingOptions(**said)


def _setting(name: str, text: str) -> float:
    whole, (least, most) = isinstance(getattr(EverythingOptions, name), int), SETTINGS[name]
    kind = "a whole number" if whole else "a number"
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        raise InputError(f"{name} = '{text}' is not {kind}", fix=f"give {kind} from {least} to {most}") from None
    if not least <= value <= most:  # NaN too
        raise InputError(f"{name} = {text} is out of range", fix=f"give {kind} from {least} to {most}")
    return value


OUTPUT_MODES: dict[str, Callable[[np.ndarray], Any]] = {
    "binary_mask": lambda mask: mask,
    "uncompressed_rle": rle.encode,
    "coco_rle": lambda mask: rle.to_text(rle.encode(mask)),
}


@dataclass(frozen=True)
class Region:
    """One mask found. `bits` packs what lies within `box` (x0, y0, x1, y1, last pixels), all in the picture's pixels."""

    box: np.ndarray
    bits: np.ndarray
    iou: float
    stability: float
    point: tuple[float, float]
    crop: tuple[int, int, int, int]

    @classmethod
    def of(cls, mask: np.ndarray, box: np.ndarray, **rest: Any) -> Region:
        """From a mask and the box around it, both on the same frame."""
        x0, y0, x1, y1 = box
        return cls(box, np.packbits(mask[y0 : y1 + 1, x0 : x1 + 1]), **rest)

    def mask(self, height: int, width: int) -> np.ndarray:
        """(H, W) boolean."""
        x0, y0, x1, y1 = self.box
        full = np.zeros((height, width), bool)
        shape = (y1 + 1 - y0, x1 + 1 - x0)
        full[y0 : y1 + 1, x0 : x1 + 1] = np.unpackbits(self.bits, count=shape[0] * shape[1]).reshape(shape)
        return full


def everything(
    picture: np.ndarray, look: Looker, options: EverythingOptions | None = None, *, progress: Progress | None = None
) -> list[Record]:
    """Records of all masks that `look` finds in a picture (H, W, C), in the original's order: as its last NMS leaves them.

    segmentation (H, W) bool or RLE; area in px; bbox [x, y, w, h], w and h to the last pixel, as the original counts;
    predicted_iou; stability_score; point_coords [[x, y]], the click; crop_box [x, y, w, h]. None found: an empty list.
    """
    options = options or EverythingOptions()
    height, width = picture.shape[:2]
    boxes, layers = crop_boxes(height, width, options.crop_n_layers, options.crop_overlap_ratio)
    grids = [options.grid(layer) for layer in layers]
    total, asked, found = sum(map(len, grids)), 0, list[Region]()
    for box, grid in zip(boxes, grids, strict=True):
        x0, y0, x1, y1 = box
        crop = _Crop(look(picture[y0:y1, x0:x1]), box, (height, width), options)
        for done in crop.ask(grid * (x1 - x0, y1 - y0)):
            if progress:
                progress(asked + done, total)
        asked += len(grid)
        found += crop.survivors()
    if len(boxes) > 1 and found:
        areas = np.array([(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (region.crop for region in found)])
        found = [found[i] for i in suppress(_boxes(found), 1 / areas, options.crop_nms_thresh)]
    if options.min_mask_region_area > 0 and found:
        found = _without_small_regions(found, height, width, options)
    return [_record(region, region.mask(height, width), OUTPUT_MODES[options.output_mode]) for region in found]


@dataclass
class _Candidate:
    """A mask on its way: `state` waits to be made full size; then `region` is what came of it, None where it was dropped."""

    iou: float
    point: np.ndarray
    state: Tensor | Cut | None
    region: Region | None = None


class _Crop:
    """One crop: its candidates, and what they come to. Boxes are on the crop until a region leaves."""

    def __init__(self, seen: Look, box: np.ndarray, shape: tuple[int, int], options: EverythingOptions):
        self.seen, self.box, self.shape, self.options = seen, box, shape, options
        self.candidates: list[_Candidate] = []
        self.held, self.below = 0, -abs(options.stability_score_offset)  # of all thresholds that matter, 0 among them
        self.chunk = max(1, CHUNK_PX // (seen.size[0] * seen.size[1]))

    def ask(self, points: np.ndarray) -> Iterator[int]:
        """Ask about points (n, 2) batch by batch and keep the hopeful candidates; yields how many points are done."""
        for start in range(0, len(points), self.options.points_per_batch):
            batch = points[start : start + self.options.points_per_batch]
            asked = Asked(batch[:, None], np.ones((len(batch), 1), np.int64), least_iou=self.options.least_iou)
            iou, state = self.seen.ask(asked, multimask=True)
            which = np.repeat(np.arange(len(batch)), iou.shape[1])
            self._hold(iou.flatten(), state.flatten(0, 1), batch[which])
            if self.held > HELD_BYTES:
                self._decide([candidate for candidate in self.candidates if candidate.state is not None])
            yield min(start + self.options.points_per_batch, len(points))

    def survivors(self) -> list[Region]:
        """The regions that filters and NMS leave, the best predicted IoU first."""
        waiting = sorted(self.candidates, key=lambda candidate: -candidate.iou)  # stable: the earlier first among equals
        kept, boxes = list[Region](), np.zeros((0, 4), np.int64)
        while waiting:
            chunk, waiting = self._next(waiting, boxes)
            self._decide([candidate for candidate in chunk if candidate.state is not None])
            for region in (candidate.region for candidate in chunk):
                if region is not None and not (overlaps(region.box, boxes) > self.options.box_nms_thresh).any():
                    kept.append(region)
                    boxes = np.concatenate([boxes, region.box[None]])
        corner = np.tile(self.box[:2], 2)
        return [replace(region, box=region.box + corner) for region in kept]

    def _hold(self, iou: Tensor, state: Tensor, points: np.ndarray) -> None:
        """Take in what neither its predicted IoU nor its low resolution rules out."""
        keep = torch.arange(len(iou))
        if self.options.least_iou > -math.inf:
            keep = (iou > self.options.least_iou).nonzero()[:, 0].cpu()
        for which in keep.split(PART) if len(keep) else ():
            states, found = state[which.to(state.device)], list[tuple[int, Tensor | Cut]]()
            found += enumerate(states.clone()) if self.seen.taps is None else self._hopeful(states.cpu(), self.seen.taps)
            for i, one in found:
                self.held += one.nbytes
                self.candidates.append(_Candidate(float(iou[which[i]]), points[which[i]], one))

    def _hopeful(self, low: Tensor, taps: tuple[Taps, Taps]) -> Iterator[tuple[int, Cut]]:
        """Of low-resolution masks (n, h, w) those whose stability may suffice, by their numbers."""
        options, near, shape = self.options, window(low, taps, self.below), (low.shape[1], low.shape[2])
        least, greatest = extremes(near.low, near.taps)
        bounds, hopeful = box_bounds(least, greatest, near.taps), torch.ones(len(low), dtype=torch.bool)
        if options.least_stability > 0:
            most = stability_at_most(least, greatest, near.taps, options.stability_score_offset)
            hopeful = most * (1 + ROUNDING) >= options.least_stability
        for i in hopeful.nonzero()[:, 0].tolist():
            own = BoxBounds(*(part[i : i + 1] for part in bounds))
            yield i, cut(near, i, greatest[i], own, self.below, shape)

    def _next(self, waiting: list[_Candidate], kept: np.ndarray) -> tuple[list[_Candidate], list[_Candidate]]:
        """The next few that no kept box surely suppresses, and those after them."""
        chunk: list[_Candidate] = []
        for i, candidate in enumerate(waiting):
            if len(chunk) == self.chunk:
                return chunk, waiting[i:]
            bounds = candidate.state.bounds if isinstance(candidate.state, Cut) and len(kept) else None
            if bounds is not None and (iou_at_least(bounds, kept) > self.options.box_nms_thresh + ROUNDING).any():
                continue
            chunk.append(candidate)
        return chunk, []

    def _decide(self, candidates: list[_Candidate]) -> None:
        """Make candidates at full size, a few at a time, and judge them there."""
        for start in range(0, len(candidates), self.chunk):
            part = candidates[start : start + self.chunk]
            states = [one.whole() if isinstance(one, Cut) else one for one in (c.state for c in part) if one is not None]
            logits = self.seen.full(torch.stack(states))
            for candidate, full in zip(part, logits, strict=True):
                self._judge(candidate, full)

    def _judge(self, candidate: _Candidate, logits: Tensor) -> None:
        """Drop a candidate or make a region of it, by its logits (H, W)."""
        state, candidate.state = candidate.state, None
        assert state is not None
        self.held -= state.nbytes
        rows, columns = (state.rows, state.columns) if isinstance(state, Cut) else (slice(0, None), slice(0, None))
        logits = logits[None, rows, columns]  # what lies outside is in no mask
        score, mask = stability(logits, self.options.stability_score_offset), logits > 0
        if not score >= self.options.least_stability:  # in float32, as the original does: 0.95 is enough where 0.95 is asked
            return
        inside, corner = mask_boxes(mask)[0].cpu().numpy(), np.array((columns.start, rows.start) * 2)
        box = inside + corner if mask.any() else inside
        if not cut_by_crop((box + np.tile(self.box[:2], 2))[None], self.box, *self.shape)[0]:
            x, y = candidate.point + self.box[:2]
            region = Region.of(
                mask[0].cpu().numpy(), inside, iou=candidate.iou, stability=float(score),
                point=(float(x), float(y)), crop=tuple(self.box.tolist()),
            )  # fmt: skip
            candidate.region = replace(region, box=box)


def _without_small_regions(found: list[Region], height: int, width: int, options: EverythingOptions) -> list[Region]:
    """Small holes filled, then small islands dropped; then NMS once more, which prefers masks that needed neither."""
    cleaned, untouched = [], []
    for region in found:
        mask, filled = drop_small(region.mask(height, width), options.min_mask_region_area, "holes")
        mask, dropped = drop_small(mask, options.min_mask_region_area, "islands")
        if filled or dropped:
            box = mask_boxes(torch.from_numpy(mask)[None])[0].numpy()
            x0, y0, x1, y1 = box
            region = replace(region, box=box, bits=np.packbits(mask[y0 : y1 + 1, x0 : x1 + 1]))
        cleaned.append(region)
        untouched.append(float(not (filled or dropped)))
    kept = suppress(_boxes(cleaned), np.array(untouched), max(options.box_nms_thresh, options.crop_nms_thresh))
    return [cleaned[i] for i in kept]


def _boxes(regions: list[Region]) -> np.ndarray:
    return np.stack([region.box for region in regions])


def _record(region: Region, mask: np.ndarray, shown: Callable[[np.ndarray], Any]) -> Record:
    x0, y0, x1, y1 = region.box.tolist()
    cx0, cy0, cx1, cy1 = region.crop
    return {
        "segmentation": shown(mask),
        "area": int(np.count_nonzero(mask)),
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "predicted_iou": region.iou,
        "point_coords": [list(region.point)],
        "stability_score": region.stability,
        "crop_box": [cx0, cy0, cx1 - cx0, cy1 - cy0],
    }
