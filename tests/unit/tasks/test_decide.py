"""Scores become the labels they stand for, in the order the task names them."""

import numpy as np
import pytest

from vesalius.core.labels import Label, Labels
from vesalius.tasks.catalog import TASKS
from vesalius.tasks.decide import Argmax, Objects, Regions, decide
from vesalius.tasks.task import Inference, ModelSpec, Task, read_task


def scores_of(*channels):
    return np.array(channels, np.float32)[:, None, None, :]  # (K, 1, 1, X)


def test_each_channel_wins_its_own_value_and_background_wins_ties():
    scores = scores_of([2, 0, 0, 1], [0, 2, 0, 1], [0, 0, 2, 1])
    assert decide(scores, Argmax(), (3, 7)).tolist() == [[[0, 3, 7, 0]]]


def test_scores_below_zero_are_compared_too():
    assert decide(scores_of([-3, -1], [-1, -3], [-2, -2]), Argmax(), (1, 2)).tolist() == [[[1, 0]]]


def test_values_above_255_need_sixteen_bits():
    found = decide(scores_of([0], [1]), Argmax(), (300,))
    assert found.dtype == np.uint16 and found.item() == 300


def test_regions_are_painted_in_order_the_later_over_the_earlier():
    scores = scores_of([1, 1, 1, -1], [-1, 1, 1, -1], [-1, -1, 1, -1])  # whole tumour, core, enhancing
    assert decide(scores, Regions(), (2, 1, 4)).tolist() == [[[2, 1, 4, 0]]]


def test_objects_pass_their_thresholds_on():
    scores = np.zeros((2, 1, 16, 16), np.float32)
    scores[0] = -1
    scores[0, 0, 4:12, 4:12] = 1  # probability 0.73
    scores[1, 0, 4:12, 4:12] = 0.5
    assert decide(scores, Objects(), (1,)).max() == 1
    assert decide(scores, Objects(foreground=0.8), (1,)).max() == 0
    assert decide(scores, Objects(min_area_px=65), (1,)).max() == 0


@pytest.mark.parametrize("rule, channels", [(Argmax(), 3), (Regions(), 2), (Objects(), 2)])
def test_a_rule_knows_how_many_channels_it_needs(rule, channels):
    assert rule.channels(2) == channels


@pytest.mark.parametrize("name", sorted(TASKS))
def test_a_shipped_task_survives_its_journey_as_json(name):
    task = TASKS[name]
    assert read_task(task.model_dump_json()) == task
    assert task.model.config["classes"] == task.outputs
    assert task.model.config["in_channels"] == len(task.channels)


def test_a_picture_has_patches_of_one_plane():
    with pytest.raises(ValueError, match="patches"):
        Task(name="t", title="t", dims=2, channels=("grey",), labels=Labels((Label(1, "a"),)), steps=(),
             model=ModelSpec(name="unet"), inference=Inference(patch=(8, 32, 32)))  # fmt: skip
