"""Modules that refuse some sizes of batch are asked in those that they take, with the same answers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from robustbench_lite import Target
from robustbench_lite.core.errors import UserError

X = torch.rand(37, 1, 2, 2, generator=torch.Generator().manual_seed(0))


class Picky(nn.Module):
    def __init__(self, takes: Callable[[int], bool]) -> None:
        super().__init__()
        self.takes, self.sizes = takes, set[int]()

    def forward(self, x: Tensor) -> Tensor:
        if not self.takes(len(x)):
            raise RuntimeError(f"a batch of {len(x)}")
        self.sizes.add(len(x))
        return x.flatten(1)[:, :3] * 2


@pytest.mark.parametrize(
    ("takes", "told"),
    [
        (lambda size: size >= 5, ""),
        (lambda size: size % 4 == 0, "it takes batches of 4, 8, 16, 20, "),
        (lambda size: size == 16, "it takes batches of 16 and no others"),
        (lambda size: size in (8, 64), "it takes batches of 8, 64 and not of others"),
    ],
    ids=["from 5 on", "multiples of 4", "16", "8 and 64"],
)
@pytest.mark.parametrize("first", [1, 2])
def test_the_first_batches_tell_which_sizes_are_taken(takes: Callable[[int], bool], told: str, first: int) -> None:
    target = Target(Picky(takes))
    assert target.probe(X[:first]) == 3
    for rows in (1, 2, 7, 37):
        assert torch.equal(target(X[:rows]), X[:rows].flatten(1)[:, :3] * 2)
    assert told in " ".join(target.predictor.batching.notes())
    assert (target.predictor.batching.least == 8) == (not told)


def test_one_that_takes_nothing_is_no_matter_of_sizes() -> None:
    with pytest.raises(UserError, match="a batch of 2"):
        Target(Picky(lambda size: False)).probe(X[:2])
