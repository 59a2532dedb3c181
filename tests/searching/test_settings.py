"""The settings of a recipe by their names: what a wrong one is told, and what a step refuses."""

from __future__ import annotations

import pytest

from robustbench_lite.core.errors import UserError
from robustbench_lite.hardening.recipe import Recipe, load_recipe
from robustbench_lite.searching.settings import fault_of, known_settings, unknown_setting, with_settings

ONE = load_recipe("pgd_training")
PRUNED = Recipe.model_validate(
    {
        "name": "pruned",
        "threat": "Linf 0.1",
        "steps": [{"name": "standard", "schedule": {"epochs": 1}}, {"name": "prune", "params": {"amount": 0.5}}],
    }
)


def test_a_step_that_does_not_train_has_no_schedule() -> None:
    known = known_settings(PRUNED)
    assert "steps.2.amount" in known
    assert "steps.1.schedule.lr" in known
    assert not [key for key in known if key.startswith(("steps.2.schedule", "schedule"))]


def test_every_known_setting_can_be_named_and_none_twice() -> None:
    for recipe in (ONE, PRUNED):
        known = known_settings(recipe)
        assert len(set(known)) == len(known)


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("lr", "did you mean schedule.lr?"),
        ("params.lr", "did you mean schedule.lr?"),
        ("schedule.steps", "did you mean params.steps?"),
        ("schedule.epoch", "did you mean schedule.epochs"),
    ],
)
def test_an_unknown_setting_is_told_with_the_one_that_was_meant(key: str, told: str) -> None:
    assert told in unknown_setting(key, known_settings(ONE))


def test_what_a_step_or_a_schedule_refuses_is_told() -> None:
    assert fault_of(ONE, "params.steps", 3) is None
    assert "steps" in str(fault_of(ONE, "params.steps", 0))
    assert "steps" in str(fault_of(ONE, "params.steps", 2.5))
    assert "lr" in str(fault_of(ONE, "schedule.lr", -1))
    assert fault_of(PRUNED, "steps.2.amount", 0.3) is None
    assert "amount" in str(fault_of(PRUNED, "steps.2.amount", 3))


def test_a_recipe_is_left_as_it_was() -> None:
    before = ONE.model_dump()
    changed = with_settings(ONE, {"schedule.lr": 0.5, "params.steps": 3})
    assert (changed.schedule.lr, changed.params["steps"]) == (0.5, 3)
    assert ONE.model_dump() == before
    with pytest.raises(UserError, match="lr"):
        with_settings(ONE, {"schedule.lr": "fast"})


def test_another_defense_takes_the_parameters_that_it_has() -> None:
    recipe = load_recipe("pgd_training").model_copy(update={"params": {"steps": 7}})
    assert "defense" in known_settings(recipe)
    assert "defense" not in known_settings(PRUNED)
    trades = with_settings(recipe, {"defense": "trades", "schedule.lr": 0.5})
    assert (trades.defense, trades.params, trades.schedule.lr) == ("trades", {"steps": 7}, 0.5)
    assert with_settings(recipe, {"defense": "n_fgsm"}).params == {}
    assert with_settings(recipe, {"params.steps": 3}).defense == "pgd_training"
    assert fault_of(recipe, "defense", "trades") is None
    for wrong in ("quantize", "tradess", 3):
        assert fault_of(recipe, "defense", wrong) is not None
