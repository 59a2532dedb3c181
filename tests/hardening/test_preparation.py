"""What is checked before a hardening: data that change may be learnt from, and not be judged by."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustbench_lite.core.errors import UserError
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.hardening.preparation import Changes, Sampling, prepare
from robustbench_lite.hardening.recipe import Recipe
from robustbench_lite.hardening.schedule import Schedule

X = torch.rand(24, 3, 4, 4, generator=torch.Generator().manual_seed(0))


class Pairs:
    targets = tuple(range(3)) * 8

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        return X[position], position % 3


class Jittered(Pairs):
    """A training set: each reading moves the picture."""

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        x, y = super().__getitem__(position)
        return (x + 0.1 * torch.rand(3, 1, 1)).clamp(0, 1), y


def test_training_data_may_change_where_the_test_data_do_not() -> None:
    recipe = Recipe(
        defense="standard",
        threat=ThreatModel.parse("Linf 0.1"),
        schedule=Schedule(epochs=1, batch_size=4, held_out=0.3),
    )
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    plan = prepare(model, Jittered(), recipe, Changes(), Sampling(test_data=Pairs()))
    again = prepare(model, Jittered(), recipe, Changes(), Sampling(test_data=Pairs()))
    assert plan.fingerprint() == again.fingerprint(), "so that a killed run can go on"
    with pytest.raises(UserError, match=r"^Jittered: the test samples change .*test_data"):
        prepare(model, Jittered(), recipe, Changes(), Sampling())
