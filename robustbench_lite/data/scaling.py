"""Columns of numbers as inputs in [0, 1]: in standardised units, or by their range."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np

Scale = Literal["std", "range"]
SCALES: tuple[Scale, ...] = ("std", "range")

REACH = 5
"""Standard deviations on both sides of the mean that go to [0, 1]: so 0.1 is one of them, and what is beyond is cut
off."""

WORDS: dict[Scale, str] = {
    "std": f"each feature goes from {REACH} standard deviations below its mean in the training part to {REACH} above "
    f"it to [0, 1], so that eps {1 / (2 * REACH):g} is one standard deviation",
    "range": "each feature goes from its range in the training part to [0, 1]",
}


def ends(values: np.ndarray[Any, Any], scale: Scale) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """What goes to 0, and how far away from it what goes to 1 is; of a column of one value any other number is 1 away.

    Parameters
    ----------
    values
        Of the training part, shape (N, F).
    scale
        ``std``: standardised units, as z-scores are; ``range``: from the least value to the largest.
    """
    import numpy as np

    if scale == "std":
        span = 2 * REACH * values.std(axis=0, dtype=np.float64)
        span[values.min(axis=0) == values.max(axis=0)] = 1.0  # rounding may leave a little
        return values.mean(axis=0, dtype=np.float64) - span / 2, span
    low = values.min(axis=0).astype(np.float64)
    span = values.max(axis=0).astype(np.float64) - low
    return low, np.where(span > 0, span, 1.0)
