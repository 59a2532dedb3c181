"""Intervals and paired tests, against scipy.stats and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from robustbench_lite.statistics import clopper_pearson, mcnemar


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.999])
@pytest.mark.parametrize("total", [1, 2, 7, 40])
def test_interval_is_scipys_exact_one_for_every_count(total, confidence):
    for count in range(total + 1):
        reference = binomtest(count, total).proportion_ci(confidence, method="exact")
        assert clopper_pearson(count, total, confidence) == pytest.approx(tuple(reference), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("count", "total"), [(0, 10_000), (1, 10_000), (5_321, 10_000), (9_999, 10_000)])
def test_interval_is_scipys_exact_one_for_many_samples(count, total):
    reference = binomtest(count, total).proportion_ci(0.95, method="exact")
    assert clopper_pearson(count, total) == pytest.approx(tuple(reference), rel=1e-9, abs=1e-12)


def test_interval_ends_have_the_closed_forms_at_none_and_all():
    assert clopper_pearson(0, 100) == (0.0, pytest.approx(1 - 0.025**0.01))
    assert clopper_pearson(100, 100) == (pytest.approx(0.025**0.01), 1.0)


def test_nothing_is_known_without_trials():
    assert clopper_pearson(0, 0) == (0.0, 1.0)


@settings(deadline=None)
@given(total=st.integers(1, 5000), data=st.data())
def test_interval_holds_the_share_and_mirrors(total, data):
    count = data.draw(st.integers(0, total))
    low, high = clopper_pearson(count, total)
    assert 0 <= low <= count / total <= high <= 1
    assert low < high
    assert clopper_pearson(total - count, total) == pytest.approx((1 - high, 1 - low), abs=1e-9)


def test_more_confidence_is_a_wider_interval():
    (low, high), (wider_low, wider_high) = clopper_pearson(30, 100, 0.9), clopper_pearson(30, 100, 0.99)
    assert wider_low < low < high < wider_high


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.97])
@pytest.mark.parametrize("total", [20, 200])
def test_interval_covers_the_truth_at_least_as_often_as_it_says(share, total):
    ends = [clopper_pearson(count, total) for count in range(total + 1)]
    counts = np.random.default_rng(5).binomial(total, share, size=20_000)
    covered = np.mean([ends[count][0] <= share <= ends[count][1] for count in counts])
    assert covered >= 0.95 - 0.005  # more than three standard errors of the simulation below


@pytest.mark.parametrize(("count", "total"), [(-1, 5), (6, 5), (1, 0), (0, -1)])
def test_counts_that_can_not_be_are_refused(count, total):
    with pytest.raises(ValueError, match=f"count {count} of total {total}"):
        clopper_pearson(count, total)


@pytest.mark.parametrize("confidence", [0, 1, -0.1, 95, float("nan")])
def test_a_confidence_out_of_range_is_refused(confidence):
    with pytest.raises(ValueError, match=r"confidence is .* between 0 and 1"):
        clopper_pearson(1, 2, confidence)


def test_mcnemar_is_the_exact_two_sided_binomial_test():
    for first in range(12):
        for second in range(12):
            if first + second:
                reference = binomtest(min(first, second), first + second, 0.5).pvalue
                assert mcnemar(first, second) == pytest.approx(reference, rel=1e-9)


def test_mcnemar_is_the_exact_test_for_many_samples():
    assert mcnemar(480, 560) == pytest.approx(binomtest(480, 1040, 0.5).pvalue, rel=1e-9)


def test_mcnemar_by_hand():
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(3, 3) == 1.0
    assert mcnemar(0, 10) == pytest.approx(2 / 2**10)


@settings(deadline=None)
@given(st.integers(0, 3000), st.integers(0, 3000))
def test_mcnemar_is_a_probability_and_takes_no_side(first, second):
    assert 0 <= mcnemar(first, second) <= 1
    assert mcnemar(first, second) == mcnemar(second, first)


@pytest.mark.parametrize("counts", [(-1, 3), (3, -1)])
def test_mcnemar_refuses_negative_counts(counts):
    with pytest.raises(ValueError, match="none below 0"):
        mcnemar(*counts)
