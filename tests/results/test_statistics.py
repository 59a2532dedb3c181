"""Intervals and paired tests, against scipy.stats and by simulation."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import binom, binomtest, multinomial, spearmanr

from robustbench_lite.results.paired import mcnemar, mcnemar_loss, paired_interval, pairs_needed, visible_loss
from robustbench_lite.results.statistics import (
    clopper_pearson,
    confidence_sequence,
    last_look,
    median_interval,
    samples_needed,
    sequential_interval,
    spearman,
    unpaired_interval,
)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.999])
@pytest.mark.parametrize("total", [1, 2, 7, 40])
def test_interval_is_scipys_exact_one_for_every_count(total, confidence):
    for count in range(total + 1):
        reference = binomtest(count, total).proportion_ci(confidence, method="exact")
        assert clopper_pearson(count, total, confidence) == pytest.approx(tuple(reference), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("total", [6, 7, 16, 33])
def test_interval_of_the_median_covers_it_as_often_as_it_says_and_no_narrower_one_does(total):
    low, high = median_interval(list(range(total)))
    assert low + high == total - 1
    assert binom.cdf(low, total, 0.5) <= 0.025 < binom.cdf(low + 1, total, 0.5)


def test_interval_of_the_median_needs_six_numbers():
    assert median_interval([3.0, 1.0, 2.0, 5.0, 4.0]) is None
    assert median_interval([3.0, 1.0, 2.0, 5.0, 4.0, 6.0]) == (1.0, 6.0)
    assert median_interval([]) is None


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


# One side of McNemar


def test_mcnemar_loss_is_the_exact_one_sided_binomial_test():
    for lost in range(12):
        for gained in range(12):
            if lost + gained:
                reference = binomtest(lost, lost + gained, 0.5, alternative="greater").pvalue
                assert mcnemar_loss(lost, gained) == pytest.approx(reference, rel=1e-9)
    assert mcnemar_loss(0, 0) == 1.0


def test_mcnemar_loss_refuses_negative_counts():
    with pytest.raises(ValueError, match="none below 0"):
        mcnemar_loss(-1, 3)


# Samples needed


@settings(deadline=None)
@given(
    share=st.sampled_from([(0, 1), (1, 4), (9, 20), (1, 2), (19, 20), (1, 1)]),
    batches=st.integers(1, 50),
    threshold=st.floats(0.01, 0.99),
)
def test_as_many_samples_as_needed_clear_the_threshold_and_fewer_do_not(share, batches, threshold):
    right, size = share
    needed = samples_needed(right * batches, size * batches, threshold)
    if needed is None or needed > 10**6:
        assert abs(right / size - threshold) < 0.002
        return
    enough = -(-needed // size)  # batches that hold whole counts of the share
    low, high = clopper_pearson(right * enough, size * enough)
    assert not low <= threshold <= high
    assert needed >= size * batches
    if enough - 1 > batches:
        low, high = clopper_pearson(right * (enough - 1), size * (enough - 1))
        assert low <= threshold <= high


def test_samples_needed_by_hand():
    # None right of n has the high end 1 - 0.025 ** (1 / n), below 0.5 from 6 on.
    assert samples_needed(0, 1, 0.5) == 6
    assert samples_needed(1, 1, 0.5) == 6
    assert samples_needed(0, 40, 0.5) == 40


@pytest.mark.parametrize(("count", "total", "threshold"), [(45, 100, 0.45), (0, 10, 0.0), (10, 10, 1.0), (0, 0, 0.5)])
def test_no_number_of_samples_tells_a_share_from_itself(count, total, threshold):
    assert samples_needed(count, total, threshold) is None


# The confidence sequence


def _mixture(count, seen, share):
    """Mean over the shares above of the likelihood, against that of one, by quadrature."""

    def likelihood(other):
        return (other / share) ** count * ((1 - other) / (1 - share)) ** (seen - count)

    return quad(likelihood, share, 1, points=[count / seen], epsabs=0)[0] / (1 - share)


@pytest.mark.parametrize(("count", "seen"), [(1, 1), (3, 4), (12, 40), (60, 80), (79, 80)])
def test_the_sequence_ends_where_the_evidence_of_the_mixture_is_one_over_the_error(count, seen):
    low, high = confidence_sequence(count, seen, 0.9)
    assert _mixture(count, seen, low) == pytest.approx(20, rel=1e-4)
    assert confidence_sequence(seen - count, seen, 0.9) == (pytest.approx(1 - high), pytest.approx(1 - low))


@settings(deadline=None)
@given(total=st.integers(1, 20_000), data=st.data())
def test_the_sequence_holds_the_share_and_the_interval_of_one_look(total, data):
    count = data.draw(st.integers(0, total))
    low, high = confidence_sequence(count, total)
    once_low, once_high = clopper_pearson(count, total)
    assert 0 <= low <= once_low <= count / total <= once_high <= high <= 1


def test_the_sequence_knows_nothing_without_trials():
    assert confidence_sequence(0, 0) == (0.0, 1.0)


def _ever_outside(share, total, interval):
    """Exact chances that an interval was ever above and ever below a share, looking after each sample."""
    chances, above, below = np.ones(1), 0.0, 0.0
    for seen in range(1, total + 1):
        chances = np.append(chances * (1 - share), 0) + np.append(0, chances * share)
        first_above = bisect_right(range(seen + 1), share, key=lambda count: interval(count, seen)[0])
        first_held = bisect_left(range(seen + 1), share, key=lambda count: interval(count, seen)[1])
        above, below = above + chances[first_above:].sum(), below + chances[:first_held].sum()
        chances[first_above:] = chances[:first_held] = 0
    return above, below


@pytest.mark.parametrize("share", [0.1, 0.5, 0.93])
def test_the_sequence_misses_the_share_at_any_time_as_rarely_as_it_says(share):
    above, below = _ever_outside(share, 250, lambda count, seen: confidence_sequence(count, seen, 0.9))
    assert 0.005 < above <= 0.05
    assert 0.005 < below <= 0.05


@pytest.mark.parametrize("share", [0.1, 0.5, 0.93])
def test_the_interval_of_early_looks_and_the_last_misses_as_rarely_as_it_says(share):
    above, below = _ever_outside(share, 250, lambda count, seen: sequential_interval(count, seen, 250))
    assert 0.005 < above <= 0.025
    assert 0.005 < below <= 0.025


def test_the_check_sees_that_an_interval_of_one_look_misses_too_often_when_looked_at_often():
    above, below = _ever_outside(0.5, 250, clopper_pearson)
    assert min(above, below) > 0.05


def test_the_last_look_has_what_the_early_ones_left():
    assert last_look(0.95) == pytest.approx(0.96)
    assert sequential_interval(480, 1000, 1000) == clopper_pearson(480, 1000, last_look(0.95))


@settings(deadline=None)
@given(total=st.integers(1, 300), data=st.data())
def test_whatever_the_rest_does_the_last_interval_is_within_the_curtailed_one(total, data):
    seen = data.draw(st.integers(0, total))
    count = data.draw(st.integers(0, seen))
    final = count + data.draw(st.integers(0, total - seen))
    low, high = sequential_interval(count, seen, total)
    sequence = confidence_sequence(count, seen, 0.99)
    last = clopper_pearson(final, total, last_look(0.95))
    assert low <= high
    assert low <= max(last[0], sequence[0])
    assert high >= min(last[1], sequence[1])


def test_curtailment_decides_where_the_sequence_could_not():
    low, _ = sequential_interval(540, 990, 1000)
    assert confidence_sequence(540, 990, 0.99)[0] < 0.5 < low
    assert low == clopper_pearson(540, 1000, last_look(0.95))[0]


def test_more_seen_than_there_are_is_refused():
    with pytest.raises(ValueError, match="6 of 5 samples were seen"):
        sequential_interval(1, 6, 5)


# The paired interval

SAMPLES = 30


@cache
def _paired(lost, gained, total=SAMPLES):
    return paired_interval(lost, gained, total)


@pytest.mark.parametrize(
    ("lost", "gained"), [(0.02, 0.02), (0.1, 0.1), (0.5, 0.5), (0.3, 0.0), (0.25, 0.2), (0.1, 0.3), (0.9, 0.05)]
)
def test_the_paired_interval_misses_the_truth_on_each_side_as_rarely_as_it_says(lost, gained):
    chance = multinomial(SAMPLES, [lost, gained, max(0, 1 - lost - gained)])
    above = below = 0.0
    for first in range(SAMPLES + 1):
        for second in range(SAMPLES + 1 - first):
            low, high = _paired(first, second)
            likely = chance.pmf([first, second, SAMPLES - first - second])
            above += likely * (low > lost - gained)
            below += likely * (high < lost - gained)
    assert above <= 0.025
    assert below <= 0.025


@settings(deadline=None)
@given(total=st.integers(1, 500), data=st.data())
def test_the_paired_interval_holds_the_difference_mirrors_and_agrees_with_mcnemar(total, data):
    lost = data.draw(st.integers(0, total))
    gained = data.draw(st.integers(0, total - lost))
    low, high = paired_interval(lost, gained, total)
    assert -1 <= low <= (lost - gained) / total <= high <= 1
    assert paired_interval(gained, lost, total) == (-high, -low)
    assert (low > 0) is (mcnemar_loss(lost, gained) <= 0.025)


def test_the_paired_interval_ends_where_the_test_does():
    # Added up outcome by outcome, at the most that the 99.9 % limit lets them differ; 0.1 % of error is spent on that.
    lost, gained, total = 40, 8, 100
    low, _ = paired_interval(lost, gained, total)
    _, differ = clopper_pearson(lost + gained, total, 0.998)
    chance = multinomial(total, [(differ + low) / 2, (differ - low) / 2, 1 - differ])
    outcomes = [(one, two) for one in range(total + 1) for two in range(total + 1 - one) if one - two >= lost - gained]
    reached = chance.pmf([(one, two, total - one - two) for one, two in outcomes]).sum()
    assert reached == pytest.approx(0.024, rel=1e-6)


def test_the_paired_interval_is_about_as_narrow_as_the_normal_one_for_many_samples():
    low, high = paired_interval(600, 500, 10_000)
    normal = 1.96 * (1100 / 10_000 - 0.01**2) ** 0.5 / 100
    assert low == pytest.approx(0.01 - normal, abs=0.12 * normal)
    assert high == pytest.approx(0.01 + normal, abs=0.12 * normal)


def test_nothing_is_known_of_no_pairs():
    assert paired_interval(0, 0, 0) == (-1.0, 1.0)


@pytest.mark.parametrize(("counts", "message"), [((-1, 3, 10), "none below 0"), ((6, 5, 10), "count 11 of total 10")])
def test_paired_counts_that_can_not_be_are_refused(counts, message):
    with pytest.raises(ValueError, match=message):
        paired_interval(*counts)


@settings(deadline=None)
@given(
    shares=st.sampled_from([(0, 0), (1, 0), (3, 1), (2, 2), (0, 4)]),
    batches=st.integers(1, 20),
    threshold=st.sampled_from([-0.1, 0.0, 0.004, 0.05]),
)
def test_as_many_pairs_as_needed_clear_the_threshold_and_fewer_do_not(shares, batches, threshold):
    lost, gained, size = *shares, 20
    needed = pairs_needed(lost * batches, gained * batches, size * batches, threshold)
    if needed is None:
        assert (lost - gained) / size == threshold
        return
    assert needed >= size * batches
    enough = -(-needed // size) + 4  # a little more: counts are rounded on the way
    low, high = paired_interval(lost * enough, gained * enough, size * enough)
    assert not low <= threshold <= high
    short = needed // size - 4
    if short >= batches:
        low, high = paired_interval(lost * short, gained * short, size * short)
        assert low <= threshold <= high


def test_no_number_of_pairs_tells_what_is_lost_from_itself():
    assert pairs_needed(3, 1, 200, 0.01) is None
    assert pairs_needed(0, 0, 0, 0.01) is None


# What can be seen


def _power(loss, won, total):
    """Chance that the one-sided test sees a loss, by adding up every outcome."""
    lost, gained = loss + won, won
    chance = 0.0
    for first in range(total + 1):
        worst = [second for second in range(total + 1 - first) if mcnemar_loss(first, second) <= 0.025]
        left = binom(total - first, gained / (1 - lost))
        chance += binom.pmf(first, total, lost) * sum(left.pmf(second) for second in worst)
    return chance


@pytest.mark.parametrize(("gained", "total", "power"), [(0, 25, 0.8), (1, 40, 0.8), (4, 40, 0.5)])
def test_the_visible_loss_is_seen_as_often_as_it_says(gained, total, power):
    loss = visible_loss(gained, total, power)
    assert _power(loss, gained / total, total) == pytest.approx(power, abs=1e-6)


def test_the_visible_loss_shrinks_with_samples_and_grows_with_churn():
    assert visible_loss(0, 10_000) < visible_loss(0, 1_000) < visible_loss(0, 100)
    assert visible_loss(0, 1_000) < visible_loss(10, 1_000) < visible_loss(100, 1_000)
    # Six losses and no gain are the least that the test sees; eight are expected where six come with 80 %.
    assert visible_loss(0, 10_000) == pytest.approx(7.9 / 10_000, rel=0.01)


@pytest.mark.parametrize(("gained", "total"), [(0, 0), (0, 5), (5, 10), (10, 10)])
def test_too_few_samples_show_no_loss(gained, total):
    assert visible_loss(gained, total) is None


@pytest.mark.parametrize(("one", "other"), [(0.5, 0.5), (0.9, 0.6), (0.98, 0.95)])
@pytest.mark.parametrize("sizes", [(20, 40), (30, 30)])
def test_interval_of_an_unpaired_difference_covers_it_as_often_as_it_says(one, other, sizes):
    first, second = sizes
    covered = sum(
        binom.pmf(a, first, one) * binom.pmf(b, second, other)
        for a in range(first + 1)
        for b in range(second + 1)
        if binom.pmf(a, first, one) * binom.pmf(b, second, other) > 1e-7
        and (ends := unpaired_interval((a, first), (b, second)))[0] <= one - other <= ends[1]
    )
    assert covered >= 0.95


def test_interval_of_an_unpaired_difference_turns_with_it_and_stays_in_its_range():
    low, high = unpaired_interval((30, 100), (10, 50))
    assert unpaired_interval((10, 50), (30, 100)) == pytest.approx((-high, -low))
    assert low < 0.1 < high
    assert unpaired_interval((5, 5), (0, 5))[1] == 1.0
    assert unpaired_interval((0, 5), (5, 5))[0] == -1.0
    wide, narrow = unpaired_interval((30, 100), (10, 50), 0.99), (low, high)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_rank_correlation_is_scipys_and_its_interval_covers_it():
    dice = np.random.default_rng(0)
    for count in (2, 3, 5, 20):
        one, other = dice.integers(0, 6, count).tolist(), dice.integers(0, 6, count).tolist()
        if len(set(one)) < 2 or len(set(other)) < 2:
            continue
        found, low, high = spearman(one, other)
        assert found == pytest.approx(spearmanr(one, other).statistic)
        assert -1 <= low <= found <= high <= 1
    assert spearman([1, 1, 1], [1, 2, 3]) is None
    assert spearman([1, 2, 3], [2, 4, 9]) == (1.0, -1.0, 1.0)  # three things tell nothing


def test_interval_of_a_rank_correlation_covers_the_true_one():
    dice, truth, inside = np.random.default_rng(1), 0.6, 0
    spearmans = 6 / np.pi * np.arcsin(truth / 2)  # of a normal distribution with this correlation
    for _ in range(400):
        one, other = dice.multivariate_normal([0, 0], [[1, truth], [truth, 1]], 20).T
        _, low, high = spearman(one.tolist(), other.tolist())
        inside += low <= spearmans <= high
    assert 0.92 <= inside / 400 <= 0.985
    assert spearman(range(5), range(5))[1] < 0.9
