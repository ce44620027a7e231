"""Names of files, which may hold bytes that are no text."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""`text` that can be shown and written as UTF-8: bytes that the file system could not decode as \xe9, the rest as it is."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
