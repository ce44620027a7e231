"""Whatever the affine and the shape: every step finds its way home, and every point keeps its millimetres."""

from itertools import pairwise

import numpy as np
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from vesalius.core.image import Grid, Image, Mask
from vesalius.transforms.moves import moved
from vesalius.transforms.spatial import CropForeground, Orient, Pad, Resample, prepare, prepare_pair

quick = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])


@st.composite
def grids(draw, shear=0.3):
    """Any rotation, shear, reflection, order of axes, spacing 0.1 to 10 mm, shape 1 to 24."""
    shape = tuple(draw(st.integers(1, 24)) for _ in range(3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if draw(st.booleans()):
        turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    else:  # along the axes, or turned by 45 degrees in a plane, where two names fit equally well
        turn = np.eye(3)[rng.permutation(3)]
        if draw(st.booleans()):
            half = np.sqrt(0.5)
            turn = turn @ np.array([[half, half, 0], [-half, half, 0], [0, 0, 1]])[:, rng.permutation(3)]
    turn = turn * rng.choice([-1, 1], size=3)
    turn = turn @ (np.eye(3) + np.triu(rng.uniform(-shear, shear, (3, 3)), 1) * draw(st.booleans()))
    affine = np.eye(4)
    affine[:3, :3] = turn / np.linalg.norm(turn, axis=0) * [draw(st.floats(0.1, 10)) for _ in range(3)]
    affine[:3, 3] = rng.uniform(-300, 300, 3)
    return Grid(shape, affine)


def coordinates(grid):
    """An image of three channels that holds at each voxel the millimetres where it lies: (3, Z, Y, X)."""
    index = np.stack([*np.indices(grid.shape, dtype=np.float64), np.ones(grid.shape)])
    return np.tensordot(grid.affine[:3], index, axes=1)


@st.composite
def walks(draw):
    """A grid, an image on it and steps in any order; Resample up to 3 times finer or coarser on each axis."""
    grid = draw(grids())
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    image = Image((rng.random((2, *grid.shape)) > 0.9).astype(np.float32), grid)
    steps = []
    for kind in draw(st.permutations(["orient", "crop", "resample", "pad", "resample"]))[: draw(st.integers(1, 5))]:
        if kind == "orient":
            steps.append(Orient())
        elif kind == "crop":
            steps.append(CropForeground(threshold=0.5, margin_mm=draw(st.sampled_from([0.0, 2.0]))))
        elif kind == "pad":
            least = tuple(draw(st.integers(1, 30)) for _ in range(3))
            steps.append(Pad(at_least=least, mode=draw(st.sampled_from(["constant", "reflect"])), multiple_of=(1, 2, 4)))
        else:
            now = prepare(image, steps)[0].grid.spacing
            spacing = tuple(s * draw(st.floats(0.4, 3)) for s in now)
            steps.append(Resample(spacing, separate_z=draw(st.sampled_from([None, False]))))
    assume(np.prod(prepare(image, steps)[0].grid.shape, dtype=float) < 2e5)
    return image, steps, rng


@quick
@given(walks())
def test_undo_after_do_restores_the_grid_and_invents_no_label(walk):
    image, steps, rng = walk
    prepared, restore = prepare(image, steps)
    home = prepared.grid
    for undo in restore.undos:
        home = moved(home, undo)
    assert home.same_as(image.grid)

    found = rng.choice(np.array([0, 3, 7, 200], np.uint8), size=prepared.grid.shape)
    labels = restore.labels(found)
    assert labels.shape == image.grid.shape and labels.dtype == found.dtype
    assert set(np.unique(labels)) <= set(np.unique(found)) | {0}


@quick
@given(walks())
def test_a_mask_follows_its_image_and_gains_no_label(walk):
    image, steps, rng = walk
    for instances in (False, True):
        mask = Mask(rng.choice(np.array([0, 3, 7, 200], np.uint8), size=image.grid.shape), image.grid, instances=instances)
        prepared, followed, _ = prepare_pair(image, mask, steps)
        assert followed.grid.same_as(prepared.grid, tolerance_mm=1e-9) and followed.instances == instances
        assert set(np.unique(followed.array)) <= set(np.unique(mask.array)) | {0}


@quick
@given(walks())
def test_exact_steps_bring_every_voxel_back_to_its_own_place(walk):
    image, steps, rng = walk
    steps = [step for step in steps if not isinstance(step, Resample)]
    mask = Mask(rng.integers(1, 9, size=image.grid.shape).astype(np.uint8), image.grid)
    _, followed, restore = prepare_pair(image, mask, steps)
    back = restore.labels(followed.array)
    kept = back != 0
    assert np.array_equal(back[kept], mask.array[kept])
    assert kept[image.array.any(axis=0)].all()
    if not any(isinstance(step, CropForeground) for step in steps):
        assert kept.all()


@quick
@given(walks(), st.data())
def test_streamed_scores_equal_the_whole(walk, data):
    image, steps, rng = walk
    prepared, restore = prepare(image, steps)
    scores = rng.normal(size=(3, *prepared.grid.shape)).astype(np.float32)
    fill = (1.0, 0.0, -2.0)
    slices = prepared.grid.shape[0]
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, slices - 1)), max_size=5)) | {0, slices})
    slabs = [(a, scores[:, a:b]) for a, b in pairwise(cuts)]
    most = data.draw(st.integers(1, 9))

    lattice = np.full((3, *restore.lattice), np.nan, np.float32)
    expected = 0
    for z0, slab in restore.stream(iter(slabs), max_slices=most, fill=fill):
        assert z0 == expected and slab.shape[1] <= most
        expected += slab.shape[1]
        lattice[:, z0:expected] = slab
    assert expected == restore.lattice[0]
    np.testing.assert_allclose(restore.finish(lattice, fill), restore.scores(scores, fill), atol=1e-5)


@quick
@given(grids(), st.tuples(*[st.floats(0.4, 3)] * 3), st.booleans())
def test_scores_come_home_by_their_millimetres(grid, factors, orient_first):
    """Against scipy at positions from the two affines alone: it knows nothing of axes, edges and steps."""
    image = Image(np.zeros((1, *grid.shape), np.float32), grid)
    before = [Orient()] if orient_first else []
    spacing = tuple(f * s for f, s in zip(factors, prepare(image, before)[0].grid.spacing, strict=True))
    after = [] if orient_first else [Orient()]
    prepared, restore = prepare(image, [*before, Resample(spacing, separate_z=False), *after])
    scores = np.random.default_rng(0).normal(size=(2, *prepared.grid.shape)).astype(np.float32)

    world = coordinates(grid).reshape(3, -1)
    index = (np.linalg.inv(prepared.grid.affine) @ np.vstack([world, np.ones(world.shape[1])]))[:3]
    expected = [map_coordinates(s.astype(np.float64), index, order=1, mode="nearest").reshape(grid.shape) for s in scores]
    np.testing.assert_allclose(restore.scores(scores), expected, atol=1e-4)


@quick
@given(grids(), st.tuples(*[st.floats(0.4, 3)] * 3), st.booleans(), st.sampled_from([1, 3]))
def test_an_image_of_its_own_coordinates_still_tells_them_after_the_steps(grid, factors, average, order):
    """A linear ramp in mm stays that ramp, away from the rim: turn, crop, resample and pad all moved the affine rightly."""
    world = coordinates(grid)
    inside = np.zeros((1, *grid.shape))
    inside[0, *(slice(n // 4, n) for n in grid.shape)] = 1
    start = Image(np.concatenate([world, inside]), grid)
    spacing = tuple(f * s for f, s in zip(factors, prepare(start, [Orient()])[0].grid.spacing, strict=True))
    steps = [Orient(), Resample(spacing, average=average, order=order, separate_z=False), Pad(at_least=(9, 30, 12), value=np.nan)]
    prepared, _ = prepare(start, steps)
    assert prepared.grid.orientation == "SAR"

    told, true = prepared.array[:3], coordinates(prepared.grid)
    index = np.tensordot(np.linalg.inv(grid.affine)[:3], np.concatenate([true, np.ones_like(true[:1])]), axes=1)
    width = np.ones(3) if order == 1 else np.full(3, 12.0)  # a spline feels the rim from afar
    if average:
        width = width + np.abs(np.linalg.inv(grid.affine)[:3, :3] @ prepared.grid.affine[:3, :3]).sum(axis=1) / 2
    room = np.logical_and.reduce([(i >= w) & (i <= n - 1 - w) for i, n, w in zip(index, grid.shape, width, strict=True)])
    np.testing.assert_allclose(told[:, room], true[:, room], atol=2e-3)


@quick
@given(grids(), st.tuples(*[st.floats(0.4, 1)] * 3), st.data())
def test_a_bright_voxel_stays_where_it_was_in_the_world(grid, factors, data):
    place = tuple(data.draw(st.integers(0, n - 1)) for n in grid.shape)
    array = np.zeros((1, *grid.shape), np.uint8)
    array[0, *place] = 200
    spacing = tuple(f * s for f, s in zip(factors, grid.spacing, strict=True))
    steps = [Resample(spacing), Orient(), CropForeground(threshold=1.0), Pad(at_least=(5, 6, 7), multiple_of=2)]
    prepared, _ = prepare(Image(array, grid), steps)
    bright = np.unravel_index(prepared.array[0].argmax(), prepared.grid.shape)
    world = prepared.grid.affine @ [*bright, 1]
    off_in_voxels = np.linalg.inv(grid.affine) @ world - [*place, 1]
    assert np.abs(off_in_voxels).max() <= 0.5 + 1e-6


@quick
@given(grids())
def test_orient_names_the_axes_as_the_grid_does_and_rests_there(grid):
    image = Image(np.arange(np.prod(grid.shape), dtype=np.int32).reshape(1, *grid.shape), grid)
    once, undo = Orient().apply(image)
    assert once.grid.orientation == "SAR"
    twice, _ = Orient().apply(once)
    assert np.array_equal(once.array, twice.array) and once.grid.same_as(twice.grid)
    assert np.array_equal(undo.apply(once.array), image.array)
    assert sorted(once.array.ravel()) == sorted(image.array.ravel())
