"""A linear model, on which every attack's best result is known in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable, Container
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustbench_lite.attacking.engine import RunOptions, run_attack
from robustbench_lite.attacking.interface import Attack
from robustbench_lite.attacking.record import RunResult, Samples
from robustbench_lite.core.cost import BudgetTracker
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.data.load import as_data
from robustbench_lite.model.target import Target

SHAPES_AND_BATCHES = [((1, 6, 6), 1), ((3, 16, 16), 7), ((50,), 64), ((2, 3, 4, 5), 7)]
"""Shapes of inputs, each with a batch size: neither knows of the other, so that not every pair is tried."""
_CLOSEST = 1e-4  # L2 distance of a sample of `linear` from its boundary


@dataclass(frozen=True)
class Linear:
    """Samples in the middle of the box, a linear classifier, and the exact distance to its decision boundary."""

    x: Tensor
    y: Tensor
    model: nn.Module

    def distances(self, norm: str, target_class: Tensor | None = None) -> Tensor:
        """Smallest perturbation that changes the prediction, or reaches the target class: by the dual norm."""
        weight = self.model[1].weight.detach()
        logits = self.model(self.x).detach()
        if target_class is None:
            return self.rivals(norm).amin(1)
        assert logits.shape[1] == 2  # with more classes the nearest point of a class's region is no closed form
        gap = logits.gather(1, self.y[:, None])[:, 0] - logits.gather(1, target_class[:, None])[:, 0]
        return gap / (weight[self.y] - weight[target_class]).norm(p=_dual(norm), dim=1)

    def rivals(self, norm: str) -> Tensor:
        """Distance to the boundary with each other class, shape (N, K); infinite for the sample's own."""
        weight = self.model[1].weight.detach()
        logits = self.model(self.x).detach()
        found = torch.full_like(logits, torch.inf)
        for rival in range(logits.shape[1]):
            gap = logits.gather(1, self.y[:, None])[:, 0] - logits[:, rival]
            length = (weight[self.y] - weight[rival]).norm(p=_dual(norm), dim=1)
            found[:, rival] = torch.where(self.y == rival, torch.inf, gap / length)
        return found

    def box_distances(self, norm: str) -> Tensor:
        """As `distances`, of two classes, where the box is in the way: the least ``d`` with ``x + d`` in [0, 1].

        The best perturbation of a length is the box's nearest to a multiple of the weights' difference (L2), or of its
        signs (Linf); the multiple that just crosses is found by bisection.
        """
        weight, logits = self.model[1].weight.detach().double(), self.model(self.x).detach().double()
        assert logits.shape[1] == 2
        own, other = self.y, 1 - self.y
        along = (weight[other] - weight[own]).reshape(len(self.x), -1)
        way = along.sign() if norm == "Linf" else along
        gap = (logits.gather(1, own[:, None]) - logits.gather(1, other[:, None]))[:, 0]
        origin = self.x.double().flatten(1)

        def change(multiple: Tensor) -> Tensor:
            return (origin + multiple[:, None] * way).clamp(0, 1) - origin

        low, high = torch.zeros_like(gap), torch.full_like(gap, 1e6)
        for _ in range(100):
            middle = (low + high) / 2
            crosses = (change(middle) * along).sum(1) >= gap
            low, high = torch.where(crosses, low, middle), torch.where(crosses, middle, high)
        found = change(high)
        assert bool(((found * along).sum(1) >= gap * (1 - 1e-9)).all()), "no point of the box is of the other class"
        return found.abs().amax(1) if norm == "Linf" else found.norm(dim=1)

    def attack(
        self,
        attack: Attack,
        threat: str | ThreatModel,
        *,
        batch_size: int = 64,
        early_stop: bool = True,
        seed: int = 0,
        target_classes: Tensor | None = None,
        model: nn.Module | None = None,
        keep: Container[int] = (),
        budget: BudgetTracker | None = None,
    ) -> RunResult:
        """Run an attack on all samples; a targeted one its target classes, by default the other of two classes."""
        data = as_data((self.x, self.y))
        parsed = ThreatModel.parse(threat)
        if target_classes is None:
            target_classes = self.y if parsed.goal == "untargeted" else 1 - self.y
        return run_attack(
            attack,
            Target(model or self.model),
            Samples(data, torch.arange(len(data)) * 7919, target_classes),
            np.arange(len(data)),
            parsed,
            RunOptions(
                seed=seed, batch_size=batch_size, early_stop=early_stop, keep=keep, budget=budget or BudgetTracker()
            ),
        )


class Recording(nn.Module):
    """Keeps every batch that it is asked about."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.batches: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(x.detach().clone())
        answer: Tensor = self.model(x)
        return answer


def expect_exact(problem: Linear, attack: Attack, norm: str, batch_size: int) -> None:
    """With the median distance as eps, an attack breaks exactly the half of the samples whose boundary is nearer."""
    exact = problem.distances(norm)
    eps = float(exact.median())
    broken = problem.attack(attack, ThreatModel(norm=norm, eps=eps), batch_size=batch_size).broken
    sure = (exact / eps - 1).abs() > 1e-3
    assert sure.sum() >= 35
    np.testing.assert_array_equal(broken[sure], (exact < eps)[sure])


def _dual(norm: str) -> int:
    return {"Linf": 1, "L2": 2}[norm]


def l1_distances(problem: Linear) -> Tensor:
    """Least L1 perturbation within the box, of two classes: the values of largest weight go to their walls first."""
    weight, logits = problem.model[1].weight.detach().double(), problem.model(problem.x).detach().double()
    x = problem.x.flatten(1).double()
    found = []
    for row, own in enumerate(problem.y.tolist()):
        along = weight[1 - own] - weight[own]
        room = torch.where(along > 0, 1 - x[row], x[row])
        need, spent = float(logits[row, own] - logits[row, 1 - own]), 0.0
        for place in along.abs().argsort(descending=True).tolist():
            pays = float(along[place].abs())
            taken = min(float(room[place]), need / pays)
            need, spent = need - taken * pays, spent + taken
            if need <= 1e-12:
                break
        found.append(spent if need <= 1e-12 else math.inf)
    return torch.tensor(found)


@pytest.fixture(scope="session")
def linear() -> Callable[..., Linear]:
    def make(
        shape: tuple[int, ...] = (1, 6, 6), classes: int = 4, samples: int = 40, seed: int = 0, scale: float = 1.0
    ) -> Linear:
        generator = torch.Generator().manual_seed(seed)
        size = int(torch.tensor(shape).prod())
        layer = nn.Linear(size, classes)
        with torch.no_grad():
            layer.weight.copy_(torch.randn(classes, size, generator=generator))
            layer.bias.zero_()
        model = nn.Sequential(nn.Flatten(), layer)
        with torch.no_grad():
            layer.bias.copy_(-(layer.weight * 0.5).sum(1))
            # Close to the centre, where the box is never in the way of the nearest boundary; and no closer to that than
            # float32 can tell, which rounds in another way on every processor.
            x = 0.5 + 0.02 * torch.randn(samples, *shape, generator=generator)
            while bool((close := Linear(x, model(x).argmax(1), model).distances("L2") < _CLOSEST).any()):
                x[close] = 0.5 + 0.02 * torch.randn(int(close.sum()), *shape, generator=generator)
            y = model(x).argmax(1)
            layer.weight *= scale
            layer.bias *= scale
        return Linear(x, y, model)

    return make


@pytest.fixture
def walled() -> Callable[..., Linear]:
    """Two classes, and samples of which six values in ten are exactly 0 or 1, as in images of digits."""

    def make(shape: tuple[int, ...] = (1, 6, 6), samples: int = 20, seed: int = 0) -> Linear:
        generator = torch.Generator().manual_seed(seed)
        size = int(torch.tensor(shape).prod())
        layer = nn.Linear(size, 2)
        x = torch.rand(samples, *shape, generator=generator)
        kind = torch.rand(samples, *shape, generator=generator)
        x[kind < 0.3] = 0
        x[kind > 0.7] = 1
        with torch.no_grad():
            layer.weight.copy_(torch.randn(2, size, generator=generator) / size**0.5)
            layer.bias.copy_(-(x.flatten(1) @ layer.weight.T).mean(0))
            model = nn.Sequential(nn.Flatten(), layer)
            y = model(x).argmax(1)
        return Linear(x, y, model)

    return make


@pytest.fixture
def flat() -> Linear:
    """A model whose scores are the same everywhere, with gradients of zero."""

    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            total = x.flatten(1).sum(1) * 0
            return torch.stack([total + 1, total], 1)

    return Linear(torch.rand(40, 1, 6, 6), torch.zeros(40, dtype=torch.int64), Flat())


@pytest.fixture
def network() -> Linear:
    """A network with random weights, in place of the linear model."""
    generator = torch.Generator().manual_seed(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 5))
    x = torch.rand(30, 1, 8, 8, generator=generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5)
        return Linear(x, model(x).argmax(1), model)
