"""What may be prompted: an image, a DICOM folder, a video, or a folder of its frames."""

from __future__ import annotations

from pathlib import Path

from ..core.errors import DatasetError, UnreadableFile
from ..core.image import Image
from ..io.files import SUFFIXES, is_dicom, read, suffix_of
from ..io.frames import find_frames, read_frames, require_film
from ..io.video import is_video, read_video


def open_image(path: str | Path, *, series: str | None = None, frames: bool = False) -> Image:
    """An image file, a DICOM folder, a video or a folder of its frames, which have to look like some unless `frames` says so.

    Raises what `read`, `read_video`, `read_frames` and `require_film` raise, and DatasetError for pictures among other images.
    """
    video, pictures = is_video(path), find_frames(path)
    if pictures and not frames and (others := _others(Path(path), set(pictures))):
        if series is not None:
            return read(path, series=series)
        lie = "s lie" if len(pictures) > 1 else " lies"
        problem = f"{len(pictures)} picture{lie} here beside other images, such as {others[0].name}"
        fix = "give one file, --series UID for the DICOM series, or --video where the pictures are frames"
        raise DatasetError(problem, file=path, fix=fix)
    if not video and not pictures:
        if frames:
            raise UnreadableFile("this is neither a video nor a folder of pictures", file=path, fix="leave out --video")
        return read(path, series=series)
    if series is not None:
        raise UnreadableFile("only DICOM has series", file=path, fix="leave out the series")
    if not video and not frames:
        require_film(path)
    return read_video(path) if video else read_frames(path)


def _others(folder: Path, pictures: set[Path]) -> list[Path]:
    """Images in the folder that are no pictures: a DICOM series beside its thumbnail is not what the thumbnail shows."""
    rest = [each for each in sorted(folder.iterdir()) if each not in pictures and each.is_file() and each.name[0] != "."]
    return [each for each in rest if suffix_of(each) in SUFFIXES or is_dicom(each)]
