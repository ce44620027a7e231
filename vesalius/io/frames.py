"""The frames of a video, z the frame number: a folder of pictures in their natural order, or what `video.py` decodes.

    folder or video --> Image, its array `Frames`: decoded when asked for ... masks, frame by frame --> a folder of PNG, or a TIFF

Nothing says how frames lie in space: the grid has no affine, and its slices are the frames in their order, counted from 0.
Nor does anything say that a folder of pictures is a video. `require_film` looks for signs of it.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from ..core.atomic import atomic_folder
from ..core.errors import GeometryError, OutputError, UnreadableFile
from ..core.image import Grid, Image, Mask, Source
from .decoding import rgb_names
from .files import SUFFIXES, natural, peek, read, suffix_of
from .raster import write_png, write_tiff_pages

PICTURES = ("png", "jpeg", "bmp", "tiff")
# Median correlation of neighbours at 16 x 16 cells: a surgical video 0.96, every fifth of its frames 0.91, slices of a stack of
# electron microscopy 0.67; Kvasir-SEG 0.45 (all polyps, in dark corners alike), nuclei -0.01, glands 0.03. Between: 0.55.
ALIKE, CELLS, PAIRS = 0.55, 16, 12
KEPT_BYTES = 2**27  # of decoded frames: 21 of 1920 x 1080

Fetch = Callable[[int, int], Iterable[tuple[int, np.ndarray]]]  # since, wanted -> some of since .. wanted - 1, and wanted


class Frames:
    """The array (C, Z, Y, X) of an image whose frames are decoded when they are asked for; the last few are kept.

    It has `shape`, `dtype` and slicing as an array has, and `numpy.asarray` of it decodes them all. `fetch` gives the frame
    wanted as (C, Y, X), and before it those of the frames since the first number that it decodes on the way.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, fetch: Fetch):
        self.shape, self.dtype, self.ndim = shape, np.dtype(dtype), len(shape)
        self._fetch = fetch
        self._kept: OrderedDict[int, np.ndarray] = OrderedDict()
        one = int(np.prod(shape)) // shape[1] * self.dtype.itemsize
        self.most = max(1, KEPT_BYTES // one)  # frames kept

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    def __getitem__(self, key: Any) -> np.ndarray:
        keys = list(key) if isinstance(key, tuple) else [key]
        if ... in keys:
            at = keys.index(...)
            keys[at : at + 1] = [slice(None)] * (self.ndim + 1 - len(keys))
        keys += [slice(None)] * (self.ndim - len(keys))
        numbers = np.arange(self.shape[1])[keys[1]]  # IndexError where there is no such frame
        rest = (keys[0], *keys[2:])
        if numbers.ndim == 0:
            return self.frame(int(numbers))[rest]
        held = [self.frame(int(z)) for z in numbers]
        found = np.stack(held, 1) if held else np.empty((self.shape[0], 0, *self.shape[2:]), self.dtype)
        return found[keys[0], :, keys[2], keys[3]]

    def frame(self, index: int) -> np.ndarray:
        """(C, Y, X) of one frame, not to be written to."""
        if index not in self._kept:
            for number, pixels in self._fetch(max(0, index + 1 - self.most), index):
                self._kept[number] = pixels
                self._kept.move_to_end(number)
                if len(self._kept) > self.most:
                    self._kept.popitem(last=False)
        self._kept.move_to_end(index)
        return self._kept[index]


def image_of(frames: Frames, source: Source, notes: Sequence[str] = ()) -> Image:
    """The image whose array are `frames`. The source's header are their names, as their masks are to be called."""
    grid = Grid(cast(Any, frames.shape[1:]), None, 2 if frames.shape[1] == 1 else 3)
    array = cast(np.ndarray, frames)  # whatever asks an image for its slices gets arrays
    return Image(array, grid, rgb_names(len(frames)), source=source, notes=tuple(notes))


def find_frames(path: str | Path) -> tuple[Path, ...]:
    """The pictures of a folder in their natural order; none where `path` is no folder."""
    path = Path(path)
    if not path.is_dir():
        return ()
    found = [each for each in path.iterdir() if SUFFIXES.get(suffix_of(each) or "") in PICTURES and not each.name.startswith(".")]
    return tuple(sorted(found, key=lambda each: natural(each.name)))


def require_film(path: str | Path) -> None:
    """Raises UnreadableFile, which says what to do, unless the pictures of a folder look like the frames of a video: numbered in
    even steps, of one size, and most like their neighbours.

    A mask that is led from a prompt on one photograph through photographs of other things looks right, and is wrong.
    """
    files = find_frames(path)
    if not _numbered([file.stem for file in files]):
        raise _no_film(path, "they are not numbered in even steps")
    sizes = [peek(file).grid.shape[1:] for file in files]
    if odd := next((i for i, size in enumerate(sizes) if size != sizes[0]), 0):
        (h, w), (height, width) = sizes[odd], sizes[0]
        problem = f"{files[odd].name} is {w} x {h} pixels, {files[0].name} {width} x {height}"
        raise UnreadableFile(f"these pictures are no video: {problem}", file=path, fix="prompt one picture at a time")
    if (likeness := _likeness(files)) < ALIKE:
        raise _no_film(path, f"most are unlike their neighbours (correlation {likeness:.2f})")


def read_frames(path: str | Path) -> Image:
    """The frames of a folder as one image (C, Z, Y, X), whatever they look like (`require_film` asks). Those of 8 bits are read
    when asked for, others at once.

    Raises UnreadableFile where there are none; GeometryError where they differ in size or channels, as soon as that is seen.
    """
    files = find_frames(path)
    if not files:
        raise UnreadableFile("this folder holds no pictures", file=path, fix="give a folder of frames")
    first = read(files[0]).array
    if first.shape[1] != 1:
        raise GeometryError(f"this frame has {first.shape[1]} pages", file=files[0], fix="give one picture a frame")

    def fetch(since: int, index: int) -> Iterator[tuple[int, np.ndarray]]:
        array = read(files[index]).array
        if array.shape != first.shape or array.dtype != first.dtype:
            raise GeometryError(f"this frame is {array.shape}, the first {first.shape}", file=files[index], fix="make them alike")
        yield index, array[:, 0]

    names = tuple(file.stem for file in files)
    if len(set(names)) < len(names):
        twin = next(file for i, file in enumerate(files) if file.stem in names[:i])
        raise UnreadableFile("another frame has the same name but for its suffix", file=twin, fix="rename one")
    source = Source(Path(path), "frames", Path(path).resolve().name, names)
    notes = (f"the {len(files)} pictures of this folder are read as the frames of a video",) if len(files) > 1 else ()
    image = image_of(Frames((len(first), len(files), *first.shape[2:]), first.dtype, fetch), source, notes)
    if first.dtype == np.uint8:
        return image
    return image.with_array(np.asarray(image.array))  # whose window needs the grey values of them all


def write_frames(masks: Iterable[np.ndarray], path: str | Path, like: Image, *, overwrite: bool = False) -> Path:
    """A mask (Y, X) of unsigned integers for each frame of `like`, taken one by one: PNG files under the frames' own names in
    the folder `path`, or the pages of one TIFF where `path` is called so.

    Raises OutputError where it exists already, and for what cannot be written; then nothing is there.
    """
    path, masks = Path(path), iter(masks)
    assert like.source is not None
    if path.exists() and not overwrite:
        raise OutputError("the output exists already", file=path, fix="give another place, or allow overwriting")
    if suffix_of(path) is not None:
        write_tiff_pages(masks, like.grid.shape, path)
        return path
    with atomic_folder(path) as part:
        for name, values in zip(like.source.header, masks, strict=True):
            write_png(Mask(values[None], Grid((1, *values.shape), dims=2)), part / f"{name}.png")
    return path


def _no_film(path: str | Path, why: str) -> UnreadableFile:
    fix = "prompt one picture at a time, or say that they are frames: --video, in Python Session(read_frames(FOLDER))"
    return UnreadableFile(f"these pictures do not look like the frames of a video: {why}", file=path, fix=fix)


def _numbered(names: Sequence[str]) -> bool:
    """Whether names in their natural order are alike but for one number, which rises in even steps."""
    parts = [re.split(r"(\d+)", name) for name in names]
    if len(names) == 1 or len({tuple(part[::2]) for part in parts}) > 1:
        return len(names) == 1
    columns = (np.diff([int(number) for number in column]) for column in zip(*(part[1::2] for part in parts), strict=True))
    steps = [set(column.tolist()) for column in columns if column.any()]
    return len(steps) == 1 and len(steps[0]) == 1


def _likeness(files: Sequence[Path]) -> float:
    """The median correlation of neighbours, over at most PAIRS of them, evenly spread."""
    if len(files) == 1:
        return 1.0
    firsts = np.unique(np.linspace(0, len(files) - 2, PAIRS).round().astype(int))
    return float(np.median([_correlation(*(_coarse(read(files[i + k]).array) for k in (0, 1))) for i in firsts]))


def _coarse(array: np.ndarray) -> np.ndarray:
    """The mean grey value of cells of a picture (C, 1, Y, X), at most CELLS a side, less that of them all."""
    cells = array[:, 0].mean(axis=0, dtype=float)
    for axis, size in enumerate(cells.shape):
        edges = np.linspace(0, size, min(CELLS, size) + 1).astype(int)
        sizes = np.diff(edges).reshape((-1, 1) if axis == 0 else (1, -1))
        cells = np.add.reduceat(cells, edges[:-1], axis=axis) / sizes
    return cells - cells.mean()


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Of two pictures less their means; two that are even all over are alike."""
    sizes = np.linalg.norm(a), np.linalg.norm(b)
    return float((a * b).sum() / (sizes[0] * sizes[1])) if all(sizes) else float(not any(sizes))
