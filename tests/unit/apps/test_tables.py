"""What people see of a mask: sizes as one writes them."""

import pytest

from vesalius.apps.tables import found_in, read_labels
from vesalius.core.errors import InputError
from vesalius.pipeline.measure import Amount
from vesalius.pipeline.segment import Case


@pytest.mark.parametrize("size, told", [(12580.0, "12,580 px"), (1061.4, "1,061 px"), (999.34, "999.3 px"), (0.0, "0 px")])
def test_sizes_are_never_written_with_an_exponent(size, told):
    assert found_in(Case("a", "done", amounts=(Amount("liver", 1, size, "px"),))) == f"liver {told}"


@pytest.mark.parametrize("count, told", [(0, "0 objects"), (1, "1 object"), (2, "2 objects")])
def test_one_object_is_no_plural(count, told):
    assert found_in(Case("a", "done", objects=count)) == told


def test_labels_are_values_with_names_and_regions_several_values():
    assert read_labels("1=anterior, 2") == {1: "anterior", 2: "2"}
    assert read_labels("1+2+4=whole, 1 + 4=core,4=active") == {(1, 2, 4): "whole", (1, 4): "core", 4: "active"}
    for wrong in ("one", "1=a,1=b", "1+=a", "1+2=a,1+2=b"):
        with pytest.raises(InputError, match=r"is no list of labels.*dataset\.json"):
            read_labels(wrong)


def test_a_dataset_json_declares_regions(tmp_path):
    declared = '{"labels": {"background": 0, "whole": [1, 2], "core": [2]}, "regions_class_order": [1, 2]}'
    (tmp_path / "dataset.json").write_text(declared)
    labels = read_labels(str(tmp_path / "dataset.json"))
    assert labels.nested and [label.region for label in labels] == ["whole", "core"]
    with pytest.raises(InputError, match="no readable JSON"):
        read_labels(str(tmp_path / "absent.json"))
