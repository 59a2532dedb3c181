"""A model with a known answer: only the left half of the image counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import robustbench_lite as rl
from robustbench_lite.data.dataset import Data
from robustbench_lite.data.load import as_data

SIDE = 8


class Left(nn.Module):
    """Two classes by the brightness of the left half; the right half is not looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1, bias=False, groups=2)
        self.relu = nn.ReLU(inplace=True)
        with torch.no_grad():
            self.conv.weight.fill_(1 / 9)

    def forward(self, x: Tensor) -> Tensor:
        seen = torch.zeros_like(x).repeat(1, 2, 1, 1)
        seen[..., : SIDE // 2] = torch.cat([1 - x, x], 1)[..., : SIDE // 2]
        maps: Tensor = self.relu(self.conv(seen))
        return 8 * maps.mean((2, 3))


def random_model(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * SIDE * SIDE, 2))


def samples(count: int = 60) -> tuple[Tensor, Tensor]:
    """Images whose left half is dark or bright, labelled as `Left` says; the right half says nothing."""
    dice = torch.Generator().manual_seed(0)
    x = 0.1 + 0.2 * torch.rand(count, 1, SIDE, SIDE, generator=dice)
    light = torch.rand(count, generator=dice)
    x[..., : SIDE // 2] += 0.6 * light[:, None, None, None]
    with torch.no_grad():
        return x, Left()(x).argmax(1)


@pytest.fixture(scope="session")
def data() -> Data:
    return as_data(samples())


@pytest.fixture(scope="session")
def card(data: Data) -> Any:
    """What FGSM breaks of `Left`, with its witnesses."""
    return rl.evaluate(Left(), data, ["fgsm"], "Linf 0.1", keep_witnesses=True)
