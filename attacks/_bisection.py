"""The search of the papers of Carlini and Wagner and of EAD for the weight c: bisection, each start from the input."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_UNKNOWN = 1e10  # upper end of c until there is an example
_GROWTH = 10.0


class Bisection(NamedTuple):
    """The weight of this start and what is known of the one that is enough, each of shape (B,)."""

    c: Tensor
    low: Tensor
    """Largest c that found no example."""
    high: Tensor
    """Smallest c that found one."""
    found: Tensor
    """Whether this start found one."""

    @classmethod
    def at(cls, first: float, x: Tensor) -> Bisection:
        """Begin with a c for every sample of ``x``, (B, *shape)."""
        nothing = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        return cls(nothing + first, nothing, nothing + _UNKNOWN, nothing > 0)

    def after(self, won: Tensor, ends: Tensor) -> Bisection:
        """Take in whether the candidates are examples; where a start ends, shape (B,), choose the c of the next one."""
        found = self.found | won
        high = torch.where(ends & found, self.c.minimum(self.high), self.high)
        low = torch.where(ends & ~found, self.c.maximum(self.low), self.low)
        following = torch.where(high < _UNKNOWN, (low + high) / 2, self.c * _GROWTH)
        return Bisection(torch.where(ends, following, self.c), low, high, found & ~ends)
