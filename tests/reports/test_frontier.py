"""Robust accuracy against size and speed."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest

from robustbench_lite.reports import _frontier, html
from robustbench_lite.results.scorecard import Interval, Measured


@pytest.fixture
def sized(make_card):
    """Makes a card with so many robust samples of a hundred, and a size."""

    def make(name, robust, size, better="lower", unit="bytes", **changes):
        number = Measured(name="size_on_disk", value=size, unit=unit, better=better, definition="d")
        card = make_card(name, samples=4, robust_accuracy=Interval.of(robust, 100), measures=(number,))
        return card.model_copy(update=changes)

    return make


def best(cards):
    [found] = _frontier.frontiers(cards)
    return [spot.best for spot in found.spots]


def test_what_another_beats_in_both_is_not_on_the_frontier(sized):
    cards = [sized("a", 20, 1), sized("b", 10, 2), sized("c", 50, 3), sized("d", 50, 4)]
    assert best(cards) == [True, False, True, False]
    [found] = _frontier.frontiers(cards)
    assert found.line == "6,80 64.67,80 64.67,50"
    assert (found.name, found.better, found.logarithmic) == ("size on disk", "to the left", False)
    assert found.ends == ("1 bytes", "4 bytes")


def test_where_more_is_better_the_frontier_falls(sized):
    cards = [sized("a", 20, 1, "higher"), sized("b", 40, 1, "higher"), sized("c", 10, 3, "higher")]
    assert best(cards) == [False, True, True]
    [found] = _frontier.frontiers(cards)
    assert found.line == "6,60 6,90 94,90"


def test_an_invalid_one_is_not_on_the_frontier_and_keeps_nobody_off_it(sized):
    assert best([sized("a", 90, 1, verdict="INVALID"), sized("b", 20, 2)]) == [False, True]


def test_sizes_far_apart_are_on_a_logarithmic_axis(sized):
    [found] = _frontier.frontiers([sized("a", 20, 1e3), sized("b", 40, 1e5), sized("c", 50, 1e7)])
    assert found.logarithmic
    assert [spot.x for spot in found.spots] == [6, 50, 94]


@pytest.mark.parametrize(
    ("size", "units"),
    [(5.0, ("bytes", "MB")), (1.0, ("bytes", "bytes")), (math.inf, ("s", "s")), (0.3, ("share",) * 2)],
)
def test_what_can_not_be_compared_has_no_picture(sized, size, units):
    first, second = sized("a", 10, 1.0, unit=units[0]), sized("b", 20, size, unit=units[1])
    assert _frontier.frontiers([first, second]) == []
    assert _frontier.frontiers([first]) == []


def test_the_page_has_the_picture_and_all_numbers(sized, make_card):
    text = html.render([sized("a", 20, 1), sized("b", 30, 2), sized("c", 10, 3)])
    [figure] = re.findall(
        r'<figure class="trade-off against">\n<figcaption><strong>Robust.*?</figure>', text, re.DOTALL
    )
    rings = [one for one in ElementTree.fromstring(figure).iter("circle") if one.get("class") == "ring"]
    assert len(rings) == 2
    assert "on the frontier" in figure
    mixed = html.render([sized("a", 20, 1), make_card("b")])
    assert "Measures side by side" in mixed
    assert "<td>–</td>" in mixed
    assert "frontier" not in re.sub("<style>.*?</style>", "", mixed, flags=re.DOTALL)
