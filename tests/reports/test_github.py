"""The job summary and the annotations of GitHub Actions."""

from __future__ import annotations

import pytest

from robustbench_lite.reports import github
from robustbench_lite.results.scorecard import Finding

ZERO = Finding(
    code="RB201", severity="error", message="zero\ngradient", cure="another loss", attack="pgd", threat="Linf 0.3"
)
LET_THROUGH = Finding(code="RB901", severity="info", message="let through: #12", cure="cure it")


def test_a_line_for_each_and_the_whole_of_each_folded_away(make_card):
    text = github.render([make_card("plain"), make_card("hard|ened", verdict="FAIL")], title="Both", story=["*So*."])
    assert text.startswith("## Both\n\n\\*So\\*.\n\n| Target |")
    assert "| plain | ✅ PASS |" in text
    assert "| hard\\|ened | ❌ FAIL |" in text
    assert text.count("<details><summary>") == text.count("</details>") == 2
    assert text.count("### Attacks") == 2
    assert [line for line in text.splitlines() if line.startswith("## ")] == ["## Both"]


def test_it_stays_within_the_limit(make_card):
    cards = [make_card(f"target {number}") for number in range(40)]
    whole = github.render(cards)
    for room in (len(whole.encode()), 20_000, 9_000, 500, 10, 0):
        text = github.render(cards, room=room)
        assert len(text.encode()) <= room
    assert github.render(cards, room=len(whole.encode())) == whole
    shorter = github.render(cards, room=20_000)
    assert "scorecards left out: a summary holds 20,000 bytes." in shorter
    assert "| target 39 |" in shorter
    assert github.LIMIT == 2**20


def test_bounds_of_a_run_that_was_stopped(make_card):
    assert "**≤ " in github.render([make_card(interrupted="seconds")])


def test_annotations_of_what_failed(make_card, make_gate):
    gates = (
        make_gate("max_drop", 0.1, 0.4, passed=False),
        make_gate("min_clean_accuracy", 0.9, 0.91, decided=False),
        make_gate("min_robust_accuracy", 0.2, 0.6),
    )
    card = make_card("a:b,c", verdict="INVALID", validity=(ZERO,), gates=gates)
    text = github.annotate([card], title="CI", story=["100 %"], places=[("tests/test,it.py", 7)])
    assert text.splitlines() == [
        "::notice title=CI::100 %25",
        "::error file=tests/test%2Cit.py,line=7,title=CI%3A a%3Ab%2Cc%3A INVALID RB201::pgd under Linf 0.3: zero "
        "gradient%0ACure: another loss",
        "::error file=tests/test%2Cit.py,line=7,title=CI%3A a%3Ab%2Cc%3A FAIL::"
        "drop at most 10.0%25 demanded, found 40.0%25 [38.0, 42.0]",
        "::warning file=tests/test%2Cit.py,line=7,title=CI%3A a%3Ab%2Cc%3A undecided::"
        "clean accuracy at least 90.0%25, found 91.0%25 [89.0, 93.0]: undecided",
    ]


def test_what_was_let_through_warns(make_card):
    text = github.annotate([make_card("a", verdict="INVALID", validity=(ZERO, LET_THROUGH))], places=[("a.toml", None)])
    assert [line.partition(" ")[0] for line in text.splitlines()] == ["::warning", "::notice"]
    assert "file=a.toml,title=" in text


def test_nothing_to_say(make_card):
    assert github.annotate([make_card()]) == ""


@pytest.mark.parametrize("hostile", ["a\n::error::b", "\r::stop-commands::x"])
def test_hostile_names_give_no_commands(make_card, hostile):
    finding = ZERO.model_copy(update={"message": hostile})
    lines = github.annotate([make_card(hostile, verdict="INVALID", validity=(finding,))]).splitlines()
    assert len(lines) == 1
