"""A session answers on exactly the pixels asked about, remembers what was said, and says clearly what it cannot do."""

from collections import OrderedDict

import numpy as np
import pytest
from flood import Flood, FloodPrompter

from vesalius.core.errors import GeometryError, InputError
from vesalius.core.image import Grid, Image, Mask
from vesalius.core.prompts import ObjectPrompt, Plane
from vesalius.io.files import write
from vesalius.pipeline.session import Session

ask = Flood.ask


def picture() -> Image:
    """30 rows by 50 columns, black: two bright patches, the second with a brighter core."""
    grey = np.zeros((30, 50), np.uint8)
    grey[4:9, 30:47] = 200
    grey[12:26, 5:15] = 150
    grey[16:20, 8:12] = 250
    return Image(grey[None, None], Grid((1, 30, 50), dims=2))


def session(image=None, **rest) -> Session:
    return Session(image or picture(), FloodPrompter(), cache=False, **rest)


def patch(rows, columns, shape=(30, 50)):
    mask = np.zeros(shape, bool)
    mask[rows, columns] = True
    return mask


UPPER, LOWER, CORE = patch(slice(4, 9), slice(30, 47)), patch(slice(12, 26), slice(5, 15)), patch(slice(16, 20), slice(8, 12))


def test_a_click_selects_what_lies_under_x_and_y_and_not_under_y_and_x():
    assert np.array_equal(session().predict(points=[(40, 5)]), UPPER)
    with pytest.raises(GeometryError, match="outside"):
        session().predict(points=[(5, 40)])  # the same click, transposed, lies below the picture


def test_the_far_sides_of_a_box_are_exclusive():
    assert np.array_equal(session().predict(box=(30, 4, 47, 9)), UPPER)
    assert np.array_equal(session().predict(box=(31, 5, 46, 8)), patch(slice(5, 8), slice(31, 46)))
    assert session().predict(box=(0, 0, 50, 30)).sum() == (UPPER | LOWER).sum()


def test_a_click_beside_the_object_takes_its_patch_away():
    assert np.array_equal(session().predict(box=(5, 12, 15, 26), points=[(9, 17)], labels=[0]), LOWER & ~CORE)


def test_a_lone_click_is_answered_by_the_best_of_three_and_anything_else_by_one():
    one = session()
    assert one.predict(points=[(9, 17)], details=True).masks.shape == (3, 30, 50)
    assert one.predict(points=[(9, 17), (6, 13)], details=True).masks.shape == (1, 30, 50)
    assert one.predict(box=(5, 12, 15, 26), multimask=True, details=True).scores.tolist() == pytest.approx([0.9, 0.8, 0.7])
    assert np.array_equal(one.predict(points=[(9, 17)]), CORE)


def test_the_image_is_looked_at_once():
    one = session()
    for x in (31, 40, 46):
        one.predict(points=[(x, 5)])
    assert one.prompter.looks == 1


def test_prompts_add_up_and_are_taken_back_one_by_one():
    one = session()
    one.add(box=(5, 12, 15, 26))
    one.add(points=[(9, 17)], labels=[0])
    both = one.add(points=[(31, 5)])
    assert np.array_equal(both, (LOWER & ~CORE) | UPPER)
    assert np.array_equal(one.undo(), LOWER & ~CORE)
    assert np.array_equal(one.undo(), LOWER)
    assert np.array_equal(one.redo(), LOWER & ~CORE)
    assert np.array_equal(one.add(points=[(31, 5)]), both)
    with pytest.raises(InputError, match="nothing to redo"):
        one.redo()


def test_before_the_first_prompt_there_is_an_empty_mask_and_nothing_to_undo():
    one = session()
    one.add(box=(5, 12, 15, 26))
    assert not one.undo().any()
    with pytest.raises(InputError, match="nothing to undo"):
        one.undo()


def test_a_refused_prompt_changes_nothing():
    one = session()
    one.add(box=(5, 12, 15, 26))
    with pytest.raises(GeometryError):
        one.add(points=[(50, 3)])
    assert np.array_equal(one.current(), LOWER)


def test_a_mask_is_a_prompt_and_must_be_as_large_as_the_image():
    assert np.array_equal(session().predict(mask=patch(slice(13, 25), slice(6, 14))), LOWER)
    with pytest.raises(GeometryError, match="not as large"):
        session().predict(mask=np.ones((50, 30), bool))


def test_sixteen_bits_are_windowed_by_the_rule_that_the_session_states():
    deep = Image(picture().array.astype(np.uint16) * 16, picture().grid)
    assert session(deep).view.rule == "percentiles 0 and 100 of the image: 0 to 4000"
    assert np.array_equal(session(deep).predict(box=(30, 4, 47, 9)), UPPER)
    assert session(deep, window=(0, 20000)).predict(box=(30, 4, 47, 9)).sum() == 0  # 3200 of 20000 is dark
    with pytest.raises(InputError, match="window must rise"):
        session(deep, window=(5, 5))


@pytest.mark.parametrize(
    "prompt, words",
    [
        ({}, "nothing is prompted"),
        ({"points": []}, "nothing is prompted"),
        ({"points": [(1, float("nan"))]}, "nan"),
        ({"points": [(1, float("inf"))]}, "inf"),
        ({"points": [(1, 2)], "labels": [2]}, "neither 1 nor 0"),
        ({"points": [(1, 2)], "labels": [1, 0]}, "1 points have 2 labels"),
        ({"points": [(-1, 2)]}, "outside"),
        ({"points": [(1, 30)]}, "outside"),
        ({"points": [(1, 2, 3)]}, "three dimensions"),
        ({"points": "12"}, "no list"),
        ({"points": [1, 2]}, "no list of numbers"),
        ({"box": (5, 5, 5, 9)}, "reversed or empty"),
        ({"box": (9, 5, 5, 9)}, "reversed or empty"),
        ({"box": (5, 5, 51, 9)}, "outside"),
        ({"box": (5, 5, 9)}, "4 or 6 numbers"),
        ({"box": (0, 0, 9, 9, 9, 9)}, "reversed or empty"),
        ({"box": (0, 0, 0, 9, 9, 1)}, "three dimensions"),
        ({"box": (0, 0, float("nan"), 9)}, "nan"),
        ({"text": "the liver"}, "no words"),
        ({"text": " "}, "empty"),
        ({"points": [(1, 2)], "slice": 3}, "no slices"),
        ({"points": [(1, 2)], "axis": "axial"}, "no slices"),
        ({"points": [(1, 2)], "axis": "axail"}, "axis"),
    ],
)
def test_a_bad_prompt_is_refused_in_one_line(prompt, words):
    with pytest.raises(InputError) as refusal:
        session().predict(**prompt)
    assert words in str(refusal.value) and "\n" not in str(refusal.value)


def volume(orientation: str) -> Image:
    """A block of 4 x 6 x 8 voxels (axial, coronal, sagittal) in 12 x 14 x 16; `orientation` says how (z, y, x) are stored."""
    anatomy = np.full((12, 14, 16), 20, np.uint8)
    anatomy[5:9, 4:10, 3:11] = 200  # superior, anterior, right
    affine = np.eye(4)[:, [2, 1, 0, 3]]  # columns z, y, x; rows R, A, S
    order = ["SI", "AP", "RL"]
    axes = [next(i for i, pair in enumerate(order) if letter in pair) for letter in orientation]
    signs = [1 if letter in "SAR" else -1 for letter in orientation]
    array = anatomy.transpose(axes)[tuple(slice(None, None, sign) for sign in signs)]
    columns = [affine[:, axis] * sign for axis, sign in zip(axes, signs, strict=True)]
    return Image(np.ascontiguousarray(array)[None], Grid(array.shape, np.stack([*columns, affine[:, 3]], axis=1)))


@pytest.mark.parametrize("orientation", ["SAR", "SPL", "RSA", "ARS", "PIL"])
def test_slices_are_found_by_their_anatomical_name_however_the_volume_is_stored(orientation):
    image = volume(orientation)
    one = session(image)
    truth = image.array[0] == 200
    for name, letters in (("axial", "SI"), ("coronal", "AP"), ("sagittal", "RL")):
        house = next(i for i, letter in enumerate(image.grid.orientation) if letter in letters)
        z, y, x = np.argwhere(truth)[len(np.argwhere(truth)) // 2]
        index = (z, y, x)[house]
        rest = [(x, y, z)[i] for i in range(3) if i != 2 - house]  # along the stored axes i, j, k, without the sliced one
        found = one.predict(points=[tuple(rest)], slice=int(index), axis=name)
        expected = np.zeros_like(truth)
        slicer = tuple(index if i == house else slice(None) for i in range(3))
        expected[slicer] = truth[slicer]
        assert found.shape == truth.shape and np.array_equal(found, expected), name


def test_a_slice_that_is_not_there_or_not_named_is_refused():
    image = volume("SAR")
    with pytest.raises(InputError, match="Count from 0 to 11"):
        session(image).predict(points=[(4, 5)], slice=12)
    with pytest.raises(InputError, match="needs its slice"):
        session(image).predict(points=[(4, 5)])
    with pytest.raises(GeometryError, match="outside the slice"):
        session(image).predict(points=[(4, 14)], slice=3)
    nowhere = Image(image.array, Grid(image.grid.shape))
    with pytest.raises(InputError, match="nobody knows"):
        session(nowhere).predict(points=[(4, 5)], slice=3, axis="coronal")


@pytest.mark.parametrize("orientation", ["SAR", "RSA", "ARS"])
def test_a_prompt_on_one_slice_runs_through_the_object_and_no_further(orientation):
    image = volume(orientation)
    truth, one = image.array[0] == 200, session(image)
    places = np.argwhere(truth)
    low, high = places.min(0), places.max(0) + 1
    for name, letters in (("axial", "SI"), ("sagittal", "RL")):
        house = next(i for i, letter in enumerate(image.grid.orientation) if letter in letters)
        along = 2 - house
        box = [float(corner[::-1][i]) for corner in (low, high) for i in range(3) if i != along]
        one.clear()
        one.add(box=box, slice=int(low[house]) + 1, axis=name)
        assert np.array_equal(one.propagate(), truth), name


@pytest.mark.parametrize("orientation", ["SAR", "RSA", "ARS"])  # axial slices along k, j and i
def test_prompts_in_three_dimensions_follow_the_stored_axes(orientation):
    image = volume(orientation)
    truth = image.array[0] == 200
    places = np.argwhere(truth)
    low, high = places.min(0)[::-1], places.max(0)[::-1] + 1
    one = session(image)
    assert np.array_equal(one.predict(box=(*low, *high)), truth)
    assert np.array_equal(one.predict(points=[tuple(low + 1)]), truth)
    along = 2 - orientation.index("S")
    shorter = high - (np.arange(3) == along)
    assert one.predict(box=(*low, *shorter)).sum() == truth.sum() * 3 // 4  # one of four axial slices less
    with pytest.raises(GeometryError, match="outside the volume"):
        one.predict(box=(0, 0, 0, *(np.array(image.grid.shape[::-1]) + 1)))


def test_propagation_stops_where_the_area_jumps():
    grey = np.zeros((6, 20, 20), np.uint8)
    grey[:4, 5:10, 5:10] = 200
    grey[4:, 5:8, 5:8] = 200  # a third of the area: another thing
    one = session(Image(grey[None], Grid(grey.shape)))
    one.add(points=[(6, 6)], slice=1)
    assert one.propagate().any(axis=(1, 2)).tolist() == [True] * 4 + [False] * 2
    assert one.propagate(most_change=3).any(axis=(1, 2)).all()


def test_prompts_on_several_slices_are_one_object():
    image = volume("SAR")
    truth, one = image.array[0] == 200, session(image)
    one.add(box=(3, 4, 11, 10), slice=5)
    two = one.add(box=(3, 4, 11, 10), slice=8)
    assert np.array_equal(np.flatnonzero(two.any(axis=(1, 2))), [5, 8])
    assert np.array_equal(one.propagate(), truth)
    with pytest.raises(InputError, match="different axes"):
        one.add(box=(3, 5, 11, 9), slice=6, axis="coronal")


def test_a_click_in_a_session_of_a_picture_cannot_propagate():
    one = session()
    with pytest.raises(InputError, match="no slices"):
        one.propagate()
    with pytest.raises(InputError, match="no object"):
        session(volume("SAR")).propagate()


def test_labels_default_to_on_the_object():
    assert ObjectPrompt(points=((1, 2), (3, 4))).labels == (1, 1)


@pytest.mark.parametrize("where", [{"slice": 5}, {"slice": 5, "axis": "axial"}, {}])
def test_a_slice_is_the_same_however_it_is_said(where):
    one, image = session(volume("SAR")), volume("SAR")
    one.add(box=(3, 4, 11, 10), slice=5)
    one.add(points=[(0, 0)], labels=[0], **where)
    assert len(one._steps[-1].prompts) == 1 and np.array_equal(one.propagate(), image.array[0] == 200)
    flat = session()
    flat.add(points=[(40, 5)], slice=0)
    assert np.array_equal(flat.add(points=[(9, 17), (6, 13)], labels=[0, 1]), UPPER | LOWER & ~CORE)


def test_a_mask_and_a_box_of_the_volume_are_both_heard(monkeypatch):
    image, asked = volume("SAR"), []
    truth = image.array[0] == 200
    known = np.zeros_like(truth)
    known[7] = truth[7]
    monkeypatch.setattr(Flood, "ask", lambda self, said, **rest: (asked.append(said), ask(self, said, **rest))[1])
    assert np.array_equal(session(image).predict(box=(3, 4, 5, 11, 10, 9), mask=known), truth)
    assert asked[0].boxes.tolist() == [[3, 4, 11, 10]] and np.array_equal(asked[0].states[0].numpy() > 0, truth[7])


def test_words_about_a_volume_are_refused_as_words():
    for prompt in ({"text": "liver"}, {"text": "liver", "box": (3, 4, 5, 11, 10, 9)}, {"text": "liver", "slice": 5}):
        with pytest.raises(InputError, match="know no words"):
            session(volume("SAR")).predict(**prompt)


def test_a_prompt_without_a_slice_is_on_the_last_ones_unless_it_names_another_axis():
    grey = np.zeros((1, 7, 30, 50), np.uint8)
    grey[0, 2:5, 12:26, 5:15] = 150
    one = session(Image(grey, Grid((7, 30, 50), np.eye(4)[[2, 1, 0, 3]])))
    one.add(box=(5, 12, 15, 26), slice=3)
    one.add(mask=LOWER)
    assert [each.slice for each in one._steps[-1].prompts] == [3]
    assert np.array_equal(one.add(points=[(9, 17)])[3], LOWER)
    with pytest.raises(InputError, match="prompted on axial slices before"):
        one.add(points=[(9, 3)], axis="coronal")
    assert [each.slice for each in one._steps[-1].prompts] == [3]


def test_what_a_session_cannot_be_of_is_refused():
    with pytest.raises(InputError, match="not of a ndarray"):
        Session(np.zeros((30, 50), np.uint8), FloodPrompter())
    for window in ((0, float("inf")), (5, 6, 7), (float("nan"), 3)):
        with pytest.raises(InputError, match="not two grey values"):
            session(window=window)


def test_a_click_in_three_dimensions_is_heard_on_a_slice_that_was_prompted():
    grey = np.zeros((7, 30, 50), np.uint8)
    grey[1:6, 12:26, 5:15], grey[1:6, 12:26, 25:35] = 150, 160
    image = Image(grey[None], Grid(grey.shape, np.eye(4)[[2, 1, 0, 3]]))
    one = session(image)
    one.add(box=(5, 12, 35, 26), slice=3)
    assert np.array_equal(one.propagate(), grey > 0)
    assert np.array_equal(one.add(points=[(30, 20, 3)], labels=[0]), grey == 150)
    joined = one.follow([ObjectPrompt(box=(5, 12, 15, 26), slice=3), ObjectPrompt(points=((30, 20, 3),))])
    assert np.array_equal(joined.mask(image.grid), grey > 0)


def test_the_mask_prompt_of_a_slice_or_a_frame_may_be_a_picture(tmp_path):
    image = volume("SAR")
    truth, one = image.array[0] == 200, session(image)
    for name, drawn in (("m.png", truth[6]), ("m.tiff", truth[6]), ("c.png", truth[:, 5])):
        write(Mask(drawn[None].astype(np.uint8), Grid((1, *drawn.shape), dims=2)), tmp_path / name)
    for name in ("m.png", "m.tiff"):
        assert np.array_equal(one.predict(mask=tmp_path / name, slice=6)[6], truth[6])
    coronal = {"mask": tmp_path / "c.png", "slice": 5, "axis": "coronal"}
    assert np.array_equal(one.predict(**coronal)[:, 5], truth[:, 5])
    for wrong in (coronal | {"axis": "axial"}, {"mask": tmp_path / "m.png"}):
        with pytest.raises(GeometryError, match="differ in shape"):
            one.predict(**wrong)


def test_a_mask_prompt_of_several_labels_is_no_one_object(tmp_path):
    labels = LOWER.astype(np.uint8) + 2 * UPPER
    write(Mask(labels[None], picture().grid), tmp_path / "m.png")
    for mask in (labels, labels.astype(float), tmp_path / "m.png"):  # nibabel's get_fdata gives labels as floats
        with pytest.raises(InputError, match="holds 2 labels, and one object is meant"):
            session().predict(mask=mask)
    assert np.array_equal(session().predict(mask=255 * LOWER.astype(np.uint8)), LOWER)
    several = np.zeros((12, 14, 16), np.uint8)
    several[5:7, 4:10, 3:11], several[7:9, 4:10, 3:11] = 1, 2
    assert session(volume("SAR")).predict(mask=several, slice=6).sum() == 48  # one label on the slice that is meant


def test_a_slice_that_another_thread_lets_go_is_still_answered():
    one = session(volume("SAR"))

    class Busy(OrderedDict):
        """Between any two steps another thread looks at another slice."""

        def __contains__(self, plane):
            there = super().__contains__(plane)
            self.clear()
            return there

    one._looks = Busy()
    assert one.look(Plane(0, 5)).size == one.look(Plane(0, 5)).size == (14, 16)
