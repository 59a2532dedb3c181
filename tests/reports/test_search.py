"""A search on the terminal and on its page."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console

from robustbench_lite.core.errors import UserError
from robustbench_lite.reports import search, search_page
from robustbench_lite.results.search import Aim, Beforehand, Entrant, SearchResult, Trial
from tests.cards import make_card
from tests.searches import make_search, trial


def printed(found: SearchResult, **words: Any) -> str:
    written = io.StringIO()
    Console(width=80, file=written).print(search.render([found], **words))
    return written.getvalue()


def test_the_terminal_tells_the_trials_the_course_and_the_winner() -> None:
    told = printed(make_search())
    assert max(map(len, told.splitlines())) <= 80
    for words in (
        "Search: pgd_training for nets.py:build on digits",
        "Best so far",
        "Front       trial-5, trial-2",
        "trial-1: the training diverges",
        "Importance by fANOVA",
        "Winner     trial-5: on fresh samples, by linf_standard",
        "Fall       3.0 points [-6.0, 12.0]",
        "Recipe     better than the recipe as it is",
    ):
        assert words in re.sub(r"\n(?=\S)", " ", told) or words in told, words
    assert told.index("trial-5") < told.index("trial-2") < told.index("trial-3")
    quiet = printed(make_search(), quiet=True)
    assert quiet.startswith("Winner")


def test_a_search_of_several_objectives_shows_their_front() -> None:
    aims = (Aim(name="robust"), Aim(name="latency", better="lower", unit="ms"), Aim(name="passes", better="lower"))
    sizes = {"trial-5": 0.5, "trial-2": 0.25, "recipe": 0.125, "trial-0": 0.25}
    plain = make_search()
    trials = tuple(
        one.model_copy(update={"numbers": {"latency": sizes[one.name], "passes": 12_000.0}})
        if one.name in sizes
        else one
        for one in plain.trials
    )
    found = plain.model_copy(update={"objectives": aims, "trials": trials})
    # trial-0 is as fast as trial-2, and less robust.
    assert [one.name for one in found.front] == ["recipe", "trial-2", "trial-5"]
    told = " ".join(printed(found).split())
    assert "Front recipe, trial-2, trial-5: none beats them in robust, latency and passes" in told
    assert "latency 0.25 ms" in told
    page = search_page.render([found])
    for words in (
        "for the front of robust, latency and passes",
        "Clean accuracy against robust accuracy",
        "Latency (ms) against robust accuracy",
        "Up and to the left is better",
        '<th scope="col">Latency</th>',
    ):
        assert words in page, words
    assert page.count(">front</span>") == 3
    assert ">front</span>" not in search_page.render([plain])


def test_the_terminal_tells_a_proxy_and_its_finalists() -> None:
    told = " ".join(printed(make_search(proxy=True)).split())
    assert "In full, on the validation samples." in told
    assert "correlation of its order with that of 2 full runs is +1.00 [-1.00, +1.00]" in told
    assert "72,000 passes of training in the place of about 2.4M" in told


def test_the_board_tells_the_rivals_and_those_that_could_not_be_judged() -> None:
    found = make_search()
    share = found.trials[0].robust
    of = {"robust": share, "clean": share, "suite": "black_box_quick", "verdict": "MEASURED"}
    rows = (
        Entrant(name="trial-5", own=True, **of),
        Entrant(name="flaml", own=False, **of | {"verdict": "INVALID"}),
        Entrant(name="recipe", own=True, **of),
        Entrant(name="http://localhost/v2/models/a<b>", own=False, fault="can't be reached"),
    )
    board = found.model_copy(update={"board": rows})
    told = printed(board)
    assert max(map(len, told.splitlines())) <= 80
    for words in ("the winner", "INVALID", "the recipe as it is", "can't be reached", "All by black_box_quick"):
        assert words in told, words
    page = search_page.render([board])
    assert "<h2>Board</h2>" in page
    assert "a&lt;b&gt;" in page
    assert "<h2>Board</h2>" not in search_page.render([found])


NONE = {"winner": None, "fresh": None, "fall": None, "against_recipe": None, "found_better": False}


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({}, "pass", "trial-5 is better than the recipe as it is"),
        ({"found_better": False}, "measured", "trial-5 is not shown to be better than the recipe"),
        ({"winner": "recipe", "found_better": False, "against_recipe": None}, "measured", "found nothing better"),
        ({"against_recipe": None, "found_better": False}, "measured", "The recipe as it is failed"),
        (NONE, "invalid", "No trial came to its end"),
    ],
)
def test_the_page_says_first_what_came_out(changes: Any, kind: str, words: str) -> None:
    page = search_page.render([make_search(**changes)])
    assert f'class="banner {kind}"' in page
    assert words in page
    assert printed(make_search(**changes))


def test_the_page_draws_each_trial_and_tells_why_one_is_out() -> None:
    page = search_page.render([make_search()], card="trial-5/fresh.html")
    course = page[page.index("<h2>Course</h2>") : page.index("What came out</h2>")]
    drawn = course[: course.index("legend")]
    assert [drawn.count(kind) for kind in ('class="mark"', 'class="hollow"', 'class="pruned"', 'class="cross"')] == [
        3,
        1,
        1,
        1,
    ]
    assert drawn.count('class="ring"') == 1
    assert '<a href="trial-5/fresh.html">its scorecard</a>' in page
    reasons = page[page.index("Pruned, failed, and") :]
    assert "the training diverges: its loss is nan: trial-1" in reasons
    assert "it was behind the others at the same epoch: trial-4" in reasons
    assert page.count('class="way ') == 4
    assert page.count('class="way winner"') == 1
    assert "<script" not in page
    assert search_page.render([make_search()]).count("trial-5/fresh.json") == 1


def test_the_page_shows_a_proxy_beside_full_runs() -> None:
    page = search_page.render([make_search(proxy=True)])
    assert "Spearman's rank correlation over 2 finalists: 1.0 [-1.0, 1.0]" in page.replace("&#39;", "'")
    assert "In full, on the validation samples" in page


@pytest.mark.parametrize(
    "trials",
    [
        (),
        (trial("recipe", 0.4),),
        (Trial(name="trial-0", state="failed", can_not_win="it fell"),),
        (trial("trial-0", 0.5, settings={"a": [1, 2]}), trial("trial-1", 0.5, settings={"a": True})),
        tuple(trial(f"trial-{place}", 0.5, settings={"a": 10.0**place}) for place in range(12)),
    ],
)
def test_odd_searches_are_shown(trials: tuple[Trial, ...]) -> None:
    found = make_search(trials=trials, importance={}, **NONE)
    assert "NO WINNER" in search_page.render([found])
    assert printed(found)


def test_nothing_of_a_search_is_run_or_steers() -> None:
    hostile = "<img src=x onerror=alert(1)>\x1b[2J"
    rows = (trial("trial-0", 0.5, settings={hostile: hostile}), trial("trial-1", 0.6, settings={hostile: "b"}))
    found = make_search(trials=rows, model=hostile, importance={hostile: {hostile: 0.5}})
    page = search_page.render([found])
    assert "<img" not in page
    assert "\x1b" not in page
    assert "\x1b" not in printed(found)


def test_scorecards_are_refused() -> None:
    for render in (search.render, search_page.render):
        with pytest.raises(UserError, match="not scorecards"):
            render([make_card()])


def test_an_architecture_is_shown_as_it_is_written_and_the_winner_s_cell_is_drawn() -> None:
    cell = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|avg_pool_3x3~2|"
    settings = {"schedule.lr": 0.02, "model.edge_0_1": "nor_conv_3x3"}
    one = trial("trial-5", 0.62, settings=settings, architecture=cell)
    told = Beforehand(told="a supernet was trained for 2 epochs", passes=1234.0, seconds=5.0)
    made = make_search(trials=(one,), winner="trial-5", sampler="gradient", beforehand=told)
    shown = printed(made)
    joined = "".join(shown.split())
    assert cell in joined
    assert "schedule.lr0.02" in joined
    assert "model.edge" not in shown.partition("Importance")[0]
    assert "Beforehand a supernet was trained for 2 epochs; 1,234 passes of training" in " ".join(shown.split())
    page = search_page.render([made])
    assert page.count("<path d=") >= 3
    for words in ("The winner's cell", "conv 3x3", "pool 3x3", "1,234 passes of training", cell):
        assert words in page
    assert "The winner's cell" not in search_page.render([make_search()])
