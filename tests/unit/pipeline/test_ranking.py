"""The ranking of models: its order, its words, its table, its picture."""

import io

import numpy as np
import pytest
from PIL import Image

from vesalius.core.errors import InputError
from vesalius.metrics.paired import compare
from vesalius.metrics.summary import bootstrap
from vesalius.pipeline.pareto import beside, covered, front, outside, pareto
from vesalius.pipeline.ranking import COLUMNS, Cost, Entrant, Ranking, probability, rank, table

CASES = [f"case_{i:02d}" for i in range(20)]
OWN = {case: case for case in CASES}


def entrant(name: str, shift: float, gflops: float = 10.0, cases=CASES, noise: float = 0.01) -> Entrant:
    rng = np.random.default_rng(len(name))
    dice = {case: 0.5 + shift + 0.01 * i + noise * rng.standard_normal() for i, case in enumerate(cases)}
    cost = Cost(2_000_000, gflops, (1, 352, 352), 50 / gflops, 300_000_000, 2_000_000_000, 700, 1200.0, 1.25)
    return Entrant(name, dice, {case: 20 * (1 - d) for case, d in dice.items()}, "px", cost)


@pytest.fixture(scope="module")
def ranking() -> Ranking:
    return rank([entrant("low", 0.0, 2), entrant("good", 0.2, 14), entrant("better", 0.201, 20)], OWN)


def test_the_order_is_that_of_the_means_with_intervals_of_the_bootstrap(ranking):
    assert [e.name for e in ranking.order] == sorted(ranking.dice, key=lambda name: -ranking.dice[name].mean)
    low = next(e for e in ranking.entrants if e.name == "low")
    assert ranking.dice["low"] == bootstrap(list(low.dice.values()), CASES)
    assert ranking.hd95["low"] == bootstrap(list(low.hd95.values()), CASES)


def test_the_words_say_who_is_first_and_who_may_be_as_good(ranking):
    first, second = list(ranking.dice)[:2]
    p = {(pair.first, pair.second): pair.corrected for pair in compare({e.name: e.dice for e in ranking.order}, OWN)}
    told = ranking.sentences()
    assert told[0].startswith(f"{first} is first, with a Dice of {ranking.dice[first].mean:.3f} (")
    assert told[1] == f"Not significantly different from it: {second} ({probability(p[first, second])})."
    assert told[2] == f"Significantly different from it: low ({probability(p[first, 'low'])})."
    assert ranking.groups == [(first, second), ("low",)]
    assert [ranking.letters(name) for name in ranking.dice] == ["a", "a", "b"]
    assert "20 cases, 3 pairs, Holm" in told[-1]


def test_it_is_said_when_so_few_cases_cannot_show_a_difference():
    few = CASES[:4]
    told = rank([entrant("a", 0.0, cases=few), entrant("bb", 0.3, cases=few)], {case: case for case in few}).sentences()
    assert told[-1] == "So few cannot show a difference: even a model better on every one would have p = 0.12."
    assert "Not significantly different from it: a (p = 0.12)." in told


def test_patients_are_named_where_they_have_several_cases():
    halves = {case: case[:-1] + str(int(case[-1]) // 2) for case in CASES}
    told = rank([entrant("a", 0), entrant("bb", 0.1)], halves).sentences()
    assert "10 patients, each the mean of the patient's cases" in told[-1]


def test_the_table_has_a_row_a_model_and_a_cell_a_column(ranking):
    lines = table(ranking).splitlines()
    assert len(lines) == 2 + 3 and all(line.count("|") == len(COLUMNS) + 1 for line in lines)
    assert "| 2.00 M | 2.00 | 25.00 | 300.0 MB |" in lines[-1] or "| 2.00 M | 2.00 | 25.00 | 300 MB |" in lines[-1]


def test_models_tried_on_different_cases_are_not_compared():
    with pytest.raises(InputError, match="different cases"):
        rank([entrant("a", 0), entrant("bb", 0, cases=CASES[:19])], OWN)


def test_nothing_finished_is_no_ranking_yet():
    assert rank([], {}).sentences() == ["no model has been scored yet"]
    assert rank([], {}).record()["results"] == []


def test_the_front_holds_whom_no_other_beats():
    points = [("slow", 20.0, 0.80), ("same", 20.0, 0.70), ("quick", 3.0, 0.50), ("worse", 15.0, 0.40), ("middle", 14.0, 0.80)]
    assert front(points) == ["quick", "middle"]
    assert front([(n, 1 / c, s) for n, c, s in points], cheap_is_low=False) == ["quick", "middle"]


def test_the_picture_is_drawn_for_one_model_and_for_several(ranking):
    for some in (ranking, rank([entrant("alone", 0.1)], OWN), rank([entrant("a", 0.1, cases=CASES[:1])], {CASES[0]: "p"})):
        picture = np.asarray(Image.open(io.BytesIO(pareto(some, "polyps, 20 minutes each"))).convert("RGB"))
        assert picture.shape == (572, 1320, 3) and (picture < 250).any(-1).mean() > 0.01


def test_a_name_stands_beside_its_point_and_knows_what_it_hides():
    box = beside((100, 50), (1, 0), 60, 12, 8)
    assert box == (108, 44, 168, 56)
    assert covered(box, [(0, 0, 110, 100), (168, 44, 200, 56)]) == 2 * 12
    assert outside(box, (0, 0, 138, 100)) == 30 * 12 and outside(box, (0, 0, 300, 300)) == 0


def test_false_alarms_where_nothing_is_to_be_found_are_seen_by_the_tests():
    calm, alarmed = entrant("calm", 0.2, noise=0.0), entrant("alarmed", 0.2, noise=0.0)
    empty = CASES[:10]
    found = rank(
        [
            Entrant("calm", calm.dice | dict.fromkeys(empty, float("nan")), calm.hd95, "px", calm.cost),
            Entrant("alarmed", alarmed.dice | dict.fromkeys(empty, 0.0), alarmed.hd95, "px", alarmed.cost),
        ],
        OWN,
    )
    (pair,) = found.pairs
    assert (pair.first, pair.patients, pair.difference) == ("calm", 20, pytest.approx(0.5)) and pair.significant
    assert any("Nothing is to be found in 10 of the cases" in line for line in found.sentences())
    assert "calm is first, with a Dice of" in found.sentences()[0] and "over 10 cases" in found.sentences()[0]
