"""`rblite tune`: a search from the command line, and what is refused before it begins."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import rblite, refused

pytest.importorskip("optuna")
pytestmark = pytest.mark.usefixtures("here")

SPACE = '[params]\n"schedule.lr" = { low = 0.001, high = 0.1, log = true }\n"params.steps" = { low = 1, high = 5 }\n'
TUNE = (
    *("tune", "zoo.py:net", "--data", "npz:ok.npz", "--recipe", "short_recipe.toml", "--space", "space.toml"),
    *("--search-suite", "short.toml", "--epochs", "2", "--out", "search"),
)


@pytest.fixture(autouse=True)
def _space(here: Path) -> None:
    (here / "space.toml").write_text(SPACE)


def test_a_search_tells_its_trials_the_winner_and_how_to_go_on() -> None:
    done = rblite(*TUNE, "--trials", "2", "--sampler", "random")
    assert done.exit_code in (0, 3), done.output
    told = json.loads(Path("search/search.json").read_text())
    assert told["tried"] == 2
    assert {one["state"] for one in told["trials"]} == {"done"}
    assert {one["name"] for one in told["trials"]} == {"recipe", "trial-0", "trial-1"}
    assert all(type(one["settings"].get("params.steps", 1)) is int for one in told["trials"])
    assert all(one["name"] in done.output for one in told["trials"])
    assert max(map(len, done.output.splitlines())) <= 80 + len("Evaluate   ") + 80  # a command is never cut
    if told["winner"] is None:
        assert (done.exit_code, "No trial can win" in done.output) == (3, True)
    else:
        assert f"Winner     {told['winner']}: on fresh samples" in done.output
        assert f"rblite evaluate search/{told['winner']} --data npz:ok.npz" in done.output
    assert "Report     search/search.html" in done.output
    assert "<h2>Course</h2>" in Path("search/search.html").read_text()
    shown = rblite("report", "search")
    Path("auto").mkdir()
    Path("search").rename("auto/search")  # as 'rblite auto' leaves it
    assert rblite("report", "auto").output == shown.output
    Path("auto/search").rename("search")
    assert shown.exit_code == 0
    assert all(one["name"] in shown.output for one in told["trials"])
    written = rblite("report", "search/search.json", "--html", "pages/mine.html")
    assert written.exit_code == 0
    page = Path("pages/mine.html").read_text()
    if told["winner"] is not None:
        assert f'href="../search/{told["winner"]}/fresh.html"' in page
        assert Path("search", told["winner"], "fresh.html").is_file()
    assert rblite("report", "search", "--csv", "x.csv").exit_code == 2
    assert rblite("report", "search", "search/before.json").exit_code == 2
    again = rblite(*TUNE, "--trials", "2", "--sampler", "random", "--quiet")
    assert again.exit_code == done.exit_code
    assert json.loads(Path("search/search.json").read_text())["trials"] == told["trials"]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ((), ("a search needs an end",)),
        (("--trials", "2", "--sampler", "tpr"), ("tpr", "tpe")),
        (("--budget", "soon"), ("'soon' is no time", "30m")),
    ],
)
def test_what_is_given_wrong_is_told(here: Path, more: tuple[str, ...], told: tuple[str, ...]) -> None:
    refused(here, (*TUNE, *more), told)


def test_a_storage_that_can_not_be_reached_is_told() -> None:
    done = rblite(*TUNE, "--trials", "2", "--storage", "nodb://x")
    assert done.exit_code == 2
    assert "nodb://x" in done.output


@pytest.mark.parametrize(
    ("space", "told"),
    [
        ('"schedule.lrr" = { low = 1, high = 2 }\n"params.stepz" = { low = 1, high = 3 }', ("lrr", "stepz", "did you")),
        ('"schedule.lr" = { low = 2, high = 1 }\n"params.steps" = { choices = [] }', ("schedule.lr", "params.steps")),
    ],
)
def test_all_faults_of_a_space_are_told_at_once(here: Path, space: str, told: tuple[str, ...]) -> None:
    (here / "space.toml").write_text(f"[params]\n{space}\n")
    refused(here, (*TUNE, "--trials", "2"), told)
