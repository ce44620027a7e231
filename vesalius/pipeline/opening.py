"""What may be prompted: an image, a DICOM folder, a video, or a folder of its frames."""

from __future__ import annotations

from pathlib import Path

from ..core.errors import UnreadableFile
from ..core.image import Image
from ..io.files import read
from ..io.frames import find_frames, read_frames, require_film
from ..io.video import is_video, read_video


def open_image(path: str | Path, *, series: str | None = None, frames: bool = False) -> Image:
    """An image file, a DICOM folder, a video or a folder of its frames, which have to look like some unless `frames` says so.

    Raises what `read`, `read_video`, `read_frames` and `require_film` raise.
    """
    video = is_video(path)
    if not video and not find_frames(path):
        if frames:
            raise UnreadableFile("this is neither a video nor a folder of pictures", file=path, fix="leave out --video")
        return read(path, series=series)
    if series is not None:
        raise UnreadableFile("only DICOM has series", file=path, fix="leave out the series")
    if not video and not frames:
        require_film(path)
    return read_video(path) if video else read_frames(path)
