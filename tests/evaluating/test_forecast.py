"""What is told before the attacks run: a limit that holds, known from the first event on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from robustbench_lite import evaluate
from robustbench_lite.core.cost import Budget, Passes, Progress, Speed


def net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))


def samples() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.rand(24, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return x, net()(x).argmax(1)


@pytest.mark.parametrize(
    ("suite", "threats"),
    [
        ("linf_quick", ["Linf 0.001"]),
        ("linf_classic", ["Linf 0.002"]),
        (["ddn", {"attack": "carlini_wagner", "params": {"iterations": 20}}], ["L2 0.01"]),
        (["pgd", {"attack": "square", "params": {"steps": 300}}], ["Linf 0.001", "Linf 0.2"]),
    ],
)
def test_no_more_passes_are_taken_than_was_said(suite: str | list[Any], threats: list[str]) -> None:
    events: list[Progress] = []
    card = evaluate(net(), samples(), suite, threats, on_progress=events.append)
    [forecast] = {event.forecast for event in events if event.threat}
    assert forecast is not None
    assert (forecast.attacks, forecast.samples) == (len(card.suite.attacks) * len(threats), 24)
    spent = sum((result.passes for result in card.attacks), Passes())
    assert 0 < spent.forward <= forecast.passes.forward
    assert spent.backward <= forecast.passes.backward
    assert forecast.seconds is not None
    assert forecast.seconds > 0


def test_a_budget_of_time_is_a_limit() -> None:
    events: list[Progress] = []
    evaluate(net(), samples(), ["pgd"], "Linf 0.01", budget=Budget(seconds=1e-3), on_progress=events.append)
    attacks = [event for event in events if event.threat]
    assert all(event.forecast is not None and (event.forecast.seconds or 0.0) <= 1e-3 for event in attacks)


def test_speed_is_that_of_the_fastest_batch_and_unknown_before_one() -> None:
    speed = Speed()
    assert speed.seconds(Passes(forward=10)) is None
    speed.measured(10, 0, 5.0)
    speed.measured(10, 0, 1.0)
    assert speed.seconds(Passes(forward=100)) == pytest.approx(10.0)
    assert speed.seconds(Passes(forward=100, backward=1)) is None
    speed.measured(10, 2, 5.0)  # forward 0.1 each, so 0.4 for two gradients
    assert speed.seconds(Passes(forward=100, backward=10)) == pytest.approx(12.0)
