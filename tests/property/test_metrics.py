"""What must hold for any two masks."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from vesalius.metrics.boundary import v_scores
from vesalius.metrics.instance import aji, match
from vesalius.metrics.overlap import confusion, dice, iou
from vesalius.metrics.surface import SurfaceDistances, surface

some = settings(deadline=None, max_examples=60)
shapes = st.one_of(st.tuples(*[st.integers(1, 9)] * 2), st.tuples(*[st.integers(1, 7)] * 3))
lengths = st.floats(0.1, 5.0)


@st.composite
def pairs(draw, top=3):
    """Two label maps of one shape, and a spacing."""
    shape = draw(shapes)
    values = arrays(np.uint8, shape, elements=st.integers(0, top), fill=st.just(0))
    return draw(values), draw(values), tuple(draw(lengths) for _ in shape)


@some
@given(pairs())
def test_overlap_is_symmetric_bounded_and_one_with_itself(pair):
    a, b, _ = pair
    ab, ba, aa = (confusion(*both).counts(1) for both in ((a, b), (b, a), (a, a)))
    for measure in (dice, iou):
        assert measure(ab) == measure(ba) or math.isnan(measure(ab))
        assert math.isnan(measure(ab)) == (not (a == 1).any() and not (b == 1).any())
        assert math.isnan(measure(ab)) or 0 <= measure(ab) <= 1
        assert math.isnan(measure(aa)) or measure(aa) == 1
    assert confusion(a, b).voxels.sum() == a.size


@some
@given(pairs())
def test_distances_are_those_of_every_surface_voxel_to_every_other(pair):
    a, b, spacing = pair
    found = SurfaceDistances.of(a > 0, b > 0, spacing)
    if not a.any() or not b.any():
        assert found.nsd(1.0) == 0 if a.any() or b.any() else math.isnan(found.nsd(1.0))
        return
    deep = [axis for axis, size in enumerate(a.shape) if size > 1] or [a.ndim - 1]
    flat = tuple(slice(None) if axis in deep else 0 for axis in range(a.ndim))
    p, r = (np.argwhere(surface(m[flat] > 0)) * np.array([spacing[axis] for axis in deep]) for m in (a, b))
    table = np.linalg.norm(p[:, None] - r[None], axis=-1)
    there, back = table.min(1), table.min(0)
    assert found.hd == pytest.approx(max(there.max(), back.max()), abs=1e-4)
    assert found.hd95 == pytest.approx(max(np.percentile(there, 95), np.percentile(back, 95)), abs=1e-4)
    assert found.assd == pytest.approx(np.concatenate([there, back]).mean(), abs=1e-4)


@some
@given(pairs())
def test_distances_are_symmetric_and_zero_to_oneself(pair):
    a, b, spacing = pair
    there, back = SurfaceDistances.of(a > 0, b > 0, spacing), SurfaceDistances.of(b > 0, a > 0, spacing)
    for name in ("hd", "hd95", "assd"):
        assert getattr(there, name) == pytest.approx(getattr(back, name), nan_ok=True)
    assert there.nsd(1.0) == pytest.approx(back.nsd(1.0), nan_ok=True)
    if a.any():
        same = SurfaceDistances.of(a > 0, a > 0, spacing)
        assert same.hd == same.assd == 0 and same.nsd(0.0) == 1


@some
@given(pairs(), st.data())
def test_distances_do_not_care_where_in_the_image_they_are_measured(pair, data):
    a, b, spacing = pair
    if min(a.shape) == 1:  # no depth is another geometry, not another place
        a, b = (np.pad(m, [(0, int(size == 1)) for size in a.shape]) for m in (a, b))
    before = [(data.draw(st.integers(0, 4)), data.draw(st.integers(0, 4))) for _ in a.shape]
    here, there = (SurfaceDistances.of(x > 0, y > 0, spacing) for x, y in ((a, b), (np.pad(a, before), np.pad(b, before))))
    for name in ("hd", "hd95", "assd"):
        assert getattr(here, name) == pytest.approx(getattr(there, name), nan_ok=True, abs=1e-5)


@some
@given(pairs(top=6))
def test_objects_are_matched_as_by_looking_at_every_pair(pair):
    pred, ref, _ = pair
    predicted, real = ([m == n for n in np.unique(m) if n] for m in (pred, ref))
    table = np.array([[(p & r).sum() / (p | r).sum() for r in real] for p in predicted]).reshape(len(predicted), len(real))
    hits = table[table > 0.5]
    found = match(pred, ref)
    assert (found.tp, found.fp, found.fn) == (len(hits), len(predicted) - len(hits), len(real) - len(hits))
    assert found.iou_sum == pytest.approx(hits.sum())
    assert aji(pred, ref) == pytest.approx(by_definition(predicted, real, table), nan_ok=True)


def by_definition(predicted, real, table):
    """The aggregated Jaccard index, object by object."""
    both, union, taken = 0, 0, set()
    for j, one in enumerate(real):
        if len(predicted) and table[:, j].max() > 0:
            best = int(table[:, j].argmax())
            taken.add(best)
            both, union = both + (predicted[best] & one).sum(), union + (predicted[best] | one).sum()
        else:
            union += one.sum()
    union += sum(p.sum() for i, p in enumerate(predicted) if i not in taken)
    return both / union if union else math.nan


@some
@given(pairs(top=5))
def test_rand_and_information_scores_are_those_of_pixel_pairs(pair):
    pred, ref, _ = pair
    inside = ref > 0
    found = v_scores(pred, ref)
    if not inside.any():
        assert math.isnan(found.v_rand)
        return
    p, r = pred[inside].astype(int), ref[inside].astype(int)
    p = np.where(p == 0, 100 + np.arange(len(p)), p)  # each membrane pixel by itself
    same_p, same_r = p[:, None] == p[None], r[:, None] == r[None]
    assert found.v_rand == pytest.approx(2 * (same_p & same_r).sum() / (same_p.sum() + same_r.sum()))
    assert 0 <= found.v_info <= 1 + 1e-9 and v_scores(ref, ref)[:2] == pytest.approx((1, 1))


def test_the_surface_is_the_mask_without_its_erosion():
    mask = np.random.default_rng(0).random((6, 7, 8)) < 0.8
    assert (surface(mask) == (mask & ~ndimage.binary_erosion(mask))).all()
