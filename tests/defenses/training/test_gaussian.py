"""Training under Gaussian noise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robustbench_lite.core import registry
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.hardening.interface import Batch, Stage
from robustbench_lite.model.target import Target

THREAT = ThreatModel.parse("L2 0.5")


class Seen(nn.Module):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(100, 2)

    def forward(self, x: Tensor) -> Tensor:
        self.x = x
        out: Tensor = self.layer(x)
        return out


def seen(sigma: float, keys: Tensor) -> Tensor:
    module = Seen()
    batch = Batch(torch.full((len(keys), 100), 0.5), torch.zeros(len(keys), dtype=torch.int64), keys)
    stage = Stage(name="model", target=Target(module), trained={}, threat=THREAT)
    registry.build("defenses", "gaussian", {"sigma": sigma}).loss(batch, stage).backward()
    assert module.layer.weight.grad is not None
    return module.x.detach() - 0.5


def test_each_sample_gets_noise_of_its_own_that_leaves_the_box() -> None:
    noise = seen(0.7, torch.arange(200))
    assert noise.std().item() == pytest.approx(0.7, rel=0.02)
    assert noise.mean().item() == pytest.approx(0, abs=0.02)
    assert noise.abs().max() > 1.5
    assert torch.equal(seen(0.7, torch.tensor([5, 3])), noise[[5, 3]])
