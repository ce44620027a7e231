"""Write to a temporary name beside the target, then rename: a file is whole or not there at all."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import OutputError

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # the disk, one's quota of it, the largest file that it or the system allows


held: set[int] = set()  # open folders into which this process alone writes


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path with the target's own suffix; on success it becomes `path`, else it vanishes.

    Raises OutputError for a full disk or a place that may not be written.
    """
    path = Path(path)
    suffix = "".join(path.suffixes[-2:] if path.suffix.lower() == ".gz" else path.suffixes[-1:])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=_hidden(path), suffix=f".part{suffix}", dir=path.parent)
    except OSError as error:
        raise output_error(error, path) from error
    os.close(handle)
    part = Path(name)
    try:
        yield part
        os.chmod(part, 0o666 & ~_umask())
        with open(part, "rb") as done:
            os.fsync(done.fileno())
        os.replace(part, path)
    except OSError as error:
        raise output_error(error, path) from error
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it becomes `path`, else it vanishes.

    Where `path` is there already, its files of the same names are replaced, one by one and only when all are written; others
    stay. Raises OutputError as `atomic` does.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=_hidden(path), suffix=".part", dir=path.parent))
    except OSError as error:
        raise output_error(error, path) from error
    try:
        yield part
        os.chmod(part, 0o777 & ~_umask())
        if path.is_dir():
            for each in sorted(part.iterdir()):
                os.replace(each, path / each.name)
        else:
            os.replace(part, path)
    except OSError as error:
        raise output_error(error, path) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Into this folder no other process writes meanwhile, of those that ask. Whatever ends the holder lets it go.

    Made if it is not there; gone again where it stays empty. Raises OutputError where another is at work.
    """
    if folder.is_file() or fcntl is None:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise output_error(error, folder) from error
    held.add(handle)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            fix = "wait for it, or choose another folder"
            raise OutputError("another process is writing into this folder", file=folder, fix=fix) from error
        except OSError:  # a file system without locks
            pass
        try:
            yield
        finally:
            with suppress(OSError):
                folder.rmdir()
    finally:
        held.discard(handle)
        os.close(handle)


def let_go() -> None:
    """What a fork has of its parent's folders: workers that outlive a killed training would keep it locked."""
    while held:
        os.close(held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=let_go)


def output_error(error: OSError, path: Path) -> Exception:
    """The OutputError that tells what the operating system said; errors of another kind come back as they are."""
    if error.errno in FULL:
        return OutputError(f"{full(error)}; nothing was written", file=path, fix="free some space or choose another folder")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return OutputError("this place may not be written", file=path, fix="choose another output folder")
    if error.errno in (errno.ENOENT, errno.ENAMETOOLONG, errno.EINVAL):
        return OutputError("such a place cannot be made", file=path, fix="choose another output folder")
    if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR):
        problem = "a file stands where a folder is needed, or the other way round"
        return OutputError(problem, file=path, fix="choose another output")
    return error


def full(error: OSError) -> str:
    """What is full, of an error in `FULL`."""
    told = {errno.EDQUOT: "the quota of this disk is used up", errno.EFBIG: "the file is larger than is allowed here"}
    return told.get(error.errno or 0, "the disk is full")


def _hidden(path: Path) -> str:
    """How the temporary name begins: cut, since what is added must not make it longer than a disk takes."""
    return f".{path.name.split('.')[0][:32]}-"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
