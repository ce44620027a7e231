"""Decided slab by slab, or window by window, the mask is the one that all scores together would give."""

import numpy as np
import pytest
from scipy import ndimage

from vesalius.core.errors import InputError
from vesalius.core.image import Grid, Image
from vesalius.core.labels import Label, Labels
from vesalius.pipeline import decision
from vesalius.pipeline.decision import decode_windows, label_map
from vesalius.tasks.decide import Objects, Regions, decide
from vesalius.tasks.task import Inference, ModelSpec, Task
from vesalius.transforms.objects import encode
from vesalius.transforms.spatial import CropForeground, Orient, Resample, prepare


def task(values=(1, 2), rule=None, dims=3):
    labels = Labels(tuple(Label(value, f"label {value}") for value in values))
    given = {"decide": rule} if rule else {}
    return Task(
        name="t", title="t", dims=dims, channels=("one",), labels=labels, steps=(), model=ModelSpec(name="unet"),
        inference=Inference(patch=(1, 8, 8) if dims == 2 else (8, 8, 8)), **given,
    )  # fmt: skip


def image(shape=(12, 14, 10), affine=None):
    array = np.zeros((1, *shape), np.float32)
    array[0, 2:10, 3:12, 1:9] = 1
    return Image(array, Grid(shape, np.diag([1.0, 1.5, 2.0, 1.0]) if affine is None else affine))


def slabs(scores, depth):
    return ((z, scores[:, z : z + depth]) for z in range(0, scores.shape[1], depth))


FLIPPED = np.array([[0, 0, -1.0, 5], [0, 2.0, 0, 0], [1.5, 0, 0, 0], [0, 0, 0, 1]])
STEPS = {
    "nothing": (),
    "turned": (Orient(),),
    "resampled": (Orient(), Resample(spacing_mm=(1.5, 1.5, 1.5))),
    "cropped": (Orient(), Resample(spacing_mm=(1.2, 1.5, 1.9)), CropForeground()),
}


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("rule", [None, Regions()])
@pytest.mark.parametrize("depth", [1, 3, 100])
def test_deciding_slab_by_slab_equals_deciding_all_at_once(steps, rule, depth):
    small, restore = prepare(image(affine=FLIPPED), STEPS[steps])
    record = task(values=(3, 700), rule=rule)
    scores = np.random.default_rng(0).standard_normal((record.outputs, *small.grid.shape), dtype=np.float32)
    scores = ndimage.gaussian_filter(scores, (0, 1, 1, 1))
    got = label_map(restore.stream(slabs(scores, depth), max_slices=2), restore, record)
    want = decide(restore.scores(scores), record.decide, (3, 700))
    assert got.dtype == np.uint16 and set(np.unique(got)) <= {0, 3, 700} and len(np.unique(got)) > 1
    np.testing.assert_array_equal(got, want)


def discs(size, places, radius):
    """Object numbers (Y, X)."""
    y, x = np.ogrid[: size[0], : size[1]]
    objects = np.zeros(size, np.uint16)
    for number, (cy, cx) in enumerate(places, 1):
        objects[(y - cy) ** 2 + (x - cx) ** 2 < radius**2] = number
    return objects


def as_scores(objects):
    """(2, 1, Y, X): what a perfect network would say of `objects`."""
    targets = encode(objects)
    return np.stack([targets[0] * 10 - 5, targets[1]])[:, None]


def test_windows_find_the_same_objects_as_the_whole_picture(monkeypatch):
    monkeypatch.setattr(decision, "HALO_PX", 24)
    places = [(y, x) for y in range(12, 240, 25) for x in range(12, 330, 25)]  # many lie across a window's edge
    objects = discs((250, 340), places, 11)
    scores = as_scores(objects)
    whole = decide(scores, Objects(), (1,))[0]
    parts = decode_windows(scores, Objects(), (1,), window=64)[0]
    assert whole.max() == parts.max() == len(places)
    np.testing.assert_array_equal(parts > 0, whole > 0)
    pairs = np.unique(np.stack([whole.ravel(), parts.ravel().astype(whole.dtype)]), axis=1)
    assert pairs.shape[1] == len(places) + 1, "an object is split or two are joined"


def test_an_object_whose_centre_lies_on_the_edge_of_a_window_counts_once(monkeypatch):
    monkeypatch.setattr(decision, "HALO_PX", 20)
    places = [(64, 64), (64, 20), (20, 64), (100, 128)]
    found = decode_windows(as_scores(discs((150, 150), places, 9)), Objects(), (1,), window=64)[0]
    assert found.max() == 4 and len({int(found[place]) for place in places} - {0}) == 4


def test_objects_of_different_planes_have_different_numbers():
    planes = [discs((40, 40), [(10, 10)], 6), discs((40, 40), [(30, 30), (10, 30)], 6)]
    scores = np.concatenate([as_scores(plane) for plane in planes], axis=1)
    blank = Image(np.zeros((1, 2, 40, 40), np.float32), Grid((2, 40, 40)))
    _, restore = prepare(blank, ())
    got = label_map([(0, scores)], restore, task(values=(1,), rule=Objects(), dims=2))
    assert got.dtype == np.uint16
    assert set(np.unique(got[0])) == {0, 1} and set(np.unique(got[1])) == {0, 2, 3}


def test_more_objects_than_a_mask_can_number_are_refused(monkeypatch):
    def many(scores, rule, values):
        return np.arange(scores[0].size).reshape(scores.shape[1:])

    monkeypatch.setattr(decision, "decide", many)
    blank = Image(np.zeros((1, 1, 300, 300), np.float32), Grid((1, 300, 300), None, 2))
    _, restore = prepare(blank, ())
    with pytest.raises(InputError, match="89999 objects"):
        label_map([(0, np.zeros((2, 1, 300, 300), np.float32))], restore, task(values=(1,), rule=Objects(), dims=2))


def test_at_a_seam_what_was_numbered_first_keeps_its_pixels(monkeypatch):
    """Two windows may see a shared pixel differently: the object written first is not nibbled at."""
    from vesalius.pipeline import decision
    from vesalius.tasks.decide import Objects

    monkeypatch.setattr(decision, "HALO_PX", 8)
    reach = {0: (20, 36), 1: (30, 50)}  # columns of the one object each window sees; centres 28 and 40, cores 0..32 and 32..64
    calls = iter(reach)

    def see(scores, rule, values):
        start, stop = reach[next(calls)]
        columns = scores[0, 0, 0].astype(int)  # the scores say where the window lies
        return ((columns >= start) & (columns < stop))[None, None].repeat(4, 1).astype(np.uint16)

    monkeypatch.setattr(decision, "decide", see)
    scores = np.broadcast_to(np.arange(64, dtype=np.float32), (2, 1, 4, 64))
    found = decision.decode_windows(scores, Objects(), (1,), window=32)
    assert np.flatnonzero(found[0, 0] == 1).tolist() == list(range(20, 36))
    assert np.flatnonzero(found[0, 0] == 2).tolist() == list(range(36, 50))
