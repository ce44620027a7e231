"""What every format has in common: a failing decoder becomes one clear line, and bad voxels are refused."""

from __future__ import annotations

import errno
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core.errors import ChannelError, InputError, UnreadableFile
from ..core.image import Grid, Image


@dataclass(frozen=True, eq=False)
class Peek:
    """What the header alone tells: the grid and how many channels."""

    grid: Grid
    channels: int


@contextmanager
def decoding(path: Path, what: str) -> Iterator[None]:
    """Turn whatever a decoder raises inside the block into UnreadableFile; our own errors and a full memory pass.

    Decoders answer damaged bytes with nearly any exception, so any of them counts. Of a foreign message only
    the kind is told, never the text: it could carry what a DICOM header says about the patient.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except InputError as error:
        if error.file is None:
            error.__init__(error.problem, file=path, fix=error.fix)  # type: ignore[misc]
        raise
    except (MemoryError, ImportError):
        raise
    except FileNotFoundError as error:
        raise UnreadableFile("there is no such file", file=path) from error
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            raise UnreadableFile("this file may not be read", file=path, fix="check its permissions") from error
        raise _damaged(path, what, error) from error
    except Exception as error:
        raise _damaged(path, what, error) from error


def begins_as_dicom(path: Path) -> bool:
    """Whether the file has DICM behind a preamble, or begins with a first element of group 0002 or 0008 and no preamble.

    Such an element is a tag up to (0008,0018), little-endian, then a value representation of two letters and a short length,
    or (implicit) a length alone. Raises OSError.
    """
    with open(path, "rb") as file:
        head = file.read(132)
    if head[128:] == b"DICM":
        return True
    group, element, length = (int.from_bytes(head[i:j], "little") for i, j in ((0, 2), (2, 4), (4, 8)))
    explicit = head[4:6] in (b"UL", b"UI", b"CS", b"OB", b"SH", b"DA", b"TM", b"LO")
    return len(head) > 8 and group in (2, 8) and element <= 0x18 and (explicit or length <= 64)


def _damaged(path: Path, what: str, error: Exception) -> UnreadableFile:
    fix = "copy it again from where it came, or check that the name says what the file is"
    return UnreadableFile(f"this is no whole {what} file: damaged or cut short ({type(error).__name__})", file=path, fix=fix)


def files_below(folder: Path) -> Iterator[Path]:
    """Its visible files and those of visible folders below, linked ones too, each folder once; by name. Raises OSError."""
    seen: set[str] = set()

    def refuse(error: OSError) -> None:
        raise error

    for root, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        if (real := os.path.realpath(root)) in seen:  # a link to a folder that was walked through, perhaps around this very one
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(each for each in folders if not each.startswith("."))
        yield from (Path(root, name) for name in sorted(names) if not name.startswith("."))


def require_bytes(path: Path) -> None:
    """Raise UnreadableFile for a file that is missing or holds no bytes."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise UnreadableFile("there is no such file or folder", file=path) from error
    if size == 0:
        raise UnreadableFile("the file is empty (0 bytes)", file=path, fix="copy it again from where it came")


def checked(image: Image, path: Path) -> Image:
    """The image itself, or UnreadableFile for a single pixel, complex numbers, or NaN and infinity (with their count)."""
    array = image.array
    if array.shape[1:] == (1, 1, 1):
        raise UnreadableFile("the image has a single pixel", file=path, fix="give a whole image")
    if array.dtype.kind not in "uifb":
        raise UnreadableFile(f"voxels of type {array.dtype} are no intensities", file=path, fix="save real numbers")
    if array.dtype.kind == "f":
        # Slice by slice: a mask of booleans as large as the volume is never made.
        bad = sum(plane.size - int(np.count_nonzero(np.isfinite(plane))) for channel in array for plane in channel)
        if bad:
            raise UnreadableFile(f"{bad} of {array.size} voxels are NaN or infinite", file=path, fix="replace them by a number")
    return image


def without_alpha(array: np.ndarray, alpha: np.ndarray, notes: list[str]) -> np.ndarray:
    """`array` as it is, saying that an opaque alpha was dropped; ChannelError where it is not opaque."""
    if alpha.size and alpha.min() != (np.iinfo(alpha.dtype).max if alpha.dtype.kind == "u" else 1):
        raise ChannelError("the picture has an alpha channel that is not opaque", fix="flatten it onto a background first")
    notes.append("an opaque alpha channel was dropped")
    return array


def native(array: np.ndarray) -> np.ndarray:
    """In the machine's byte order, and never wider than float32 for fractions; everything else as stored."""
    if array.dtype.kind == "f" and array.dtype.itemsize > 4:
        return array.astype(np.float32)
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def rgb_names(count: int) -> tuple[str, ...]:
    """Names for the channels of a picture."""
    return {1: ("grey",), 3: ("red", "green", "blue")}.get(count, tuple(f"channel_{i}" for i in range(count)))
