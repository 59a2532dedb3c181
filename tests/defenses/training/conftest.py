"""What a defense does to a small network on the digits."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import nn

from robustbench_lite.core import registry
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.data.load import load_data
from robustbench_lite.evaluating.pipeline import evaluate
from robustbench_lite.hardening.interface import Stage
from robustbench_lite.hardening.recipe import Schedule
from robustbench_lite.hardening.training import train
from robustbench_lite.model.target import Target

EPS = 0.1


def stage(module: nn.Module, threat: str = f"Linf {EPS}") -> Stage:
    """The only stage of a training."""
    return Stage(name="model", target=Target(module.train()), trained={}, threat=ThreatModel.parse(threat))


def linear() -> nn.Linear:
    """Two classes; their margin has the slopes 2, -3 and 2.5."""
    module = nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1.0, -2.0, 3.0], [-1.0, 1.0, 0.5]]))
    return module


class Accuracies(NamedTuple):
    """Of 120 test samples, without an adversary and under ``linf_quick`` at Linf 0.15."""

    clean: float
    robust: float


@functools.cache
def on_digits(name: str, epochs: int, **params: Any) -> Accuracies:
    """Train a small network with a defense on the digits, and evaluate it; the same question is answered once."""
    data, held_out = load_data("digits", split="train").stratified(700, 0).split(0.1, 0)
    schedule = Schedule(epochs=epochs, batch_size=24, lr=0.01, optimizer="adam", decay="one_cycle")
    threat = ThreatModel.parse("Linf 0.15")
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    target = train(Target(module), registry.build("defenses", name, params), schedule, threat, data, held_out).target
    card = evaluate(target, "digits", "linf_quick", threat, limit=120)
    return Accuracies(card.clean_accuracy.value, card.robust_accuracy.value)
