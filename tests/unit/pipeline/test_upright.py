"""A model that knows how organs lie sees them upright, and is told and answers the same, however the volume is stored."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from flood import FloodPrompter

from vesalius.core.image import Grid, Image
from vesalius.core.prompts import ObjectPrompt
from vesalius.pipeline.cubes import Cube
from vesalius.pipeline.session import Session
from vesalius.pipeline.solids import Found, SolidPrompter
from vesalius.pipeline.upright import Upright

SHAPE, SPACING = (9, 14, 11), (3.0, 1.0, 2.0)  # along S, A, R
FIELD = np.random.default_rng(0).integers(0, 90, SHAPE).astype(np.uint8)
FIELD[2:6, 3:12, 4:8] = 200
ANSWER = torch.from_numpy(np.random.default_rng(1).normal(size=(8, 8, 8))).float()


@dataclass(frozen=True, eq=False)
class Listener(SolidPrompter):
    """Notes what it is shown and told, and answers with noise that has no symmetry."""

    heard: list = field(default_factory=list)

    def find(self, volume, voxel, told):
        self.heard.append((volume, voxel, told))
        return Found(ANSWER, 0.9, Cube(np.array([4.0, 8.0, 5.5]), np.array([4.0, 12.0, 6.0])))


def stored(codes):
    """The field stored along `codes`, such as 'LPI' for (z, y, x), and what turns an array (S, A, R) so."""
    axes, signs = [next(i for i, pair in enumerate(("SI", "AP", "RL")) if c in pair) for c in codes], [c in "SAR" for c in codes]
    turn = lambda array: array.transpose(axes)[tuple(slice(None, None, 1 if sign else -1) for sign in signs)]  # noqa: E731
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for column, (axis, sign) in enumerate(zip(axes, signs, strict=True)):
        affine[2 - axis, column] = SPACING[axis] * (1 if sign else -1)
    array = np.ascontiguousarray(turn(FIELD))
    return Image(array[None], Grid(array.shape, affine)), turn


def box_of(mask):
    places = [np.flatnonzero(mask.any(tuple(i for i in range(3) if i != axis))) for axis in (2, 1, 0)]
    return (*(float(each[0]) for each in places), *(float(each[-1] + 1) for each in places))


def spoken(codes):
    """What the listener hears of a box and a click, of a mask, and of a box on a slice; and the answers, turned to (S, A, R)."""
    image, turn = stored(codes)
    listener, mask, click = Listener("ear", None, "none"), turn(FIELD == 200), np.zeros(SHAPE, bool)
    click[3, 5, 6] = True
    point = tuple(float(v[0]) for v in np.nonzero(turn(click))[::-1])
    session = Session(image, FloodPrompter(), cache=False, sibling=listener)
    axis = next(i for i, letter in enumerate(image.grid.orientation) if letter in "AP")
    index = int(np.nonzero(turn(click))[axis][0])
    box = box_of(mask)
    flat = [box[corner * 3 + i] for corner in (0, 1) for i in range(3) if i != 2 - axis]
    prompts = [
        ObjectPrompt(points=(point,), box=box), ObjectPrompt(mask=mask),
        ObjectPrompt(box=flat, slice=index, axis="coronal"),
    ]  # fmt: skip
    answers = [session.follow([prompt]).mask(image.grid) for prompt in prompts]
    upright = Upright.of(image.grid)
    return listener.heard, [upright.volume(answer) for answer in answers]


@pytest.mark.parametrize("codes", ["SAR", "IPL", "RAS", "LSP", "ARI", "PIR"])
def test_what_is_seen_told_and_answered_does_not_depend_on_how_it_is_stored(codes):
    (wanted, answers), (heard, found) = spoken("SAR"), spoken(codes)
    for (volume, voxel, told), (known_volume, known_voxel, known) in zip(heard, wanted, strict=True):
        assert np.array_equal(volume, known_volume) and np.array_equal(volume, FIELD) and np.array_equal(voxel, known_voxel)
        assert told.axis == known.axis and np.array_equal(told.points, known.points)
        assert (told.box is None) == (known.box is None)
        assert told.box is None or np.array_equal(np.stack(told.box), np.stack(known.box))
        assert told.sections.keys() == known.sections.keys()
        assert all(np.array_equal(told.sections[index], known.sections[index]) for index in known.sections)
        assert (told.mask is None) == (known.mask is None)
        assert told.mask is None or np.array_equal(told.mask, known.mask)
    assert all(map(np.array_equal, found, answers)) and answers[0].any()


def test_a_volume_that_does_not_say_how_it_lies_stays_as_stored():
    upright = Upright.of(Grid(SHAPE))
    assert np.array_equal(upright.volume(FIELD), FIELD) and not any(upright.turned)
