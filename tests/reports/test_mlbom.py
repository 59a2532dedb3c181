"""The bill of materials: valid by the official schema, complete, the same for the same card."""

from __future__ import annotations

import json

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from robustbench_lite.reports import mlbom
from robustbench_lite.results.scorecard import Finding, Measured

SIZE = Measured(name="parameters", value=662826, unit="parameters", better="lower", definition="their number")
LATE = Finding(code="RB301", severity="warning", message="out of time", cure="more of it")


@pytest.fixture(scope="module")
def official():
    """Refuses what isn't CycloneDX 1.7."""
    validator = JsonStrictValidator(SchemaVersion.V1_7)

    def check(text):
        fault = validator.validate_str(text)
        assert fault is None, fault
        return json.loads(text)

    return check


def test_a_card_is_a_model_card_with_its_intervals(make_card, official):
    card = make_card(threats=["L2 0.5", "Linf 8/255"], measures=(SIZE,), validity=(LATE,))
    model, data = official(mlbom.render([card], title="Product", story=["Week 47"]))["components"]
    metrics = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    told = {(one["type"], one.get("slice")): one for one in metrics}
    for row in card.threats:
        one = told["robust accuracy", str(row.threat)]
        assert float(one["value"]) == pytest.approx(row.robust_accuracy.value, abs=1e-5)
        ends = one["confidenceInterval"]
        assert float(ends["lowerBound"]) == pytest.approx(row.robust_accuracy.low, abs=1e-5)
        assert float(ends["upperBound"]) == pytest.approx(row.robust_accuracy.high, abs=1e-5)
    assert told["parameters (parameters)", None] == {"type": "parameters (parameters)", "value": "662826"}
    assert ("clean accuracy", "class nine") in told
    limits = model["modelCard"]["considerations"]["technicalLimitations"]
    assert limits[0].startswith("Evidence, not conformity")
    assert "RB301: out of time" in limits
    assert {"name": "robustbench_lite:samples-sha256", "value": card.data.sha256} in data["properties"]


def test_an_invalid_card_says_so_beside_its_numbers(make_card, official):
    [model, _] = official(mlbom.render([make_card(verdict="INVALID")]))["components"]
    assert any("INVALID" in one for one in model["modelCard"]["considerations"]["technicalLimitations"])
    assert {"name": "robustbench_lite:verdict", "value": "INVALID"} in model["modelCard"]["properties"]


def test_tags_stand_in_it(make_card, official):
    card = make_card()
    tagged = tuple(one.model_copy(update={"tags": ("atlas:AML.T0015",)}) for one in card.attacks)
    [model, _] = official(mlbom.render([card.model_copy(update={"attacks": tagged})]))["components"]
    tags = [one["value"] for one in model["modelCard"]["properties"] if one["name"] == "robustbench_lite:tag"]
    assert tags == ["atlas:AML.T0015"]


def test_cards_of_one_name_are_told_apart_and_the_text_is_the_same_each_time(make_card, official):
    cards = [make_card(), make_card(seed=1)]
    text = mlbom.render(cards)
    assert text == mlbom.render(cards)
    refs = [one["bom-ref"] for one in official(text)["components"]]
    assert len(set(refs)) == 4


@pytest.mark.parametrize("hostile", ['"', "a\nb", "\x1b[2J", "urn:cdx:x", "</script>", ""])
def test_hostile_names_stay_texts(make_card, official, hostile):
    card = make_card(hostile, classes=[hostile, "b"], samples=4, created=hostile)
    assert "\x1b" not in json.dumps(official(mlbom.render([card], title=hostile, story=[hostile])), ensure_ascii=False)
