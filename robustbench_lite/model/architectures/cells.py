"""A network of equal cells: the cell of NAS-Bench-201, four nodes and an operation on each of the six edges.

References
----------
Dong and Yang, *NAS-Bench-201: extending the scope of reproducible neural architecture search*, 2020.
https://arxiv.org/abs/2001.00326
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor, nn

from robustbench_lite.model.architectures.interface import Architecture, Choice, one_of

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
"""What may stand on an edge, as NAS-Bench-201 calls and orders them."""

NODES = 4
EDGES = tuple((start, end) for end in range(1, NODES) for start in range(end))
"""From the cell's input, node 0, to its output, node 3; by the node that they end in."""

Operation = Annotated[str, one_of("operation", OPERATIONS)]
MakeEdge = Callable[[int, int, int], nn.Module]
"""What makes the operation of an edge: of the node that it starts from, the node that it ends in, and the channels."""


class Cells(Architecture):
    """The operations of the cell, and how many of it make the network."""

    space: Literal["cells"] = "cells"
    channels: int = Field(default=8, ge=1, le=1024, strict=True)
    """Of the first stage; each further one has twice as many. NAS-Bench-201's has 16."""
    cells: int = Field(default=1, ge=1, le=32, strict=True)
    """In each stage. NAS-Bench-201 has 5."""
    stages: int = Field(default=2, ge=1, le=6, strict=True)
    """Between two of them the image is halved. NAS-Bench-201 has 3."""
    edge_0_1: Operation = "nor_conv_3x3"
    """From node 0, the cell's input, to node 1: ``none``, ``skip_connect``, ``nor_conv_1x1``, ``nor_conv_3x3`` or
    ``avg_pool_3x3``."""
    edge_0_2: Operation = "nor_conv_3x3"
    edge_1_2: Operation = "nor_conv_3x3"
    edge_0_3: Operation = "skip_connect"
    edge_1_3: Operation = "nor_conv_3x3"
    edge_2_3: Operation = "nor_conv_3x3"
    """To node 3, the cell's output."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        least = 2 ** (self.stages - 1)
        if len(self.shape) != 3:
            raise ValueError(f"shape is {list(self.shape)}: cells take images, [C, H, W]; take the space plain")
        if min(self.shape[1:]) < least:
            raise ValueError(f"stages is {self.stages}: expected sides of {least} or more, and shape has a smaller one")
        return self

    def options(self) -> dict[str, tuple[Choice, ...]]:
        """Every operation on every edge: 15,625 cells."""
        return dict.fromkeys((f"edge_{start}_{end}" for start, end in EDGES), OPERATIONS)

    @property
    def words(self) -> str:
        """The cell as NAS-Bench-201 writes it: the edges into each node, each with the node that it starts from."""
        nodes = [
            "|" + "".join(f"{getattr(self, f'edge_{start}_{end}')}~{start}|" for start in range(end))
            for end in range(1, NODES)
        ]
        return "+".join(nodes)

    def build(self) -> nn.Module:
        """Make the network."""
        return CellNetwork(self, lambda start, end, width: operation(getattr(self, f"edge_{start}_{end}"), width))


class Cell(nn.Module):
    """Each node is the sum of what the edges into it make of the nodes before."""

    def __init__(self, channels: int, edge: MakeEdge) -> None:
        super().__init__()
        self.edges = nn.ModuleDict({f"{start}_{end}": edge(start, end, channels) for start, end in EDGES})

    def forward(self, x: Tensor) -> Tensor:
        """From (N, channels, H, W) to the same shape."""
        nodes = [x]
        for end in range(1, NODES):
            nodes.append(sum((self.edges[f"{start}_{end}"](nodes[start]) for start in range(end)), x.new_zeros(())))
        return nodes[-1]


class CellNetwork(nn.Module):
    """A stem, stages of cells with a residual block that halves the image between them, and a linear layer.

    Parameters
    ----------
    sizes
        Shape, classes, channels, cells and stages.
    edge
        What makes the operation of an edge.
    """

    def __init__(self, sizes: Cells, edge: MakeEdge) -> None:
        super().__init__()
        width = sizes.channels
        stem = nn.Conv2d(sizes.shape[0], width, 3, padding=1, bias=False)
        layers: list[nn.Module] = [nn.Sequential(stem, nn.BatchNorm2d(width))]
        for stage in range(sizes.stages):
            if stage:
                layers.append(_Halving(width, 2 * width))
                width *= 2
            layers += [Cell(width, edge) for _ in range(sizes.cells)]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU())
        self.linear = nn.Linear(width, sizes.classes)

    def forward(self, x: Tensor) -> Tensor:
        """From images (N, C, H, W) to logits (N, classes)."""
        logits: Tensor = self.linear(self.head(self.layers(x)).mean((2, 3)))
        return logits


def operation(name: str, channels: int, *, affine: bool = True) -> nn.Module:
    """Make an operation of the cell; it keeps shape and channels.

    Without ``affine`` what comes out of a convolution is of one scale, whatever is learnt.
    """
    if name == "none":
        return _Nothing()
    if name == "skip_connect":
        return nn.Identity()
    if name == "avg_pool_3x3":
        return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    side = 1 if name == "nor_conv_1x1" else 3
    convolution = nn.Conv2d(channels, channels, side, padding=side // 2, bias=False)
    return nn.Sequential(nn.ReLU(), convolution, nn.BatchNorm2d(channels, affine=affine))


class _Nothing(nn.Module):
    """No edge. It stays in the graph, so that a cell without any way through has a gradient, of zero."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 0.0


class _Halving(nn.Module):
    """A residual block that halves the image."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.weights = nn.Sequential(
            *(nn.ReLU(), nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after)),
            *(nn.ReLU(), nn.Conv2d(after, after, 3, padding=1, bias=False), nn.BatchNorm2d(after)),
        )
        pool = nn.AvgPool2d(2, stride=2, ceil_mode=True)
        self.around = nn.Sequential(pool, nn.Conv2d(before, after, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """From (N, before, H, W) to (N, after, ceil(H / 2), ceil(W / 2))."""
        halved: Tensor = self.weights(x) + self.around(x)
        return halved
