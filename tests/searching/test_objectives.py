"""Objectives: what they may be, and where their numbers come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from optuna import load_study
from optuna.study import StudyDirection

from robustbench_lite.core.errors import UserError
from robustbench_lite.hardening.recipe import load_recipe
from robustbench_lite.model.loading import load_target
from robustbench_lite.results.search import Aim, SearchResult
from robustbench_lite.searching.objectives import ROBUST_ALONE, objectives_of, with_measures
from robustbench_lite.searching.space import Space
from robustbench_lite.searching.storage import _storage
from robustbench_lite.searching.study import Tuned
from tests.searching.test_study import run


def test_an_objective_is_a_measure_with_its_direction() -> None:
    assert objectives_of("robust") == ROBUST_ALONE
    found = objectives_of("robust, clean,bytes,latency,passes,certified_accuracy:0.25")
    assert [(one.measure, one.better) for one in found] == [
        ("robust_accuracy", "higher"),
        ("clean_accuracy", "higher"),
        ("bytes", "lower"),
        ("latency_p50", "lower"),
        ("training_passes", "lower"),
        ("certified_accuracy:0.25", "higher"),
    ]
    recipe = load_recipe("pgd_training")
    assert with_measures(recipe, ROBUST_ALONE) == recipe
    # The passes of training are on each trial's card by themselves; the model that all start from has none.
    assert with_measures(recipe, found).measures == ("bytes", "latency_p50", "certified_accuracy:0.25")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("clean,bytes", "robust is not among them, and the winner is chosen by it"),
        ("robust,bites", "unknown measure 'bites': did you mean bytes"),
        ("robust,,clean", "holds an empty name"),
        ("robust,bytes,bytes", "has bytes twice"),
    ],
)
def test_what_is_no_objective_is_told(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        objectives_of(text)


@pytest.mark.parametrize(
    ("search", "words"),
    [
        (
            {"sampler": "cmaes"},
            "seeks robust accuracy alone; .* grid, random, tpe, gp, nsga2, gradient, gdas",
        ),
        ({"sampler": "tpe", "pruner": "median"}, "Optuna can't prune a search with several objectives"),
    ],
)
def test_what_can_not_seek_a_front_is_refused(tmp_path: Path, search: dict[str, str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        run(tmp_path / "out", objective="robust,clean", **search)
    assert not (tmp_path / "out").exists()


BUILDER = """
from torch import nn
def build(width=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
"""
WIDTHS = Space.model_validate(
    {"params": {"schedule.lr": {"low": 0.3, "high": 0.5}}, "model": {"width": {"choices": [16, 32]}}}
)


def search(folder: Path, **more: Any) -> Tuned:
    (folder / "nets.py").write_text(BUILDER)
    target = load_target(f"{folder / 'nets.py'}:build", classes=10)
    given = {"sampler": "random", "objective": "robust,bytes,passes", "trials": 2}
    return run(folder / "out", WIDTHS, model=target, **given | more)


def test_a_search_of_several_objectives_keeps_their_front_and_goes_on(tmp_path: Path) -> None:
    made = search(tmp_path)
    kept = load_study(study_name="out", storage=_storage(None, tmp_path / "out"))
    up, down = StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE
    assert kept.directions == [up, down, down]
    trials = {one.name: one for one in made.result.in_order}
    for one in kept.trials:
        told = trials[f"trial-{one.number}"]
        assert one.values == [told.number_of(name) for name in ("robust", "bytes", "passes")]
        assert one.values[1] == 4 * (75 * one.params["model.width"] + 10)
        assert told.training_passes == told.numbers["passes"]
    loaded = SearchResult.load(made.folder)
    assert loaded.objectives == (Aim(name="robust"), *loaded.objectives[1:])
    assert [(one.name, one.better, one.unit) for one in loaded.objectives[1:]] == [
        ("bytes", "lower", "bytes"),
        ("passes", "lower", "passes"),
    ]
    assert made.judged is not None
    assert made.judged.winner.name in {one.name for one in loaded.front}
    names = {one.name for one in made.judged.card.measures}
    assert "bytes" in names
    again = search(tmp_path)
    assert again.trials == made.trials
    with pytest.raises(UserError, match="objective: was robust,bytes,passes, is robust,bytes"):
        search(tmp_path, objective="robust,bytes")
