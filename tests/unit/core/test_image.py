"""Grids: where voxels lie, how large they are, and when two grids are one."""

import nibabel as nib
import numpy as np
import pytest

from vesalius.core.errors import GeometryError
from vesalius.core.image import Grid, Image, Mask


def tilted(degrees=0.0, spacing=(2.0, 0.5, 0.75), shear=0.0, order=(0, 1, 2), signs=(1, 1, 1)):
    """Axes z, y, x along superior, anterior, right (or as `order` and `signs` have it), turned about the first of RAS."""
    a = np.deg2rad(degrees)
    turn = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    axes = np.eye(3)[::-1][:, list(order)] * signs
    affine = np.eye(4)
    affine[:3, :3] = turn @ axes @ (np.eye(3) + np.triu(np.full((3, 3), shear), 1)) * spacing
    affine[:3, 3] = (-20, 10, 30)
    return affine


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (2, 0, 1), (0, 2, 1), (2, 1, 0)])
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (1, -1, -1)])
def test_axes_are_named_as_nibabel_names_them(order, signs):
    affine = tilted(20, order=order, signs=signs)
    assert Grid((3, 4, 5), affine).orientation == "".join(nib.aff2axcodes(affine[:, [2, 1, 0, 3]])[::-1])


@pytest.mark.parametrize("degrees", [45, -45])
def test_of_two_axes_that_fit_alike_the_one_that_stands_right_is_named(degrees):
    assert Grid((3, 4, 5), tilted(degrees)).orientation == "SAR"


@pytest.mark.parametrize("shear", [0, 0.4])
def test_a_voxel_holds_the_determinant_and_a_pixel_its_area(shear):
    affine = tilted(33, shear=shear)
    assert Grid((3, 4, 5), affine).voxel_mm3 == pytest.approx(abs(np.linalg.det(affine)))
    edges = affine[:3, 1], affine[:3, 2]
    area = np.sqrt(edges[0] @ edges[0] * (edges[1] @ edges[1]) - (edges[0] @ edges[1]) ** 2)
    assert Grid((1, 4, 5), affine, 2).voxel_mm3 == pytest.approx(area)
    assert Grid((3, 4, 5), affine).spacing == pytest.approx(np.linalg.norm(affine[:3, :3], axis=0))
    assert Grid((3, 4, 5)).voxel_mm3 is Grid((3, 4, 5)).spacing is Grid((3, 4, 5)).orientation is None


def test_two_grids_are_one_where_no_corner_lies_apart():
    small, large = (Grid(shape, tilted()) for shape in ((3, 4, 5), (3, 4, 500)))
    turned = tilted(0.01)  # 0.0004 mm at the corner of four pixels of half a millimetre, 0.01 mm at that of a hundred
    assert small.same_as(Grid((3, 4, 5), turned), tolerance_mm=2e-3) and not small.same_as(Grid((3, 100, 5), turned))
    assert not Grid((3, 100, 5), tilted()).same_as(Grid((3, 100, 5), turned), tolerance_mm=5e-3)
    moved = tilted()
    moved[0, 3] += 0.01
    assert not small.same_as(Grid((3, 4, 5), moved)) and small.same_as(Grid((3, 4, 5), moved), tolerance_mm=0.02)
    assert not small.same_as(large) and not small.same_as(Grid((3, 4, 5))) and Grid((3, 4, 5)).same_as(Grid((3, 4, 5)))


def test_voxels_are_of_one_size_where_they_drift_by_less_than_a_tenth_over_the_image():
    grid = Grid((1, 50, 100), tilted())
    for wider, alike in ((0.0005, True), (0.002, False)):  # 100 times 0.0005 is less than a tenth of 0.75
        assert grid.same_sizes(Grid(grid.shape, tilted(70, spacing=(2.0, 0.5, 0.75 + wider)))) == alike
    assert grid.same_sizes(Grid(grid.shape, tilted(spacing=(9.0, 0.5, 0.75))))  # across one slice it means nothing
    assert not Grid((2, 50, 100), tilted()).same_sizes(Grid((2, 50, 100), tilted(spacing=(9.0, 0.5, 0.75))))
    assert not grid.same_sizes(Grid((1, 100, 50), tilted())) and not grid.same_sizes(Grid(grid.shape))


def test_what_is_no_grid_and_what_does_not_lie_on_it_is_refused():
    flat = tilted()
    flat[:3, 0] = flat[:3, 1]
    for shape, affine, dims in (((0, 4, 5), None, 3), ((2, 4, 5), None, 2), ((3, 4, 5), flat, 3), ((3, 4, 5), np.eye(3), 3),
                                ((3, 4, 5), tilted() * np.nan, 3)):  # fmt: skip
        with pytest.raises(GeometryError):
            Grid(shape, affine, dims)
    grid = Grid((3, 4, 5))
    for make in (lambda: Image(np.zeros((3, 4, 5)), grid), lambda: Image(np.zeros((1, 5, 4, 3)), grid),
                 lambda: Image(np.zeros((2, 3, 4, 5)), grid, ("one",)), lambda: Mask(np.zeros((5, 4, 3), np.uint8), grid),
                 lambda: Mask(np.zeros((3, 4, 5), np.float32), grid)):  # fmt: skip
        with pytest.raises(GeometryError):
            make()
