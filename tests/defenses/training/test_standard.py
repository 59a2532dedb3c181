from __future__ import annotations

import pytest
import torch
from torch import nn

from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.hardening.interface import Batch, Defense, Stage, Step
from robustbench_lite.hardening.recipe import load_recipe
from robustbench_lite.model.target import Target


def test_the_loss_is_the_mean_cross_entropy() -> None:
    module = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
    stage = Stage(name="model", target=Target(module), trained={}, threat=ThreatModel.parse("Linf 0.1"))
    batch = Batch(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0]), torch.tensor([1, 2]))
    loss = registry.build("defenses", "standard", {}).loss(batch, stage)
    # logits (2, 0) and (0, 1), label 0
    expected = (torch.log(1 + torch.tensor(-2.0).exp()) + torch.log(1 + torch.tensor(1.0).exp())) / 2
    assert loss.item() == pytest.approx(expected.item())
    loss.backward()
    assert module.weight.grad is not None


@pytest.mark.parametrize("name", registry.names("recipes"))
def test_the_recipes_load_and_name_what_there_is(name: str) -> None:
    recipe = load_recipe(name)
    for spec in recipe.chain:
        step = registry.build("defenses", spec.name, spec.params)
        assert isinstance(step, Step)
        assert not isinstance(step, Defense) or step.stages
    assert recipe.name == name
    assert recipe.description
    assert recipe.suite in registry.names("suites")


@pytest.mark.parametrize("name", registry.names("defenses"))
def test_an_unknown_parameter_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="unknown parameter 'strength'"):
        registry.build("defenses", name, {"strength": 1})
