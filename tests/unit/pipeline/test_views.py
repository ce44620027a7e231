"""What a model is shown: one slice, 8 bits, through a window that is said."""

from dataclasses import replace

import numpy as np
import pytest

from vesalius.core.errors import ChannelError, InputError
from vesalius.core.greys import GreyRule
from vesalius.core.image import Grid, Image
from vesalius.core.prompts import Plane
from vesalius.pipeline.views import View

RULE = GreyRule(0.0, 100.0)


def image(values: np.ndarray) -> Image:
    return Image(values, Grid(values.shape[1:], dims=2 if values.shape[1] == 1 else 3))


def test_a_window_spreads_its_grey_values_from_black_to_white_and_clips_the_rest():
    ct = image(np.array([-1000, -160, 40, 240, 3000], np.int16).reshape(1, 1, 1, 5))
    view = View.of(ct, (-160, 240), RULE)
    assert view.picture(Plane(0, 0))[0].tolist() == [[v] * 3 for v in (0, 0, 128, 255, 255)]
    assert view.rule == "window -160 to 240, as given"


def test_without_a_window_eight_bits_stay_and_sixteen_follow_the_percentiles_of_the_whole_image():
    eight = image(np.arange(24, dtype=np.uint8).reshape(1, 2, 3, 4))
    assert np.array_equal(View.of(eight, None, RULE).picture(Plane(0, 1))[..., 1], eight.array[0, 1])
    deep = image(np.arange(24, dtype=np.uint16).reshape(1, 2, 3, 4) * 100)
    shown = View.of(deep, None, RULE).picture(Plane(0, 1))  # the brighter half: not stretched by itself
    assert shown.min() == round(1200 / 2300 * 255) and shown.max() == 255
    assert View.of(deep, None, RULE).picture(Plane(2, 0)).shape == (2, 3, 3)


def test_colours_stay_and_a_constant_image_is_black():
    colours = image(np.arange(36, dtype=np.uint8).reshape(3, 1, 3, 4))
    assert np.array_equal(View.of(colours, None, RULE).picture(Plane(0, 0)), colours.array[:, 0].transpose(1, 2, 0))
    assert not View.of(image(np.full((1, 1, 3, 4), 7.0, np.float32)), None, RULE).picture(Plane(0, 0)).any()
    yes_or_no = np.arange(12).reshape(1, 1, 3, 4) % 2 > 0
    assert np.array_equal(View.of(image(yes_or_no), None, RULE).picture(Plane(0, 0))[..., 0], 255 * yes_or_no[0, 0])


def test_a_few_bright_pixels_in_the_dark_are_seen():
    sparse = np.zeros((1, 1, 50, 50), np.uint16)
    sparse[0, 0, 3, 4:8] = 4000
    view = View.of(image(sparse), None, GreyRule())
    assert np.array_equal(view.picture(Plane(0, 0))[..., 0] == 255, sparse[0, 0] > 0) and "0 to 4000" in view.rule


def test_an_image_of_two_channels_is_refused():
    with pytest.raises(ChannelError, match="2 channels"):
        View.of(image(np.zeros((2, 1, 3, 4), np.uint8)), None, RULE)


def test_three_volumes_are_no_colours_unless_that_is_said():
    values = np.random.default_rng(0).normal(size=(3, 4, 5, 6)).astype(np.float32)
    several = Image(values, Grid((4, 5, 6)))
    for each in (several, replace(several, array=(values > 0).astype(np.uint8))):
        with pytest.raises(ChannelError, match="3 channels, and nothing says that they are colours"):
            View.of(each, None, RULE)
    assert View.of(replace(several, channels=("red", "green", "blue")), None, RULE).picture(Plane(0, 0)).shape == (5, 6, 3)


def test_what_is_no_number_is_refused_as_readers_do():
    for odd in (np.nan, np.inf):
        values = np.ones((1, 1, 3, 4), np.float32)
        values[0, 0, 1, 2] = odd
        for window in (None, (0, 2)):
            with pytest.raises(InputError, match="NaN or infinity"):
                View.of(image(values), window, RULE)


def test_weights_may_window_ct_and_count_the_values_above_zero_alone():
    rule = GreyRule(0.0, 100.0, positive=True, window_hu=(-160, 240))
    values = np.array([0, 0, 0, 5, 20, 10], np.float32).reshape(1, 1, 2, 3)
    mr = View.of(image(values), None, rule)
    assert mr.limits == (5.0, 20.0) and mr.rule == "percentiles 0 and 100 of the values above 0: 5 to 20"
    ct = View.of(replace(image(values), units="HU"), None, rule)
    assert ct.limits == (-160, 240) and ct.rule == "window -160 to 240 HU, as the weights learned it"
    assert View.of(replace(image(values), units="HU"), (0, 80), rule).limits == (0, 80)  # the user's has the last word
    assert View.of(image(-values), None, rule).rule.startswith("percentiles 0 and 100 of the image")  # no empty background
    assert not View.of(image(np.zeros((1, 1, 2, 3), np.float32)), None, rule).picture(Plane(0, 0)).any()
