"""Embeddings kept on disk, so that a picture is looked at once, whoever asks and however often.

    folder/ab12....npz    the arrays of one picture, by the hash of its content and of the model's weights

The folder never grows beyond its limit: what was used longest ago goes first. A file is whole or not there, holds arrays alone
(no pickle), and one that is damaged counts as absent.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core.atomic import atomic
from ..core.errors import OutputError

LIMIT_BYTES = 2 << 30  # 2 GB: some 500 pictures of a SAM


@dataclass(frozen=True)
class EmbeddingCache:
    """`folder` holds at most `limit_bytes`."""

    folder: Path
    limit_bytes: int = LIMIT_BYTES

    def recall(self, key: str) -> dict[str, np.ndarray] | None:
        """The arrays kept under `key`, or None."""
        path = self._path(key)
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except Exception:  # damaged bytes are answered with nearly any
            return None
        with suppress(OSError):  # a cache shared for reading only
            os.utime(path)  # used just now
        return arrays

    def keep(self, key: str, arrays: dict[str, np.ndarray]) -> None:
        """Keep `arrays` under `key`, and evict until all fits. A cache that cannot be written is no reason to stop."""
        try:
            with atomic(self._path(key)) as part, open(part, "wb") as file:
                np.savez(file, allow_pickle=False, **arrays)
        except (OutputError, OSError):
            return
        self._evict()

    def _evict(self) -> None:
        found = []
        for path in self.folder.glob("*.npz"):
            try:
                stat = path.stat()
            except OSError:  # another process was quicker
                continue
            found.append((stat.st_mtime_ns, stat.st_size, path))
        held = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if held <= self.limit_bytes:
                return
            with suppress(OSError):  # another user's, in a folder that is shared
                path.unlink(missing_ok=True)
                held -= size

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.npz"


def user_cache() -> Path:
    """Where a user's caches belong on this system."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vesalius" / "embeddings"


def key_of(picture: np.ndarray, model: str) -> str:
    """The hash of a picture's pixels, shape and type, and of what looks at it."""
    digest = hashlib.sha256(f"{model} {picture.shape} {picture.dtype.str} ".encode())
    digest.update(np.ascontiguousarray(picture).data)
    return digest.hexdigest()
