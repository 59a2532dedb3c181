"""Code that was written for version 0.1 goes on working, and is told what its names are now."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from robustbench_lite import Target, evaluate
from robustbench_lite.attacking import Attack
from robustbench_lite.core import former_names, registry

OLD_ATTACK = """
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from robustbench_lite.norms import GEOMETRIES
from robustbench_lite.stepper import Attack, Problem, Seen
from torch import Tensor


class State(NamedTuple):
    x: Tensor
    moved: Tensor


@dataclass(frozen=True, kw_only=True)
class Old(Attack):
    gradients: ClassVar[bool] = True
    steps: int = 5

    def init(self, problem: Problem) -> State:
        assert problem.aim.shape == (len(problem.x),)
        return State(problem.x, problem.x.new_zeros(len(problem.x)))

    def step(self, problem: Problem, state: State, seen: Seen) -> State:
        return State(seen.x + 0.1 * GEOMETRIES[problem.threat.norm].steepest(seen.grad), state.moved + 1)

    def hopeless(self, problem: Problem, state: State) -> Tensor:
        return state.moved >= 3
"""


@pytest.mark.parametrize("name", former_names._NOW)
def test_every_former_module_is_found_and_loads_nothing(name: str) -> None:
    module = importlib.import_module(f"robustbench_lite.{name}")
    assert module.__name__ == f"robustbench_lite.{name}"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        module.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("module", "name", "now"),
    [
        ("suite", "Recipe", "hardening.recipe"),
        ("suite", "Budget", "core.cost"),
        ("target", "load_target", "model.loading"),
        ("scorecard", "Passes", "core.cost"),
        ("evaluation", "evaluate", "evaluating.pipeline"),
    ],
)
def test_a_former_name_is_the_same_object_and_is_told(module: str, name: str, now: str) -> None:
    former = importlib.import_module(f"robustbench_lite.{module}")
    with pytest.warns(DeprecationWarning, match=f"{module}.{name} is now robustbench_lite.{now}.{name}"):
        found = getattr(former, name)
    assert found is getattr(importlib.import_module(f"robustbench_lite.{now}"), name)


def test_an_attack_of_version_0_1_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = tmp_path / "attacks"
    room.mkdir()
    (room / "__init__.py").write_text('CATALOGUE = {"old": "old:Old"}\n', encoding="utf-8")
    (room / "old.py").write_text(OLD_ATTACK, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    layer = nn.Linear(4, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 1, 1, 1], [-1, -1, -1, -1]]))
        layer.bias.copy_(torch.tensor([-2.0, 2]))
    x = torch.full((8, 4), 0.6)  # 0.1 from the boundary: the first step reaches it, the second is beyond
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", DeprecationWarning)
        card = evaluate(Target(layer), (x, torch.zeros(8, dtype=torch.int64)), ["old"], "Linf 0.15")
    assert issubclass(registry.find("attacks", "old"), Attack)
    assert card.robust_accuracy.count == 0
    texts = {str(one.message) for one in told}
    assert {"Problem.aim is now Problem.target_class", "Old.hopeless is now gave_up: rename it"} <= texts
    assert any("stepper.Seen is now robustbench_lite.attacking.interface.ModelOutput" in text for text in texts)

    samples = np.array(card.attacks[0].trace.samples)
    assert len(samples) <= 4  # it gives up after its third step
