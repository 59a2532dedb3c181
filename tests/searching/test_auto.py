"""Auto: what comes out of data and a time, what is kept of it, and what is refused before anything runs."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from optuna.trial import TrialState
from sklearn.datasets import load_wine
from torch.nn import Linear

from robustbench_lite.core.errors import UserError
from robustbench_lite.hardening.pipeline import Listeners
from robustbench_lite.hardening.recipe import Recipe
from robustbench_lite.model.architectures.cells import Cells
from robustbench_lite.model.architectures.files import load_architecture
from robustbench_lite.model.loading import load_target
from robustbench_lite.results.scorecard import Scorecard
from robustbench_lite.results.search import RECIPE, SearchResult
from robustbench_lite.searching.auto import BOARD, STATE_FILE, AutoOptions, auto
from robustbench_lite.searching.study import Standing
from tests.forked import ROOT, Forked
from tests.model.test_served import Serving
from tests.searching.test_study import trials_of

SHORT = Recipe.model_validate(
    {
        "name": "mine",
        "defense": "pgd_training",
        "params": {"steps": 1},
        "threat": "Linf 0.05",
        "schedule": {"epochs": 4, "batch_size": 16, "lr": 0.01, "optimizer": "adam"},
    }
)


def options(**changes: object) -> AutoOptions:
    given = {"seconds": 3600, "recipe": SHORT, "suite": "linf_quick", "limit": 20, "limit_train": 100}
    return AutoOptions(**given | changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("wine") / "wine.csv"
    wine = load_wine()
    with path.open("w", newline="") as stream:
        out = csv.writer(stream)
        out.writerow([*wine.feature_names, "label"])
        out.writerows([*row, wine.target_names[label]] for row, label in zip(wine.data, wine.target, strict=True))
    return f"csv:{path}"


class Enough(Exception):
    """Ends a run in the middle."""


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[3])
import torch
torch.set_num_threads(1)
from tests.searching.test_auto import auto, options
auto(sys.argv[1], out=sys.argv[2], options=options(), on_note=lambda note: print(note, flush=True))
"""


def test_a_run_goes_on_in_the_time_that_is_left_and_ends_with_a_board(table: str, tmp_path: Path) -> None:
    data, out = f"{table}?immutable=alcohol", tmp_path / "out"
    killed = Forked(SCRIPT, data, out, ROOT)
    killed.wait_for((out / "search" / "trial-1").is_dir)
    killed.kill()
    assert "tabular (13,), Linf 0.03; a training takes about" in killed.communicate()[0]
    [before] = [one for one in trials_of(out / "search") if one.state == TrialState.COMPLETE]
    state = json.loads((out / STATE_FILE).read_text())
    assert 0 < state["spent"] < 3600
    # There is no time left for a third trial: the one under way is left, and what is done is judged.
    rival, hosted = out / "start.toml", Serving(Linear(13, 3), (13,), classes=3)
    rivals = (f"arch:{rival}", "arch:nowhere.toml", hosted.address())
    stages: list[str] = []
    told = Listeners(on_stage=stages.append)
    found = auto(data, out=out, options=options(seconds=1, entrants=rivals), listeners=told)
    hosted.close()
    assert stages[-3:] == [f"board: {rival} is judged" for rival in rivals]
    assert [one.name for one in found.result.in_order if one.state == "done"] == ["trial-0"]
    assert [one for one in trials_of(out / "search") if one.state == TrialState.COMPLETE] == [before]
    assert found.judged is not None
    assert {"defense", "model.depth", "schedule.lr"} <= set(found.result.ways)
    loaded = SearchResult.load(found.folder)
    assert loaded.board == found.result.board
    assert loaded.seconds > state["spent"]
    by_name = {one.name: one for one in loaded.board}
    winner = found.judged.winner.name
    assert {winner, RECIPE, *rivals} == set(by_name)
    assert by_name[winner].own
    assert not by_name[f"arch:{rival}"].own
    assert {one.suite for one in loaded.board if one.robust} == {"black_box_quick"}
    assert "no such file" in str(by_name["arch:nowhere.toml"].fault)
    # The hosted one is asked over HTTP, by the same suite as all others; nothing but its answers is known of it.
    card = Scorecard.load(found.folder / by_name[hosted.address()].card)
    assert (card.target.access, by_name[hosted.address()].own) == ("scores", False)
    assert hosted.samples >= card.robust_accuracy.total == 20
    shares = [one.robust.value for one in loaded.board if one.robust]
    assert shares == sorted(shares, reverse=True)
    assert (found.folder / by_name[winner].card).resolve().parent == (out / BOARD).resolve()
    assert load_target(str(found.folder / winner)).classes == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seconds": 0}, "budget is 0 s: expected a time above 0"),
        ({"seconds": 0.5}, "too short for one trial"),
        ({"entrants": ("flamll",)}, "unknown entrant 'flamll': did you mean flaml"),
        ({"threat": "Linf x"}, "eps is 'x'"),
        ({"architecture": "cells"}, "takes images, and .* is tabular; take plain"),
        ({"architecture": "celsl"}, "unknown architecture 'celsl': did you mean cells"),
        ({"sampler": "tpa"}, "unknown sampler 'tpa'"),
        ({"sampler": "gradient"}, "takes a time that auto can't plan"),
        ({"sampler": "grid"}, "auto searches ranges, and a grid has no end"),
    ],
)
def test_what_is_wrong_is_told_before_the_search(
    table: str, tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        auto(table, out=tmp_path / "out", options=options(**changes))
    assert not (tmp_path / "out" / STATE_FILE).exists()


def test_images_may_have_cells_searched(tmp_path: Path) -> None:
    def enough(standing: Standing) -> None:
        if standing.name == "trial-1":
            raise Enough

    asked = options(architecture="cells", sampler="evolution", threat="Linf 0.05")
    with pytest.raises(Enough):
        auto("digits", out=tmp_path / "out", options=asked, on_trial=enough)
    trial = tmp_path / "out" / "search" / "trial-0"
    told = load_architecture(trial / "architecture.toml")
    assert isinstance(told, Cells)
    assert told.channels in (4, 8, 16)
    assert told.words != Cells(shape=(1, 8, 8), classes=10).words
    assert load_target(str(trial)).classes == 10


def test_a_folder_of_something_else_is_left_alone(table: str, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty and holds no run of auto"):
        auto(table, out=tmp_path, options=options())
    assert [one.name for one in tmp_path.iterdir()] == ["mine.txt"]
