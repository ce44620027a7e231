"""A click corrects the mask that is there: the model sees its last answer, and every step can be taken back exactly."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from flood import Flood, FloodPrompter
from specimens import save_tiny_sam

from vesalius.core.errors import GeometryError, InputError
from vesalius.core.image import Grid, Image
from vesalius.pipeline.prompter import load_prompter
from vesalius.pipeline.session import Session


def picture() -> Image:
    grey = np.full((30, 50), 20, np.uint8)
    grey[12:26, 5:15], grey[16:20, 8:12], grey[4:9, 30:47] = 150, 250, 200
    return Image(grey[None, None], Grid((1, 30, 50), dims=2))


class Watched(Flood):
    """It notes what it is asked."""

    def __init__(self, picture, asked):
        super().__init__(picture)
        self.noted = asked

    def ask(self, asked, *, multimask):
        self.noted.append(asked)
        return super().ask(asked, multimask=multimask)


@dataclass
class WatchedPrompter(FloodPrompter):
    refines: bool = True
    asked: list = field(default_factory=list)

    def look(self, picture, cache=None):
        return Watched(picture, self.asked)


def test_a_click_is_asked_with_the_last_answer_and_all_that_was_said():
    one = Session(picture(), WatchedPrompter(), cache=False)
    first = one.add(box=(5, 12, 15, 26))
    one.add(points=[(9, 17)], labels=[0])
    third = one.add(points=[(31, 5)])
    asked = one.prompter.asked
    assert asked[0].states is None
    assert np.array_equal(asked[1].states[0] > 0, first) and asked[1].boxes.tolist() == [[5, 12, 15, 26]]
    assert asked[2].points.tolist() == [[[9, 17], [31, 5]]] and asked[2].labels.tolist() == [[0, 1]]
    assert np.array_equal(one.current(), third) and len(asked) == 3


def test_what_is_undone_is_forgotten_and_redone_without_asking():
    one = Session(picture(), WatchedPrompter(), cache=False)
    steps = [one.add(box=(5, 12, 15, 26)), one.add(points=[(9, 17)], labels=[0]), one.add(points=[(31, 5)])]
    count = len(one.prompter.asked)
    assert np.array_equal(one.undo(), steps[1]) and np.array_equal(one.undo(), steps[0])
    assert np.array_equal(one.redo(), steps[1]) and np.array_equal(one.redo(), steps[2])
    assert np.array_equal(one.undo(), steps[1]) and len(one.prompter.asked) == count
    again = one.add(points=[(31, 5)])
    assert np.array_equal(one.prompter.asked[-1].states[0] > 0, steps[1]) and np.array_equal(again, steps[2])


def test_a_new_box_or_a_mask_begins_anew():
    one = Session(picture(), WatchedPrompter(), cache=False)
    one.add(points=[(9, 17)])
    one.add(box=(5, 12, 15, 26))
    assert one.prompter.asked[1].states is None and one.prompter.asked[1].points.tolist() == [[[9, 17]]]
    mask = np.zeros((30, 50), bool)
    mask[5:8, 31:40] = True
    one.add(mask=mask)
    assert np.array_equal(one.prompter.asked[2].states[0] > 0, mask)


def test_a_model_that_never_learned_it_is_not_shown_its_answer():
    one = Session(picture(), WatchedPrompter(refines=False), cache=False)
    one.add(box=(5, 12, 15, 26))
    one.add(points=[(9, 17)], labels=[0])
    assert one.prompter.asked[1].states is None


def test_each_slice_has_its_own_answer_and_propagation_begins_with_them():
    grey = np.repeat(picture().array, 5, axis=1)
    one = Session(Image(grey, Grid((5, 30, 50))), WatchedPrompter(), cache=False)
    one.add(box=(5, 12, 15, 26), slice=1)
    one.add(box=(5, 12, 15, 26), slice=3)
    assert one.prompter.asked[1].states is None
    both = one.add(points=[(9, 17)], labels=[0], slice=1)
    assert len(one.prompter.asked) == 3
    assert np.array_equal(one.prompter.asked[2].states[0] > 0, one.predict(box=(5, 12, 15, 26), slice=1)[1])
    assert both[1].sum() < both[3].sum()
    through = one.propagate()
    assert np.array_equal(through[1], both[1]) and np.array_equal(through[3], both[3])


def test_a_click_in_three_dimensions_corrects_its_own_slice_and_leaves_the_answers_of_others():
    grey = np.repeat(picture().array, 5, axis=1)
    one = Session(Image(grey, Grid((5, 30, 50))), WatchedPrompter(), cache=False)
    one.add(box=(5, 12, 15, 26), slice=1)
    first = one.add(points=[(9, 17)], labels=[0], slice=1)
    asked = one.prompter.asked
    asked.clear()
    other = one.add(points=[(9, 17, 3)], labels=[0])
    assert np.array_equal(other[1], first[1])
    assert not any(each.boxes is not None and each.boxes.tolist() == [[5, 12, 15, 26]] for each in asked)  # not said again
    asked.clear()
    same = one.add(points=[(31, 5, 1)])
    assert asked[0].points.tolist() == [[[9, 17], [31, 5]]] and np.array_equal(asked[0].states[0] > 0, first[1])
    assert same[1, 5, 31] and not same[1, 17, 9]
    assert np.array_equal(one.undo(), other) and np.array_equal(one.undo(), first)
    one.redo()
    asked.clear()
    assert one.add(points=[(40, 5)], slice=1)[1, 5, 40]
    assert asked[0].points.tolist() == [[[9, 17], [40, 5]]] and asked[0].states is not None


def test_a_refused_click_leaves_the_answer():
    one = Session(picture(), WatchedPrompter(), cache=False)
    first = one.add(box=(5, 12, 15, 26))
    with pytest.raises(GeometryError):
        one.add(points=[(50, 3)])
    assert np.array_equal(one.current(), first) and len(one._steps) == 1


def tiny(kind, tmp_path):
    if kind == "sam":
        return load_prompter(save_tiny_sam(tmp_path / "sam.safetensors"))
    from vesalius.models.catalog import CATALOG
    from vesalius.models.mini import Mini
    from vesalius.pipeline.glancer import GlancePrompter

    torch.manual_seed(0)
    model = Mini(CATALOG["vesalius_mini"].tiny[0]).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return GlancePrompter("mini", model, "0")


@pytest.mark.parametrize("kind", ["sam", "vesalius_mini"])
def test_networks_take_their_own_answers(kind, tmp_path):
    one = Session(picture(), tiny(kind, tmp_path), cache=False)
    assert one.prompter.refines
    first = one.add(box=(5, 12, 15, 26))
    second = one.add(points=[(9, 17)], labels=[0])
    fed = one._steps[-1].answers
    alone = one.predict(points=[(9, 17)], labels=[0], box=(5, 12, 15, 26), details=True)
    plane, (state, _) = next(iter(fed.items()))
    assert np.abs(one.look(plane).full(state[None])[0].numpy() - alone.logits[0]).max() > 1e-3  # the answer before was heard
    assert np.array_equal(one.undo(), first) and np.array_equal(one.redo(), second)


def test_medsam_learned_boxes_alone():
    from vesalius.models.checkpoints import CHECKPOINTS

    assert {name: (entry.learned, entry.rates) for name, entry in CHECKPOINTS.items() if len(entry.learned) < 3} == {
        "medsam": (("boxes",), False)
    }


def boxes_alone(**rest):
    return WatchedPrompter(name="medsam", refines=False, learned=("boxes",), **rest)


def test_prompts_that_a_model_never_learned_are_refused_and_change_nothing():
    one = Session(picture(), boxes_alone(), cache=False)
    first = one.add(box=(5, 12, 15, 26))
    for ask in (
        lambda: one.add(points=[(9, 17)], labels=[0]),
        lambda: one.predict(points=[(9, 17)]),
        lambda: one.predict(mask=np.ones((30, 50), bool)),
        one.everything,
    ):
        with pytest.raises(InputError, match=r"'medsam' never learned (points|masks): it was trained with boxes alone"):
            ask()
    assert np.array_equal(one.current(), first) and len(one.prompter.asked) == 1


def test_a_model_that_never_learned_masks_goes_on_by_the_box_and_stops_by_area_where_it_never_learned_to_rate(monkeypatch):
    grey = np.zeros((1, 7, 30, 50), np.uint8)
    for z in range(6):
        grey[0, z, 8:18, 5 + z : 25 + z] = 200
    image, seed = Image(grey, Grid((7, 30, 50))), {"box": (8, 8, 28, 18), "slice": 3}
    one = Session(image, boxes_alone(rates=False), cache=False)
    monkeypatch.setattr("flood.TRUST", (-5.0, 0.0, 0.0))  # an IoU head that was not trained says anything
    one.add(**seed)
    assert np.array_equal(one.propagate(), grey[0] > 0)
    asked = one.prompter.asked
    assert len(asked) == 7 and all(each.states is None and each.points is None for each in asked)
    assert np.allclose(asked[1].boxes, [[7.4, 7.7, 28.6, 18.3]])  # 0.03 of the mask's sides around it
    assert one.propagate(least_iou=0.5)[[2, 4]].sum() == 0  # who asks for it gets it
    rated = Session(image, boxes_alone(rates=True), cache=False)
    rated.add(**seed)
    assert rated.propagate().any((1, 2)).tolist() == [z == 3 for z in range(7)]
