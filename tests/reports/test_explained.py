"""The page of explanations: what it tells, that nothing from outside runs, and that it stays small."""

from __future__ import annotations

import base64
import re
from typing import Any

import pytest

from robustbench_lite.core.errors import UserError
from robustbench_lite.reports.explained import render
from robustbench_lite.results.explained import Group, LeftOut, Reasons, Term
from robustbench_lite.results.scorecard import Interval, Scorecard
from tests.explanations import make_explained, make_reasons

HOSTILE = "<img src=x onerror=alert(1)>"


def text(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page.partition("<body>")[2]).split())


def test_it_tells_what_was_found() -> None:
    page = text(render([make_explained()]))
    for words in (
        "Why it failed: lenet5",
        "18 samples of digits that the model gets right were broken",
        "can be told, best by brightness: a model of the measured properties explains 62.0% [40.0, 75.0] of it",
        "seven 90.0%, then one",
        "grad cam rank 0.25, overlap 0.50",
        "lime one is the same everywhere",
        "0.51 [0.4, 0.6]",
        "as it costs",
        "not run: it needs shap",
        "1,234",
        "5,678 passes forward and 90 backward",
        "2 to 3: 60.0%, interval",
    ):
        assert words in page, words


def test_where_nothing_tells_it_says_so_and_draws_no_curve() -> None:
    page = render([make_explained(reasons=make_reasons(told=-0.03, low=-0.1, high=0.04))])
    assert "None of the measured properties tells which samples break" in text(page)
    assert "What the model adds" not in page
    assert "The counts all the same" in page
    few = render([make_explained(reasons=Reasons(samples=30, broken=2, missing="2 of 30 samples broke: too few"))])
    assert "was not looked into: 2 of 30 samples broke: too few." in text(few)


def test_nothing_from_outside_runs() -> None:
    term = Term(
        name=HOSTILE, definition=HOSTILE, importance=1, groups=(Group(label=HOSTILE, broken=Interval.of(1, 2)),)
    )
    page = render(
        [
            make_explained(
                picture=HOSTILE,
                name=HOSTILE,
                data=HOSTILE,
                reasons=make_reasons(terms=(term,)),
                left_out=(LeftOut(name=HOSTILE, reason=HOSTILE),),
            )
        ]
    )
    assert HOSTILE not in page
    assert "<img" not in page
    assert "<script" not in page
    assert "no picture" in page


def test_it_stays_under_two_megabytes() -> None:
    large = base64.b64encode(
        b"\x89PNG\r\n\x1a\n" + bytes(8) + b"\x00\x00\x00\x80\x00\x00\x00\x80" + bytes(30_000)
    ).decode()
    page = render([make_explained(picture=large, exhibits=20)])
    assert len(page.encode()) < 2_000_000
    assert re.search(r"\d+ further samples: there is no room on this page", page)


def test_a_scorecard_is_refused(make_card: Any) -> None:
    card: Scorecard = make_card()
    with pytest.raises(UserError, match="rblite explain CARD"):
        render([card])
