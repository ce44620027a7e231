"""Paired comparisons: against scipy and against sums done by hand."""

import itertools

import numpy as np
import pytest
from scipy.stats import wilcoxon

from vesalius.metrics.paired import alike, compare, holm, least_p, signed_rank

OWN = {f"c{i}": f"c{i}" for i in range(12)}


def by_hand(differences: list[float]) -> float:
    """Two-sided p of the signed-rank sum: all 2^n signs counted."""
    ranks = np.argsort(np.argsort(np.abs(differences))) + 1
    seen = min(ranks[np.array(differences) > 0].sum(), ranks[np.array(differences) < 0].sum())
    sums = [sum(r for r, up in zip(ranks, signs, strict=True) if up) for signs in itertools.product((0, 1), repeat=len(ranks))]
    return min(1.0, 2 * np.mean(np.array(sums) <= seen))


@pytest.mark.parametrize("differences", [[0.1, 0.2, 0.3, 0.4, 0.5], [0.1, -0.25, 0.3, 0.45, -0.05, 0.6, 0.7]])
def test_the_signed_rank_test_counts_every_sign(differences):
    assert signed_rank(differences) == pytest.approx(by_hand(differences))


def test_equal_cases_say_nothing():
    assert signed_rank([0.0, 0.0, 0.0]) == signed_rank([]) == 1.0
    assert signed_rank([0.0, 0.1, 0.2, -0.3, 0.0]) == signed_rank([0.1, 0.2, -0.3])


def test_holm_multiplies_the_smallest_most_and_never_falls():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_every_pair_is_tested_on_the_cases_and_corrected_for_all_pairs():
    rng = np.random.default_rng(0)
    values = {name: {case: rng.random() + shift for case in OWN} for name, shift in (("a", 0.6), ("b", 0.1), ("c", 0.0))}
    pairs = compare(values, OWN)
    assert [(p.first, p.second) for p in pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    for pair in pairs:
        d = np.array([values[pair.first][case] - values[pair.second][case] for case in OWN])
        assert pair.p == pytest.approx(wilcoxon(d).pvalue) and pair.difference == pytest.approx(d.mean())
    assert [p.corrected for p in pairs] == pytest.approx(holm([p.p for p in pairs]))
    assert pairs[0].significant and not pairs[2].significant


def test_two_scans_of_one_patient_are_one_observation():
    a, b = {c: 0.5 + 0.01 * i for i, c in enumerate(OWN)}, dict.fromkeys(OWN, 0.4)
    halves = {case: f"p{i // 2}" for i, case in enumerate(OWN)}
    alone, together = compare({"a": a, "b": b}, OWN)[0], compare({"a": a, "b": b}, halves)[0]
    assert (alone.patients, together.patients) == (12, 6)
    assert together.p == pytest.approx(2 / 2**6) and alone.p == pytest.approx(2 / 2**12)


def test_a_case_without_a_value_is_left_out_of_its_pairs():
    a, b = {"c0": 0.5, "c1": float("nan"), "c2": 0.7}, {"c0": 0.4, "c1": 0.4, "c2": 0.4}
    (pair,) = compare({"a": a, "b": b}, OWN)
    assert pair.patients == 2 and pair.difference == pytest.approx(0.2)


def test_groups_hold_no_pair_that_differs_and_are_as_large_as_can_be():
    assert alike(["a", "b", "c"], []) == [("a", "b", "c")]
    assert alike(["a", "b", "c"], [("a", "c")]) == [("a", "b"), ("b", "c")]
    assert alike(["a", "b", "c"], [("a", "b"), ("a", "c")]) == [("a",), ("b", "c")]
    assert alike(["a", "b", "c"], [("a", "b"), ("a", "c"), ("b", "c")]) == [("a",), ("b",), ("c",)]
    assert alike(["a", "b", "c", "d"], [("a", "b"), ("c", "d")]) == [("a", "c"), ("a", "d"), ("b", "c"), ("b", "d")]


def test_few_patients_cannot_show_a_difference():
    assert least_p(4, 1) == 0.125 and least_p(1, 5) == 1.0
    assert signed_rank([0.1, 0.2, 0.3, 0.4]) == pytest.approx(least_p(4, 1))
