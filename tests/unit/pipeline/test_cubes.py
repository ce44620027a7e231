"""Cubic views: as long in mm along every axis, true to places and values, and masks come back where they were."""

import numpy as np
import pytest
import torch

from vesalius.core.image import Grid
from vesalius.pipeline.cubes import Cube, around, carry, inside, lengths, normalised, put, take
from vesalius.pipeline.glances import OUTSIDE

VOXEL = np.array([3.0, 1.0, 0.5])


def ball(shape, middle, radius_mm, voxel):
    """Voxels whose middle lies within so many mm of a place in voxel edges."""
    z, y, x = (((np.arange(n) + 0.5 - m) * v) ** 2 for n, m, v in zip(shape, middle, voxel, strict=True))
    return z[:, None, None] + y[:, None] + x <= radius_mm**2


def test_a_cube_is_as_long_in_mm_along_every_axis_and_around_the_box():
    cube = around(np.array([2.0, 10, 20]), np.array([8.0, 20, 60]), VOXEL, 1.5)
    assert cube.middle.tolist() == [5, 15, 40]
    assert (cube.sides * VOXEL).tolist() == [30, 30, 30]  # 1.5 times 40 voxels of 0.5 mm


def test_where_no_spacing_is_known_voxels_are_what_counts():
    assert lengths(Grid((4, 5, 6))).tolist() == [1, 1, 1]


def test_a_view_of_the_very_voxels_is_the_crop_and_beyond_the_volume_is_nothing():
    volume = np.random.default_rng(0).integers(1, 255, (12, 14, 16), np.uint8)
    view = take(volume, Cube(np.array([4.0, 8, 14]), np.full(3, 8.0)), 8).numpy()
    assert np.allclose(view[:, :, :6], volume[0:8, 4:12, 10:16])
    assert not view[:, :, 6:].any()
    assert inside(volume.shape, Cube(np.array([4.0, 8, 14]), np.full(3, 8.0)), 8).numpy()[..., :6].all()


def test_cells_larger_than_voxels_hold_their_mean():
    volume = np.random.default_rng(0).integers(0, 255, (16, 16, 16), np.uint8)
    view = take(volume, Cube(np.full(3, 8.0), np.full(3, 16.0)), 4).numpy()
    assert np.allclose(view, volume.reshape(4, 4, 4, 4, 4, 4).mean((1, 3, 5)), atol=1e-3)


@pytest.mark.parametrize("voxel", [VOXEL, np.ones(3), np.array([0.7, 0.7, 5.0])])
def test_what_is_found_in_a_view_comes_back_to_its_own_voxels(voxel):
    shape = tuple(int(n) for n in np.ceil(60 / voxel))
    middle = np.array(shape) / 2 + 1.3
    wanted = ball(shape, middle, 15, voxel)
    cube = around(middle - 15 / voxel, middle + 15 / voxel, voxel, 1.5)
    logits = 10 * take(wanted.astype(np.uint8), cube, 40) - 5
    parts, back = put(logits, cube, shape)
    found = np.zeros(shape, bool)
    found[parts] = back.numpy() > 0
    assert 2 * (found & wanted).sum() / (found.sum() + wanted.sum()) > 0.96


def test_a_view_beyond_the_volume_gives_nothing_back():
    parts, back = put(torch.ones(8, 8, 8), Cube(np.full(3, -30.0), np.full(3, 8.0)), (10, 10, 10))
    assert back.numel() == 0 and np.zeros((10, 10, 10))[parts].size == 0


def test_what_is_carried_into_another_cube_stays_where_it_was_and_is_nowhere_else():
    logits, size = torch.full((16, 16, 16), -5.0), 16
    logits[4:8, 6:10, 8:12] = 5
    source, target = Cube(np.full(3, 8.0), np.full(3, 16.0)), Cube(np.full(3, 12.0), np.full(3, 16.0))
    moved = carry(logits, source, target)
    assert torch.equal(moved[:12, :12, :12], logits[4:, 4:, 4:])
    assert (moved[12:] == OUTSIDE).all() and len(moved) == size


def test_views_are_normalised_over_what_is_volume():
    known = torch.zeros(4, 4, 4, dtype=torch.bool)
    known[:2] = True
    view = torch.where(known, 100 * torch.rand(4, 4, 4, generator=torch.Generator().manual_seed(0)), 0)
    even = normalised(view, known)
    assert abs(float(even[known].mean())) < 1e-5 and 0.9 < float((even[known] ** 2).mean().sqrt()) <= 1 and not even[2:].any()
