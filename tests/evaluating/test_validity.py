"""Each finding fires on an evaluation that can't be trusted, and is silent on an honest one."""

from __future__ import annotations

import numpy as np
import pytest

from robustbench_lite.core.cost import Passes
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.evaluating.validity import changed, check, denied, still_falling, stopped, unstable
from robustbench_lite.results.scorecard import (
    CHANGED,
    IN_FLOAT64,
    OUTSIDE,
    AttackResult,
    Audit,
    Denied,
    Interval,
    Trace,
)


def _attacked(name="pgd", *, blind=0, attempted=100, broken=40, looked_at=None, **changes):
    """The result of an attack; `blind` of the samples have no gradient at the first step."""
    looked_at = attempted if looked_at is None else looked_at
    fields = {
        "name": name,
        "attack": name,
        "threat": ThreatModel.parse("Linf 0.3"),
        "params": {},
        "gradients": True,
        "attempted": attempted,
        "broken": broken,
        "robust_accuracy": Interval.of(attempted - broken, attempted),
        "alone": None,
        "distance_median": 0.2 if broken else None,
        "passes": Passes(forward=3 * attempted, backward=2 * attempted),
        "seconds": 1.0,
        "trace": Trace(
            samples=(looked_at,) * 2, loss=(0.5, 1.5), broken=(0, broken), zero_gradient=(blind, min(blind, looked_at))
        ),
    }
    if not looked_at:
        fields["trace"] = Trace(samples=(), loss=(), broken=(), zero_gradient=())
    return AttackResult(**{**fields, **changes})


def _told(*results):
    return [(finding.code, finding.severity, finding.attack) for finding in check(results)]


def test_honest_results_have_no_findings():
    assert (
        _told(
            _attacked("fgsm", broken=10), _attacked("pgd", attempted=90), _attacked("square", gradients=False, broken=0)
        )
        == []
    )


def test_nothing_attacked_has_no_findings():
    assert _told() == []
    assert _told(_attacked(attempted=0, broken=0)) == []


# RB201: gradients that are exactly zero


@pytest.mark.parametrize(("blind", "fires"), [(0, False), (9, False), (10, True), (100, True)])
def test_gradients_that_are_zero_for_a_tenth_of_the_samples_are_told(blind, fires):
    assert _told(_attacked(blind=blind)) == ([("RB201", "error", "pgd")] if fires else [])


def test_blindness_is_an_error_only_where_no_attack_sees():
    assert _told(_attacked("fgsm", blind=80), _attacked("pgd")) == [("RB201", "warning", "fgsm")]
    assert _told(_attacked("fgsm", blind=80), _attacked("pgd", blind=30)) == [
        ("RB201", "error", "fgsm"),
        ("RB201", "error", "pgd"),
    ]


def test_an_attack_without_gradients_neither_is_blind_nor_stands_in_for_one_that_sees():
    assert _told(_attacked("square", gradients=False, blind=100)) == []
    assert _told(_attacked("pgd", blind=50), _attacked("square", gradients=False, broken=0)) == [
        ("RB201", "error", "pgd")
    ]


def test_an_attack_that_no_sample_was_left_for_does_not_stand_in_for_one_that_sees():
    left_nothing = _attacked("margin", attempted=0, broken=0)
    assert _told(_attacked("pgd", blind=50), left_nothing) == [("RB201", "error", "pgd")]


def test_an_attack_stopped_before_its_first_step_does_not_stand_in_for_one_that_sees():
    not_begun = _attacked("margin", looked_at=0, broken=0, finished=False)
    assert _told(_attacked("pgd", blind=50), not_begun) == [("RB201", "error", "pgd")]


def test_an_attack_that_sees_under_another_threat_model_does_not_stand_in():
    other = ThreatModel.parse("L2 0.5")
    assert _told(_attacked("pgd", blind=50), _attacked("margin", threat=other)) == [("RB201", "error", "pgd")]


# RB202: successes that the second look denies


@pytest.mark.parametrize(
    ("broken", "unconfirmed", "fires"),
    [(0, 0, False), (40, 1, False), (0, 1, False), (40, 2, True), (0, 2, True), (198, 2, False), (197, 3, True)],
)
def test_successes_that_were_not_confirmed_are_told_beyond_one_and_one_in_a_hundred(broken, unconfirmed, fires):
    result = _attacked(broken=broken, unconfirmed=unconfirmed, attempted=200)
    assert _told(result) == ([("RB202", "error", "pgd")] if fires else [])


# RB241: what float64 denies


def audit(*reasons, confirmed=100):
    told = tuple(Denied(index=at, attack="pgd", threat="Linf 0.1", reason=why) for at, why in enumerate(reasons))
    asked = confirmed + len(told)
    return Audit(asked=asked, confirmed=confirmed, precise=True, images=0, rounded=0, denied=told)


def test_what_float64_denies_is_told():
    assert list(denied(None)) == []
    assert list(denied(audit(CHANGED, OUTSIDE))) == [], "of these RB202 tells"
    assert [(one.code, one.severity) for one in denied(audit(IN_FLOAT64))] == [("RB241", "warning")]
    assert [(one.code, one.severity) for one in denied(audit(*[IN_FLOAT64] * 6))] == [("RB241", "error")]


# RB225: the end of the budget still breaks samples


@pytest.mark.parametrize(
    ("late", "fires"),
    [(0, False), (2, False), (10, True)],
)
def test_samples_that_fall_in_the_last_fifth_are_told(late, fires):
    threat = ThreatModel.parse("Linf 0.1")
    broken = np.array([20] * (50 - late) + [82] * late)
    told = list(still_falling(threat, broken, np.full(50, 100)))
    assert [(one.code, one.severity) for one in told] == ([("RB225", "warning")] if fires else [])
    if fires:
        assert "10 of 100 samples fell in the last fifth of the 100 passes" in told[0].message
    assert list(still_falling(threat, broken, np.full(7, 100))) == [], "too few survivors tell nothing"
    assert list(still_falling(threat, broken // 20, np.full(50, 5))) == [], "nor do five passes"


# RB203: broken without a change


@pytest.mark.parametrize(("broken", "unmoved", "fires"), [(40, 0, False), (40, 1, False), (40, 2, True)])
def test_samples_broken_without_a_change_are_told_beyond_one_and_one_in_a_hundred(broken, unmoved, fires):
    assert _told(_attacked(broken=broken, unmoved=unmoved)) == ([("RB203", "error", "pgd")] if fires else [])


def test_a_finding_names_the_attack_and_its_threat_model():
    blind = _attacked(blind=90, unconfirmed=30, unmoved=3, threat=ThreatModel.parse("L2 0.5"))
    assert [(finding.attack, finding.threat) for finding in check([blind])] == [("pgd", "L2 0.5")] * 3


def test_every_fault_of_every_attack_is_told():
    results = [_attacked("a", blind=90, unmoved=3), _attacked("b", blind=90, unconfirmed=30)]
    assert sorted(_told(*results)) == [
        ("RB201", "error", "a"),
        ("RB201", "error", "b"),
        ("RB202", "error", "b"),
        ("RB203", "error", "a"),
    ]


# RB101, RB102, RB301: about the whole evaluation


@pytest.mark.parametrize(
    ("different", "asked", "fires"),
    [(0, 128, False), (1, 8, False), (2, 8, True), (1, 128, False), (2, 128, True), (2, 200, False), (3, 200, True)],
)
def test_predictions_that_change_when_asked_again_are_an_error(different, asked, fires):
    found = list(unstable(different, asked))
    assert [(finding.code, finding.severity) for finding in found] == ([("RB101", "error")] if fires else [])
    assert all(f"{different} of {asked}" in finding.message for finding in found)


def test_weights_that_change_are_an_error():
    assert list(changed("a", "a")) == []
    assert [(finding.code, finding.severity) for finding in changed("a", "b")] == [("RB102", "error")]


def test_a_run_to_its_end_is_not_told_as_stopped():
    assert list(stopped(None, ["pgd"], 1, 50)) == []


@pytest.mark.parametrize(
    ("why", "done", "severity", "word"),
    [
        ("seconds", ["pgd"], "warning", "time"),
        ("passes", ["pgd"], "warning", "passes"),
        ("seconds", [], "error", "time"),
        ("passes", [], "error", "passes"),
        ("interrupt", ["pgd"], "error", "interrupted"),
        ("interrupt", [], "error", "interrupted"),
    ],
)
def test_a_run_stopped_early_is_an_error_where_no_attack_ended_or_a_person_stopped_it(why, done, severity, word):
    (finding,) = stopped(why, done, 3, 50)
    assert (finding.code, finding.severity) == ("RB301", severity)
    for told in (word, f"{len(done)} of 3", "50", "upper bound"):
        assert told in finding.message


def test_every_finding_says_what_to_do():
    findings = [
        *check([_attacked(blind=90, unconfirmed=30, unmoved=3)]),
        *unstable(9, 9),
        *changed("a", "b"),
        *stopped("seconds", [], 1, 1),
    ]
    assert {finding.code for finding in findings} == {"RB101", "RB102", "RB201", "RB202", "RB203", "RB301"}
    assert all(len(finding.cure) > 10 and len(finding.message) > 10 for finding in findings)
