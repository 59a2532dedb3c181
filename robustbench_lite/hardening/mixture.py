"""What a training step learns from: samples of its own, and others mixed into each batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_lite.core.errors import UserError
from robustbench_lite.data.dataset import Data, check_inputs


class Dealt(NamedTuple):
    """A batch, on the CPU."""

    x: Tensor
    """Inputs in [0, 1], (B, *shape)."""
    y: Tensor
    """Labels, (B,)."""
    origin: Tensor
    """What the random draws of each sample are made from, (B,), int64: no two samples of the mixture share one."""
    total: int
    """Samples of the whole batch, of which these may be a part."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Mixture:
    """Samples, and further ones that fill a share of each batch, such as generated or remembered ones.

    An epoch goes once through the samples of its own, however many the others are; these are drawn in turn, so that
    each comes about as often as any other.

    References
    ----------
    Gowal et al., *Improving robustness using generated data*, NeurIPS 2021. https://arxiv.org/abs/2110.09468
    Wang et al., *Better diffusion models further improve adversarial training*, ICML 2023.
    https://arxiv.org/abs/2302.04638
    """

    own: Data
    extra: Data | None = None
    share: float = 0.0
    """Share of each batch that is taken from ``extra``, in [0, 1)."""

    def __post_init__(self) -> None:
        if self.extra is not None and self.extra.shape != self.own.shape:
            raise UserError(
                f"{self.extra.name}: its samples have shape {self.extra.shape}, and those of {self.own.name} "
                f"{self.own.shape}; give extra data of one shape with the others"
            )

    def __len__(self) -> int:
        return len(self.own)

    def batches(self, batch_size: int) -> int:
        """Batches of an epoch."""
        share = self.share if self.extra is not None else 0.0
        return math.ceil(len(self.own) / max(1, round(batch_size * (1 - share))))

    def deal(self, batch_size: int, key: int, part: Callable[[Tensor], Tensor] = lambda rows: rows) -> Iterator[Dealt]:
        """Go once through the samples, in an order drawn by a key.

        Parameters
        ----------
        part
            Gives the rows that are wanted of a batch's; by default all.
        """
        order = torch.randperm(len(self.own), generator=torch.Generator().manual_seed(key))
        others = _Turns(self.extra, key) if self.extra is not None else None
        # Parts that differ by one sample at most: no last batch too small for batch statistics, and no sample left out.
        for rows in order.tensor_split(self.batches(batch_size)):
            mine, total = part(rows), len(rows)
            tensors = _fetched(self.own, mine, self.own.index[mine])
            if others is not None and (more := round(len(rows) * self.share / (1 - self.share))):
                mine, total = part(others.next(more)), total + more
                # From -1 down, so that none is one of the samples' own.
                tensors = tuple(map(torch.cat, zip(tensors, _fetched(others.data, mine, -1 - mine), strict=True)))
            x, y, origin = tensors
            yield Dealt(x, y, origin, total)


class _Turns:
    """Rows of data in a random order, again and again."""

    def __init__(self, data: Data, key: int) -> None:
        self.data, self._generator = data, torch.Generator().manual_seed(key + 1)
        self._left = torch.empty(0, dtype=torch.int64)

    def next(self, count: int) -> Tensor:
        while len(self._left) < count:
            self._left = torch.cat([self._left, torch.randperm(len(self.data), generator=self._generator)])
        drawn, self._left = self._left[:count], self._left[count:]
        return drawn


def _fetched(data: Data, rows: Tensor, origin: Tensor) -> tuple[Tensor, ...]:
    x = data.fetch(rows)
    check_inputs(x, data.name)
    return x, data.labels[rows], origin
