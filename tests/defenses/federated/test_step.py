"""The step ``federated``, as far as it goes without Flower; tests/extras/test_federated.py has the rest."""

from __future__ import annotations

import importlib.util

import pytest
from torch import nn

from robustbench_lite.core.errors import UserError
from robustbench_lite.hardening.pipeline import harden
from robustbench_lite.hardening.recipe import Recipe, federated, load_recipe


def test_each_step_that_trains_is_done_at_clients() -> None:
    recipe = Recipe.model_validate(
        {
            "threat": "Linf 0.1",
            "steps": [{"name": "pgd_training", "params": {"steps": 3}}, {"name": "prune", "params": {"amount": 0.5}}],
        }
    )
    first, second = federated(recipe, {"clients": 4}).steps
    assert (first.name, first.params) == (
        "federated",
        {"clients": 4, "defense": "pgd_training", "params": {"steps": 3}},
    )
    assert second == recipe.steps[1].model_copy(update={"schedule": recipe.schedule})


def test_a_recipe_of_one_defense_becomes_one_of_one_step() -> None:
    made = federated(load_recipe("trades"), {})
    assert (made.defense, made.params) == ("", {})
    assert [step.name for step in made.steps] == ["federated"]
    assert made.steps[0].params["defense"] == "trades"
    assert made.steps[0].schedule == load_recipe("trades").schedule


def test_a_recipe_that_trains_nothing_is_refused() -> None:
    recipe = Recipe.model_validate({"threat": "Linf 0.1", "defense": "prune", "params": {"amount": 0.5}})
    with pytest.raises(UserError, match="none of its steps trains"):
        federated(recipe, {})


@pytest.mark.skipif(importlib.util.find_spec("flwr") is not None, reason="Flower is installed")
def test_a_missing_flower_is_told_before_anything_runs() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(UserError, match=r"needs flwr.*pip install 'robustbench_lite\[federated\]'"):
        harden(model, "digits", federated(load_recipe("pgd_training"), {}))
