"""A published number, how it is measured here, and whether what is measured reproduces it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from robustbench_lite.results.scorecard import Interval, Scorecard

Verdict = Literal["reproduces", "differs", "impossible", "not run"]
"""``impossible``: below what is proved, so that the harness itself is at fault. Shown as ``differs``, and loudly."""


class Measured(NamedTuple):
    """A number with its exact 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, share: Interval) -> Measured:
        """Take a share of the samples."""
        return cls(share.value, share.low, share.high)


@dataclass(frozen=True, kw_only=True)
class Number:
    """A published number, and what reproduces it on all samples."""

    what: str
    published: float
    accepted: tuple[float, float]
    """Least and largest value that reproduce it."""
    measure: Callable[[Scorecard], Measured]
    source: str
    """URL of where it is published."""
    proved: bool = False
    """Whether no attack can go below the least one, whatever it does."""
    share: bool = True
    """Whether it is a share of samples, or (False) a distance."""

    @property
    def demand(self) -> str:
        """What reproduces it, in words."""
        low, high = self.accepted
        if low == high:
            return self.text(low)
        if not self.share:
            return f"at most {self.text(high)}"
        if self.proved:
            return f"{self.text(low)} to {self.text(high)}"
        return f"{self.text(self.published)} ± {self.text(high - self.published)}"

    def text(self, value: float) -> str:
        """Write a value of it."""
        return f"{value:.2%}" if self.share else f"{value:.3f}"


def check_number(number: Number, here: Measured, *, whole: bool, official: bool = True) -> Verdict:
    """Tell whether a measured number reproduces the published one.

    Parameters
    ----------
    whole
        Whether it was measured on all samples of the official data, and must be what was published. Of a part, what
        was published must be in the 95 % interval.
    official
        Whether the samples are the ones that a proof is about.
    """
    low, high = (here.value, here.value) if whole else (here.low, here.high)
    least, most = number.accepted
    if number.proved and official and high < least:
        return "impossible"
    return "reproduces" if low <= most and high >= least else "differs"


def clean_accuracy(card: Scorecard) -> Measured:
    """Share of all samples that are right when clean."""
    return Measured.of(card.clean_accuracy)


def robust_accuracy(card: Scorecard) -> Measured:
    """Share of all samples that no attack breaks."""
    return Measured.of(card.robust_accuracy)


def share_broken(card: Scorecard) -> Measured:
    """Share of all samples that are wrong after the attack, those wrong from the start included, as advertorch counts.

    advertorch judges the last step; here a sample is broken as soon as any step breaks it, so there can only be more.
    """
    robust = card.robust_accuracy
    return Measured.of(Interval.of(robust.total - robust.count, robust.total))


def median_distance(card: Scorecard) -> Measured:
    """Median distance of the nearest examples of the samples that are right when clean, as advertorch counts.

    The interval lies between two order statistics: it holds for every distribution.
    """
    from scipy.special import bdtr

    distances = card.curve().distances
    total = len(distances)
    if not total:
        return Measured(math.inf, 0.0, math.inf)
    out = sum(float(bdtr(below, total, 0.5)) <= 0.025 for below in range(total // 2))
    low, high = (distances[out - 1], distances[total - out]) if out else (0.0, math.inf)
    return Measured(distances[(total - 1) // 2], low, high)
