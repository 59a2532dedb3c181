"""Trials: who takes up which, what can win, and in which order they stand."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from optuna import Study
from optuna.trial import TrialState
from torch import nn

from robustbench_lite.core.cost import BudgetTracker
from robustbench_lite.core.suite import Suite
from robustbench_lite.data.load import as_data
from robustbench_lite.hardening.preparation import Sampling
from robustbench_lite.hardening.recipe import load_recipe
from robustbench_lite.model.target import as_target
from robustbench_lite.searching.running import _take as _take_any
from robustbench_lite.searching.space import Space, axes
from robustbench_lite.searching.storage import open_study
from robustbench_lite.searching.trials import Job, Tried, all_tried, tried
from tests.cards import make_card

SUITE = Suite.model_validate({"name": "short", "threats": ["Linf 0.05"], "attacks": [{"attack": "pgd"}]})
RECIPE = load_recipe("pgd_training")
SPACE = Space.model_validate({"name": "s", "params": {"schedule.lr": {"low": 0.01, "high": 0.1}}})


def job_in(folder: Path, **changes: Any) -> Job:
    digits = as_data("digits", split="train")
    given: dict[str, Any] = {
        "target": as_target(nn.Sequential(nn.Flatten(), nn.Linear(64, 10))),
        "training": digits,
        "validation": digits,
        "recipe": RECIPE,
        "axes": axes(SPACE, RECIPE),
        "suite": SUITE,
        "sampling": Sampling(limit=20),
        "folder": folder,
        "sampler": "random",
        "pruner": "none",
        "storage": None,
        "limit": 3,
        "deadline": None,
        "min_clean": 0.5,
    }
    (folder / ".locks").mkdir(exist_ok=True, parents=True)
    return Job(**given | changes)


BUDGET = BudgetTracker()


def _take(job: Job, study: Study) -> Any:
    return _take_any(job, study, BUDGET)


def study_of(job: Job, storage: str | None = None) -> Study:
    return open_study(storage, job.folder, "none")


def test_a_trial_is_held_by_one_and_a_dead_one_s_is_taken_up(tmp_path: Path) -> None:
    job = job_in(tmp_path)
    study = study_of(job)
    first, second, third = (_take(job, study) for _ in range(3))
    assert first is not None
    assert second is not None
    assert third is not None
    assert [trial.number for trial, _ in (first, second, third)] == [0, 1, 2]
    values = study.trials[1].params
    second[1].release()  # as the lock of a process that dies
    again = _take(job, study)
    assert again is not None
    trial, lock = again
    assert (trial.number, trial.params) == (1, values)
    for number, held in ((0, first[1]), (1, lock), (2, third[1])):
        study.tell(number, 0.5)
        held.release()
    assert _take(job, study) is None  # there are three


def test_a_trial_that_a_kill_left_as_it_began_is_taken_up_and_none_is_lost(tmp_path: Path) -> None:
    job = job_in(tmp_path, limit=1)
    study = study_of(job)
    study.ask()  # and no more: neither its owner nor its settings are kept yet
    taken = _take(job, study)
    assert taken is not None
    assert taken[0].number == 0
    taken[1].release()
    shared = job_in(tmp_path / "other", storage=str(tmp_path / "shared.journal"), limit=1)
    left = study_of(shared, shared.storage)
    left.ask()
    assert _take(shared, left) is None  # it may be that of another machine


def test_after_the_deadline_nothing_is_begun_nor_taken_up(tmp_path: Path) -> None:
    job = job_in(tmp_path)
    study = study_of(job)
    left = _take(job, study)
    assert left is not None
    left[1].release()
    assert _take(job_in(tmp_path, deadline=time.time() - 1), study) is None
    assert [one.state for one in study.trials] == [TrialState.RUNNING]


def test_what_another_folder_runs_is_left_alone(tmp_path: Path) -> None:
    shared = str(tmp_path / "shared.journal")
    here, there = (job_in(tmp_path / name / "out") for name in ("here", "there"))
    taken = _take(here, study_of(here, shared))
    assert taken is not None
    taken[1].release()
    other = _take(there, study_of(there, shared))
    assert other is not None
    assert other[0].number == 1
    other[1].release()


def test_what_can_not_win_says_why(tmp_path: Path) -> None:
    job = job_in(tmp_path)
    good = make_card("good", clean=0.95)
    assert job.facts(good)["out"] == ""
    assert "INVALID" in job.facts(good.model_copy(update={"verdict": "INVALID"}))["out"]
    assert job.facts(make_card("poor", clean=0.2))["out"].endswith("is below the floor of 50.0%")
    facts = job.facts(good)
    one = tried("trial-0", {"schedule.lr": 0.05}, "done", facts)
    assert (one.robust, one.clean, one.can_win) == (good.robust_accuracy, good.clean_accuracy, True)


def test_the_best_stand_first_and_those_that_can_not_win_last() -> None:
    low, high = make_card("low", breaks={"pgd": 0.9}), make_card("high", breaks={"pgd": 0.1})

    def one(name: str, card: Any, **more: Any) -> Tried:
        return Tried(name=name, robust=card.robust_accuracy, clean=card.clean_accuracy, **more)

    trials = [
        Tried(name="failed", state="failed"),
        one("masked", high, out="its evaluation can't be trusted (INVALID)"),
        one("low", low),
        one("high", high),
    ]
    assert [each.name for each in sorted(trials, key=lambda each: each.order)] == ["high", "low", "masked", "failed"]


def test_the_study_s_trials_are_told_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    job = job_in(tmp_path)
    study = study_of(job)
    for state in (TrialState.PRUNED, TrialState.FAIL):
        taken = _take(job, study)
        assert taken is not None
        taken[0].set_user_attr("out", "why")
        study.tell(taken[0], state=state)
        taken[1].release()
    found = all_tried(study)
    assert [(one.name, one.state, one.out, one.can_win) for one in found] == [
        ("trial-0", "pruned", "why", False),
        ("trial-1", "failed", "why", False),
    ]
