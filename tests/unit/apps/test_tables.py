"""What people see of a mask: sizes as one writes them."""

import pytest

from vesalius.apps.tables import found_in
from vesalius.pipeline.measure import Amount
from vesalius.pipeline.segment import Case


@pytest.mark.parametrize("size, told", [(12580.0, "12,580 px"), (1061.4, "1,061 px"), (999.34, "999.3 px"), (0.0, "0 px")])
def test_sizes_are_never_written_with_an_exponent(size, told):
    assert found_in(Case("a", "done", amounts=(Amount("liver", 1, size, "px"),))) == f"liver {told}"


@pytest.mark.parametrize("count, told", [(0, "0 objects"), (1, "1 object"), (2, "2 objects")])
def test_one_object_is_no_plural(count, told):
    assert found_in(Case("a", "done", objects=count)) == told
