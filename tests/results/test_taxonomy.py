"""Tags of attacks in the words of MITRE ATLAS and NIST AI 100-2."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from robustbench_lite import evaluate
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.results.taxonomy import TAGS, tags_of

LINF = ThreatModel.parse("Linf 0.1")


@pytest.mark.parametrize(
    ("access", "made_on", "technique", "knowledge"),
    [
        ("gradients", "target", {"atlas:AML.T0043.000"}, {"white-box"}),
        ("scores", "target", {"atlas:AML.T0043.001"}, {"black-box"}),
        ("labels", "target", {"atlas:AML.T0043.001"}, {"black-box"}),
        ("labels", "surrogate", {"atlas:AML.T0043.002"}, {"black-box"}),
        ("labels", "unknown", set(), set()),
    ],
)
def test_what_an_attack_saw_says_what_it_is(access, made_on, technique, knowledge):
    tags = tags_of(LINF, access, made_on)
    assert list(tags) == [tag for tag in TAGS if tag in tags]
    assert {tag for tag in tags if "T0043" in tag} == technique
    assert {tag.rpartition(":")[2] for tag in tags if ":knowledge:" in tag} == knowledge
    assert "atlas:AML.T0015" in tags
    assert ("nist-ai-100-2:capability:query-access" in tags) == (knowledge == {"black-box"})


def test_every_tag_is_documented():
    page = (Path(__file__).parents[2] / "docs" / "reports.md").read_text(encoding="utf-8")
    assert all(f"| `{tag}` | {words} |" in page for tag, words in TAGS.items())


def test_nature_is_no_adversary():
    assert tags_of(ThreatModel.parse("Corruption 3"), "labels") == ()


def test_an_evaluation_tags_each_attack_by_what_it_used():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
    x = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    attacks = ["fgsm", {"attack": "square", "params": {"steps": 2}}]
    suite = {"name": "two", "threats": ["Linf 0.001"], "attacks": attacks, "independent": True}
    card = evaluate(model, (x, model(x).argmax(1)), suite)
    told = {one.name: set(one.tags) for one in card.attacks}
    assert "nist-ai-100-2:knowledge:white-box" in told["fgsm"]
    assert "nist-ai-100-2:knowledge:black-box" in told["square"]
    assert type(card).model_validate_json(card.model_dump_json()) == card
