"""The networks that compression is shown on: small, yet large enough to be pruned. Inputs in [0, 1], 10 logits."""

from __future__ import annotations

from torch import nn


def mnist() -> nn.Sequential:
    """Two convolutions and two linear layers: input (1, 28, 28); 166,406 parameters."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(1568, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )


def cifar() -> nn.Sequential:
    """Three convolutions and two linear layers: input (3, 32, 32); 159,994 parameters."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(1024, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )
