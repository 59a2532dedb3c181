"""Models that the tests of several rooms put around another one, and a suite that several compare with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

FGSM_AND_PGD: list[Any] = [
    "fgsm",
    {"attack": "pgd", "params": {"steps": 10}},
    {"name": "pgd-margin", "attack": "pgd", "params": {"steps": 20, "loss": "margin"}},
]
"""What people start with: a step, then runs on two losses that fail in different ways."""


class Counting(nn.Module):
    """Counts the samples that really go through a model, forward and backward."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.forwards, self.backwards = model, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        if x.requires_grad:
            x.register_hook(self._backward)
        answer: Tensor = self.model(x)
        return answer

    def _backward(self, grad: Tensor) -> None:
        self.backwards += len(grad)


class Altered(nn.Module):
    """A model whose forward pass is any function of (model, x)."""

    def __init__(self, model: nn.Module, function: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.model, self.function = model, function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.model, x)


class Wrapped(nn.Module):
    """A model whose forward pass is any function of (model, x, number of the call, from 1)."""

    def __init__(self, model: nn.Module, function: Callable[[nn.Module, Tensor, int], Tensor]) -> None:
        super().__init__()
        self.model, self.function, self.calls = model, function, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.function(self.model, x, self.calls)


class Linear(nn.Module):
    """A linear model of 16 values and 3 classes, the same each time."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.linear = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.linear(x.flatten(1))
        return answer
