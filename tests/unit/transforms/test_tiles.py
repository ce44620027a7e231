import numpy as np
import pytest

from vesalius.core.errors import InputError
from vesalius.transforms.tiles import gaussian, mirrored, starts


@pytest.mark.parametrize("overlap", [0, 0.1, 0.3, 0.5, 0.75])
def test_tiles_cover_the_axis_and_overlap_at_least_as_asked(overlap):
    for size in range(1, 90):
        for patch in (1, 4, 7, 32):
            first = starts(size, patch, overlap)
            assert first[0] == 0 and (size <= patch or first[-1] == size - patch)
            steps = np.diff(first)
            assert (steps >= 1).all() and (steps <= max(1, np.ceil(patch * (1 - overlap)))).all()


def test_rounding_of_the_step_adds_no_tile():
    assert starts(17, 10, 0.3) == [0, 7]  # 10 * 0.7 is a hair above or below 7
    assert starts(120, 20, 0.9) == list(range(0, 101, 2))  # 20 * 0.1 is 1.9999999999999996
    assert starts(100, 10, 0.9) == list(range(91))


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_what_lies_beyond_the_border_is_mirrored_as_often_as_needed(size):
    assert mirrored(np.arange(-9, size + 9), size).tolist() == np.pad(np.arange(size), 9, mode="reflect").tolist()


def test_an_overlap_that_never_advances_is_refused():
    for overlap in (1, -0.1):
        with pytest.raises(InputError, match="overlap"):
            starts(10, 4, overlap)


def test_weights_peak_at_the_middle_and_are_nowhere_zero():
    weights = gaussian((1, 33, 64))
    assert weights.dtype == np.float32 and weights.max() == weights[0, 16, 32] == 1
    assert weights.min() > 0
    assert weights[0, 16, 32 + 8] == pytest.approx(np.exp(-0.5))
