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


@pytest.mark.parametrize("wrong", [{"most_change": 1.0}, {"margin": -0.1}, {"carry": "point"}])
def test_options_that_mean_nothing_are_refused(wrong):
    with pytest.raises(InputError):
        PropagateOptions(**wrong)
