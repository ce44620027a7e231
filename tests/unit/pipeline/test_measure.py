"""Amounts carry the units that the grid knows, and never others."""

import numpy as np
import pytest

from vesalius.core.image import Grid, Mask
from vesalius.core.labels import Label, Labels
from vesalius.pipeline.measure import amounts, object_count, voxel_counts

LABELS = Labels((Label(1, "liver"), Label(300, "spleen"), Label(301, "absent")))


def mask(shape=(4, 5, 6), affine=None, dims=3, instances=False):
    array = np.zeros(shape, np.uint16)
    array[0, :2, :3], array[-1, 4, :4] = 1, 300
    return Mask(array, Grid(shape, affine, dims), None if instances else LABELS, instances=instances)


@pytest.mark.parametrize(
    "shape, affine, dims, each, unit",
    [
        ((4, 5, 6), np.diag([2.0, 0.5, 3.0, 1.0]), 3, 0.003, "ml"),
        ((4, 5, 6), np.diag([2.0, 0.5, 3.0, 1.0]) + np.diag([1.5, 0, 0], 1), 3, 0.003, "ml"),  # sheared: its sides are longer
        ((4, 5, 6), None, 3, 1, "voxels"),
        ((1, 5, 6), None, 2, 1, "px"),
        ((1, 5, 6), np.diag([7.0, 0.5, 0.2, 1.0]), 2, 0.1, "mm2"),
    ],
)
def test_amounts_are_in_the_unit_of_the_grid(shape, affine, dims, each, unit):
    found = amounts(mask(shape, affine, dims))
    assert [(a.label, a.voxels, a.unit) for a in found] == [("liver", 6, unit), ("spleen", 4, unit), ("absent", 0, unit)]
    assert [a.size for a in found] == pytest.approx([6 * each, 4 * each, 0])


def test_objects_are_counted_and_summed():
    objects = mask(instances=True)
    assert object_count(objects) == 2 and object_count(mask()) is None
    assert [(a.label, a.voxels) for a in amounts(objects)] == [("objects", 10)]


def test_values_are_counted_as_numpy_counts_them():
    array = np.random.default_rng(0).integers(0, 900, (3, 20, 20)).astype(np.uint16)
    np.testing.assert_array_equal(voxel_counts(array), np.bincount(array.ravel()))
