"""How a budget of time is divided."""

from __future__ import annotations

import pytest

from robustbench_lite.core.errors import UserError
from robustbench_lite.searching.pace import Pace, by_size, divide


def test_all_samples_are_taken_where_there_is_time() -> None:
    shares = divide(600, Pace(train=0.01, judge=0.01, checks=2), 1000, 500, (None, None))
    assert (shares.limit_train, shares.limit) == (None, None)
    assert (shares.training, shares.judgement) == (10, 7)


def test_fewer_samples_are_taken_where_there_is_not() -> None:
    shares = divide(600, Pace(train=0.1, judge=0.1, checks=0), 100_000, 10_000, (None, None))
    assert (shares.limit_train, shares.limit) == (900, 900)
    assert shares.training + shares.at_the_end < 600


def test_the_caller_s_numbers_are_kept() -> None:
    shares = divide(600, Pace(train=0.1, judge=0.1, checks=0), 100_000, 10_000, (1500, 200))
    assert (shares.limit_train, shares.limit) == (1500, 200)


@pytest.mark.parametrize(
    ("chosen", "advice"), [((None, None), "m or more$"), ((5000, None), "or smaller --limit-train and --limit$")]
)
def test_a_time_that_is_too_short_is_told_with_one_that_is_enough(
    chosen: tuple[int | None, int | None], advice: str
) -> None:
    with pytest.raises(UserError, match=f"60 s are too short for one trial.*{advice}"):
        divide(60, Pace(train=1, judge=0.1, checks=0), 100_000, 10_000, chosen)


def test_a_sample_costs_what_the_largest_judgements_tell() -> None:
    # A network that has learnt for an epoch alone is judged in half of the time.
    assert by_size([1.0, 4.6]) == pytest.approx((0.2, 0))
    # The checks took most of 48 samples' time; 144 more took 2.88 s.
    assert by_size([1.0, 4.6, 7.48]) == pytest.approx((0.04, 3.64))
    assert by_size([3.0, 2.0]) == pytest.approx((0, 3))
