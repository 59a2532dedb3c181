"""The page of explanations: what it tells, that nothing from outside runs, and that it stays small."""

from __future__ import annotations

import base64
import re
from typing import Any

import pytest

from robustbench_lite.core.cost import Passes
from robustbench_lite.core.errors import UserError
from robustbench_lite.reports.explained import render
from robustbench_lite.results.explained import (
    Exhibit,
    Explained,
    Group,
    Heat,
    LeftOut,
    MethodResult,
    Reasons,
    Said,
    Step,
    Term,
)
from robustbench_lite.results.scorecard import Interval, Measured, Scorecard

HOSTILE = "<img src=x onerror=alert(1)>"


def reasons(**changes: Any) -> Reasons:
    groups = tuple(Group(label=f"{low} to {low + 1}", broken=Interval.of(3 * low, 10)) for low in range(4))
    steps = tuple(Step(start=at, end=at + 1, score=at - 1.5, low=at - 2, high=at - 1) for at in range(4))
    terms = (
        Term(name="brightness", definition="mean of all values", importance=1.25, steps=steps, groups=groups),
        Term(name="class", definition="the right class", importance=0.1, groups=groups),
    )
    known = {"samples": 40, "broken": 18, "told": 0.62, "low": 0.4, "high": 0.75, "folds": 5, "terms": terms}
    return Reasons(**{**known, **changes})


def explained(png: str, exhibits: int = 2, name: str = "lenet5", **changes: Any) -> Explained:
    spearman = Measured(
        name="attribution_spearman", value=0.51, low=0.4, high=0.6, unit="r", better="higher", definition="Spearman's"
    )
    heats = (
        Heat(method="grad_cam", clean=png, adversarial=png, spearman=0.25, overlap=0.5),
        Heat(method="lime", clean=png, adversarial=png, spearman=None, overlap=None),
    )
    fields = {
        "created": "2026-11-23T14:01:02+00:00",
        "version": "0.1.1",
        "target": name,
        "data": "digits",
        "robust_accuracy": Interval.of(22, 60),
        "verdict": "MEASURED",
        "seed": 0,
        "broken": 18,
        "methods": (
            MethodResult(
                name="grad_cam",
                definition="Where maps are active.",
                passes=Passes(forward=1234, backward=8),
                seconds=1.2,
                numbers=(spearman,),
                left_out="as it costs",
            ),
        ),
        "left_out": (LeftOut(name="kernel_shap", reason="needs shap"),),
        "exhibits": tuple(
            Exhibit(
                index=index,
                name="seven",
                attack="pgd",
                threat="Linf 0.1",
                distance=0.1,
                said=Said(label=7, name="seven", confidence=0.9),
                said_of_adversarial=Said(label=1, name="one"),
                original=png,
                adversarial=png,
                heats=heats,
            )
            for index in range(exhibits)
        ),
        "reasons": reasons(),
        "passes": Passes(forward=5678, backward=90),
        "seconds": 3.0,
    }
    return Explained(**{**fields, **changes})


@pytest.fixture
def png(_cards: Any) -> str:
    return _cards.png([[0, 255], [255, 0]])  # type: ignore[no-any-return]


def text(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page.partition("<body>")[2]).split())


def test_it_tells_what_was_found(png: str) -> None:
    page = text(render([explained(png)]))
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


def test_where_nothing_tells_it_says_so_and_draws_no_curve(png: str) -> None:
    page = render([explained(png, reasons=reasons(told=-0.03, low=-0.1, high=0.04))])
    assert "None of the measured properties tells which samples break" in text(page)
    assert "What the model adds" not in page
    assert "The counts all the same" in page
    few = render([explained(png, reasons=Reasons(samples=30, broken=2, missing="2 of 30 samples broke: too few"))])
    assert "was not looked into: 2 of 30 samples broke: too few." in text(few)


def test_nothing_from_outside_runs(png: str) -> None:
    term = Term(
        name=HOSTILE, definition=HOSTILE, importance=1, groups=(Group(label=HOSTILE, broken=Interval.of(1, 2)),)
    )
    page = render(
        [
            explained(
                HOSTILE,
                name=HOSTILE,
                data=HOSTILE,
                reasons=reasons(terms=(term,)),
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
    page = render([explained(large, exhibits=20)])
    assert len(page.encode()) < 2_000_000
    assert re.search(r"\d+ further samples: there is no room on this page", page)


def test_a_scorecard_is_refused(make_card: Any) -> None:
    card: Scorecard = make_card()
    with pytest.raises(UserError, match="rblite explain CARD"):
        render([card])
