"""A plain network: blocks of one kind, one after the other. For images, 1-D signals and flat features."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor, nn

from robustbench_lite.model.architectures.interface import Architecture, Choice, one_of

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
}
"""What a block may end with."""

NORMS = ("batch", "group", "none")
"""What may stand behind a block's weights."""

_SMALLEST = 4  # pixels of a side: no smaller image is halved
_WIDEST = 4  # times the width, however often the image is halved
_GROUP = 8  # channels that are normalised together


class Plain(Architecture):
    """Depth, width, kernel, skip, activation and norm of a plain network."""

    space: Literal["plain"] = "plain"
    depth: int = Field(default=2, ge=1, le=64, strict=True)
    """Blocks before the last, linear layer."""
    width: int = Field(default=32, ge=1, le=4096, strict=True)
    """Channels, or features, of the first block. Where an image or a signal is halved they double, twice at most."""
    kernel: int | None = Field(default=None, ge=1, le=15, strict=True)
    """Side of the convolutions, odd; by default 3. Flat features have none."""
    skip: bool = Field(default=False, strict=True)
    """Whether a block's input is added to its output."""
    activation: Annotated[str, one_of("activation", tuple(ACTIVATIONS))] = "relu"
    """``relu``, ``leaky_relu``, ``elu``, ``gelu``, ``silu`` or ``softplus``; the smooth ones (the last three) may train
    better against attacks (Xie et al. 2020, https://arxiv.org/abs/2006.14536)."""
    norm: Annotated[str, one_of("norm", NORMS)] = "batch"
    """``batch``, ``group`` (of eight channels or fewer) or ``none``."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.kernel is not None and self.kernel % 2 == 0:
            raise ValueError(f"kernel is {self.kernel}: expected an odd number, such as 3")
        if self.kernel is not None and len(self.shape) == 1:
            raise ValueError(f"kernel: features of shape {list(self.shape)} have none; take it out")
        return self

    def options(self) -> dict[str, tuple[Choice, ...]]:
        """What a search tries; a wider and deeper range for flat features than for images."""
        flat = len(self.shape) == 1
        found: dict[str, tuple[Choice, ...]] = {
            "depth": (1, 2, 3, 4),
            "width": (16, 32, 64, 128) if flat else (8, 16, 32),
            "kernel": (3, 5),
            "skip": (False, True),
            "activation": ("relu", "gelu", "silu", "softplus"),
            "norm": NORMS,
        }
        if flat:
            del found["kernel"]
        return found

    def build(self) -> nn.Module:
        """Make the network. Its features are flattened, not averaged, so that it knows where they are."""
        blocks: list[nn.Module] = []
        channels, sides = self.shape[0], self.shape[1:]
        width = self.width
        for number in range(self.depth):
            blocks.append(_Block(self, channels, width))
            channels = width
            halves = tuple(2 if side > _SMALLEST else 1 for side in sides)
            if any(half == 2 for half in halves):
                blocks.append(_pool(halves, "max"))
                sides = tuple(side // half for side, half in zip(sides, halves, strict=True))
                if number + 1 < self.depth:
                    width = min(2 * width, _WIDEST * self.width)
        if any(side > _SMALLEST for side in sides):  # a shallow network of a large image
            windows = tuple(math.ceil(side / _SMALLEST) for side in sides)
            blocks.append(_pool(windows, "avg"))
            sides = tuple(side // window for side, window in zip(sides, windows, strict=True))
        return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(channels * math.prod(sides), self.classes))


class _Block(nn.Module):
    """Weights, norm, activation, and what goes round them."""

    def __init__(self, of: Plain, before: int, after: int) -> None:
        super().__init__()
        self.weights = _weights(of, before, after)
        self.norm = _norm(of, after)
        self.around: nn.Module | None = None
        if of.skip:
            self.around = nn.Identity() if before == after else _weights(of, before, after, kernel=1)
        self.activation = ACTIVATIONS[of.activation]()

    def forward(self, x: Tensor) -> Tensor:
        """From (N, before, ...) to (N, after, ...), of the same sides."""
        y = self.norm(self.weights(x))
        told: Tensor = self.activation(y if self.around is None else y + self.around(x))
        return told


def _weights(of: Plain, before: int, after: int, kernel: int | None = None) -> nn.Module:
    dimensions = len(of.shape) - 1
    if not dimensions:
        return nn.Linear(before, after)
    kernel = kernel or of.kernel or 3
    convolution = nn.Conv1d if dimensions == 1 else nn.Conv2d
    return convolution(before, after, kernel, padding=kernel // 2, bias=of.norm == "none")


def _norm(of: Plain, channels: int) -> nn.Module:
    if of.norm == "group":
        return nn.GroupNorm(max(1, channels // math.gcd(channels, _GROUP)), channels)
    if of.norm == "none":
        return nn.Identity()
    return nn.BatchNorm2d(channels) if len(of.shape) == 3 else nn.BatchNorm1d(channels)


def _pool(windows: tuple[int, ...], kind: Literal["max", "avg"]) -> nn.Module:
    if len(windows) == 1:
        return nn.MaxPool1d(windows[0]) if kind == "max" else nn.AvgPool1d(windows[0])
    return nn.MaxPool2d(windows) if kind == "max" else nn.AvgPool2d(windows)  # type: ignore[arg-type]
