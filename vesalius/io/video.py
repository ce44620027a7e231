"""Video files (MP4, MOV, AVI, MKV, WebM) through PyAV, an optional extra that brings FFmpeg along.

    packets --times--> index of frames          frame k: seek to the key frame before it, decode up to it

Frames are counted in the order in which they are shown, from 0, whatever the times between them: none is repeated or left out to
make the rate even. They are turned as the file's display matrix asks, as players show them and `ffmpeg` takes them out. A whole
video is never in memory: frames are decoded when asked for, forwards without seeking, and the last few are kept for the way back.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import pairwise
from os import SEEK_CUR
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..core.atomic import atomic
from ..core.errors import GeometryError, InputError, UnreadableFile
from ..core.image import Image, Source
from .decoding import decoding, require_bytes
from .frames import Frames, image_of

VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm")
# A playlist under a video's name must not open other files, nor the network.
OPTIONS = {"protocol_whitelist": "file", "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,avi,matroska,webm"}
LOOKED_AT = 12  # frames decoded at once when a video is opened: do their times rise as the index says?
SLACK_SECONDS = 1.0  # by which a container may overstate how long its frames last
UNITY = 65536  # 1 in a display matrix
RATE = Fraction(25)  # frames a second of an overlay of pictures that have no times
CONVERT = "convert it: ffmpeg -i {} -c:v libx264 -crf 12 converted.mp4"


def is_video(path: str | Path) -> bool:
    """Whether the name says so."""
    return Path(path).suffix.lower() in VIDEOS and not Path(path).is_dir()


def read_video(path: str | Path) -> Image:
    """A video as an image (3, Z, Y, X) uint8, Z its frames, decoded when they are asked for.

    Raises InputError without PyAV; UnreadableFile for a file that is missing, damaged, cut short, or no video, and, when they
    are asked for, for frames that are damaged; GeometryError for frames of different sizes.
    """
    path = Path(path)
    film = Film(path)
    pixels = next(iter(film.fetch(0, 0)))[1]
    shape = (3, len(film.times), *pixels.shape[1:])
    source = Source(path, "video", path.stem, tuple(f"frame_{k:05d}" for k in range(len(film.times))))
    return image_of(Frames(shape, pixels.dtype, film.fetch), source, film.notes)


def frame_times(path: str | Path) -> tuple[float, ...]:
    """When each frame is shown, in seconds from the first one on. Raises as `read_video`."""
    film = Film(Path(path))
    return tuple(float((time - film.times[0]) * film.unit) for time in film.times)


class Film:
    """A video that is open. `times` (Z,) rise, in units of `unit` seconds; `keys` are the times (shown, stored) of key frames."""

    def __init__(self, path: Path):
        self._av = _av()
        require_bytes(path)
        self.path = path
        self.notes: list[str] = []
        with decoding(path, "video"):
            self._container = self._av.open(str(path), options=OPTIONS)
            shown = [each for each in self._container.streams.video if not _is_cover(each)]
            if not shown:
                raise UnreadableFile("there are no moving pictures in this file", file=path, fix="give a video")
            self._stream: Any = shown[0]
            if len(shown) > 1:
                self.notes.append(f"the file holds {len(shown)} videos; the first is read")
            self.unit = Fraction(self._stream.time_base)
            self.times, self.keys = self._indexed()
        self._decoded: Iterator[Any] | None = None  # the decoder, where it stands
        self._next, self._sought = 0, False
        self._size: tuple[int, int] | None = None
        self._turn: tuple[bool, bool, bool] | None = None
        last = min(LOOKED_AT, len(self.times)) - 1
        for _ in self.fetch(last, last):
            pass
        steps = [b - a for a, b in pairwise(self.times)]
        if steps and max(steps) - min(steps) > 1 and max(steps) > 1.2 * min(steps):
            self.notes.append("the frames come at varying intervals; they are counted in the order shown")

    def fetch(self, since: int, index: int) -> Iterator[tuple[int, np.ndarray]]:
        """Frames (3, Y, X) uint8 with their numbers: what is decoded from `since` on, up to `index` and with it."""
        try:
            with decoding(self.path, "video"):
                for number, frame in self._up_to(index):
                    if number >= since:
                        yield number, self._pixels(frame)
        except InputError:
            self._decoded = None  # wherever it stands: the next begins at a key frame
            raise

    def _up_to(self, index: int) -> Iterator[tuple[int, Any]]:
        """Decoded frames up to `index`; all that they are made from have been decoded whole."""
        key = bisect_right(self.keys, self.times[index], key=lambda each: each[0]) - 1
        begins = bisect_left(self.times, self.keys[key][0]) if key >= 0 else 0
        if self._decoded is None or not begins <= self._next <= index:
            self._begin(begins, self.keys[key][1] if key >= 0 else self.times[0])
        assert self._decoded is not None
        while self._next <= index:
            frame = next(self._decoded, None)
            if frame is None:
                fix = "copy the file again from where it came"
                raise self._refused(f"frame {self._next} of {len(self.times)} cannot be decoded", fix)
            if frame.pts is not None and frame.pts < self.times[self._next]:
                continue  # shown before the key frame: not needed, and perhaps not whole
            if frame.pts != self.times[self._next] and self._sought and begins:
                self._begin(0, self.times[0])  # the key frame was not found: from the very beginning
                continue
            if frame.pts != self.times[self._next]:
                raise self._refused("its frames do not come at the times that the file states", CONVERT.format(self.path.name))
            if frame.is_corrupt:
                raise self._refused(f"frame {self._next} is damaged", "copy the file again from where it came")
            self._next, self._sought = self._next + 1, False
            yield self._next - 1, frame

    def _begin(self, number: int, stored: int) -> None:
        """Decode from the key frame `number` on, which is stored at this time."""
        self._container.seek(stored, stream=self._stream, backward=True)
        self._decoded, self._next, self._sought = self._container.decode(self._stream), number, number > 0

    def _indexed(self) -> tuple[list[int], list[tuple[int, int]]]:
        """The times of all frames in the order shown, and of the key frames as shown and as stored; nothing is decoded."""
        times, keys, there, end = [], [], 0, 0
        if missing := _missing_bytes(self.path):
            raise self._refused(f"it is cut short: the last {missing:,} bytes that it announces are missing", "copy it again")
        for packet in self._container.demux(self._stream):
            if not packet.size:
                continue  # what ends the stream
            there += 1
            if packet.is_corrupt:
                raise self._refused(f"it is cut short or damaged at packet {there}", "copy it again from where it came")
            if packet.is_discard:
                continue  # decoded, never shown: cut away by an edit list
            if packet.pts is None:
                raise self._refused("it does not say when its frames are shown", CONVERT.format(self.path.name))
            times.append(packet.pts)
            end = max(end, packet.pts + (packet.duration or 0))
            if packet.is_keyframe:
                keys.append((packet.pts, packet.pts if packet.dts is None else packet.dts))
        if there < self._stream.frames:
            raise self._refused(f"it is cut short: {there} of {self._stream.frames} frames are there", "copy it again")
        if times and not self._stream.frames:
            longest = max((b - a for a, b in pairwise(sorted(times))), default=0)
            self._require_length(float(end * self.unit), float(longest * self.unit))
        if not times:
            raise self._refused("there is no frame in this video", "give a whole one")
        if len(set(times)) < len(times):
            raise self._refused("several of its frames are shown at one time", CONVERT.format(self.path.name))
        return sorted(times), sorted(keys)

    def _require_length(self, seconds: float, step: float) -> None:
        """A file that counts no frames still says how long they last: UnreadableFile where far fewer are there."""
        stated = _seconds(self._stream.metadata.get("DURATION", ""))
        if stated is None and len(self._container.streams) == 1 and self._container.duration:
            stated = self._container.duration / self._av.time_base
        if stated is not None and stated - seconds > max(SLACK_SECONDS, 3 * step):
            problem = f"it says that it lasts {stated:.1f} s, and its frames end after {seconds:.1f} s"
            raise self._refused(f"it is cut short or damaged: {problem}", "copy it again from where it came")

    def _pixels(self, frame: Any) -> np.ndarray:
        """(3, Y, X) uint8, a view of the frame as it is to be shown."""
        size = (frame.height, frame.width)
        if self._size is None:
            self._size, self._turn = size, _turn_of(frame, self.path)
            if self._turn != (False, False, False):
                self.notes.append("the frames are turned as the file's display matrix asks; x and y are of the turned frame")
            if any(part.bits > 8 for part in frame.format.components):
                self.notes.append("more than 8 bits a colour are shown as 8")
        if size != self._size:
            problem = f"a frame is {size[1]} x {size[0]}, the first {self._size[1]} x {self._size[0]}"
            raise GeometryError(problem, file=self.path, fix="cut the video where its size changes")
        pixels = frame.to_ndarray(format="rgb24").transpose(2, 0, 1)
        crossed, up, left = self._turn or (False, False, False)
        if crossed:
            pixels = pixels.transpose(0, 2, 1)
        return pixels[:, :: -1 if up else 1, :: -1 if left else 1]

    def _refused(self, problem: str, fix: str) -> UnreadableFile:
        return UnreadableFile(problem, file=self.path, fix=fix)


def write_video(pictures: Iterable[np.ndarray], path: Path, times: Iterable[float] | None = None) -> None:
    """Pictures (Y, X, 3) uint8, one by one, as an MP4 (H.264) in whole or not at all; `times` in seconds.

    Sides that are odd grow by a pixel, as H.264 wants them. Raises InputError without PyAV, OutputError.
    """
    av, unit = _av(), Fraction(1, 90000)
    when = iter(times) if times is not None else (float(k / RATE) for k in range(2**62))
    with atomic(path) as part, av.open(str(part), "w", format="mp4") as container:
        stream: Any = None
        for picture, seconds in zip(pictures, when, strict=False):
            if stream is None:
                stream = container.add_stream("libx264", rate=RATE, options={"preset": "veryfast"})
                stream.height, stream.width = (n + n % 2 for n in picture.shape[:2])
                stream.pix_fmt, stream.codec_context.time_base, stream.time_base = "yuv420p", unit, unit
            even = np.pad(picture, ((0, picture.shape[0] % 2), (0, picture.shape[1] % 2), (0, 0)), mode="edge")
            frame = av.VideoFrame.from_ndarray(even, format="rgb24")
            frame.pts, frame.time_base = round(seconds / unit), unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def require_av() -> None:
    """InputError where PyAV is not installed."""
    _av()


def _turn_of(frame: Any, path: Path) -> tuple[bool, bool, bool]:
    """How a frame is to be shown: axes crossed, then top to bottom turned, then left to right turned.

    A display matrix (a b u; c d v; x y w) takes x, y to a x + c y, b x + d y. GeometryError unless it is made of right angles.
    """
    matrix = next((np.frombuffer(bytes(data), np.int32) for data in frame.side_data if data.type.name == "DISPLAYMATRIX"), None)
    if matrix is None:
        return False, False, False
    a, b, c, d = (int(matrix[i]) for i in (0, 1, 3, 4))
    if abs(a) == abs(d) == UNITY and b == c == 0:
        return False, d < 0, a < 0
    if abs(b) == abs(c) == UNITY and a == d == 0:
        return True, b < 0, c < 0
    raise GeometryError("the file asks to be shown at a slant", file=path, fix=CONVERT.format(path.name))


def _missing_bytes(path: Path) -> int:
    """How many bytes a Matroska file (MKV, WebM) lacks of those that its segment announces; 0 of other files, and of streams that
    were written without knowing their end.

    ID 1A45DFA3, size, header; ID 18538067, size, segment. A size is 1 to 8 bytes, the first set bit says how many.
    """
    with path.open("rb") as file:
        if file.read(4) != b"\x1a\x45\xdf\xa3":
            return 0
        file.seek(_ebml_size(file) or 0, SEEK_CUR)
        if file.read(4) != b"\x18\x53\x80\x67":
            return 0
        size = _ebml_size(file)
        return 0 if size is None else max(0, file.tell() + size - path.stat().st_size)


def _ebml_size(file: BinaryIO) -> int | None:
    """The size that stands next in a Matroska file; None where it is unknown (all ones) or not there."""
    first = file.read(1)
    count = 9 - first[0].bit_length() if first and first[0] else 0
    number = int.from_bytes(first + file.read(count - 1)) & ((1 << 7 * count) - 1) if count else 0
    return None if not count or number == (1 << 7 * count) - 1 else number


def _seconds(text: str) -> float | None:
    """Of 00:01:30.500000000; None for anything else."""
    found = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", text.strip())
    return None if found is None else 3600 * int(found[1]) + 60 * int(found[2]) + float(found[3])


def _is_cover(stream: Any) -> bool:
    """Whether it is the picture of a sleeve, no video."""
    return bool(stream.disposition & type(stream.disposition).attached_pic)


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        fix = "install it with: pip install 'vesalius[video]'"
        raise InputError("video files need PyAV, which is not installed", fix=fix) from error
    return av
