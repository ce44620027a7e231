"""Where the masks of one prompted image go, and how they are written: on its grid, or frame by frame.

    picture, volume    OUT/case.png, OUT/case.nii.gz; OUT itself where it names a file
    frames, a video    OUT/clip/FRAME.png, a mask a frame; OUT/clip.tiff with --format tiff, or OUT itself where it names a TIFF
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..core.atomic import atomic
from ..core.errors import OutputError
from ..core.image import Grid, Image, Mask
from ..core.labels import Label, Labels
from ..core.prompts import Plane
from ..io.files import case_name, write
from ..io.formats import WRITERS
from ..io.frames import write_frames
from ..io.video import VIDEOS, frame_times, require_av, write_video
from .canvas import Canvas, Reel
from .outputs import Outputs
from .overlay import outlined, overlay
from .views import View
from .volumes import Slices

FRAME_FORMATS = (None, "png", "tiff")  # a mask a frame, and pages


class Places:
    """The places of one image; nothing is overwritten unless that is allowed. Raises OutputError where it does not fit."""

    def __init__(self, image: Image, out: str | Path, format: str | None, *, overwrite: bool, overlays: bool):
        self.image, self.overwrite = image, overwrite
        self.frames = image.source is not None and image.source.format in ("frames", "video")
        if Path(out).suffix.lower() in VIDEOS and not Path(out).is_dir():
            fix = "name a folder, or a .tiff for frames; --overlays writes a video to look at"
            raise OutputError("a video cannot hold labels", file=out, fix=fix)
        source = image.source.path if image.source else Path(image.name)
        self.outputs = Outputs.of(out, [source], format)
        self.outputs.require_beside(source)
        self.target = self._frames_path(source) if self.frames else self.outputs.mask_path(image)
        if self.frames and overlays:
            require_av()  # before anything is computed
        self.case = image.name
        if self.target.exists() and not overwrite:
            raise OutputError("there is a mask already", file=self.target, fix="name another output, or allow --overwrite")
        self._made = not self.outputs.folder.exists()
        self._new: list[Path] = []  # what was not there before
        self.outputs.prepare()

    def vacate(self) -> None:
        """After a failure: take away what was written, which would stand in the way, and the folder if it was made for this."""
        for path in self._new:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        if self._made:
            self.outputs.vacate()

    def canvas(self) -> Canvas | Reel:
        """What objects are painted on."""
        return Reel(self.image.grid) if self.frames else Canvas(self.image.grid)

    def require_vacant(self, *paths: Path) -> None:
        """What will be written beside the label map is not there yet, or may be overwritten. Raises OutputError."""
        found = next((path for path in paths if path.exists()), None)
        if found is not None and not self.overwrite:
            raise OutputError("this file is there already", file=found, fix="name another output, or allow --overwrite")

    def write(self, canvas: Canvas | Reel, labels: Labels | None) -> None:
        """The label map; without names its values are objects."""
        self.remember(self.target)
        if isinstance(canvas, Reel):
            self._write_frames(canvas.frames(), self.target)
        else:
            mask = Mask(canvas.labels, self.image.grid, labels, self.image.source, instances=labels is None)
            self._write_mask(mask, self.target)

    def beside(self, tag: str) -> Path:
        """Where a mask of its own goes, beside the label map."""
        stem = case_name(self.target)
        return self.target.with_name(f"{stem}_{tag}{self.target.name[len(stem) :]}")

    def alone(self, found: Slices, tag: str, name: str) -> Path:
        """Write one object's mask, beside the label map."""
        path, grid = self.beside(tag), self.image.grid
        self.remember(path)
        if self.frames:
            empty = np.zeros(grid.shape[1:], np.uint8)
            drawn = ((found.logits[z] > 0).astype(np.uint8) if z in found.logits else empty for z in range(grid.shape[0]))
            self._write_frames(drawn, path)
        else:
            labels = Labels((Label(1, name),))
            self._write_mask(Mask(found.mask(grid).astype(np.uint8), grid, labels, self.image.source), path)
        return path

    def remember(self, path: Path) -> None:
        """To be called before `path` is written: should anything fail from here on, it is taken away again."""
        self._new += [] if path.exists() else [path]

    @property
    def records(self) -> Path:
        return self.target.with_name(f"{case_name(self.target)}.json")

    def draw(self, canvas: Canvas | Reel, labels: Labels | None, view: View, window: tuple[float, float] | None) -> Path:
        """The masks over the image, for the eye: a picture, of frames a video."""
        folder = self.outputs.beside("overlays")
        if not isinstance(canvas, Reel):
            path = folder / f"{self.case}.png"
            self.remember(path)
            mask = Mask(canvas.labels, self.image.grid, labels, self.image.source, instances=labels is None)
            with atomic(path) as part:
                part.write_bytes(overlay(self.image, mask, window=window))
            return path
        path = folder / f"{self.case}.mp4"
        self.remember(path)
        source = self.image.source
        times = frame_times(source.path) if source is not None and source.format == "video" else None
        write_video(self._pictures(canvas, labels, view), path, times)
        return path

    def _pictures(self, canvas: Reel, labels: Labels | None, view: View) -> Iterator[np.ndarray]:
        """(Y, X, 3) uint8 of each frame with its mask."""
        for z, frame in enumerate(canvas.frames()):
            mask = Mask(frame[None], Grid((1, *frame.shape), dims=2), labels, instances=labels is None)
            yield outlined(view.picture(Plane(0, z)), mask)

    def _frames_path(self, source: Path) -> Path:
        """Where the masks of frames go, a folder or a TIFF."""
        format = self.outputs.format
        if format not in FRAME_FORMATS or (self.outputs.file is not None and format != "tiff"):
            raise OutputError(
                f"the masks of frames are not written as {format}{' into one file' if format == 'png' else ''}",
                file=self.outputs.file or self.outputs.folder, fix="name a folder for a PNG a frame, or a .tiff for pages",
            )  # fmt: skip
        path = self.outputs.file or self.outputs.folder / f"{self.image.name}{WRITERS['tiff'] if format == 'tiff' else ''}"
        if path.resolve() == source.resolve():
            raise OutputError("the masks would replace the frames themselves", file=path, fix="name another output folder")
        return path

    def _write_frames(self, masks: Iterator[np.ndarray], path: Path) -> None:
        write_frames(masks, path, self.image, overwrite=self.overwrite)

    def _write_mask(self, mask: Mask, path: Path) -> None:
        write(mask, path, format=self.outputs.format, like=self.image, overwrite=self.overwrite)
