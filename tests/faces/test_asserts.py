"""Plain asserts on a scorecard."""

from __future__ import annotations

import pytest

import robustbench_lite
from robustbench_lite import assert_clean, assert_gates, assert_robust, assert_valid
from robustbench_lite.results.scorecard import Finding

UNSTABLE = Finding(code="RB101", severity="error", message="3 of 4 predictions changed", cure="eval mode")


def test_the_interval_decides_and_not_the_point(make_card):
    card = make_card()
    robust, clean = card.robust_accuracy, card.clean_accuracy
    for share in (0, robust.low, robust.value, robust.high):
        assert_robust(card, at_least=share)
    with pytest.raises(AssertionError):
        assert_robust(card, at_least=robust.high + 1e-9)
    assert_clean(card, clean.high)
    with pytest.raises(AssertionError):
        assert_clean(card, at_least=clean.high + 1e-9)


def test_a_failure_says_what_was_found_and_by_which_attacks(make_card):
    card = make_card()
    with pytest.raises(AssertionError) as caught:
        assert_robust(card, at_least=0.99)
    headline, about, clean, *attacks = str(caught.value).splitlines()
    assert headline == (
        f"robust accuracy under Linf 0.3 is {card.robust_accuracy.value:.1%} [{card.robust_accuracy.low:.1%}, "
        f"{card.robust_accuracy.high:.1%}] on 200 samples: at least 99.0% is demanded, and the whole 95% interval is "
        "below it (min_robust_accuracy)"
    )
    assert about.startswith("lenet5 on 200 samples of digits, suite linf_quick, ")
    assert clean == f"  clean accuracy {card.clean_accuracy}"
    assert [line.partition(" after ")[2] for line in attacks] == [
        f"{result.name} under Linf 0.3: broke {result.broken} of {result.attempted}" for result in card.attacks
    ]


def test_one_threat_model_of_several(make_card):
    card = make_card(threats=["Linf 0.01", "L2 1"])
    first = card.threats[0].robust_accuracy
    assert_robust(card, at_least=first.high, threat="linf 1/100")
    with pytest.raises(AssertionError, match=r"under Linf 0\.01 is"):
        assert_robust(card, at_least=first.high + 1e-9, threat="Linf 0.01")
    with pytest.raises(AssertionError, match=r"under Linf 0\.01 and L2 1 is"):
        assert_robust(card, at_least=first.high)
    with pytest.raises(ValueError, match=r"holds nothing under L2 3: expected one of Linf 0\.01, L2 1"):
        assert_robust(card, at_least=0.1, threat="L2 3")


@pytest.mark.parametrize("share", [45, -0.1, float("nan")])
def test_shares_out_of_range(make_card, share):
    with pytest.raises(ValueError, match="expected a share from 0 to 1"):
        assert_robust(make_card(), at_least=share)


def test_invalid_fails_all_of_them_but_for_a_reason(make_card):
    card = make_card(verdict="INVALID", validity=(UNSTABLE,))
    for check in (
        lambda **why: assert_robust(card, 0.0, **why),
        lambda **why: assert_clean(card, 0.0, **why),
        lambda **why: assert_gates(card, **why),
    ):
        with pytest.raises(AssertionError, match="RB101: 3 of 4 predictions changed\n    cure: eval mode"):
            check()
        check(allow_invalid="dice")
    assert_valid(card, allow="dice")
    with pytest.raises(ValueError, match="the reason to let an INVALID evaluation through is empty"):
        assert_valid(card, allow=" ")


def test_gates_of_the_card(make_card, make_gate):
    assert_gates(make_card())
    gates = (
        make_gate("max_drop", 0.1, 0.4, passed=False).model_copy(update={"samples": 200}),
        make_gate("max_passes", 100, 250.5, passed=False),
        make_gate("min_robust_accuracy", 0.6, 0.4, passed=False),  # of a card of before the samples were kept
    )
    with pytest.raises(AssertionError) as caught:
        assert_gates(make_card(verdict="FAIL", gates=gates))
    assert str(caught.value).splitlines()[:3] == [
        "drop is 40.0% [38.0%, 42.0%] on 200 samples: at most 10.0% is demanded, and the whole 95% interval is above "
        "it (max_drop)",
        "passes a sample: 250.5, at most 100 demanded (max_passes)",
        "robust accuracy is 40.0% [38.0%, 42.0%]: at least 60.0% is demanded, and the whole 95% interval is below it "
        "(min_robust_accuracy)",
    ]
    with pytest.raises(ValueError, match="the scorecard has no gates"):
        assert_gates(make_card(gates=()))


def test_they_are_at_the_top_of_the_package():
    for name in ("assert_clean", "assert_gates", "assert_robust", "assert_valid"):
        assert name in robustbench_lite.__all__
