"""A picture of two bright patches, whose masks are known to the pixel, and what a command has to end with."""

import numpy as np
from PIL import Image


def block(shape, *slices):
    mask = np.zeros(shape, bool)
    mask[slices] = True
    return mask


UPPER = block((30, 50), slice(4, 9), slice(30, 47))
LOWER = block((30, 50), slice(12, 26), slice(5, 15))
CORE = block((30, 50), slice(16, 20), slice(8, 12))


def pixels(path):
    return np.asarray(Image.open(path))


def fine(result):
    assert result.exit_code == 0, (result.stderr, result.exception)
    return result


def refused(result, *words):
    """Exit code 2, and one line on stderr that says each of `words`."""
    assert result.exit_code == 2, (result.exit_code, result.stderr, result.exception)
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    for word in words:
        assert word.lower() in result.stderr.lower(), f"{word!r} is not said: {result.stderr}"
