"""Splits: patients stay together, seeds repeat, folds cover everybody once."""

from types import SimpleNamespace

import pytest

from vesalius.core.errors import DatasetError
from vesalius.training.split import read_split, split_cases, write_split


def cases(count=20, per_patient=2, split=None):
    return [SimpleNamespace(name=f"c{i:02d}", patient=f"p{i // per_patient}", split=split) for i in range(count)]


def split(which, **changes):
    settings = {"fraction": 0.2, "seed": 0, "folds": None, "fold": 0, "say": lambda _: None} | changes
    return split_cases(which, **settings)


def test_a_patient_is_never_on_both_sides():
    which = cases()
    patient = {case.name: case.patient for case in which}
    for seed in range(5):
        found = split(which, seed=seed)
        assert len(found.validation) == 4 and len(found.train) == 16
        assert not {patient[n] for n in found.train} & {patient[n] for n in found.validation}


def test_a_seed_repeats_and_another_differs():
    assert split(cases(), seed=3) == split(cases(), seed=3) != split(cases(), seed=4)


def test_a_split_is_the_same_in_every_process_and_in_whatever_order_cases_come():
    which = cases()
    assert set(split(which).validation) == set(split(which[::-1]).validation) == {"c08", "c09", "c12", "c13"}


def test_folds_hold_everybody_back_once():
    which = cases()
    held = [name for fold in range(5) for name in split(which, folds=5, fold=fold).validation]
    assert sorted(held) == [case.name for case in which]


def test_a_fixed_split_is_kept_but_not_in_cross_validation():
    which = [*cases(6, 1, "train"), SimpleNamespace(name="v", patient="v", split="validation")]
    assert split(which).validation == ("v",)
    assert sorted(split(which, folds=7, fold=fold).validation[0] for fold in range(7)) == sorted(case.name for case in which)


@pytest.mark.parametrize("changes", [{"folds": 11}, {"folds": 5, "fold": 5}, {"folds": 1}, {"folds": 0}])
def test_what_cannot_be_split_is_an_error(changes):
    with pytest.raises(DatasetError):
        split(cases(), **changes)


@pytest.mark.parametrize("fraction", [0.01, 0.99])
def test_somebody_stands_on_either_side(fraction):
    found = split(cases(4), fraction=fraction)
    assert len(found.train) == len(found.validation) == 2


def test_a_fixed_split_with_nobody_to_train_on_is_an_error():
    with pytest.raises(DatasetError, match="validation split"):
        split(cases(split="validation"))


def test_a_split_comes_back_from_its_file(tmp_path):
    found = split(cases())
    write_split(found, tmp_path / "split.json")
    assert read_split(tmp_path / "split.json") == found
    with pytest.raises(DatasetError):
        read_split(tmp_path / "none.json")


def test_folds_that_the_dataset_brings_are_kept():
    own, told = ((("c00", "c01"), ("c02",)), (("c02",), ("c00", "c01"))), []  # no patient is torn apart
    assert split(cases(4), own=own, say=told.append).validation == ("c02",)
    assert told == ["fold 0 of the dataset's own 2: 2 cases to train, 1 to validate; 1 case on neither side"]
    found = split(cases(4), own=own, folds=2, fold=1)
    assert (found.train, found.validation) == (("c02",), ("c00", "c01"))
    with pytest.raises(DatasetError, match=r"brings 2 folds of its own \(splits_final.json\), not 3"):
        split(cases(20), own=own, folds=3)
    with pytest.raises(DatasetError, match="there is no fold 2 among 2"):
        split(cases(20), own=own, folds=2, fold=2)


def test_a_fold_of_its_own_is_the_only_one():
    with pytest.raises(DatasetError, match=r"brings 1 fold of its own \(splits_final.json\), not 5") as error:
        split(cases(20), own=((("c00",), ("c02",)),), folds=5)
    assert error.value.fix == "leave out --folds, or move that file away"  # one fold cannot be asked for


def test_a_patient_whom_the_datasets_own_split_has_on_both_sides_is_told():
    told = []
    split(cases(6), own=((("c00", "c02"), ("c01", "c04")),), say=told.append)
    split([*cases(3, 2, "train"), SimpleNamespace(name="v", patient="p1", split="validation")], say=told.append)
    assert told[0].endswith("; 2 cases on neither side; 1 patient on BOTH sides (p0), which flatters the scores")
    assert told[1].startswith("the dataset's own split: 3 to train, 1 to validate; 1 patient on BOTH sides (p1)")
