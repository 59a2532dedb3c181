"""What a training costs, counted on the network itself."""

from __future__ import annotations

import torch
from torch import nn

from robustbench_lite.hardening.checkpoint import Epoch
from robustbench_lite.hardening.cost import counted, training_cost


def test_passes_are_counted_by_sample_and_only_inside() -> None:
    module = nn.Linear(3, 2)
    module(torch.zeros(9, 3))
    with counted(module) as count:
        module(torch.zeros(4, 3))
        with torch.no_grad():
            module(torch.zeros(5, 3))
    module(torch.zeros(9, 3))
    assert (count.forward, count.backward, count.total) == (9, 4, 13)


def test_an_exported_module_is_counted_too() -> None:
    module = torch.export.export(nn.Linear(3, 2), (torch.zeros(4, 3),)).module()
    with counted(module) as count:
        module(torch.zeros(4, 3))
    assert count.total == 8


def test_the_cost_of_all_epochs_is_on_two_measures() -> None:
    lines = [Epoch("1", "model", at, 0.5, 0.1, 0.9, 0.5, 0.6, seconds=1.5, passes=100) for at in (1, 2)]
    assert [(one.name, one.value) for one in training_cost(lines)] == [
        ("training_passes", 200),
        ("training_seconds", 3),
    ]
