from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hftrain.report.curves import MAX_ODD, MAX_POINTS, encoded, kept_places, shared_limit, short
from hftrain.report.runs import Series


def series(values: list[float]) -> Series:
    return Series(list(range(10, 10 * len(values) + 10, 10)), values, [0.0] * len(values))


def test_a_short_curve_is_whole() -> None:
    curve = encoded(series([3.0, 1.0, 2.0]))
    assert list(itertools.accumulate(curve["steps"])) == [10, 20, 30]
    assert curve["values"] == [3, 1, 2]
    assert (curve["num"], curve["num_odd"], curve["odd"]) == (3, 0, [])
    assert (curve["last"], curve["min"], curve["max"]) == ([30, 2], [20, 1], [10, 3])


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=300), st.integers(2, 50))
def test_a_thinned_curve_keeps_its_ends_and_extremes(values: list[float], limit: int) -> None:
    places = kept_places(np.asarray(values), limit)
    assert len(places) <= max(limit, 1)
    assert sorted(set(places.tolist())) == places.tolist()
    if len(values) and limit >= 4:
        kept = [values[place] for place in places]
        assert (kept[0], kept[-1]) == (values[0], values[-1])
        assert (min(kept), max(kept)) == (min(values), max(values))


def test_no_curve_has_more_than_two_thousand_points() -> None:
    curve = encoded(series([math.sin(number) for number in range(100_000)]))
    assert 1900 < len(curve["values"]) == len(curve["steps"]) <= MAX_POINTS
    assert curve["num"] == 100_000


def test_values_that_are_not_finite_stand_apart() -> None:
    curve = encoded(series([1.0, math.nan, 2.0, math.inf, -math.inf]))
    assert curve["values"] == [1, 2]
    assert list(itertools.accumulate(curve["steps"])) == [10, 30]
    assert curve["odd"] == [[20, "nan"], [40, "inf"], [50, "-inf"]]
    assert curve["last"] == [30, 2]


def test_of_many_values_that_are_not_finite_the_first_are_listed() -> None:
    curve = encoded(series([math.nan] * 5000))
    assert (len(curve["odd"]), curve["num_odd"], curve["values"], curve["last"]) == (MAX_ODD, 5000, [], None)


@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=60), st.integers(200, 50_000))
def test_the_points_of_all_curves_stay_within_the_budget(sizes: list[int], budget: int) -> None:
    limit = shared_limit(sizes, budget)
    assert 2 <= limit <= MAX_POINTS
    assert sum(min(size, limit) for size in sizes) <= max(budget, 2 * len(sizes))
    longer = sum(min(size, limit + 1) for size in sizes)
    assert limit == MAX_POINTS or longer + len(sizes) > budget


@pytest.mark.parametrize(
    ("value", "text"), [(0.1 + 0.2, "0.3"), (1234567.89, "1234568"), (5e-5, "5e-05"), (2.0, "2"), (1e300, "1e+300")]
)
def test_numbers_take_as_few_letters_as_seven_digits_need(value: float, text: str) -> None:
    assert repr(short(value)) == text
