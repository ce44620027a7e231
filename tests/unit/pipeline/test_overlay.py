"""The picture shows the patient the right way round, as long as in millimetres, with every structure outlined."""

import io

import numpy as np
import pytest
from PIL import Image as Picture

from vesalius.core.image import Grid, Image, Mask
from vesalius.core.labels import Label, Labels
from vesalius.pipeline.overlay import _beside, _lettered, _slices, overlay

LABELS = Labels((Label(1, "liver", (255, 0, 0)), Label(2, "spleen", (0, 255, 0))))
AXES = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}


def shown(png):
    return np.array(Picture.open(io.BytesIO(png)).convert("RGB")).astype(int)


def patient(code, spacing=(2.0, 1.0, 1.5)):
    """The same patient stored in another orientation: `code` says where axes z, y, x run; spacing is of S, A, R."""
    body = np.zeros((9, 12, 10), np.float32)  # S, A, R
    body[1:8, 1:11, 1:9] = 100
    body[4:7, 6:11, 5:9] = 200
    marks = np.zeros(body.shape, np.uint8)
    marks[4:7, 6:11, 5:9] = 1  # the liver: superior, anterior, on the right
    marks[2, 2:4, 1:3] = 2
    order = ["SAR".index({"I": "S", "P": "A", "L": "R"}.get(c, c)) for c in code]
    turned = tuple(slice(None, None, -1) if c in "IPL" else slice(None) for c in code)
    affine = np.eye(4)
    affine[:3, :3] = 0
    for column, c in enumerate(code):
        row, sign = AXES[c]
        affine[row, column] = sign * spacing[order[column]]
    body, marks = (np.ascontiguousarray(a.transpose(order)[turned]) for a in (body, marks))
    grid = Grid(body.shape, affine)
    assert grid.orientation == code
    return Image(body[None], grid), Mask(marks, grid, LABELS)


@pytest.mark.parametrize("code", ["SAR", "SPL", "IAR", "ARS", "LPS", "RIP"])
def test_every_stored_orientation_shows_the_same_patient(code):
    image, mask = patient(code)
    reference = _slices(*patient("SAR"), patient("SAR")[1])
    for panel, want in zip(_slices(image, mask, mask), reference, strict=True):
        np.testing.assert_array_equal(panel.pixels, want.pixels)
        np.testing.assert_array_equal(panel.labels, want.labels)
        assert panel.spacing == pytest.approx(want.spacing) and panel.letters == want.letters


def test_right_is_on_the_left_anterior_and_superior_are_up():
    axial, coronal, sagittal = _slices(*patient("SPL"), patient("SPL")[1])
    assert [p.letters for p in (axial, coronal, sagittal)] == [tuple("ARPL"[i] for i in (0, 3, 2, 1)), ("S", "L", "I", "R"),
                                                               ("S", "P", "I", "A")]  # fmt: skip
    for panel, down, across in ((axial, "up", "left"), (coronal, "up", "left"), (sagittal, "up", "left")):
        y, x = np.nonzero(panel.labels == 1)  # the liver: anterior, superior, right
        assert (y.mean() < panel.labels.shape[0] / 2) == (down == "up"), panel.title
        assert (x.mean() < panel.labels.shape[1] / 2) == (across == "left"), panel.title


def test_voxels_are_as_long_as_in_millimetres():
    image, mask = patient("SAR", spacing=(4.0, 1.0, 1.0))
    sizes = [n * s for n, s in zip(image.grid.shape, image.grid.spacing, strict=True)]
    width, height = Picture.open(io.BytesIO(overlay(image, mask))).size
    scale = 420 / max(sizes)
    assert abs(width - 32 - scale * (sizes[2] + sizes[2] + sizes[1])) <= 3
    assert abs(height - 42 - scale * max(sizes)) <= 3


def test_outlines_have_the_label_colours_and_the_background_is_untouched():
    grid = Grid((1, 60, 60), None, 2)
    image = Image(np.full((1, 1, 60, 60), 100, np.uint8), grid)
    array = np.zeros((1, 60, 60), np.uint8)
    array[0, 10:30, 10:30], array[0, 35:50, 35:50] = 1, 2
    bare = shown(overlay(image, Mask(np.zeros_like(array), grid, LABELS)))
    drawn = shown(overlay(image, Mask(array, grid, LABELS)))[: bare.shape[0] - 40]
    changed = (drawn != bare[: len(drawn)]).any(axis=2)
    assert (drawn[changed] == (255, 0, 0)).all(axis=1).any() and (drawn[changed] == (0, 255, 0)).all(axis=1).any()
    assert not changed[:, : drawn.shape[1] // 2].any(), "the left panel is the picture itself"
    share = changed.sum() / (drawn.shape[1] / 2) ** 2
    assert 0.9 * (20**2 + 15**2) / 60**2 < share < 1.1 * (20**2 + 15**2) / 60**2


def test_touching_objects_stay_apart():
    grid = Grid((1, 40, 40), None, 2)
    array = np.zeros((1, 40, 40), np.uint16)
    array[0, 5:35, 5:20], array[0, 5:35, 20:35] = 1, 2
    drawn = shown(overlay(Image(np.zeros((1, 1, 40, 40), np.uint8), grid), Mask(array, grid, None, instances=True)))
    row = drawn[drawn.shape[0] // 2, drawn.shape[1] // 2 :]
    assert len(np.unique(row, axis=0)) >= 5, "two fills, two outlines and the background"


@pytest.mark.parametrize("dtype, top", [(np.uint16, 65535), (np.int16, 3000), (np.float32, 1e-3)])
def test_any_range_of_values_is_spread_from_black_to_white(dtype, top):
    grid = Grid((1, 64, 64), None, 2)
    ramp = np.linspace(0, top, 64).astype(dtype)
    drawn = shown(overlay(Image(np.broadcast_to(ramp, (1, 1, 64, 64)).copy(), grid), Mask(np.zeros((1, 64, 64), np.uint8), grid)))
    line = drawn[100, 10:640, 0]
    assert line[0] < 10 and line[-1] > 245 and (np.diff(line) >= -2).all()


def test_a_stated_window_wins_over_percentiles():
    grid = Grid((1, 64, 64), None, 2)
    image = Image(np.full((1, 1, 64, 64), 40, np.int16), grid)
    drawn = shown(overlay(image, Mask(np.zeros((1, 64, 64), np.uint8), grid), window=(-160, 240)))
    assert abs(drawn[100, 100, 0] - 255 / 2) <= 1


def test_what_cannot_be_measured_is_still_drawn():
    empty = np.zeros((4, 5, 6), np.uint8)
    constant = Image(np.ones((1, 4, 5, 6), np.float32), Grid((4, 5, 6)))
    assert shown(overlay(constant, Mask(empty, constant.grid, LABELS))).size
    long = Image(np.zeros((1, 1, 2, 3000), np.uint8), Grid((1, 2, 3000), None, 2))
    assert shown(overlay(long, Mask(np.zeros((1, 2, 3000), np.uint8), long.grid))).size
    with pytest.raises(ValueError, match="does not lie"):
        overlay(constant, Mask(np.zeros((4, 5, 5), np.uint8), Grid((4, 5, 5))))
    assert _beside([Picture.new("RGB", (3, 3))], []).size[0] and _lettered
