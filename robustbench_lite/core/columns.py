"""What an adversary may do to the columns of a table: some it can't change, and some hold whole numbers."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

_ROUNDING = 2e-7  # of float32 numbers up to 1: what is so near to a whole number is one
MOST_WHOLE = 1_000_000
"""Most whole numbers in the range of a column that float32 tells apart in [0, 1]."""


@dataclass(frozen=True, eq=False)
class Columns:
    """The columns of a table, each of them scaled to [0, 1].

    An attack climbs among all values, as if every number were allowed, and the model is asked about the nearest allowed
    point on the way back to the clean row. So the gradient passes straight through the rounding (Athalye et al. 2018,
    https://arxiv.org/abs/1802.00420), and each allowed point is at least as near to the clean row as the one before.
    """

    fixed: Tensor
    """Whether the adversary can't change a column, bool, shape (F,)."""
    whole: Tensor
    """How many steps of 1 a column of whole numbers has between 0 and 1, float64, shape (F,); 0: any number goes."""
    shift: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    """By how much the column's own number at 0 is above a whole one, in [0, 1), float64, shape (F,) or ()."""

    @property
    def digest(self) -> str:
        """The same text for the same columns, and for them alone."""
        shift = f", shift {self.shift.tolist()}" if self.shift.any() else ""
        return f"fixed {self.fixed.nonzero().flatten().tolist()}, whole {self.whole.tolist()}{shift}"

    def hold(self, x: Tensor, origin: Tensor) -> Tensor:
        """Put the fixed columns back; points and their clean rows have the shape (B, F)."""
        return torch.where(self.fixed.to(x.device), origin, x)

    def allowed(self, x: Tensor, origin: Tensor) -> Tensor:
        """The nearest allowed points between some points and their clean rows, shape (B, F)."""
        steps, shift = self.whole.to(x.device), self.shift.to(x.device)
        place, near = x.double() * steps + shift, _ROUNDING * steps
        below = self._at((place + near).floor(), steps, shift).to(x.dtype)
        above = self._at((place - near).ceil(), steps, shift).to(x.dtype)
        rounded = torch.where(x > origin, below.maximum(origin), above.minimum(origin))
        return self.hold(torch.where(steps > 0, rounded, x), origin)

    def slope(self, grad: Tensor) -> Tensor:
        """A gradient without its part along the fixed columns, shape (B, F)."""
        return grad.masked_fill(self.fixed.to(grad.device), 0.0)

    def kept(self, x: Tensor, origin: Tensor) -> Tensor:
        """Whether points are allowed, to the bit: shape (B,)."""
        steps, shift = self.whole.to(x.device), self.shift.to(x.device)
        nearest = self._at((x.double() * steps + shift).round(), steps, shift).to(x.dtype)
        free = torch.where(steps > 0, x == nearest, ~self.fixed.to(x.device))
        return ((x == origin) | (free & ~self.fixed.to(x.device))).all(1)

    @staticmethod
    def _at(number: Tensor, steps: Tensor, shift: Tensor) -> Tensor:
        """Where a whole number stands in [0, 1]."""
        return (number - shift) / torch.where(steps > 0, steps, 1.0)
