"""What the parts of a scorecard are made of: frozen models, shares with their intervals."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict

from robustbench_lite.results.statistics import clopper_pearson

Verdict = Literal["PASS", "FAIL", "UNDECIDED", "MEASURED", "INVALID"]
"""``PASS``: every gate is met for sure. ``FAIL``: one is missed. ``UNDECIDED``: too few samples to tell of one.
``MEASURED``: no gate was set. ``INVALID``: the evaluation itself can't be trusted."""
Severity = Literal["error", "warning", "info"]


class Frozen(BaseModel):
    """A part of a scorecard: it can't be changed, and takes no key that it doesn't know."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Interval(Frozen):
    """A share of samples with its exact (Clopper-Pearson) interval."""

    count: int
    """Samples counted."""
    total: int
    """Samples looked at."""
    value: float
    """``count / total``, in [0, 1]."""
    low: float
    """Low end of the interval."""
    high: float
    """High end of the interval."""
    confidence: float = 0.95
    """Coverage of the interval."""

    @classmethod
    def of(cls, count: int, total: int, confidence: float = 0.95) -> Interval:
        """Share ``count / total`` with its interval; 0 in [0, 1] where total is 0."""
        low, high = clopper_pearson(count, total, confidence)
        value = count / total if total else 0.0
        return cls(count=count, total=total, value=value, low=low, high=high, confidence=confidence)

    def __str__(self) -> str:
        return f"{self.value:.1%} [{self.low:.1%}, {self.high:.1%}]"


def median(values: list[float]) -> float | None:
    """Median, or None of nothing."""
    ordered = sorted(value for value in values if math.isfinite(value))
    if not ordered:
        return None
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
