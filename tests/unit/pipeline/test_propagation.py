"""Each mask prompts for the next: with its logits and the box around it, x before y, as long as the model trusts it."""

import numpy as np
import pytest
import torch

from vesalius.core.errors import InputError
from vesalius.pipeline.looks import Proposals
from vesalius.pipeline.propagation import PropagateOptions, Seen, propagate

START = np.full((20, 30), -1.0, np.float32)
START[4:8, 10:20] = 1.0


class Echo:
    """Answers every prompt with the mask it was given, and notes what it was asked."""

    def __init__(self, iou=0.9):
        self.iou, self.asked = iou, []

    def ask(self, asked, *, multimask):
        self.asked.append(asked)
        return Proposals(torch.tensor([[self.iou]]), asked.states[:, None])

    def full(self, state):
        return state


def seed(scale=1.0):
    return Seen(START * scale, torch.from_numpy(START * scale), 0.9)


def test_the_next_slice_is_asked_with_the_last_mask_and_the_box_around_it():
    echo = Echo()
    propagate(lambda index: echo, {0: seed()}, (0, 2), PropagateOptions(margin=0.1))
    (asked,) = echo.asked
    assert asked.boxes.tolist() == [[9.0, 3.6, 21.0, 8.4]]
    assert torch.equal(asked.states[0], torch.from_numpy(START))


def test_it_runs_both_ways_within_its_reach_and_stops_without_trust():
    looks = {index: Echo(0.9 if index != 5 else 0.4) for index in range(10)}
    found = propagate(looks.__getitem__, {3: seed()}, (1, 9))
    assert sorted(found) == [1, 2, 3, 4] and not looks[0].asked and not looks[6].asked


def test_between_two_prompts_the_nearer_one_weighs_more():
    found = propagate(lambda index: Echo(), {0: seed(1.0), 4: seed(2.0)}, (0, 6))
    inside = [float(found[index][5, 15]) for index in range(6)]
    assert inside == pytest.approx([1.0, 0.75 * 1 + 0.25 * 2, 1.5, 0.25 * 1 + 0.75 * 2, 2.0, 2.0])


def test_where_one_of_two_walks_is_lost_the_other_counts_in_full():
    looks = {index: Echo(0.9 if index < 9 else 0.1) for index in range(11)}
    found = propagate(looks.__getitem__, {0: seed(), 10: seed()}, (0, 11))
    assert sorted(found) == [*range(9), 10] and {float(found[index][5, 15]) for index in found} == {1.0}


def test_a_mask_or_its_box_goes_on_alone_where_that_suits_the_model():
    for carry, boxes, states in (("mask", False, True), ("both", True, True)):
        echo = Echo()
        propagate(lambda index, echo=echo: echo, {0: seed()}, (0, 2), PropagateOptions(carry=carry))
        (asked,) = echo.asked
        assert (asked.boxes is not None, asked.states is not None) == (boxes, states)


class Filler(Echo):
    """Fills whatever box it is given."""

    def ask(self, asked, *, multimask):
        logits = torch.full((1, 1, 20, 30), -1.0)
        x0, y0, x1, y1 = asked.boxes[0].round().astype(int)
        logits[0, 0, y0:y1, x0:x1] = 1.0
        return Proposals(torch.tensor([[self.iou]]), logits)


class Rows(Echo):
    """Finds so many rows of ten pixels, whatever it is asked."""

    def __init__(self, rows):
        super().__init__()
        self.rows = rows

    def ask(self, asked, *, multimask):
        logits = torch.full((1, 1, 20, 30), -1.0)
        logits[0, 0, : self.rows, :10] = 1.0
        return Proposals(torch.tensor([[self.iou]]), logits)


@pytest.mark.parametrize(("rows", "reached"), [([4, 8, 5], 3), ([4, 2, 1], 3), ([4, 9, 5], 1), ([4, 1, 4], 1), ([4, 0, 4], 1)])
def test_a_mask_that_leaps_from_one_slice_to_the_next_is_not_followed(rows, reached):
    looks = dict(enumerate(map(Rows, rows)))
    assert len(propagate(looks.__getitem__, {0: seed()}, (0, 3))) == reached  # it may double or halve


def test_a_mask_that_outgrows_what_was_prompted_is_not_followed():
    found = propagate(lambda index: Filler(), {0: seed()}, (0, 20), PropagateOptions(margin=0.15, most_change=3))
    areas = [np.count_nonzero(found[index] > 0) for index in sorted(found)]
    assert areas[0] == 40 and max(areas) <= 160 and 2 < len(areas) < 10
    on = propagate(lambda index: Filler(), {0: seed()}, (0, 20), PropagateOptions(margin=0.15, most_change=3, most_growth=100))
    assert len(on) == 20 and np.count_nonzero(on[19] > 0) == 600  # the whole picture


@pytest.mark.parametrize(
    "wrong", [{"most_change": 1.0}, {"most_growth": 1.0}, {"most_change": float("nan")}, {"margin": -0.1}, {"carry": "point"}]
)
def test_options_that_mean_nothing_are_refused(wrong):
    with pytest.raises(InputError):
        PropagateOptions(**wrong)
