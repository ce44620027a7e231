"""A mask laid over its image: what a reader looks at first.

    picture     as it is  |  with contours, filled lightly
    volume      axial     |  coronal  |  sagittal        through the largest structure

Volumes are shown the radiological way (the patient's right on the left, anterior up, superior up), with letters, and
with voxels as long as they are in millimetres.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image as Picture
from PIL import ImageDraw, ImageFont

from ..core.image import Image, Mask
from ..core.labels import Label
from .measure import object_count, voxel_counts

PANEL_PX = 420  # longest side of a panel of a volume
PICTURE_PX = 640
FILL = 0.28  # opacity of the fill; contours are opaque
GAP_PX = 8
BACK, INK = (16, 19, 22), (235, 238, 240)
UP = {"S": "I", "I": "S", "A": "P", "P": "A", "R": "L", "L": "R"}


@dataclass(frozen=True)
class _Panel:
    """One slice: `pixels` (Y, X) or (Y, X, 3), `labels` (Y, X), `spacing` of both axes, letters (top, right, bottom, left)."""

    pixels: np.ndarray
    labels: np.ndarray
    spacing: tuple[float, float]
    letters: tuple[str, ...] = ()
    title: str = ""


def overlay(image: Image, mask: Mask, *, window: tuple[float, float] | None = None, reference: Mask | None = None) -> bytes:
    """PNG of `mask` over `image`; a `reference` is drawn as a white contour.

    Grey values between `window` (low, high) are spread from black to white; without one, between the percentiles
    0.5 and 99.5 of what is shown. Images of three channels that are pictures are shown in colour, others by their first channel.
    """
    if mask.array.shape != image.grid.shape:
        raise ValueError(f"mask {mask.array.shape} does not lie on the image {image.grid.shape}")
    flat = image.grid.shape[0] == 1
    panels = []
    for layer in (mask, reference):
        if layer is not None:
            panels.append(_picture(image, layer) if flat else _slices(image, layer, centre=mask))
    low, high = window or _window(panels[0])
    extent = max(n * s for p in panels[0] for n, s in zip(p.labels.shape, p.spacing, strict=True))
    limit = min(max(extent, PICTURE_PX), 1.5 * PICTURE_PX) if flat else PANEL_PX
    scale = limit / extent  # pixels of the report per mm, or per pixel where nobody knows the mm
    drawn = []
    for i, panel in enumerate(panels[0]):
        plain = _grey(panel, low, high, scale)
        over = _draw(plain, panel.labels, mask)
        if reference is not None:
            over[_edge(_resized(panels[1][i].labels, over.shape[:2]), 1)] = 255
        drawn += [_lettered(plain, panel)] if flat else []
        drawn.append(_lettered(over, panel))
    return _png(_beside(drawn, _legend(mask, reference is not None)))


def outlined(picture: np.ndarray, mask: Mask) -> np.ndarray:
    """A picture (Y, X, 3) uint8 with `mask` (1, Y, X) over it, as large as it is."""
    return _draw(picture, mask.array[0], mask)


def colour(mask: Mask, value: int) -> tuple[int, int, int]:
    """The colour of a label value, or of an object's number."""
    if mask.labels is not None and not mask.instances:
        for label in mask.labels:
            if label.value == value:
                return label.rgb
    return Label(max(int(value), 1), "object").rgb


def _picture(image: Image, mask: Mask) -> list[_Panel]:
    spacing = image.grid.spacing
    pixels = np.moveaxis(image.array[:, 0], 0, -1) if len(image.array) == 3 else image.array[0, 0]
    aspect = (spacing[1] / spacing[2], 1.0) if spacing else (1.0, 1.0)
    return [_Panel(pixels, mask.array[0], aspect)]


def _slices(image: Image, mask: Mask, centre: Mask) -> list[_Panel]:
    """Axial, coronal and sagittal slices, each where the largest structure of `centre` is largest."""
    order, turned, letters = _radiological(image)
    spacing = tuple((image.grid.spacing or (1.0, 1.0, 1.0))[axis] for axis in order)
    place = [_turn(a, order, turned) for a in (image.array[0], mask.array, centre.array)]
    volume, labels, largest = place
    at = _where(largest, centre.instances)
    panels = []
    for axis, title in enumerate(("axial", "coronal", "sagittal") if letters else ("Z", "Y", "X")):
        rows, columns = (i for i in range(3) if i != axis)
        compass = (UP[letters[rows]], letters[columns], letters[rows], UP[letters[columns]]) if letters else ()
        chosen = np.take(volume, at[axis], axis), np.take(labels, at[axis], axis)
        stored = volume.shape[axis] - at[axis] if turned[axis] else at[axis] + 1  # counted from 1 as the file does
        panels.append(_Panel(*chosen, (spacing[rows], spacing[columns]), compass, f"{title} {stored}/{volume.shape[axis]}"))
    return panels


def _radiological(image: Image) -> tuple[tuple[int, ...], tuple[bool, ...], str]:
    """Which axis runs inferior, posterior and left, which of them to turn, and the letters they then run towards."""
    code = image.grid.orientation
    if code is None:
        return (0, 1, 2), (False, False, False), ""
    order = tuple(next(i for i, c in enumerate(code) if c in pair) for pair in ("SI", "AP", "RL"))
    return order, tuple(code[axis] != want for axis, want in zip(order, "IPL", strict=True)), "IPL"


def _turn(array: np.ndarray, order: tuple[int, ...], turned: tuple[bool, ...]) -> np.ndarray:
    return array.transpose(order)[tuple(slice(None, None, -1 if t else 1) for t in turned)]


def _where(labels: np.ndarray, instances: bool) -> list[int]:
    """The slice of each axis that cuts the largest structure best; the middle of an empty mask."""
    counts = voxel_counts(labels)
    counts[0] = 0
    if not counts.any():
        return [n // 2 for n in labels.shape]
    hit = labels > 0 if instances else labels == counts.argmax()
    return [int(np.argmax(hit.sum(axis=tuple(i for i in range(3) if i != axis)))) for axis in range(3)]


def _window(panels: Sequence[_Panel]) -> tuple[float, float]:
    """Percentiles 0.5 and 99.5 of the voxels shown."""
    values = np.concatenate([panel.pixels.ravel()[:: max(1, panel.pixels.size // 200_000)] for panel in panels])
    low, high = np.percentile(values, (0.5, 99.5))
    return float(low), float(high if high > low else low + 1)


def _grey(panel: _Panel, low: float, high: float, scale: float) -> np.ndarray:
    """The slice as (Y, X, 3) uint8 at the report's size."""
    bright = np.clip((panel.pixels.astype(np.float32) - low) / (high - low), 0, 1)
    pixels = (255 * bright + 0.5).astype(np.uint8)
    size = [max(1, round(n * s * scale)) for n, s in zip(panel.labels.shape, panel.spacing, strict=True)]
    shown = Picture.fromarray(pixels).convert("RGB").resize((size[1], size[0]), Picture.Resampling.BICUBIC)
    return np.array(shown)


def _resized(labels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Labels at the report's size: the nearest, never a mixture."""
    rows, columns = (((np.arange(n) + 0.5) * have / n).astype(int) for n, have in zip(shape, labels.shape, strict=True))
    return labels[rows][:, columns]


def _edge(labels: np.ndarray, width: int) -> np.ndarray:
    """Where a structure ends, inside of it, `width` pixels broad."""
    inner = labels > 0
    for step in range(1, width + 1):
        padded = np.pad(labels, step)
        for y, x in ((0, 1), (2, 1), (1, 0), (1, 2)):
            moved = padded[y * step : y * step + labels.shape[0], x * step : x * step + labels.shape[1]]
            inner = inner & (moved == labels)
    return (labels > 0) & ~inner


def _draw(plain: np.ndarray, labels: np.ndarray, mask: Mask) -> np.ndarray:
    """`plain` with every structure filled lightly and outlined."""
    labels = _resized(labels, plain.shape[:2])
    inside, drawn = labels > 0, plain.copy()
    values, index = np.unique(labels[inside], return_inverse=True)
    colours = np.array([colour(mask, v) for v in values], np.float32).reshape(-1, 3)[index]
    drawn[inside] = plain[inside] * (1 - FILL) + colours * FILL
    edge = _edge(labels, 2 if max(plain.shape) > 300 else 1)
    drawn[edge] = colours[edge[inside]]
    return drawn


def _lettered(pixels: np.ndarray, panel: _Panel) -> Picture.Image:
    """The panel with the letters of its four sides and its title."""
    picture = Picture.fromarray(pixels)
    if not panel.title:
        return picture
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(14)
    width, height = picture.size
    places = ((width / 2, 3, "ma"), (width - 4, height / 2, "rm"), (width / 2, height - 4, "md"), (4, height / 2, "lm"))
    for letter, (x, y, anchor) in zip(panel.letters, places, strict=False):
        draw.text((x, y), letter, INK, font, anchor=anchor, stroke_width=2, stroke_fill=BACK)
    small = ImageFont.load_default(11)
    draw.text((5, height - 5), panel.title, INK, small, anchor="ld", stroke_width=2, stroke_fill=BACK)
    return picture


def _legend(mask: Mask, referenced: bool) -> list[tuple[tuple[int, int, int], str]]:
    """Colour and words of what can be seen, the empty labels too."""
    if mask.instances:
        count = object_count(mask)
        entries = [(colour(mask, 1), f"{count} object{'' if count == 1 else 's'}, a colour each")]
    elif mask.labels is not None:
        present = set(np.flatnonzero(voxel_counts(mask.array)).tolist())
        entries = [(label.rgb, label.name if label.value in present else f"{label.name} (none)") for label in mask.labels]
    else:
        entries = [(colour(mask, v), f"label {v}") for v in np.flatnonzero(voxel_counts(mask.array)).tolist() if v]
    return entries + ([((255, 255, 255), "reference")] if referenced else [])


def _beside(panels: Sequence[Picture.Image], legend: Sequence[tuple[tuple[int, int, int], str]]) -> Picture.Image:
    """The panels in a row, the legend below, wrapped to their width."""
    font = ImageFont.load_default(14)
    width = max(sum(p.width for p in panels) + GAP_PX * (len(panels) + 1), 240)
    height = max(p.height for p in panels)
    places, x, line = [], GAP_PX, 0
    for rgb, words in legend:
        step = 34 + int(font.getlength(words))
        if x > GAP_PX and x + step > width:
            x, line = GAP_PX, line + 1
        places.append((x, height + 2 * GAP_PX + 24 * line, rgb, words))
        x += step
    canvas = Picture.new("RGB", (width, height + 2 * GAP_PX + (24 * (line + 1) + 2 if legend else 0)), BACK)
    left = GAP_PX
    for panel in panels:
        canvas.paste(panel, (left, GAP_PX + (height - panel.height) // 2))
        left += panel.width + GAP_PX
    draw = ImageDraw.Draw(canvas)
    for x, y, rgb, words in places:
        draw.rectangle((x, y + 3, x + 12, y + 15), rgb)
        draw.text((x + 18, y + 9), words, INK, font, anchor="lm")
    return canvas


def _png(picture: Picture.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")  # optimize=True takes seven times as long, for a seventh of the bytes
    return buffer.getvalue()
