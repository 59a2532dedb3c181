"""Strategies by name: what they propose, and from what it follows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError
from robustbench_lite.hardening.recipe import load_recipe
from robustbench_lite.searching.space import Axis, Space, axes
from robustbench_lite.searching.strategies.interface import STARTUP, find_strategy

NAMES = [name for name in registry.names("strategies") if name != "grid"]
RECIPE = load_recipe("pgd_training")

FOUND = axes(
    Space.model_validate(
        {
            "name": "s",
            "params": {
                "schedule.lr": {"low": 0.01, "high": 0.09, "step": 0.04},
                "schedule.decay": {"choices": ["cosine", "cyclic"]},
            },
        }
    ),
    RECIPE,
)


def proposed(name: str, number: int, seed: int = 0, found: tuple[Axis, ...] = FOUND) -> dict[str, object]:
    """What a sampler proposes for a trial of a new study."""
    study = optuna.create_study(sampler=find_strategy(name).sampler(found, seed, number))
    trial = study.ask()
    return {axis.key: axis.suggest(trial) for axis in found}


@pytest.mark.parametrize("name", NAMES)
def test_a_proposal_depends_on_the_seed_and_the_trial_s_number_alone(name: str) -> None:
    proposals = [proposed(name, number, seed) for number in range(4) for seed in range(4)]
    assert proposals == [proposed(name, number, seed) for number in range(4) for seed in range(4)]
    assert len({str(one) for one in proposals}) > 3
    for one in proposals:
        assert one["schedule.lr"] in (pytest.approx(0.01), pytest.approx(0.05), pytest.approx(0.09))
        assert one["schedule.decay"] in ("cosine", "cyclic")


def test_the_points_of_a_grid_come_in_one_order_for_all_trials() -> None:
    study = optuna.create_study()
    points = []
    for number in range(6):
        study.sampler = find_strategy("grid").sampler(FOUND, 7, number)
        trial = study.ask()
        points.append(tuple(axis.suggest(trial) for axis in FOUND))
        study.tell(trial, 0.5)
    assert len(set(points)) == 6


def test_an_unknown_sampler_and_one_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="unknown sampler 'tpa': did you mean tpe"):
        find_strategy("tpa")
    monkeypatch.setitem(sys.modules, "cmaes", None)
    find_strategy("tpe")
    with pytest.raises(UserError, match=r"(?s)cmaes.*needs cmaes.*pip install 'robustbench_lite\[tune\]'"):
        find_strategy("cmaes")


WIDE: dict[str, dict[str, Any]] = {
    "schedule.lr": {"low": 1e-4, "high": 1.0, "log": True},
    "schedule.momentum": {"low": 0.0, "high": 0.9},
    "schedule.epochs": {"low": 1, "high": 300, "log": True},
    "schedule.batch_size": {"low": 16, "high": 256, "step": 16},
    "params.steps": {"low": 1, "high": 7},
    "schedule.decay": {"choices": ["cosine", "cyclic", "constant"]},
    "schedule.augment": {"choices": [[], ["crop"], ["crop", "flip"]]},
}


def search(name: str, trials: int, space: dict[str, dict[str, Any]], value: Any) -> optuna.Study:
    """Run a search of trials that are told their value by a function of their settings."""
    found = axes(Space.model_validate({"name": "s", "params": space}), RECIPE)
    study = optuna.create_study(direction="maximize")
    for number in range(trials):
        study.sampler = find_strategy(name).sampler(found, 0, number)
        trial = study.ask()
        study.tell(trial, value({axis.key: axis.suggest(trial) for axis in found}))
    return study


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_of_setting_is_proposed_within_its_range(name: str) -> None:
    study = search(name, 8, WIDE, lambda values: values["params.steps"])
    assert len({str(one.params) for one in study.trials}) == 8
    for one in study.trials:  # Optuna refuses to store a value out of its distribution
        assert type(one.params["schedule.epochs"]) is type(one.params["params.steps"]) is int
        assert one.params["schedule.batch_size"] % 16 == 0


@pytest.mark.parametrize("name", [name for name in NAMES if find_strategy(name).several])
def test_one_that_seeks_a_front_is_told_several_numbers_and_constraints(name: str) -> None:
    study, narrow = optuna.create_study(directions=["maximize", "minimize"]), ("schedule.momentum", "params.steps")
    found = axes(Space.model_validate({"name": "s", "params": {key: WIDE[key] for key in narrow}}), RECIPE)
    for number in range(STARTUP + 2):
        study.sampler = find_strategy(name).sampler(found, 0, number)
        trial = study.ask()
        values = {axis.key: axis.suggest(trial) for axis in found}
        trial.set_constraint("floor", 0.3 - values["schedule.momentum"])
        study.tell(trial, [values["schedule.momentum"], values["params.steps"]])
    assert {"schedule.momentum", "params.steps"} == set(study.trials[-1].params)
    assert all(one.params["schedule.momentum"] >= 0.3 for one in study.best_trials)


@pytest.mark.parametrize("name", ["tpe", "gp", "hyperopt"])
def test_one_that_learns_finds_what_chance_does_not(name: str) -> None:
    """The median of the later trials of a smooth function of two settings, against that of random ones."""
    narrow = {key: WIDE[key] for key in ("schedule.lr", "schedule.momentum")}

    def value(values: dict[str, Any]) -> float:
        return -abs(values["schedule.momentum"] - 0.7) - abs(values["schedule.lr"] - 0.01)

    learnt, chance = (search(one, 25, narrow, value) for one in (name, "random"))
    late = sorted(float(one.value or 0) for one in learnt.trials[10:])
    early = sorted(float(one.value or 0) for one in chance.trials[10:])
    assert late[len(late) // 2] > early[len(early) // 2]


def test_failed_and_pruned_trials_do_not_stop_hyperopt() -> None:
    study = optuna.create_study(direction="maximize")
    for number, state in enumerate([TrialState.FAIL, TrialState.PRUNED, None, None]):
        study.sampler = find_strategy("hyperopt").sampler(FOUND, 0, number)
        trial = study.ask()
        for axis in FOUND:
            axis.suggest(trial)
        study.tell(trial, 0.5 if state is None else None, state=state)
    assert len(study.trials) == 4


def test_a_strategy_of_one_s_own_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "strategies").mkdir()
    (tmp_path / "strategies" / "__init__.py").write_text('CATALOGUE = {"mine": "mine:MINE"}')
    (tmp_path / "strategies" / "mine.py").write_text(
        "from optuna.samplers import RandomSampler\n"
        "from robustbench_lite.searching.strategies.interface import Strategy\n"
        "MINE = Strategy(make=lambda found, seed: RandomSampler(1))\n"
    )
    monkeypatch.chdir(tmp_path)
    assert proposed("mine", 0) == proposed("mine", 3)
