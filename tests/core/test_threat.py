"""Threat models: what is read, what is kept as it was written, what is refused and in which words."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from robustbench_lite.core.threat import NORMS, SEVERITIES, TARGET_CHOICES, TRANSFORMATIONS, ThreatModel


@pytest.mark.parametrize(
    ("text", "norm", "eps", "goal", "target_class"),
    [
        ("Linf 8/255", "Linf", 8 / 255, "untargeted", "random"),
        ("L2 0.5", "L2", 0.5, "untargeted", "random"),
        ("L2 1e-2", "L2", 0.01, "untargeted", "random"),
        ("  Linf\t1  ", "Linf", 1.0, "untargeted", "random"),
        ("Linf 0.3 untargeted", "Linf", 0.3, "untargeted", "random"),
        ("Linf 0.3 targeted", "Linf", 0.3, "targeted", "random"),
        ("L2 2 targeted least_likely", "L2", 2.0, "targeted", "least_likely"),
        ("L2 2 targeted next", "L2", 2.0, "targeted", "next"),
        ("L1 12", "L1", 12.0, "untargeted", "random"),
        ("l0 24", "L0", 24.0, "untargeted", "random"),
        ("L0 2.4e1 targeted", "L0", 24.0, "targeted", "random"),
        ("spatial 30", "Spatial", 30.0, "untargeted", "random"),
        ("CORRUPTION 5", "Corruption", 5.0, "untargeted", "random"),
    ],
)
def test_reads_each_form(text, norm, eps, goal, target_class):
    threat = ThreatModel.parse(text)
    assert (threat.norm, threat.eps, threat.goal, threat.target_class) == (norm, eps, goal, target_class)


@pytest.mark.parametrize("text", ["linf 8/255", "LINF 8/255", "Linf 8/255"])
def test_the_case_of_the_norm_does_not_matter(text):
    assert ThreatModel.parse(text) == ThreatModel.parse("Linf 8/255")


def test_keeps_eps_as_it_was_written():
    threat = ThreatModel.parse("linf 16/510")
    assert (str(threat), threat.eps_text, threat.eps) == ("Linf 16/510", "16/510", 8 / 255)


@pytest.mark.parametrize(("eps", "text"), [(0.1, "0.1"), (1, "1"), ("2/8", "2/8"), (Fraction(1, 4), "1/4")])
def test_fields_take_numbers_and_texts_for_eps(eps, text):
    threat = ThreatModel(norm="L2", eps=eps)
    assert threat.eps_text == text
    assert ThreatModel.parse(str(threat)) == threat


def test_a_threat_model_is_handed_back_as_it_is():
    threat = ThreatModel.parse("L2 1")
    assert ThreatModel.parse(threat) is threat


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["NORM EPS", "Linf 8/255"]),
        ("Linf", ["'Linf'", "NORM EPS"]),
        ("Linf 0.1 maybe", ["'Linf 0.1 maybe'", "targeted"]),
        ("Linf 0.1 targeted next please", ["NORM EPS", "least_likely"]),
        ("Linf 0.1 targeted nearest", ["target_class", "least_likely", "next", "random"]),
        ("L3 0.1", ["'L3'", "Linf", "L2"]),
        ("Linf eight", ["'eight'", "8/255"]),
        ("Linf 8/0", ["'8/0'", "8/255"]),
        ("Linf nan", ["nan", "expected"]),
        ("Linf inf", ["inf", "expected"]),
        ("L2 1e400", ["1e400", "expected"]),
        ("L2 1e-400", ["1e-400", "above 0"]),
        ("L2 0", ["eps is 0", "above 0"]),
        ("L2 -0.5", ["eps is -0.5", "above 0"]),
        ("Linf 8", ["eps is 8", "can't exceed 1", "8/255"]),
        ("Linf 256/255", ["eps is 256/255", "can't exceed 1"]),
        ("L1 -3", ["eps is -3", "above 0"]),
        ("L0 0", ["eps is 0", "above 0"]),
        ("L0 0.5", ["eps is 0.5", "counts values", "whole number"]),
        ("L0 7/2", ["eps is 7/2", "whole number"]),
        ("Spatial 181", ["eps is 181", "degrees", "180"]),
        ("Corruption 6", ["eps is 6", "severity", "1, 2, 3, 4, 5"]),
        ("Corruption 1.5", ["eps is 1.5", "severity"]),
        ("Blur 3", ["'Blur'", "Linf, L2, L1, L0, Spatial, Corruption"]),
    ],
)
def test_a_refusal_says_what_was_given_and_what_is_expected_in_one_line(text, words):
    with pytest.raises(ValueError, match="threat model") as refused:
        ThreatModel.parse(text)
    message = str(refused.value)
    assert [word for word in words if word not in message] == []
    assert "\n" not in message


@pytest.mark.parametrize("given", [None, 3, ["Linf", 0.3]])
def test_what_is_no_text_is_refused(given):
    with pytest.raises(ValueError, match="threat model"):
        ThreatModel.parse(given)


@pytest.mark.parametrize(
    "fields",
    [
        {"norm": "L2"},
        {"eps": 0.1},
        {"norm": "L2", "eps": None},
        {"norm": "L2", "eps": float("nan")},
        {"norm": "L2", "eps": float("inf")},
        {"norm": "L2", "eps": True},
        {"norm": "L2", "eps": 0.1, "epsilon": 0.1},
        {"norm": "L2", "eps": 0.1, "goal": "any"},
    ],
    ids=str,
)
def test_fields_that_are_missing_unknown_or_no_numbers_are_refused(fields):
    with pytest.raises(ValidationError):
        ThreatModel(**fields)


def test_a_text_that_is_not_the_value_is_refused():
    # Reports show the text, attacks use the value: one that lies would show another ball than the one that was used.
    with pytest.raises(ValidationError):
        ThreatModel(norm="Linf", eps=0.3, eps_text="8/255")


@pytest.mark.parametrize("text", ["L2 20", "L1 20", "L0 3072", "Linf 255/255", "Spatial 180", "Spatial 0.5"])
def test_each_norm_has_its_own_largest_eps(text):
    assert ThreatModel.parse(text).eps == float(Fraction(text.split()[1]))


def test_is_frozen_and_can_be_a_key():
    threat = ThreatModel.parse("Linf 8/255")
    with pytest.raises(ValidationError):
        threat.eps = 0.5
    assert {threat: 1}[ThreatModel.parse("linf 8/255")] == 1


@pytest.mark.parametrize("text", ["Linf 8/255", "L2 0.5", "Linf 1e-3 targeted next", "L1 12", "L0 24", "Corruption 3"])
def test_json_gives_it_back_equal(text):
    threat = ThreatModel.parse(text)
    stored = threat.model_dump_json()
    assert ThreatModel.model_validate_json(stored) == threat
    assert ThreatModel.model_validate(json.loads(stored)) == threat


_fractions = st.builds("{}/{}".format, st.integers(1, 255), st.integers(255, 10**6))
_decimals = st.floats(min_value=1e-9, max_value=1.0).map(repr)
_goals = st.sampled_from(["", " untargeted", " targeted", *(f" targeted {choice}" for choice in TARGET_CHOICES)])
_counts = st.integers(1, 10**6).map(str)
_severities = st.sampled_from(SEVERITIES).map(str)
_eps = {"L0": _counts, "Corruption": _severities}
_balls = st.sampled_from(NORMS + TRANSFORMATIONS).flatmap(
    lambda norm: st.tuples(st.just(norm), _eps.get(norm, _fractions | _decimals))
)


@settings(deadline=None)
@given(ball=_balls, goal=_goals)
def test_its_text_reads_back_as_itself(ball, goal):
    norm, eps = ball
    threat = ThreatModel.parse(f"{norm} {eps}{goal}")
    assert ThreatModel.parse(str(threat)) == threat
    assert threat.eps == float(Fraction(eps))
    assert threat.eps_text == eps
