"""A linear model, on which every attack's best result is known in closed form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from robustbench_lite.data import as_data
from robustbench_lite.engine import Attack, Run, Samples, run
from robustbench_lite.target import Target
from robustbench_lite.threat import ThreatModel


@dataclass(frozen=True)
class Linear:
    """Samples in the middle of the box, a linear classifier, and the exact distance to its decision boundary."""

    x: Tensor
    y: Tensor
    model: nn.Module

    def distances(self, norm: str, aim: Tensor | None = None) -> Tensor:
        """Smallest perturbation that changes the prediction, or that reaches ``aim``: the dual norm's distance."""
        weight = self.model[1].weight.detach()
        logits = self.model(self.x).detach()
        dual = 1 if norm == "Linf" else 2
        if aim is None:
            rivals = torch.full_like(logits, torch.inf)
            for rival in range(logits.shape[1]):
                gap = logits.gather(1, self.y[:, None])[:, 0] - logits[:, rival]
                length = (weight[self.y] - weight[rival]).norm(p=dual, dim=1)
                rivals[:, rival] = torch.where(self.y == rival, torch.inf, gap / length)
            return rivals.amin(1)
        assert logits.shape[1] == 2  # with more classes the nearest point of a class's region is no closed form
        gap = logits.gather(1, self.y[:, None])[:, 0] - logits.gather(1, aim[:, None])[:, 0]
        return gap / (weight[self.y] - weight[aim]).norm(p=dual, dim=1)

    def attack(
        self, attack: Attack, threat: str, *, batch_size: int = 64, early_stop: bool = True, seed: int = 0
    ) -> Run:
        """Run an attack on all samples."""
        data = as_data((self.x, self.y))
        parsed = ThreatModel.parse(threat)
        aims = self.y if parsed.goal == "untargeted" else 1 - self.y
        samples = Samples(data, torch.arange(len(data)) * 7919, aims)
        rows = torch.arange(len(data)).numpy()
        return run(attack, Target(self.model), samples, rows, parsed, batch_size=batch_size, early_stop=early_stop)


@pytest.fixture
def linear() -> Callable[..., Linear]:
    def make(shape: tuple[int, ...] = (1, 6, 6), classes: int = 4, samples: int = 40, seed: int = 0) -> Linear:
        generator = torch.Generator().manual_seed(seed)
        size = int(torch.tensor(shape).prod())
        layer = nn.Linear(size, classes)
        with torch.no_grad():
            layer.weight.copy_(torch.randn(classes, size, generator=generator))
            layer.bias.zero_()
        model = nn.Sequential(nn.Flatten(), layer)
        # Close to the centre, where the box is never in the way of the nearest boundary.
        x = 0.5 + 0.02 * torch.randn(samples, *shape, generator=generator)
        with torch.no_grad():
            layer.bias.copy_(-(layer.weight * 0.5).sum(1))
            y = model(x).argmax(1)
        return Linear(x, y, model)

    return make
