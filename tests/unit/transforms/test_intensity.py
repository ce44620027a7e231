import tracemalloc

import numpy as np
import pytest

from vesalius.core.errors import InputError
from vesalius.core.image import Grid, Image
from vesalius.transforms.intensity import Percentile, Scale, Window, ZScore, mean_and_sd, percentiles
from vesalius.transforms.spatial import Resample, prepare


def image_of(array):
    return Image(np.asarray(array), Grid(np.shape(array)[1:]))


def test_zscore_standardises_each_channel_by_itself():
    rng = np.random.default_rng(0)
    array = np.stack([rng.normal(100, 5, (7, 30, 41)), rng.normal(-3, 0.2, (7, 30, 41))]).astype(np.float32)
    done = ZScore().apply(image_of(array)).array
    assert done.dtype == np.float32
    mean, sd = array.mean((1, 2, 3), keepdims=True), array.std((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(done, (array - mean) / sd, atol=1e-4)


def test_nonzero_zscore_looks_at_nonzero_voxels_and_leaves_the_others_at_zero():
    array = np.zeros((1, 2, 4, 4), np.int16)
    array[0, 0, :, :2] = [[10, 20]] * 4
    done = ZScore(nonzero=True).apply(image_of(array)).array
    np.testing.assert_allclose(done[array == 10], -1)
    np.testing.assert_allclose(done[array == 20], 1)
    assert not done[array == 0].any()


@pytest.mark.parametrize("value", [0, 7, 0.1, 60000.3])
@pytest.mark.parametrize("step", [ZScore(), ZScore(nonzero=True), Percentile()])
def test_a_constant_channel_becomes_zeros_and_not_nan(step, value):
    done = step.apply(image_of(np.full((1, 3, 20, 21), value, np.float32))).array
    assert done.dtype == np.float32 and not done.any()


def test_statistics_of_many_blocks_are_those_of_the_whole():
    array = np.random.default_rng(1).integers(-1000, 3000, (3, 900, 1100)).astype(np.int16)  # about three blocks
    mean, sd = mean_and_sd(array)
    assert mean == pytest.approx(array.mean(dtype=np.float64), rel=1e-12)
    assert sd == pytest.approx(array.std(dtype=np.float64), rel=1e-9)
    mean, sd = mean_and_sd(array, nonzero=True)
    assert sd == pytest.approx(array[array != 0].std(dtype=np.float64), rel=1e-9)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32])
def test_counted_percentiles_are_numpys(dtype):
    array = (np.random.default_rng(2).gamma(2, 20, (3, 31, 17)) - (20 if np.dtype(dtype).kind == "i" else 0)).astype(dtype)
    q = (0, 0.5, 3.3, 50, 99.5, 100)
    np.testing.assert_allclose(percentiles(array, q), np.percentile(array, q), rtol=1e-6)


def test_percentile_sends_its_bounds_to_zero_and_one():
    array = np.arange(1000, 2001, dtype=np.uint16).reshape(1, 1, 1, -1)
    done = Percentile(low=10, high=90).apply(image_of(array)).array.ravel()
    assert done[:101].max() == 0 and done[900:].min() == 1 and done[500] == pytest.approx(0.5)


def test_channels_normalised_together_keep_their_colours():
    array = np.stack([np.linspace(0, 200, 101), np.linspace(0, 100, 101), np.zeros(101)]).reshape(3, 1, 1, 101).astype(np.uint16)
    done = Percentile(low=0, high=100, together=True).apply(image_of(array)).array
    np.testing.assert_allclose(done, array / 200, atol=1e-6)


def test_window_clips_hounsfield_units_to_zero_one_or_to_training_statistics():
    array = np.array([-1000, -160, 40, 240, 3000], np.int16).reshape(1, 1, 1, 5)
    np.testing.assert_allclose(Window(-160, 240).apply(image_of(array)).array.ravel(), [0, 0, 0.5, 1, 1])
    done = Window(-160, 240, mean=40, sd=50).apply(image_of(array)).array.ravel()
    np.testing.assert_allclose(done, [-4, -4, 0, 4, 4])


def test_scale_refuses_a_picture_of_another_depth():
    assert Scale().apply(image_of(np.full((3, 1, 2, 2), 255, np.uint8))).array.max() == 1
    with pytest.raises(InputError, match=r"reach 4095.*percentile"):
        Scale().apply(image_of(np.full((1, 1, 2, 2), 4095, np.uint16)))


def test_scale_refuses_fractions_of_one():
    with pytest.raises(InputError, match=r"fractions up to 0\.9.*Save the picture in 8 bits"):
        Scale().apply(image_of(np.full((1, 1, 2, 2), 0.9, np.float32)))


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.int8, np.int32, np.float32])
def test_scale_goes_by_the_stored_type_and_not_by_the_brightest_voxel(dtype):
    with pytest.raises(InputError, match=rf"stored as {np.dtype(dtype)}, the brightest 90, .* 8 bits"):
        Scale().apply(image_of(np.full((1, 1, 2, 2), 90, dtype)))


def test_what_was_resampled_on_the_way_is_still_of_the_depth_it_was_stored_in():
    affine = np.eye(4)[:, [2, 1, 0, 3]]
    for dtype, fits in ((np.uint8, True), (np.uint16, False)):
        image = Image(np.full((1, 1, 8, 8), 90, dtype), Grid((1, 8, 8), affine, 2))
        if fits:
            small, _ = prepare(image, [Resample(spacing_mm=(1.0, 2.0, 2.0)), Scale()])
            assert small.array.shape == (1, 1, 4, 4) and small.array.max() == pytest.approx(90 / 255)
        else:
            with pytest.raises(InputError, match="stored as uint16"):
                prepare(image, [Resample(spacing_mm=(1.0, 2.0, 2.0)), Scale()])


def test_a_scale_of_16_bits_refuses_a_picture_of_8():
    assert Scale(divide=4095).apply(image_of(np.full((1, 1, 2, 2), 4095, np.uint16))).array.max() == 1
    with pytest.raises(InputError, match=r"stored as uint8.*16 bits"):
        Scale(divide=4095).apply(image_of(np.full((1, 1, 2, 2), 90, np.uint8)))


def test_steps_that_make_no_sense_are_refused_when_made():
    for make in (lambda: Percentile(low=5, high=5), lambda: Window(3, 1), lambda: Window(0, 1, mean=2), lambda: Scale(divide=0)):
        with pytest.raises(InputError):
            make()


@pytest.mark.parametrize("step", [ZScore(), ZScore(nonzero=True), Percentile(), Window(-100, 200), Scale(divide=40000)])
def test_integers_are_not_blown_up_to_float64(step):
    image = image_of(np.random.default_rng(0).integers(0, 4000, (1, 40, 400, 400)).astype(np.int16))
    tracemalloc.start()
    done = step.apply(image)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert done.array.flags.c_contiguous
    assert peak < done.array.nbytes + 40e6  # the result, and blocks of a million voxels
