"""The Constraint Relaxation attack as a reference: exact on linear models, and no dearer than its authors tell."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

EPS, CLASSES = 0.02, 5


@pytest.fixture
def benchmark_module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return pytest.importorskip("constraint_relaxation")


def linear(scale: float = 1.0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Flatten(), nn.Linear(16, CLASSES))
    with torch.no_grad():
        net[1].weight *= scale
        net[1].bias *= scale
    return net.requires_grad_(requires_grad=False)


def inputs(count: int) -> Tensor:
    """So far from the bounds of the box that they don't matter."""
    return 0.2 + 0.6 * torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def left_over(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """The class that is predicted, and what is left of the margin at the best point of the ball."""
    logits, weight = net(x), net[1].weight
    y = logits.argmax(1)
    # A class is in reach where the difference of logits is below eps times the L1 norm of its slope.
    gap = logits.gather(1, y[:, None]) - logits - EPS * (weight[y][:, None] - weight[None]).abs().sum(2)
    return y, gap.scatter(1, y[:, None], torch.inf).amin(1)


def test_it_breaks_what_can_be_broken_of_a_linear_model(benchmark_module: ModuleType) -> None:
    net, x = linear(), inputs(300)
    y, left = left_over(net, x)
    found = benchmark_module.constraint_relaxation(net, x, y, EPS)
    broken = net(found).argmax(1) != y
    clear = left.abs() > 1e-4
    assert 50 <= int((left < 0).sum()) <= 250
    assert torch.equal(broken[clear], left[clear] < 0)
    assert float((found - x).abs().max()) <= EPS + 1e-6
    assert torch.equal(found[~broken], x[~broken])


def test_what_is_hopeless_costs_what_the_authors_tell(benchmark_module: ModuleType) -> None:
    """About 105 forward and 65 backward passes; the others of the 150 steps, targets and restarts are saved."""
    net = benchmark_module.Ledger(linear(scale=1000.0))
    x = inputs(100)
    y, left = left_over(net.net, x)
    x, y = x[left > 1], y[left > 1]  # more than the step allows to be left: they are given up at once
    found = benchmark_module.constraint_relaxation(net, x, y, EPS)
    assert len(x) >= 10
    assert torch.equal(found, x)
    spent = net.spent["checks"]
    # PGD and its last look; three targets of twenty steps, eleven of which are looked at twice.
    assert spent.forward == len(x) * (10 + 1 + 3 * (20 + 11))
    assert spent.backward == len(x) * (10 + 3 * 20)
