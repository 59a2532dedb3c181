"""Scorecards of one model over time."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from robustbench_lite.reports import _trend, html


@pytest.fixture
def days(make_card):
    """Four days, out of order; the evaluation of the second can't be trusted."""
    found = []
    for day, chance, verdict in ((3, 0.3, "PASS"), (1, 0.9, "FAIL"), (2, 0.0, "INVALID"), (4, 0.2, "PASS")):
        card = make_card(breaks={"pgd": chance}, verdict=verdict, created=f"2026-11-0{day}T08:00:00+00:00")
        found.append(card.model_copy(update={"version": f"1.{day}"}))
    return found


def test_they_stand_in_the_order_of_time_with_paired_changes(days):
    course = _trend.trend(days)
    assert [day.card.version for day in course.days] == ["1.1", "1.2", "1.3", "1.4"]
    assert [day.x for day in course.days] == [0, 33.33, 66.67, 100]
    assert course.newest is days[3]
    first, second, third, fourth = (day.change for day in course.days)
    assert first is None
    assert second is None, "of what can't be trusted no change is told"
    robust = [day.card.robust_accuracy.value for day in course.days]
    assert third.difference == pytest.approx(robust[2] - robust[0])
    assert fourth.difference == pytest.approx(robust[3] - robust[2])


def test_what_is_invalid_is_a_gap(days):
    clean, robust = _trend.trend(days).courses
    assert [len(path.split()) for path in clean.line.paths] == [4]
    assert [len(path.split()) for path in robust.line.paths] == [1, 2]
    assert [len(band.split()) for band in robust.bands] == [2, 4]


def test_the_page_shows_the_course_and_the_newest_in_full(days):
    text = html.render(days)
    assert "4 scorecards over time" in text
    assert "From 1 November 2026, 08:00 UTC to 4 November 2026, 08:00 UTC, under Linf 0.3." in text
    [figure] = re.findall(r'<figure class="trend.*?</figure>', text, re.DOTALL)
    marks = [one for one in ElementTree.fromstring(figure).iter("svg") if one.get("class") == "at"]
    assert len(marks) == 3
    assert text.count('aria-label="Verdict') == 1
    assert "Side by side" not in text
    assert text.index("1.4</td>") < text.index("1.1</td>"), "the newest first"


def test_many_cards_make_no_large_page(make_card):
    cards = [
        make_card(samples=20, gallery=12, created=f"2026-{month:02}-{day:02}T08:00:00+00:00")
        for month in range(1, 6)
        for day in range(1, 21)
    ]
    assert len(html.render(cards)) < 300_000


@pytest.mark.parametrize("change", ["two", "name", "threat", "time"])
def test_what_is_no_course_of_one_model_is_a_comparison(days, make_card, change):
    odd = {
        "two": days[:2],
        "name": [*days[:2], make_card("other", created="2026-11-09")],
        "threat": [*days[:2], make_card(threats=["L2 1"], created="2026-11-09")],
        "time": [*days[:3], days[0]],
    }[change]
    assert _trend.trend(odd) is None
    assert "Side by side" in html.render(odd)


def test_a_time_that_is_none_and_other_samples_are_shown(days, make_card):
    strange = make_card(created="some day", first=1000, samples=10)
    course = _trend.trend([strange, *days])
    assert course.newest is strange
    assert course.days[-1].change is None
    assert "some day" in html.render([strange, *days])
