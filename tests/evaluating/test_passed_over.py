"""Purified inputs attacked along another way back: who is evaluated twice, and what a stop in between leaves."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustbench_lite import Target, evaluate
from robustbench_lite.core import registry
from robustbench_lite.core.cost import Budget
from robustbench_lite.evaluating.adapt import reevaluate

DATA = (torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 2)


def purified() -> Target:
    """A linear model of two classes behind JPEG, which is right on its data."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    x, y = DATA[0].flatten(1), nn.functional.one_hot(DATA[1], 2).float() - 0.5
    with torch.no_grad():
        module[1].weight.copy_(torch.linalg.lstsq(x - 0.5, y).solution.T)
        module[1].bias.copy_(-0.5 * module[1].weight.sum(1))
    wrapped: Target = registry.build("defenses", "jpeg", {"quality": 95}).wrap(Target(module.eval()), "jpeg")
    return wrapped


def test_a_target_that_purifies_nothing_is_evaluated_once() -> None:
    once = evaluate(purified().inner, DATA, ["fgsm"], "Linf 0.01")
    assert once.adaptation is None
    twice = evaluate(purified(), DATA, ["fgsm"], "Linf 0.01")
    assert twice.adaptation is not None
    assert [one.name for one in twice.attacks][-2:] == ["transfer-surrogate", "square_ascent"]


def test_a_search_of_the_suites_own_is_not_doubled() -> None:
    card = evaluate(purified(), DATA, ["fgsm", "square_ascent"], "Linf 0.01")
    assert [one.name for one in card.attacks].count("square_ascent") == 1
    assert card.adaptation is not None
    assert "search" not in [one.name for one in card.adaptation.measures]


def test_ctrl_c_between_the_two_leaves_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(reevaluate, "surrogate", stopped)
    card = evaluate(purified(), DATA, ["fgsm"], "Linf 0.01")
    assert card.interrupted == "interrupt"
    assert card.verdict == "INVALID"
    assert [one.name for one in card.attacks] == ["fgsm"]


def test_a_budget_that_is_spent_ends_it_after_the_first() -> None:
    card = evaluate(purified(), DATA, ["fgsm"], "Linf 0.01", budget=Budget(passes=100))
    assert card.interrupted is not None
    assert card.adaptation is None
