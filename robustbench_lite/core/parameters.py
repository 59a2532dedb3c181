"""Types of the parameters that attacks and defenses share; pydantic checks them, from Python and from TOML alike."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field, PositiveInt

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Length", "PositiveInt", "Share", "cosine", "next_weight", "number", "patience_used_up", "step_length"]


def number(given: Any) -> Any:
    """A fraction that is written as a text, such as ``2/255``, as a number; anything else as it is."""
    try:
        return float(Fraction(given)) if isinstance(given, str) else given
    except (ValueError, ZeroDivisionError, OverflowError):
        raise ValueError(f"is {given!r}: expected a number or a fraction such as 2/255") from None


Length = Annotated[float, BeforeValidator(number), Field(gt=0, allow_inf_nan=False)]
"""A number above 0, or a text such as ``2/255``."""

Share = Annotated[float, Field(ge=0, le=1)]
"""A number from 0 to 1."""


def step_length(step_size: float | None, eps: float, steps: int) -> float:
    """Length of a step: as given, or ``2.5 * eps / steps``, which can cross the ball and still turn back."""
    return min(eps, 2.5 * eps / steps) if step_size is None else step_size


def cosine(done: Tensor, steps: int) -> Tensor:
    """What a cosine schedule leaves of a step after ``done`` of its steps, shape (B,): from 1 at the first to 0."""
    return (1 + (math.pi * done / steps).cos()) / 2


def next_weight(too_small: Tensor, too_large: Tensor, largest: float) -> Tensor:
    """Next weight of a search to try, of those tried in vain and in success so far, shape (B,), at most ``largest``.

    The geometric mean of the two, or a leap by ten where there is no such weight yet: 0 and infinity.
    """
    middle = (too_small * 10).where(too_large.isinf(), (too_small * too_large).sqrt())
    return (too_large / 10).where(too_small == 0, middle).clamp_max(largest)


def patience_used_up(tries: Tensor, best: Tensor, first: Tensor, patience: int) -> Tensor:
    """Whether to stop trying, given how much of each margin is left, shape (B,).

    A robust sample shows early that it is one: its margin hardly moves. So it gets ``patience`` tries where a tenth of
    the margin is left, twice as many where a twentieth is, and a tenth of them where all of it is.

    Parameters
    ----------
    tries
        How many it had, shape (B,).
    best, first
        The margin that is nearest to the goal so far, and the one at the input, both below 0, shape (B,).
    """
    left = (best / first.clamp_max(-1e-12)).clamp_min(0.0)
    return tries * left >= patience * 0.1
