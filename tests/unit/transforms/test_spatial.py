import json
import tomllib
import tracemalloc
from typing import Annotated

import numpy as np
import pytest
from pydantic import Field, TypeAdapter
from scipy.ndimage import zoom

from vesalius.core.errors import GeometryError, InputError, VesaliusError
from vesalius.core.image import Grid, Image, Mask
from vesalius.transforms.intensity import Percentile, Scale, Window, ZScore
from vesalius.transforms.moves import Resize
from vesalius.transforms.resample import weights
from vesalius.transforms.restore import Restore
from vesalius.transforms.spatial import CropForeground, Orient, Pad, Resample, Step, prepare, prepare_pair


def grid_of(shape, spacing=(1, 1, 1), dims=3):
    """Axes z, y, x along superior, anterior, right."""
    z, y, x = spacing
    return Grid(shape, np.array([[0, 0, x, 0], [0, y, 0, 0], [z, 0, 0, 0], [0, 0, 0, 1]], float), dims)


def image_of(array, spacing=(1, 1, 1)):
    return Image(array, grid_of(array.shape[1:], spacing))


def test_orient_turns_lps_axes_by_flips_alone():
    array = np.arange(24).reshape(1, 2, 3, 4)
    grid = Grid((2, 3, 4), np.array([[0, 0, -1, 9], [0, -1, 0, 9], [1, 0, 0, 0], [0, 0, 0, 1]], float))
    done, undo = Orient().apply(Image(array, grid))
    assert grid.orientation == "SPL" and done.grid.orientation == "SAR"
    assert np.array_equal(done.array, array[:, :, ::-1, ::-1]) and np.shares_memory(done.array, array)
    assert np.array_equal(undo.apply(done.array), array)


def test_orient_leaves_pictures_and_images_without_affine_alone():
    array = np.arange(12).reshape(1, 1, 3, 4)
    flipped = np.diag([-1.0, -1.0, 1.0, 1.0])
    for grid in (Grid((1, 3, 4)), Grid((1, 3, 4), dims=2), Grid((1, 3, 4), flipped, dims=2)):
        image = Image(array, grid)
        assert Orient().apply(image)[0] is image


def test_resample_keeps_the_outer_edges_and_tells_the_true_spacing():
    done, _ = Resample((1, 1, 1)).apply(image_of(np.zeros((1, 10, 11, 12), np.int16), (1, 0.95, 2)))
    assert done.grid.shape == (10, 10, 24)
    np.testing.assert_allclose(done.grid.spacing, (1, 1.045, 1))
    edges = done.grid.affine @ [-0.5, -0.5, -0.5, 1], done.grid.affine @ [9.5, 9.5, 23.5, 1]
    np.testing.assert_allclose(edges[0][:3], [-1, -0.475, -0.5])
    np.testing.assert_allclose(edges[1][:3], [23, 10.45 - 0.475, 9.5])


def test_sizes_are_rounded_to_the_nearest_voxel():
    done, _ = Resample((1.3, 1.45, 1)).apply(image_of(np.zeros((1, 10, 10, 10), np.float32)))
    assert done.grid.shape == (8, 7, 10)


def test_averaging_removes_the_noise_that_plain_interpolation_aliases():
    noise = np.random.default_rng(0).normal(size=(1, 48, 48, 48)).astype(np.float32)
    averaged = Resample((4, 4, 4)).apply(image_of(noise))[0].array
    plain = Resample((4, 4, 4), average=False).apply(image_of(noise))[0].array
    assert averaged.std() < 0.2 < 0.3 < plain.std()
    assert averaged.mean() == pytest.approx(noise.mean(), abs=2e-3)


@pytest.mark.parametrize(("source", "target"), [(1, 7), (7, 1), (5, 9), (9, 5), (24, 23), (2, 64)])
@pytest.mark.parametrize("options", [{"order": 0}, {"order": 1}, {"order": 3}, {"average": True}])
def test_every_interpolation_keeps_a_constant_and_mirrors_with_its_input(source, target, options):
    matrix = weights(source, target, **options).toarray()
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)
    if options != {"order": 0}:  # a tie has to fall to one side
        np.testing.assert_allclose(matrix, matrix[::-1, ::-1], atol=1e-6)


@pytest.mark.parametrize(("source", "target"), [(7, 3), (5, 9), (80, 64), (3, 3), (4, 1), (2, 64)])
@pytest.mark.parametrize("order", [0, 1, 3])
def test_aligned_centres_are_scipys_zoom(source, target, order):
    column = np.random.default_rng(0).normal(size=source)
    matrix = weights(source, target, order=order, align="centres")
    found = column if matrix is None else matrix @ column
    np.testing.assert_allclose(found, zoom(column, target / source, order=order), atol=1e-5)


def test_cubic_resampling_does_not_leave_the_range_of_the_image():
    array = np.zeros((1, 8, 8, 8), np.float32)
    array[0, 4] = 100
    done = Resample((0.5, 0.5, 0.5), order=3).apply(image_of(array))[0].array
    assert done.min() >= 0 and done.max() <= 100


def test_thick_slices_are_taken_whole_and_not_blended():
    array = np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)
    image = image_of(array, (5, 1, 1))
    done, undo = Resample((2.5, 1, 1)).apply(image)
    assert undo.nearest == (True, False, False)
    assert np.array_equal(done.array[0], np.repeat(array[0], 2, axis=0))
    blended, undo = Resample((2.5, 1, 1), separate_z=False).apply(image)
    assert not any(undo.nearest) and not np.array_equal(done.array, blended.array)
    _, undo = Resample((1, 1, 1)).apply(image_of(array, (1, 5, 5)))
    assert not any(undo.nearest)  # one thin axis is no thick axis
    for was, becomes, thick in ((3.0, 2.5, False), (3.1, 2.5, True), (1.0, 3.1, True)):
        assert Resample((becomes, 1, 1)).apply(image_of(array, (was, 1, 1)))[1].nearest == (thick, False, False)


def test_unknown_spacing_stops_with_the_fix():
    image = Image(np.zeros((1, 1, 4, 4), np.uint8), Grid((1, 4, 4), dims=2))
    with pytest.raises(GeometryError, match=r"voxel size is unknown.*1 x 0\.5 x 0\.5 mm.*[Uu]se a format"):
        Resample((1, 0.5, 0.5)).apply(image)
    with pytest.raises(GeometryError, match=r"margin of 3 mm.*margin_mm to 0"):
        CropForeground(margin_mm=3).apply(image)
    with pytest.raises(GeometryError, match=r"0\.3 mm thick, less than half a voxel.*[Ii]t may be in another unit"):
        Resample((1, 1, 1)).apply(image_of(np.zeros((1, 3, 30, 40), np.uint8), (0.1, 1, 1)))
    with pytest.raises(GeometryError, match="Check the spacing in the image header"):
        Resample((1e-3, 1e-3, 1e-3)).apply(image_of(np.zeros((1, 100, 100, 100), np.uint8)))
    with pytest.raises(InputError, match="three positive sizes"):
        Resample((1, 0, 1))


def test_a_picture_keeps_its_one_slice_whatever_the_steps_ask():
    picture = Image(np.ones((3, 1, 20, 30), np.uint8), grid_of((1, 20, 30), (5, 0.2, 0.2), dims=2))
    steps = [Orient(), Resample((1, 0.1, 0.1)), Pad(at_least=(16, 64, 64), multiple_of=32)]
    done, restore = prepare(picture, steps)
    assert done.grid.shape == (1, 64, 64) and done.grid.dims == 2
    assert restore.scores(np.ones((2, 1, 64, 64), np.float32)).shape == (2, 1, 20, 30)
    oblong = Image(picture.array, grid_of((1, 20, 30), (0.2, 1, 0.2), dims=2))
    assert not any(Resample((1, 0.2, 0.2)).apply(oblong)[1].nearest)  # a picture has no slices to keep apart


def test_crop_keeps_the_foreground_of_any_channel_and_a_margin_in_mm():
    array = np.zeros((2, 10, 12, 14), np.int16)
    array[0, 4, 5, 6] = array[1, 6, 7, 8] = 1
    done, undo = CropForeground().apply(image_of(array))
    assert np.array_equal(done.array, array[:, 4:7, 5:8, 6:9])
    wider, _ = CropForeground(margin_mm=2).apply(image_of(array, (1, 2, 3)))
    assert np.array_equal(wider.array, array[:, 2:9, 4:9, 5:10])
    rounded, _ = CropForeground(margin_mm=0.9).apply(image_of(array, (1, 0.3, 1)))  # 0.9 / 0.3 is a hair above 3
    assert np.array_equal(rounded.array, array[:, 3:8, 2:11, 5:10])
    scores = undo.apply(np.ones((2, 3, 3, 3)), fill=(5, -5))
    assert scores[0, 0, 0, 0] == 5 and scores[1, 0, 0, 0] == -5 and scores[1, 5, 6, 7] == 1


def test_crop_of_an_empty_image_keeps_it_whole():
    image = image_of(np.zeros((1, 3, 4, 5), np.uint8))
    assert CropForeground().apply(image)[0] is image


def test_pad_grows_evenly_and_to_a_multiple():
    image = image_of(np.arange(60, dtype=np.uint8).reshape(1, 3, 4, 5))
    done, undo = Pad(at_least=(4, 7, 2), multiple_of=(1, 2, 4)).apply(image)
    assert done.array.shape == (1, 4, 8, 8) and done.array.dtype == np.uint8
    assert np.array_equal(undo.apply(done.array), image.array)
    mirrored, _ = Pad(at_least=(9, 9, 9), mode="reflect").apply(image)
    assert np.array_equal(mirrored.array, np.pad(image.array, [(0, 0), (3, 3), (2, 3), (2, 2)], mode="reflect"))


def test_pad_with_a_value_that_the_integers_cannot_hold_becomes_float():
    done, _ = Pad(at_least=(1, 1, 4), value=-1024).apply(image_of(np.ones((1, 1, 1, 2), np.uint8)))
    assert done.array.ravel().tolist() == [-1024, 1, 1, -1024]
    done, _ = Pad(at_least=(1, 1, 4), value=0.5).apply(image_of(np.ones((1, 1, 1, 2), np.uint8)))
    assert done.array.ravel().tolist() == [0.5, 1, 1, 0.5]


def test_training_masks_share_out_voxels_without_gaps_between_labels():
    mask = np.zeros((8, 8, 8), np.uint8)
    mask[:, :4], mask[:, 4:, :4], mask[:, 4:, 4:] = 1, 2, 7
    image = image_of(mask[None].astype(np.float32))
    _, done, _ = prepare_pair(image, Mask(mask, image.grid), [Resample((0.66, 0.66, 0.66))])
    assert set(np.unique(done.array)) == {1, 2, 7}
    assert (done.array == 7).mean() == 0.25 and (done.array == 2).mean() == 0.25


def test_equal_shares_go_to_the_structure_and_not_to_background():
    mask = np.array([0, 3, 3, 0, 0, 0], np.uint8).reshape(1, 1, 6)
    image = image_of(mask[None])
    _, done, _ = prepare_pair(image, Mask(mask, image.grid), [Resample((1, 1, 2))])
    assert done.array.ravel().tolist() == [3, 3, 0]


def test_a_reflected_image_gets_a_reflected_mask():
    array = np.arange(4, dtype=np.uint8).reshape(1, 1, 1, 4)
    image = image_of(array)
    done, mask, _ = prepare_pair(image, Mask(array[0], image.grid), [Pad(at_least=(1, 1, 8), mode="reflect")])
    assert np.array_equal(done.array[0], mask.array)


def test_a_mask_on_another_grid_is_refused():
    image = image_of(np.zeros((1, 3, 4, 5), np.uint8))
    with pytest.raises(GeometryError, match="same grid"):
        prepare_pair(image, Mask(np.zeros((3, 4, 5), np.uint8), grid_of((3, 4, 5), (1, 1, 2))), [])


def test_steps_survive_json_and_toml_by_their_kind():
    spatial = [Orient(), CropForeground(margin_mm=2), Resample((3, 1, 1), order=3, separate_z=True), Pad(multiple_of=(1, 8, 8))]
    steps = [*spatial, Pad(multiple_of=4), ZScore(nonzero=True), Percentile(), Window(-160, 240), Scale()]
    adapter = TypeAdapter(list[Annotated[Step, Field(discriminator="kind")]])
    plain = adapter.dump_python(steps, mode="json", exclude_none=True)
    assert adapter.validate_json(json.dumps(plain)) == steps
    toml = "".join("[[steps]]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in step.items()) for step in plain)
    assert adapter.validate_python(tomllib.loads(toml)["steps"]) == steps


def test_slabs_pass_through_as_views_where_nothing_interpolates():
    image = image_of(np.random.default_rng(0).random((1, 6, 7, 8)).astype(np.float32))
    _, restore = prepare(image, [Orient(), CropForeground(threshold=0.99), Pad(at_least=(9, 9, 9))])
    slab = np.zeros((2, *restore.prepared.shape), np.float16)
    yielded = [(z0, s) for z0, s in restore.stream([(0, slab)], max_slices=4)]
    assert restore.lattice == restore.prepared.shape
    assert [z0 for z0, _ in yielded] == [0, 4, 8] and all(np.shares_memory(s, slab) for _, s in yielded)


def test_a_crop_after_a_resampling_is_streamed_home_with_its_fill_around():
    array = np.zeros((1, 20, 16, 12), np.float32)
    array[0, 8:14, 5:10, 4:9] = 1
    prepared, restore = prepare(Image(array, Grid((20, 16, 12), np.eye(4))), [Resample((2.0, 1.5, 0.8)), CropForeground(0.25)])
    scores, fill = np.random.default_rng(0).normal(size=(2, *prepared.grid.shape)).astype(np.float32), (1.0, -2.0)
    whole = scores
    for undo in restore.undos:
        whole = undo.apply(whole, 1, fill)
    slabs = list(restore.stream(((z, scores[:, z : z + 1]) for z in range(scores.shape[1])), max_slices=3, fill=fill))
    assert [z0 for z0, _ in slabs] == np.cumsum([0, *(slab.shape[1] for _, slab in slabs)])[:-1].tolist()
    np.testing.assert_allclose(np.concatenate([slab for _, slab in slabs], 1), whole, atol=1e-5)


def test_slabs_out_of_order_or_missing_are_our_own_fault():
    restore = Restore.of(grid_of((8, 4, 4)), grid_of((4, 4, 4)), [Resize((4, 4, 4), (8, 4, 4))])
    slab = np.zeros((1, 2, 4, 4), np.float32)
    for slabs in ([(2, slab)], [(0, slab)], [(0, slab), (0, slab)]):
        with pytest.raises(VesaliusError):
            list(restore.stream(slabs))
    with pytest.raises(VesaliusError):
        restore.finish(np.zeros((4, 4, 4)))


def test_a_stream_holds_a_few_slices_and_never_the_volume():
    source, target, classes = (48, 64, 64), (96, 128, 128), 8
    restore = Restore.of(grid_of(target), grid_of(source), [Resize(source, target)])
    slab = np.zeros((classes, 1, 64, 64), np.float16)
    tracemalloc.start()
    for _ in restore.stream(((z, slab) for z in range(48)), max_slices=4):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    plane = classes * 128 * 128 * 4
    assert peak < 16 * plane  # two slabs of four, the window, a plane under way; the volume has 96
