"""Gates: decided on the interval, early where it can't change, and wrong as rarely as they say."""

from __future__ import annotations

import subprocess
import sys
from bisect import bisect_left
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

import robustbench_lite
from robustbench_lite.results.gates import Counts, Gates, check_gate, decide, settled
from robustbench_lite.results.scorecard import Gate
from robustbench_lite.results.statistics import clopper_pearson, last_look


def _counts(seen=1000, right=900, robust=450, passes=0, seconds=0.0):
    return Counts(seen=seen, right=right, robust=robust, passes=passes, seconds=seconds)


def _robust(threshold, robust, seen, total=None):
    [gate] = decide(Gates(min_robust_accuracy=threshold), _counts(seen, seen, robust), total=total)
    return gate


# What is demanded


def test_gates_are_public():
    assert robustbench_lite.Gates is Gates


@pytest.mark.parametrize("name", ["min_clean_accuracy", "min_robust_accuracy", "max_drop", "max_regression"])
@pytest.mark.parametrize("share", [-0.1, 1.1, 45, float("nan"), "0.4", True])
def test_a_share_that_is_none_is_refused(name, share):
    with pytest.raises(ValueError, match=f"{name} is {share!r}: expected a share from 0 to 1, such as 0.45 for 45 %"):
        Gates(**{name: share})


@pytest.mark.parametrize("name", ["max_passes", "max_seconds"])
@pytest.mark.parametrize("cost", [0, -1, float("inf"), float("nan"), "9", True])
def test_a_cost_that_is_none_is_refused(name, cost):
    with pytest.raises(ValueError, match=f"{name} is {cost!r}: expected a number above 0, such as 500"):
        Gates(**{name: cost})


def test_numpys_numbers_are_taken():
    assert Gates(min_robust_accuracy=np.float32(0.5), max_passes=np.int64(9)).max_passes == 9


def test_nothing_demanded_is_nothing_decided():
    assert decide(Gates(), _counts()) == ()


def test_the_counts_of_a_card(make_card):
    card = make_card(samples=50)
    counts = Counts.of(card)
    assert (counts.seen, counts.right) == (50, sum(row.correct for row in card.outcomes))
    assert counts.robust == sum(row.robust for row in card.outcomes)
    assert (counts.passes, counts.seconds) == (card.passes.forward + card.passes.backward, card.seconds)


def test_deciding_loads_no_torch_and_no_scipy_stats():
    program = (
        "import sys; from robustbench_lite.results.gates import *; "
        "decide(Gates(min_robust_accuracy=0.5), Counts(seen=9, right=9, robust=5), total=20); "
        "import robustbench_lite.results.baseline; print({'torch', 'scipy.stats', 'scipy.optimize'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


# Decided when all is seen


def test_every_gate_in_its_order_with_what_was_seen():
    demands = Gates(
        min_clean_accuracy=0.8, min_robust_accuracy=0.6, max_drop=0.44, max_regression=0.1, max_passes=50, max_seconds=9
    )
    regression = check_gate("max_regression", 0.1, 0.02, 0.0, 0.05, samples=1000, more_needed=None)
    gates = decide(demands, _counts(passes=40_000, seconds=10.0), regression=regression)
    assert [(gate.name, gate.value, gate.words) for gate in gates] == [
        ("min_clean_accuracy", 0.9, "met"),
        ("min_robust_accuracy", 0.45, "failed"),
        ("max_drop", 0.45, "undecided with 1,000 samples, 8,576 more needed"),
        ("max_regression", 0.02, "met"),
        ("max_passes", 40.0, "met"),
        ("max_seconds", 10.0, "failed"),
    ]
    assert [gate.kind for gate in gates] == ["accuracy"] * 3 + ["regression"] + ["cost"] * 2
    assert {gate.samples for gate in gates} == {1000}
    assert (gates[2].low, gates[2].high) == clopper_pearson(450, 1000)


@pytest.mark.parametrize("name", ["min_robust_accuracy", "max_drop"])
@pytest.mark.parametrize("count", range(21))
def test_fails_only_where_the_whole_interval_is_on_the_wrong_side(name, count):
    counts = _counts(20, 20, count if name == "min_robust_accuracy" else 20 - count)
    [gate] = decide(Gates(**{name: 0.4}), counts)
    low, high = clopper_pearson(count, 20)
    wrong, right = (high < 0.4, low >= 0.4) if name == "min_robust_accuracy" else (low > 0.4, high <= 0.4)
    assert (gate.passed, gate.decided) == (not wrong, wrong or right)
    assert (gate.more_needed is None) is (gate.decided or count == 8)


def test_an_undecided_gate_says_how_many_more_would_tell():
    gate = _robust(0.5, 460, 1000)
    assert (gate.passed, gate.decided, gate.words) == (False, True, "failed")
    gate = _robust(0.5, 48, 100)
    assert gate.words == f"undecided with 100 samples, {gate.more_needed:,} more needed"
    more = -(-gate.more_needed // 25) * 25  # 48 of 100 is a whole number of 25
    assert _robust(0.5, round(0.48 * (100 + more)), 100 + more).decided
    assert not _robust(0.5, round(0.48 * (75 + more)), 75 + more).decided


def test_a_share_at_its_threshold_is_told_apart_by_no_number():
    gate = _robust(0.45, 450, 1000)
    assert (gate.passed, gate.decided, gate.more_needed) == (True, False, None)
    assert gate.words == "undecided with 1,000 samples, and with any number: the share is at the threshold"


@pytest.mark.parametrize(
    ("demands", "counts", "words"),
    [
        ({"min_robust_accuracy": 1.0}, (10, 10, 10), "undecided with 10 samples, and with any number"),
        ({"min_robust_accuracy": 1.0}, (10, 10, 9), "failed"),
        ({"min_robust_accuracy": 0.0}, (10, 0, 0), "met"),
        ({"max_drop": 1.0}, (10, 10, 0), "met"),
        ({"max_drop": 0.0}, (10, 10, 10), "undecided with 10 samples, and with any number"),
        ({"max_drop": 0.0}, (10, 10, 9), "failed"),
    ],
)
def test_thresholds_at_the_ends(demands, counts, words):
    [gate] = decide(Gates(**demands), _counts(*counts))
    assert gate.words.startswith(words)


def test_costs_are_compared_as_they_are():
    demands = Gates(max_passes=40, max_seconds=2)
    assert [gate.words for gate in decide(demands, _counts(passes=40_000, seconds=2.0))] == ["met", "met"]
    over = decide(demands, _counts(passes=40_001, seconds=2.01))
    assert [gate.passed for gate in over] == [False, False]
    assert over[0].low == over[0].value == over[0].high == pytest.approx(40.001)


def test_a_regression_that_nothing_was_compared_for_is_refused():
    with pytest.raises(ValueError, match=r"max_regression is 0\.01, and there is no baseline"):
        decide(Gates(max_regression=0.01), _counts())


def test_a_regression_that_is_not_demanded_decides_nothing():
    regression = check_gate("max_regression", 0.0, 0.1, 0.05, 0.2, samples=10, more_needed=None)
    assert decide(Gates(), _counts(), regression=regression) == ()


def test_a_gate_of_before_samples_were_kept_is_written_as_it_was_read():
    old = {"name": "max_drop", "threshold": 0.1, "value": 0.1, "low": 0.0, "high": 0.2, "passed": True}
    gate = Gate.model_validate({**old, "decided": False})
    assert gate.model_dump() == {**old, "decided": False}
    assert gate.words == "undecided"
    assert Gate.model_validate({**old, "decided": True, "passed": False}).words == "failed"


def test_a_gate_survives_its_file():
    for gate in (_robust(0.5, 48, 100), _robust(0.5, 90, 100)):
        assert Gate.model_validate_json(gate.model_dump_json()) == gate


# Decided early


def test_all_seen_is_settled():
    assert settled(Gates(min_robust_accuracy=0.45), _counts(1000, 1000, 450), 1000)


def test_nothing_seen_is_not():
    assert not settled(Gates(min_robust_accuracy=0.45), _counts(0, 0, 0), 1000)


def test_without_a_gate_on_accuracy_there_is_nothing_to_settle():
    assert not settled(Gates(), _counts(), 1001)
    assert not settled(Gates(max_passes=1, max_seconds=1), _counts(passes=10**9), 1001)


def test_a_regression_needs_all_the_samples():
    clear = _counts(500, 500, 500)
    assert settled(Gates(min_robust_accuracy=0.1), clear, 1000)
    assert not settled(Gates(min_robust_accuracy=0.1, max_regression=0.5), clear, 1000)


def test_every_gate_has_to_be_settled():
    counts = _counts(200, 190, 60)
    assert settled(Gates(min_robust_accuracy=0.6), counts, 1000)
    assert settled(Gates(min_clean_accuracy=0.5), counts, 1000)
    assert settled(Gates(min_robust_accuracy=0.6, min_clean_accuracy=0.5), counts, 1000)
    assert not settled(Gates(min_robust_accuracy=0.6, min_clean_accuracy=0.94), counts, 1000)


@settings(deadline=None)
@given(total=st.integers(1, 400), threshold=st.floats(0.01, 0.99), data=st.data())
def test_settled_is_when_every_gate_is_decided(total, threshold, data):
    seen = data.draw(st.integers(0, total - 1)) if total > 1 else 0
    right = data.draw(st.integers(0, seen))
    counts = _counts(seen, right, data.draw(st.integers(0, right)))
    demands = Gates(min_clean_accuracy=threshold, min_robust_accuracy=threshold / 2, max_drop=threshold)
    gates = decide(demands, counts, total=total)
    assert settled(demands, counts, total) is all(gate.decided for gate in gates)
    assert all(gate.more_needed is None or gate.more_needed >= total - seen for gate in gates)


def test_an_evaluation_that_might_have_stopped_pays_for_its_looks():
    fixed, early = _robust(0.5, 469, 1000), _robust(0.5, 469, 1000, total=1000)
    assert (fixed.low, fixed.high) == clopper_pearson(469, 1000)
    assert (early.low, early.high) == clopper_pearson(469, 1000, last_look(0.95))
    assert early.more_needed > fixed.more_needed > 0


def test_an_early_gate_cut_short_needs_at_least_the_rest():
    gate = _robust(0.5, 45, 100, total=10_000)
    assert (gate.decided, gate.samples, gate.more_needed) == (False, 100, 9_900)


def test_asking_is_cheap():
    """It is asked after every part of the samples: a few hundred calls, however many samples there are."""
    demands = Gates(min_clean_accuracy=0.85, min_robust_accuracy=0.4, max_drop=0.5)
    settled(demands, _counts(10, 9, 5), 100)  # what is imported when it is first asked
    calls = []
    for seen in (50, 5_000, 500_000):
        made = []
        sys.setprofile(lambda _frame, event, _argument, made=made: made.append(event) if "call" in event else None)
        try:
            settled(demands, _counts(seen, int(0.9 * seen), int(0.45 * seen)), 1_000_000)
        finally:
            sys.setprofile(None)
        calls.append(len(made))
    assert min(calls) > 0
    assert max(calls) < 2_000, calls


# How often it is wrong, and how early it is done


@cache
def _borders(threshold, total, every):
    """Where a gate is decided, by samples seen: fails below the first count, is met from the second on."""
    borders = []
    for seen in [*range(every, total, every), total]:

        def above(count, words, seen=seen):
            return _robust(threshold, count, seen, total=total).words in words

        fails = bisect_left(range(seen + 1), True, key=lambda count: not above(count, ("failed",)))
        meets = bisect_left(range(seen + 1), True, key=lambda count: above(count, ("met",)))
        borders.append((seen, fails, meets))
    return borders


def _course(threshold, total, every, share):
    """Exact chance to fail and to be met, and mean samples seen, for a model whose true share is given."""
    chances, before = np.ones(1), 0
    failed = met = samples = 0.0
    for seen, fails, meets in _borders(threshold, total, every):
        step = binom.pmf(np.arange(seen - before + 1), seen - before, share)
        chances, before = np.convolve(chances, step), seen
        failed, met = failed + chances[:fails].sum(), met + chances[meets:].sum()
        ended = chances.sum() if seen == total else chances[:fails].sum() + chances[meets:].sum()
        samples += seen * ended
        chances[:fails] = chances[meets:] = 0
    return failed, met, samples


@pytest.mark.parametrize("threshold", [0.05, 0.45, 0.9])
@pytest.mark.parametrize(("total", "every"), [(200, 1), (1000, 50)])
def test_a_model_at_the_threshold_fails_at_most_2_5_times_in_100(threshold, total, every):
    failed, met, _ = _course(threshold, total, every, threshold)
    assert 0.005 < failed <= 0.025
    assert 0.005 < met <= 0.025


def test_a_better_model_fails_less_and_a_worse_one_more():
    failed = [_course(0.45, 1000, 50, share)[0] for share in (0.35, 0.40, 0.43, 0.45, 0.46, 0.5)]
    assert failed == sorted(failed, reverse=True)
    assert failed[0] > 0.999
    assert failed[1] > 0.85
    assert failed[-1] < 1e-3


@pytest.mark.parametrize(("share", "saving"), [(0.25, 0.85), (0.35, 0.4), (0.55, 0.4), (0.7, 0.85)])
def test_stopping_early_saves_samples_and_keeps_the_power(share, saving):
    failed, met, samples = _course(0.45, 1000, 25, share)
    assert max(failed, met) > 0.999
    assert samples < (1 - saving) * 1000


def test_by_simulation_of_what_an_evaluation_does():
    dice, total, every, threshold = np.random.default_rng(7), 400, 40, 0.45
    demands = Gates(min_robust_accuracy=threshold)
    failed = stopped = 0
    for _ in range(400):
        course = (dice.random(total) < threshold).cumsum()
        for seen in range(every, total + 1, every):
            counts = _counts(seen, seen, int(course[seen - 1]))
            if settled(demands, counts, total):
                break
        [gate] = decide(demands, counts, total=total)
        failed, stopped = failed + (not gate.passed), stopped + (seen < total)
        assert gate.decided or seen == total
    exact, _, _ = _course(threshold, total, every, threshold)
    assert failed / 400 == pytest.approx(exact, abs=4 * (exact / 400) ** 0.5)
    assert stopped > 0


def test_a_measure_with_a_parameter_is_demanded_by_its_whole_name():
    gates = Gates.of({"min_certified_accuracy:0.25": 0.1})
    assert gates.measured == ("certified_accuracy:0.25",)
    with pytest.raises(ValueError, match="unknown gate 'min_parameters:3'"):
        Gates.of({"min_parameters:3": 1.0})
