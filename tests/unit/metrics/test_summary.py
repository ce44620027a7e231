"""Means and their intervals."""

import math

import numpy as np
import pytest

from vesalius.metrics import summary
from vesalius.metrics.summary import EmptyPolicy, bootstrap

RNG = np.random.default_rng(0)


def test_the_interval_of_independent_cases_is_that_of_the_central_limit():
    values = RNG.normal(0.8, 0.1, size=400)
    found = bootstrap(values, [str(i) for i in range(400)])
    half = 1.96 * values.std() / math.sqrt(400)
    assert found.mean == pytest.approx(values.mean()) and found.median == pytest.approx(np.median(values))
    assert found.high - found.mean == pytest.approx(half, rel=0.1) and found.mean - found.low == pytest.approx(half, rel=0.1)


def test_many_scans_of_few_patients_promise_no_false_certainty():
    of_patient = RNG.normal(0.8, 0.1, size=20)
    values, patients = np.repeat(of_patient, 20), np.repeat([f"p{i}" for i in range(20)], 20)
    clustered, naive = bootstrap(values, patients), bootstrap(values, [str(i) for i in range(400)])
    assert clustered.high - clustered.low > 3 * (naive.high - naive.low)  # sqrt(20) = 4.5
    assert (clustered.cases, clustered.patients) == (400, 20)


def test_patients_with_more_cases_weigh_more():
    assert bootstrap([0.0, 1.0, 1.0, 1.0], ["a", "b", "b", "b"]).mean == 0.75


def test_undefined_values_are_left_out_and_counted():
    found = bootstrap([0.5, math.nan, 0.7, math.inf], list("abcd"))
    assert found.mean == pytest.approx(0.6) and (found.cases, found.patients, found.excluded) == (2, 2, 2)
    nothing = bootstrap([math.nan], ["a"])
    assert math.isnan(nothing.mean) and nothing.cases == 0 and nothing.excluded == 1


def test_one_patient_has_a_mean_but_no_interval():
    found = bootstrap([0.5, 0.7], ["a", "a"])
    assert found.mean == pytest.approx(0.6) and math.isnan(found.low) and math.isnan(found.high)


def test_a_seed_repeats_itself_and_blocks_change_nothing_but_memory(monkeypatch):
    values, patients = RNG.random(30), [str(i) for i in range(30)]
    first = bootstrap(values, patients, seed=3)
    assert bootstrap(values, patients, seed=3) == first != bootstrap(values, patients, seed=4)
    monkeypatch.setattr(summary, "BLOCK", 100)
    assert bootstrap(values, patients, seed=3) == first


def test_policies_say_what_they_do():
    assert "left out" in EmptyPolicy().describe() and "diagonal" in EmptyPolicy().describe()
    assert "overlap counts 1" in EmptyPolicy(both_empty="perfect").describe()
