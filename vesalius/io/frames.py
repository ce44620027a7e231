"""The frames of a video as pictures in a folder: frame_0001.png, frame_0002.png, ... become a volume, z the frame number.

Nothing says how frames lie in space: the grid has no affine, and its slices are the frames as they are named.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from ..core.errors import GeometryError, UnreadableFile
from ..core.image import Grid, Image, Mask, Source
from .files import SUFFIXES, natural, read, suffix_of, write

PICTURES = ("png", "jpeg", "bmp", "tiff")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm")


def find_frames(path: str | Path) -> tuple[Path, ...]:
    """The pictures of a folder in their natural order; none where `path` is no folder.

    Raises UnreadableFile for a video file, whose frames have to be taken out first.
    """
    path = Path(path)
    if path.suffix.lower() in VIDEOS and path.is_file():
        fix = f"take its frames out: ffmpeg -i {path.name} frames/%05d.png, and give that folder"
        raise UnreadableFile("video files are not read themselves", file=path, fix=fix)
    if not path.is_dir():
        return ()
    found = [each for each in path.iterdir() if SUFFIXES.get(suffix_of(each) or "") in PICTURES and not each.name.startswith(".")]
    return tuple(sorted(found, key=lambda each: natural(each.name)))


def read_frames(path: str | Path) -> Image:
    """The frames of a folder as one image (C, Z, Y, X). Raises GeometryError where they differ in size or channels."""
    frames = find_frames(path)
    if not frames:
        raise UnreadableFile("this folder holds no pictures", file=path, fix="give a folder of frames")
    images = [read(frame) for frame in frames]
    first = images[0].array
    for frame, image in zip(frames, images, strict=True):
        if image.array.shape != first.shape or image.array.dtype != first.dtype:
            raise GeometryError(f"this frame is {image.array.shape}, the first {first.shape}", file=frame, fix="make them alike")
    array = np.concatenate([image.array for image in images], axis=1)
    grid = Grid(array.shape[1:], None, 2 if len(array[0]) == 1 else 3)
    source = Source(Path(path), "frames", Path(path).resolve().name, frames)
    return Image(array, grid, images[0].channels, source=source)


def write_frames(mask: Mask, folder: str | Path, like: Image, *, overwrite: bool = False) -> tuple[Path, ...]:
    """A mask picture for each frame of `like`, under the frame's own stem. Raises what `write` raises."""
    assert like.source is not None
    frames: tuple[Path, ...] = like.source.header
    grid, top = Grid((1, *mask.grid.shape[1:]), dims=2), mask.labels
    written = []
    for frame, values in zip(frames, mask.array, strict=True):
        one = replace(mask, array=values[None], grid=grid, labels=top, source=None)
        written.append(write(one, Path(folder) / f"{frame.stem}.png", overwrite=overwrite))
    return tuple(written)
