"""Which grey values a promptable model is shown as black and white, where the user gives no window."""

from __future__ import annotations

from typing import NamedTuple


class GreyRule(NamedTuple):
    """Percentiles `low` and `high` of the values of images beyond 8 bits; it belongs to the weights, as they were trained so.

    `positive`: of the values above 0 alone, so that an empty background does not count. `window_hu` is for CT, in its place.
    """

    low: float = 0.5
    high: float = 99.5
    positive: bool = False
    window_hu: tuple[float, float] | None = None


USUAL = GreyRule()  # what most weights here were trained or are used with
