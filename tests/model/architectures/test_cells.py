"""The cell network: the cell computes what NAS-Bench-201 says, and each operation is the right one."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from robustbench_lite.model.architectures.cells import EDGES, OPERATIONS, Cell, Cells, operation


class _Times(nn.Module):
    """An edge that multiplies."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.factor * x


def test_a_node_is_the_sum_of_its_edges() -> None:
    factors = {(0, 1): 2.0, (0, 2): 3.0, (1, 2): 5.0, (0, 3): 7.0, (1, 3): 11.0, (2, 3): 13.0}
    cell = Cell(1, lambda start, end, _: _Times(factors[start, end]))
    # node 1: 2; node 2: 3 + 5 * 2 = 13; node 3: 7 + 11 * 2 + 13 * 13.
    assert cell(torch.ones(1, 1, 1, 1)).item() == 7 + 22 + 169
    assert set(factors) == set(EDGES)


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_keeps_the_shape(name: str) -> None:
    x = torch.rand(2, 4, 5, 6)
    assert operation(name, 4)(x).shape == x.shape


def test_operations_do_what_their_names_say() -> None:
    x = torch.rand(1, 1, 4, 4, requires_grad=True)
    assert operation("skip_connect", 1)(x) is x
    nothing = operation("none", 1)(x)
    assert nothing.abs().sum() == 0
    assert nothing.requires_grad  # a cell without a way through still has a gradient
    pooled = operation("avg_pool_3x3", 1)(x)
    assert torch.allclose(pooled[0, 0, 0, 0], x[0, 0, :2, :2].mean())  # what is beyond the edge isn't counted
    assert [layer.kernel_size for layer in operation("nor_conv_1x1", 1) if isinstance(layer, nn.Conv2d)] == [(1, 1)]
    assert [type(layer) for layer in operation("nor_conv_3x3", 1)] == [nn.ReLU, nn.Conv2d, nn.BatchNorm2d]


def test_the_sizes_are_those_of_the_file() -> None:
    net = Cells(shape=(3, 9, 7), classes=5, channels=4, cells=2, stages=3).build()
    assert net(torch.rand(2, 3, 9, 7)).shape == (2, 5)
    assert sum(isinstance(part, Cell) for part in net.modules()) == 6
    assert {part.out_channels for part in net.modules() if isinstance(part, nn.Conv2d)} == {4, 8, 16}


def test_a_cell_is_written_as_nas_bench_201_writes_it() -> None:
    one = Cells(shape=(1, 8, 8), classes=2, edge_0_1="none", edge_1_2="avg_pool_3x3")
    assert one.words == ("|none~0|+|nor_conv_3x3~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|")
    assert len(one.options()) == 6


def test_what_is_no_cell_network_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"did you mean nor_conv_3x3 or nor_conv_1x1"):
        Cells.model_validate({"shape": (1, 8, 8), "classes": 2, "edge_0_1": "nor_conv_5x5"})
    with pytest.raises(ValidationError, match=r"cells take images, \[C, H, W\]"):
        Cells(shape=(7,), classes=2)
    with pytest.raises(ValidationError, match="stages is 4: expected sides of 8 or more"):
        Cells(shape=(1, 8, 4), classes=2, stages=4)
