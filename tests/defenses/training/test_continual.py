"""Something new is learnt, and what was known before stays: digits from 0 to 4, then from 5 to 9."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from robustbench_lite.core.errors import UserError
from robustbench_lite.core.suite import Suite
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.data.dataset import Data
from robustbench_lite.data.load import load_data
from robustbench_lite.defenses.training.continual import Continual
from robustbench_lite.hardening.pipeline import Hardened, harden
from robustbench_lite.hardening.recipe import Recipe
from robustbench_lite.results.scorecard import Scorecard

SUITE = Suite.model_validate(
    {"name": "short", "threats": ["Linf 0.05"], "attacks": [{"attack": "pgd", "params": {"steps": 5}}]}
)


def recipe(step: str, **more: Any) -> Recipe:
    schedule = {"epochs": 10, "batch_size": 32, "lr": 0.01, "optimizer": "adam", "extra_share": 0.5}
    return Recipe.model_validate(
        {"defense": step, "params": {"steps": 2}, "threat": "Linf 0.05", "schedule": schedule} | more
    )


def digits(low: int, high: int, split: Any) -> Data:
    data = load_data("digits", split=split)
    return data.take(((data.labels >= low) & (data.labels < high)).nonzero().flatten())


def learn(model: Any, low: int, given: Recipe, **more: Any) -> Hardened:
    return harden(
        model,
        digits(low, low + 5, "train"),
        given,
        test_data=digits(low, low + 5, "test"),
        suite=SUITE,
        limit=80,
        **more,
    )


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Hardened:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
    out = tmp_path_factory.mktemp("first") / "out"
    return learn(model, 0, recipe("pgd_training"), remember=60, out=out)


def numbers(card: Scorecard) -> dict[str, float]:
    return {one.name: one.value for one in card.measures}


def test_with_it_far_less_is_forgotten_than_with_plain_training(first: Hardened, tmp_path: Path) -> None:
    assert first.folder is not None
    out = tmp_path / "out"
    kept = learn(first.target, 5, recipe("continual"), earlier=first.folder, out=out, gates={"max_forgetting": 0.3})
    lost = learn(first.target, 5, recipe("pgd_training"), earlier=first.folder, gates={"max_forgetting": 0.3})
    now, then = numbers(kept.after), numbers(lost.after)
    assert then["forgetting_clean"] > 0.6
    assert now["forgetting_clean"] < 0.25
    assert now["forgetting"] < then["forgetting"] - 0.3
    assert now["task_1_clean"] > 0.7
    assert kept.after.clean_accuracy.value > 0.7  # and the new is learnt
    assert now["backward_transfer"] <= 0
    assert [gate.passed for gate in kept.after.gates] == [True]
    assert (lost.after.verdict, [gate.passed for gate in lost.after.gates]) == ("FAIL", [False])
    assert Scorecard.load(out / "after.json") == kept.after
    assert kept.memory is not None
    assert [len(task.scores) for task in kept.memory.tasks] == [2, 1]
    assert kept.steps[0].params["known"] == (0, 1, 2, 3, 4)
    assert Scorecard.load(out / "task-1.json").robust_accuracy.value == now["task_1_robust"]


def test_earlier_data_by_name_take_the_place_of_a_memory(first: Hardened) -> None:
    short = recipe("continual").model_copy(update={"remember": 30})
    short = short.model_copy(update={"schedule": short.schedule.model_copy(update={"epochs": 1})})
    out = learn(first.target, 5, short, earlier=digits(0, 5, "train"))
    assert out.memory is not None
    assert [len(task.scores) for task in out.memory.tasks] == [2, 1]  # the first from before this hardening
    assert out.memory.tasks[0].scores[0].share("clean") > 0.8
    assert {len(data) for data in out.memory.rehearsed} == {30}


def test_what_it_can_not_do_is_told_before_anything_runs(first: Hardened) -> None:
    with pytest.raises(UserError, match=r"nothing is known of it; give the model's folder"):
        learn(first.target, 5, recipe("continual"))
    with pytest.raises(UserError, match="a gate is about forgetting, and nothing was learnt before"):
        learn(first.target, 5, recipe("pgd_training"), gates={"max_forgetting": 0.1})
    extra = recipe("continual")
    extra = extra.model_copy(update={"schedule": extra.schedule.model_copy(update={"extra": "digits"})})
    with pytest.raises(UserError, match="in the place of extra"):
        learn(first.target, 5, extra, earlier=first.folder)


def test_threat_models_of_earlier_tasks_that_the_new_one_does_not_cover_are_learnt_too() -> None:
    step = Continual(threats=("Linf 0.1", "L2 0.5", "Linf 0.3"))
    assert [str(one) for one in step._all(ThreatModel.parse("Linf 0.2"))] == ["Linf 0.3", "L2 0.5"]
    assert [str(one) for one in step._all(ThreatModel.parse("L2 1"))] == ["L2 1", "Linf 0.3"]
