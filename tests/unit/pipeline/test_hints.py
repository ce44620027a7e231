"""The shape that sections suggest: it passes through them, changes from one to the next, and closes beyond the last."""

import numpy as np
import pytest

from vesalius.pipeline.hints import known_layers, shaped, signed_distance


def disc(radius, size=24):
    y, x = np.mgrid[:size, :size] + 0.5 - size / 2
    return np.hypot(y, x) < radius


def test_the_distance_is_positive_within_and_half_a_cell_beside_the_outline():
    distance = signed_distance(disc(6))
    assert np.array_equal(distance > 0, disc(6))
    assert distance[12, 12] > 4.5 and distance[12, 17] == 0.5 and distance[12, 18] == -0.5


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_between_two_sections_the_outline_moves_from_the_one_to_the_other(axis):
    sections = {4: signed_distance(disc(8)), 12: signed_distance(disc(4))}
    areas = np.moveaxis((shaped(sections, axis, 24) > 0).numpy(), axis, 0).sum((1, 2))
    assert areas[4] == disc(8).sum() and areas[12] == disc(4).sum()
    assert (np.diff(areas[4:13]) <= 0).all() and abs(areas[8] - disc(6).sum()) < 12


def test_beyond_the_last_section_the_shape_closes():
    areas = (shaped({10: signed_distance(disc(5))}, 0, 24) > 0).numpy().sum((1, 2))
    assert areas.argmax() == 10 and (np.diff(areas[10:]) <= 0).all() and areas[0] == areas[-1] == 0
    assert 8 < (areas > 0).sum() < 20


def test_an_empty_section_is_nowhere():
    assert (shaped({3: signed_distance(np.zeros((24, 24), bool))}, 0, 24) < 0).all()


def test_known_layers_say_where_the_object_is_and_where_not_and_nothing_of_the_others():
    known = known_layers({7: disc(5)}, 1, 24).numpy()
    assert np.array_equal(known[:, 7] > 0, disc(5)) and np.array_equal(known[:, 7] < 0, ~disc(5))
    assert not np.delete(known, 7, 1).any()
