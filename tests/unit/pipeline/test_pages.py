"""Volumes given to a task of pictures: where each slice lies, and how objects are numbered from slice to slice."""

from types import SimpleNamespace

import numpy as np
import pytest

from vesalius.core.errors import InputError
from vesalius.core.image import Grid, Image, Mask
from vesalius.pipeline.pages import MOST_OBJECTS, Numbered, pages

OBLIQUE = np.array([[0.5, 0.8, -0.3, -20.0], [1.0, 0.2, 0.9, 14.0], [2.5, -0.1, 0.1, 3.0], [0, 0, 0, 1.0]])


def test_every_slice_is_a_picture_that_lies_where_it_lay():
    array = np.arange(24, dtype=np.uint8).reshape(1, 3, 2, 4)
    found = pages(Image(array, Grid((3, 2, 4), OBLIQUE)), SimpleNamespace(dims=2))
    for z, page in enumerate(found):
        assert page.grid.dims == 2 and (page.array[:, 0] == array[:, z]).all()
        np.testing.assert_allclose(page.grid.affine @ (0, 1, 3, 1), OBLIQUE @ (z, 1, 3, 1))


def test_objects_are_numbered_on_and_background_stays():
    grid, numbered = Grid((1, 1, 4), None, 2), Numbered()
    for row in ([0, 1, 2, 0], [0, 0, 0, 0], [3, 0, 1, 2], [1, 0, 0, 0]):
        numbered.add(Mask(np.array([[row]], np.uint16), grid, instances=True))
    assert numbered.on(Grid((4, 1, 4))).array[:, 0].tolist() == [[0, 1, 2, 0], [0, 0, 0, 0], [5, 0, 3, 4], [6, 0, 0, 0]]


def test_classes_are_not_numbered_on():
    grid, numbered = Grid((1, 1, 2), None, 2), Numbered()
    for row in ([0, 2], [1, 2]):
        numbered.add(Mask(np.array([[row]], np.uint8), grid))
    assert numbered.on(Grid((2, 1, 2))).array[:, 0].tolist() == [[0, 2], [1, 2]]


def test_as_many_objects_as_a_mask_can_number_and_not_one_more():
    grid, numbered = Grid((1, 1, 1), None, 2), Numbered()
    for most in (MOST_OBJECTS - 1, 1):
        numbered.add(Mask(np.full((1, 1, 1), most, np.uint16), grid, instances=True))
    assert numbered.on(Grid((2, 1, 1))).array.max() == 65535
    with pytest.raises(InputError, match="65536 objects"):
        numbered.add(Mask(np.ones((1, 1, 1), np.uint16), grid, instances=True))
