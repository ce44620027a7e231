"""Whether cases are those that a run began with: told by their files' sizes and samples, without reading them whole."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..core.errors import UnreadableFile

SAMPLE = 4096  # bytes at the begin, the middle and the end, where gzip and PNG keep their checksums


def identity(cases: Iterable[Any]) -> str:
    """A hash over names, sizes and samples of the images and masks of `cases`, wherever they lie. Raises UnreadableFile."""
    digest = hashlib.sha256()
    for case in sorted(cases, key=lambda each: each.name):
        digest.update(repr(case.name).encode())
        for root in (*case.images, *([case.mask] if case.mask else [])):
            for file in _files(root):
                digest.update(_sample(file))
    return digest.hexdigest()[:16]


def _files(root: Path) -> Iterator[Path]:
    """The file itself, or the visible files of a DICOM folder."""
    if not root.is_dir():
        yield root
        return
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            yield path


def _sample(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            parts = [size.to_bytes(8, "big")]
            for start in (0, size // 2, max(0, size - SAMPLE)):
                file.seek(start)
                parts.append(file.read(SAMPLE))
    except OSError as error:
        raise UnreadableFile("this file of the dataset may not be read", file=path, fix="check its permissions") from error
    return hashlib.sha256(b"".join(parts)).digest()
