"""Cheap runs in the place of full ones: what they change, what they can't tell, and how well they told it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from robustbench_lite.core.errors import UserError
from robustbench_lite.hardening.preparation import Changes, Sampling
from robustbench_lite.hardening.recipe import Recipe, load_recipe
from robustbench_lite.searching.proxy import Proxy, agreement

ONE = load_recipe("pgd_training").model_copy(update={"params": {"steps": 7, "step_size": 0.01}})
TWO = Recipe.model_validate(
    {
        "name": "two",
        "threat": "Linf 0.1",
        "steps": [{"name": "trades", "params": {"beta": 3}}, {"name": "prune", "params": {"amount": 0.5}}],
    }
)


def test_a_defense_takes_the_place_of_each_step_that_trains_with_what_both_have() -> None:
    proxy = Proxy(defense="pgd_training", params={"steps": 1})
    assert proxy.recipe(ONE).params == {"steps": 1, "step_size": 0.01}
    first, second = proxy.recipe(TWO).steps
    assert (first.name, first.params) == ("pgd_training", {"steps": 1})
    assert second == TWO.steps[1]
    fgsm = Proxy(defense="fgsm_rs").recipe(ONE)
    assert (fgsm.defense, fgsm.params) == ("fgsm_rs", {})
    assert Proxy(epochs=1).recipe(ONE) is ONE


def test_what_a_proxy_does_not_give_is_as_in_full() -> None:
    changes, sampling = Changes(suite="linf_quick", epochs=9), Sampling(limit=100, limit_train=50, seed=3)
    assert Proxy(epochs=2).changes(changes) == Changes(suite="linf_quick", epochs=2)
    assert Proxy(limit=10).sampling(sampling) == Sampling(limit=10, limit_train=50, seed=3)
    assert Proxy(suite="linf_curve", limit_train=5).changes(changes).suite == "linf_curve"
    assert Proxy(epochs=2, defense="fgsm_rs").words() == "2 epochs, training by fgsm_rs"


@pytest.mark.parametrize(
    ("given", "keys", "words"),
    [
        ({}, [], "nothing that is cheaper"),
        ({"defense": "fgsm_rs"}, ["params.steps", "schedule.lr"], "params.steps is searched, and fgsm_rs doesn't"),
        ({"epochs": 2}, ["schedule.epochs"], "epochs: schedule.epochs is searched"),
        ({"defense": "prune"}, [], "prune doesn't train"),
        ({"params": {"steps": 1}, "epochs": 1}, [], "params: are of no defense"),
    ],
)
def test_a_proxy_that_can_not_stand_for_the_recipe_is_refused(given: Any, keys: list[str], words: str) -> None:
    with pytest.raises(UserError, match=r"proxy: can't stand for the recipe") as caught:
        Proxy(**given).check(ONE, keys)
    assert words in str(caught.value)
    assert "schedule.lr is searched" not in str(caught.value)


@pytest.mark.parametrize("given", [{"epochs": 0}, {"finalists": 0}, {"limit_train": 1}, {"epoch": 3}])
def test_numbers_without_sense_are_refused(given: Any) -> None:
    with pytest.raises(ValidationError):
        Proxy(**given)


def test_the_agreement_is_that_of_the_finalists() -> None:
    pairs = [(f"trial-{place}", 0.1 * place, 0.2 + 0.1 * place**2) for place in range(6)]
    found = agreement(Proxy(epochs=1), pairs, 600.0, 1000.0, 20)
    assert (found.correlation, found.passes, found.passes_in_full) == (1.0, 600.0, 20_000.0)
    assert found.low is not None
    assert found.low < 0.95  # six things in the same order are no proof
    alike = agreement(Proxy(epochs=1), [("trial-0", 0.5, 0.5), ("trial-1", 0.5, 0.6)], 1.0, None, 2)
    assert (alike.correlation, alike.low, alike.high, alike.passes_in_full) == (None, None, None, None)
