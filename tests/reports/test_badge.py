"""The badge: well-formed, honest about the verdict, safe with any name."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from robustbench_lite.core.errors import UserError
from robustbench_lite.reports import badge

SVG = "{http://www.w3.org/2000/svg}"


def told(card, **words):
    """The two texts of a badge, which fit in it."""
    root = ElementTree.fromstring(badge.render([card], **words))
    texts = root.findall(f".//{SVG}text")
    assert root.get("aria-label") == root.find(f"{SVG}title").text == ": ".join(one.text for one in texts)
    assert sum(float(one.get("textLength")) for one in texts) < float(root.get("width"))
    assert {one.tag.removeprefix(SVG) for one in root.iter()} <= {"svg", "title", "clipPath", "rect", "g", "text"}
    return [one.text for one in texts]


def test_it_shows_the_robust_accuracy_and_its_threat_model(make_card):
    card = make_card(threats=["Linf 8/255"])
    share = f"{card.robust_accuracy.value:.1%}"
    assert told(card) == ["robust accuracy", f"{share} under Linf 8/255"]
    assert told(card.model_copy(update={"verdict": "FAIL"}))[1] == f"{share} under Linf 8/255 (fail)"
    assert told(card.model_copy(update={"interrupted": "seconds"}))[1].startswith(f"≤ {share}")
    assert told(card, title="digits")[0] == "digits"


def test_of_an_invalid_card_it_shows_no_number(make_card):
    assert told(make_card(verdict="INVALID"))[1] == "evaluation invalid"


def test_a_hostile_title_is_text_and_a_long_one_is_cut(make_card):
    assert told(make_card(), title="</text><script>alert(1)</script>")[0] == "</text><script>alert(1)</script>"
    assert len(told(make_card(), title="x" * 500)[0]) == 60


@pytest.mark.parametrize("count", [0, 2])
def test_it_is_of_one_card(make_card, count):
    with pytest.raises(UserError, match=f"one scorecard, and {count} were given"):
        badge.render([make_card()] * count)
