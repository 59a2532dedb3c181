"""What an adversary may do to the columns of a table: some it can't change, and some hold whole numbers."""

from __future__ import annotations

from dataclasses import dataclass

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

    @property
    def digest(self) -> str:
        """The same text for the same columns, and for them alone."""
        return f"fixed {self.fixed.nonzero().flatten().tolist()}, whole {self.whole.tolist()}"

    def hold(self, x: Tensor, origin: Tensor) -> Tensor:
        """Put the fixed columns back; points and their clean rows have the shape (B, F)."""
        return torch.where(self.fixed.to(x.device), origin, x)

    def allowed(self, x: Tensor, origin: Tensor) -> Tensor:
        """The nearest allowed points between some points and their clean rows, shape (B, F)."""
        steps = self.whole.to(x.device)
        place, count, near = x.double() * steps, steps.clamp_min(1.0), _ROUNDING * steps
        below = ((place + near).floor() / count).to(x.dtype)
        above = ((place - near).ceil() / count).to(x.dtype)
        rounded = torch.where(x > origin, below.maximum(origin), above.minimum(origin))
        return self.hold(torch.where(steps > 0, rounded, x), origin)

    def slope(self, grad: Tensor) -> Tensor:
        """A gradient without its part along the fixed columns, shape (B, F)."""
        return grad.masked_fill(self.fixed.to(grad.device), 0.0)

    def kept(self, x: Tensor, origin: Tensor) -> Tensor:
        """Whether points are allowed, to the bit: shape (B,)."""
        steps = self.whole.to(x.device)
        nearest = ((x.double() * steps).round() / steps.clamp_min(1.0)).to(x.dtype)
        free = torch.where(steps > 0, x == nearest, ~self.fixed.to(x.device))
        return ((x == origin) | (free & ~self.fixed.to(x.device))).all(1)
