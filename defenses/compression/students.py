"""Small networks for images of any size and number of channels, as students."""

from __future__ import annotations

from torch import nn


def small(num_classes: int) -> nn.Module:
    """Two convolutions of 16 and 32 channels and a linear layer, for images of 8 x 8 pixels or more."""
    return nn.Sequential(
        nn.LazyConv2d(16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.LazyConv2d(32, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveMaxPool2d(4),
        nn.Flatten(),
        nn.LazyLinear(num_classes),
    )
