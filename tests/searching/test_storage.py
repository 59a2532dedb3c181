"""Samplers by name, and the storage of a study."""

from __future__ import annotations

import sys
from pathlib import Path

import optuna
import pytest
from optuna.pruners import NopPruner

from robustbench_lite.core.errors import UserError
from robustbench_lite.hardening.recipe import load_recipe
from robustbench_lite.searching.space import Axis, Space, axes
from robustbench_lite.searching.storage import SAMPLERS, check_sampler, make_sampler, open_study

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
    load_recipe("pgd_training"),
)


def proposed(name: str, number: int, seed: int = 0, found: tuple[Axis, ...] = FOUND) -> dict[str, object]:
    """What a sampler proposes for a trial of a new study."""
    study = optuna.create_study(sampler=make_sampler(name, found, seed, number))
    trial = study.ask()
    return {axis.key: axis.suggest(trial) for axis in found}


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "grid"])
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
        study.sampler = make_sampler("grid", FOUND, 7, number)
        trial = study.ask()
        points.append(tuple(axis.suggest(trial) for axis in FOUND))
        study.tell(trial, 0.5)
    assert len(set(points)) == 6


def test_an_unknown_sampler_and_one_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="unknown sampler 'tpa': did you mean tpe"):
        check_sampler("tpa")
    monkeypatch.setitem(sys.modules, "cmaes", None)
    check_sampler("tpe")
    with pytest.raises(UserError, match=r"(?s)cmaes.*needs cmaes.*pip install 'robustbench_lite\[tune\]'"):
        check_sampler("cmaes")


def test_a_study_is_opened_again_by_the_folder_s_name(tmp_path: Path) -> None:
    first = open_study(None, tmp_path, NopPruner())
    first.tell(first.ask(), 0.25)
    again = open_study(None, tmp_path, NopPruner())
    assert (again.study_name, again.best_value) == (tmp_path.name, 0.25)
    other = open_study(str(tmp_path / "other.journal"), tmp_path, NopPruner())
    assert other.trials == []


def test_optuna_tells_nothing_and_is_as_it_was(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    level = optuna.logging.get_verbosity()
    open_study(f"sqlite:///{tmp_path / 'study.db'}", tmp_path, NopPruner())
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == level


def test_no_password_is_told_wherever_it_stands(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        open_study("nosuch+driver://me:secret@host:1/db", tmp_path, NopPruner())
    assert "secret" not in str(caught.value)
    assert "nosuch+driver://***@host:1/db" in str(caught.value)
