"""Steps that move voxels. Each returns `(image, undo)`: it knows its own way home.

    prepare(image, steps) -> (image, restore)

Sizes in mm follow the axes (z, y, x) as they are when the step's turn comes, so Orient usually stands first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal

import numpy as np

from ..core.errors import GeometryError, InputError
from ..core.image import Grid, Image, Mask, Spacing
from .intensity import Percentile, Scale, Window, ZScore
from .moves import Cut, Move, Place, Resize, Turn, Undo, moved
from .resample import resize, resize_labels
from .restore import Restore

_ANISOTROPIC = 3  # nnU-Net's threshold: a slice more than three times as thick as the pixels are wide
_MOST_VOXELS = 2**31


Slicing = Literal["axial", "coronal", "sagittal"]
ORDERS: dict[Slicing, tuple[int, int, int]] = {"axial": (0, 1, 2), "coronal": (1, 0, 2), "sagittal": (2, 0, 1)}  # of S, A, R


@dataclass(frozen=True)
class Orient:
    """Transpose and flip, nothing else, so that z, y, x increase towards superior, anterior, right ('SAR', which is RAS+).

    `slices` says which planes follow each other along z, for models that look at them one by one: axial ones (SAR),
    coronal ones (ASR) or sagittal ones (RSA). An oblique image goes to the nearest such order and keeps its obliqueness
    in the affine. A picture (its frame is its own) stays as it is, and so does an image without an affine where axial planes
    are wanted; others cannot be found in it: GeometryError.
    """

    kind: Literal["orient"] = "orient"
    slices: Slicing = "axial"

    def apply(self, image: Image) -> tuple[Image, Undo]:
        if self.slices != "axial" and image.grid.affine is None and image.grid.dims == 3:
            told = f"nothing says how this volume lies, but the model looks at {self.slices} planes"
            raise _geometry(image, told, "use a format that stores the orientation, such as NIfTI or DICOM")
        return _moved(image, self._turn(image.grid))

    def apply_mask(self, mask: Mask, undo: Undo) -> Mask:
        return _moved_mask(mask, undo)

    def _turn(self, grid: Grid) -> Turn:
        codes = grid.orientation
        if codes is None or grid.dims == 2:
            return Turn(grid.shape, (0, 1, 2), (False, False, False))
        found = [next(i for i, code in enumerate(codes) if code in pair) for pair in ("SI", "AP", "RL")]
        axes = [found[i] for i in ORDERS[self.slices]]
        return Turn(grid.shape, tuple(axes), tuple(codes[a] in "IPL" for a in axes))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Resample:
    """To voxels of `spacing_mm` (z, y, x), the outer edges of the grid kept, as float32.

    The size is rounded to whole voxels, n' = round(n spacing / spacing_mm), so the spacing in the new affine is
    n spacing / n', and voxel 0 moves by half the difference: every point keeps its millimetres.
    `order` 1 is linear, 3 the cubic spline clipped to the image's own range (nnU-Net's choice). With `average`
    (ours), an axis that shrinks takes the mean over each new voxel's extent, so noise does not alias.
    `separate_z`: along the thickest axis take the nearest slice instead of blending; None does so when that
    axis is more than three times as coarse as the finest, as nnU-Net does. A picture keeps its one slice.
    Scores come home linearly, labels by nearest neighbour.
    Raises GeometryError without a spacing, for a size beyond reason, and where several voxels would be less than half a one.
    """

    spacing_mm: tuple[float, float, float]
    kind: Literal["resample"] = "resample"
    order: Literal[1, 3] = 1
    average: bool = True
    separate_z: bool | None = None

    def __post_init__(self) -> None:
        if len(self.spacing_mm) != 3 or not all(0 < s < float("inf") for s in self.spacing_mm):
            raise InputError(f"spacing_mm needs three positive sizes (z, y, x), not {self.spacing_mm}")

    def apply(self, image: Image) -> tuple[Image, Undo]:
        move = self._resize(image)
        if move.idle:
            return image, move.inverse()
        array = resize(image.array, move.weights(self.order, self.average))
        if self.order == 3:
            for source, done in zip(image.array, array, strict=True):
                np.clip(done, source.min(), source.max(), out=done)
        return image.with_array(array, moved(image.grid, move)), move.inverse()

    def apply_mask(self, mask: Mask, undo: Undo) -> Mask:
        """Labels by the largest linearly interpolated share, instances by nearest neighbour; neither invents a value."""
        move = undo.inverse()
        if mask.instances or not isinstance(move, Resize):
            return _moved_mask(mask, undo)
        return _with_mask(mask, resize_labels(mask.array, move.weights()), moved(mask.grid, move))

    def _resize(self, image: Image) -> Resize:
        grid = image.grid
        wanted = " x ".join(f"{s:g}" for s in self.spacing_mm)
        if grid.spacing is None:
            raise _geometry(image, f"the voxel size is unknown, but the model needs {wanted} mm (z, y, x)",
                            "use a format that stores the spacing, or a model trained without resampling")  # fmt: skip
        sizes = [max(1, round(n * s / t)) for n, s, t in zip(grid.shape, grid.spacing, self.spacing_mm, strict=True)]
        if grid.dims == 2:
            sizes[0] = 1
        thin = [n * s for n, s, t in zip(grid.shape, grid.spacing, self.spacing_mm, strict=True) if n > 1 and n * s < t / 2]
        if thin:
            told = f"the image is {min(thin):.3g} mm thick, less than half a voxel of the model's {wanted} mm (z, y, x)"
            raise _geometry(image, told, "check the spacing in the image header: it may be in another unit")
        if float(np.prod(sizes, dtype=np.float64)) > _MOST_VOXELS:
            raise _geometry(image, f"at {wanted} mm (z, y, x) the image would have {' x '.join(map(str, sizes))} voxels",
                            "check the spacing in the image header and in the plan")  # fmt: skip
        nearest = [False, False, False]
        thick = self._thick_axis(grid.spacing)
        if thick is not None and grid.dims == 3:
            nearest[thick] = True
        return Resize(grid.shape, tuple(sizes), tuple(nearest))  # type: ignore[arg-type]

    def _thick_axis(self, spacing: Spacing) -> int | None:
        if self.separate_z:
            return int(np.argmax(spacing))
        if self.separate_z is None:
            for sizes in (spacing, self.spacing_mm):
                if max(sizes) > _ANISOTROPIC * min(sizes):  # two thick axes are a thin one: blend them all
                    return int(np.argmax(sizes)) if sorted(sizes)[1] < 0.999 * max(sizes) else None
        return None


@dataclass(frozen=True)
class CropForeground:
    """Keep the bounding box of voxels above `threshold` in any channel, `margin_mm` wider; all, if there are none.

    Raises GeometryError if a margin is asked for and the spacing is unknown.
    """

    kind: Literal["crop"] = "crop"
    threshold: float = 0.0
    margin_mm: float = 0.0

    def apply(self, image: Image) -> tuple[Image, Undo]:
        margin = (0, 0, 0)
        if self.margin_mm > 0:
            if image.grid.spacing is None:
                raise _geometry(image, f"the voxel size is unknown, but the crop keeps a margin of {self.margin_mm:g} mm",
                                "use a format that stores the spacing, or set margin_mm to 0")  # fmt: skip
            margin = tuple(ceil(self.margin_mm / s - 1e-6) for s in image.grid.spacing)  # type: ignore[assignment]
        box = _bounding_box(image.array, self.threshold)
        start, stop = (0, 0, 0), image.grid.shape
        if box is not None:
            start = tuple(max(0, a - m) for (a, _), m in zip(box, margin, strict=True))  # type: ignore[assignment]
            stop = tuple(min(n, b + m) for (_, b), m, n in zip(box, margin, image.grid.shape, strict=True))  # type: ignore[assignment]
        size = tuple(b - a for a, b in zip(start, stop, strict=True))
        return _moved(image, Cut(image.grid.shape, size, start))  # type: ignore[arg-type]

    def apply_mask(self, mask: Mask, undo: Undo) -> Mask:
        return _moved_mask(mask, undo)


@dataclass(frozen=True)
class Pad:
    """Grow, evenly on both sides, to `at_least` (z, y, x) voxels and to a multiple of `multiple_of`.

    `mode` constant fills with `value`; reflect mirrors without repeating the edge, the mask too. A picture keeps its one slice.
    """

    kind: Literal["pad"] = "pad"
    at_least: tuple[int, int, int] = (1, 1, 1)
    mode: Literal["constant", "reflect"] = "constant"
    multiple_of: int | tuple[int, int, int] = 1
    value: float = 0.0

    def __post_init__(self) -> None:
        multiples = (self.multiple_of,) * 3 if isinstance(self.multiple_of, int) else self.multiple_of
        if len(self.at_least) != 3 or len(multiples) != 3 or min(multiples) < 1:
            raise InputError(f"cannot pad to at_least {self.at_least}, multiple_of {self.multiple_of}")

    def apply(self, image: Image) -> tuple[Image, Undo]:
        move = self._place(image.grid)
        if move.idle:
            return image, move.inverse()
        if self.mode == "reflect":
            array = np.pad(image.array, [(0, 0), *_margins(move)], mode="reflect")
        else:
            array = move.apply(_able_to_hold(self.value, image.array), fill=self.value)
        return image.with_array(array, moved(image.grid, move)), move.inverse()

    def apply_mask(self, mask: Mask, undo: Undo) -> Mask:
        move = undo.inverse()
        if self.mode == "reflect" and isinstance(move, Place):
            return _with_mask(mask, np.pad(mask.array, _margins(move), mode="reflect"), moved(mask.grid, move))
        return _moved_mask(mask, undo)

    def _place(self, grid: Grid) -> Place:
        multiples = (self.multiple_of,) * 3 if isinstance(self.multiple_of, int) else self.multiple_of
        size = [ceil(max(n, least) / m) * m for n, least, m in zip(grid.shape, self.at_least, multiples, strict=True)]
        if grid.dims == 2:
            size[0] = 1
        start = tuple((m - n) // 2 for n, m in zip(grid.shape, size, strict=True))
        return Place(grid.shape, tuple(size), start)  # type: ignore[arg-type]


Spatial = Orient | Resample | CropForeground | Pad
Intensity = ZScore | Percentile | Window | Scale
Step = Spatial | Intensity


def prepare(image: Image, steps: Sequence[Step]) -> tuple[Image, Restore]:
    """The image as the model expects it, and the way home. Steps run in the order given."""
    prepared, restore, _ = _walk(image, None, steps)
    return prepared, restore


def prepare_pair(image: Image, mask: Mask, steps: Sequence[Step]) -> tuple[Image, Mask, Restore]:
    """As `prepare`, and the reference mask on the same prepared grid; raises GeometryError if they do not share a grid."""
    if not mask.grid.same_as(image.grid):
        raise _geometry(image, "image and mask do not lie on the same grid", "resample the mask onto the image")
    prepared, restore, done = _walk(image, mask, steps)
    assert done is not None
    return prepared, done, restore


def _walk(image: Image, mask: Mask | None, steps: Sequence[Step]) -> tuple[Image, Restore, Mask | None]:
    original, undos = image.grid, []
    for step in steps:
        if isinstance(step, Intensity):
            image = step.apply(image)
            continue
        image, undo = step.apply(image)
        undos.append(undo)
        mask = None if mask is None else step.apply_mask(mask, undo)
    return image, Restore.of(original, image.grid, undos), mask


def _moved(image: Image, move: Move) -> tuple[Image, Undo]:
    if move.idle:
        return image, move.inverse()
    return image.with_array(move.apply(image.array), moved(image.grid, move)), move.inverse()


def _moved_mask(mask: Mask, undo: Undo) -> Mask:
    """The mask on the grid that `undo` comes home from: exact, or nearest neighbour; background where the grid grew."""
    move = undo.inverse()
    return mask if move.idle else _with_mask(mask, move.apply(mask.array[None], 0)[0], moved(mask.grid, move))


def _with_mask(mask: Mask, array: np.ndarray, grid: Grid) -> Mask:
    return Mask(array, grid, mask.labels, mask.source, mask.instances)


def _margins(move: Place) -> list[tuple[int, int]]:
    return [(s, m - s - n) for s, n, m in zip(move.start, move.source, move.target, strict=True)]


def _able_to_hold(value: float, array: np.ndarray) -> np.ndarray:
    """The array, as float32 if its integers cannot say `value`."""
    if array.dtype.kind in "ui":
        limits = np.iinfo(array.dtype)
        if value != int(value) or not limits.min <= value <= limits.max:
            return array.astype(np.float32)
    return array


def _bounding_box(array: np.ndarray, threshold: float) -> list[tuple[int, int]] | None:
    """(first, last + 1) along z, y, x of voxels above `threshold` in any channel of (C, Z, Y, X); None if there are none."""
    hit = [np.zeros(n, bool) for n in array.shape[1:]]
    for channel in array:
        for z, plane in enumerate(channel):
            above = plane > threshold
            rows = above.any(axis=1)
            hit[0][z] |= rows.any()
            hit[1] |= rows
            hit[2] |= above.any(axis=0)
    if not hit[0].any():
        return None
    return [(int(np.argmax(h)), int(len(h) - np.argmax(h[::-1]))) for h in hit]


def _geometry(image: Image, problem: str, fix: str) -> GeometryError:
    return GeometryError(problem, file=image.source.path if image.source else None, fix=fix)
