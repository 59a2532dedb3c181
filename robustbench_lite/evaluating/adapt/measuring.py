"""What every measure is made of: samples to choose it by, and a module around the target that takes it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from robustbench_lite.attacking.query import Query
from robustbench_lite.core.cost import BudgetTracker
from robustbench_lite.model.target import Target


class Step(NamedTuple):
    """A measure, and the module that takes it."""

    name: str
    setting: str
    reason: str
    module: nn.Module


class Sample:
    """Samples that are measured, and every pass over them counted."""

    def __init__(self, x: Tensor, y: Tensor, budget: BudgetTracker | None, batch_size: int) -> None:
        self.x, self.y, self.budget, self._size = x, y, budget or BudgetTracker(), batch_size

    def logits(self, target: Target, x: Tensor | None = None) -> Tensor:
        """Shape (n, K)."""
        x = self.x if x is None else x
        return self._ask(target, x, torch.zeros(len(x), dtype=torch.int64, device=x.device), gradient=False)[0]

    def slope(self, target: Target, x: Tensor, y: Tensor) -> Tensor:
        """Gradient of the margin, (n, *shape); zeros where there is none."""
        return self._ask(target, x, y, gradient=True)[1]

    def _ask(self, target: Target, x: Tensor, y: Tensor, *, gradient: bool) -> tuple[Tensor, Tensor]:
        self.budget.check(len(x) * (1 + gradient))
        output = Query(target, "margin", False, self.budget, self._size)(x, y, gradient=gradient)
        self.budget.spend(len(x), len(x) * gradient)
        return output.logits, output.grad


class Around(nn.Module):
    """A module around a target: it holds the same weights, and asks the target."""

    def __init__(self, target: Target) -> None:
        super().__init__()
        self.target, self.module = target, target.module


def over(target: Target, module: nn.Module) -> Target:
    """Make a target of a module around another one."""
    made = Target(module, name=target.name, device=target.device, spec=target.spec)
    made.classes = target.classes
    return made
