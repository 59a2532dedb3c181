"""What holds for every library of others: loaded late, told where absent, and nothing of the user's is moved."""

from __future__ import annotations

import random
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from robustbench_lite.core import registry

CODE = """
import sys

from robustbench_lite.attacks import corruption
from robustbench_lite.attacks.backends import art, foolbox

loaded = {"art", "foolbox", "torchvision"} & set(sys.modules)
assert not loaded, loaded
for library, backend, attack, cure in (
    ("art", art, "SquareAttack", "pip install adversarial-robustness-toolbox"),
    ("foolbox", foolbox, "FGSM", "pip install foolbox"),
):
    sys.modules[library] = None
    try:
        backend.find(attack)
    except ValueError as fault:
        assert cure in str(fault), fault
    else:
        raise AssertionError(library)
"""


def test_none_is_loaded_before_it_is_used_and_an_absent_one_is_told() -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "params", "threat"),
    [("art:DeepFool", {"max_iter": 3}, "L2 0.01"), ("foolbox:LinfPGD", {"steps": 3}, "Linf 0.01")],
)
def test_the_model_is_left_as_it_was(linear: Any, name: str, params: dict[str, Any], threat: str) -> None:
    problem = linear(samples=6)
    problem.model.add_module("dropout", nn.Dropout(0.5))
    problem.model.train()
    problem.model[0].eval()
    problem.model[1].bias.requires_grad_(False)
    problem.attack(registry.build("attacks", name, params), threat)
    assert [module.training for module in problem.model] == [False, True, True]
    assert [parameter.requires_grad for parameter in problem.model.parameters()] == [True, False]
    assert all(parameter.grad is None for parameter in problem.model.parameters())


@pytest.mark.parametrize(
    ("name", "params"),
    [
        # It takes its start from a generator of its own, which ART leaves to the operating system to seed.
        ("art:HopSkipJump", {"max_iter": 1, "max_eval": 10, "init_eval": 5}),
        ("foolbox:LinearSearchBlendedUniformNoiseAttack", {"directions": 5, "steps": 20}),
    ],
)
def test_a_rerun_draws_the_same_and_the_users_generators_go_on_as_if_nothing_was(
    linear: Any, name: str, params: dict[str, Any]
) -> None:
    def draws() -> tuple[float, ...]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    def seed() -> None:
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)

    def distances(seed: int) -> Any:
        return problem.attack(attack, "L2 0.01", seed=seed).distance

    problem, attack = linear(samples=3), registry.build("attacks", name, params)
    seed()
    untouched = draws()
    seed()
    first = distances(0)
    assert draws() == untouched
    assert (distances(0) == first).all()
    assert (distances(1) != first).any()
