"""Robust accuracy against eps."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

from robustbench_lite.core.errors import UserError
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.results.scorecard.outcomes import Outcome
from robustbench_lite.results.scorecard.values import Interval

_LARGEST = math.nextafter(math.inf, 0.0)  # finite: a sample that was never broken (inf) is not broken at eps = inf


@dataclass(frozen=True)
class Curve:
    """Robust accuracy against eps, under one norm and goal.

    At an eps it is the share of all samples that are right when clean and have no adversarial example known at this
    distance or nearer: it never rises, and is what would be left of the accuracy if no attack did better.
    """

    threat: ThreatModel
    """Norm and goal; the curve is the same for each eps of them."""
    total: int
    """Samples, those wrong from the start included."""
    distances: tuple[float, ...]
    """Of each sample that is right when clean, the smallest eps at which it is broken, in rising order; inf where it is
    at none."""
    searched: bool
    """Whether the distances are those of the nearest examples known. False: no smallest perturbation was looked for,
    and a distance is the smallest eps, of those attacked, at which the sample is broken."""
    confidence: float = 0.95
    """Of the intervals, which hold at each eps by itself."""

    def at(self, eps: float) -> Interval:
        """Robust accuracy at an eps, 0 or larger; at 0 it is the clean accuracy."""
        if not eps >= 0:
            raise UserError(f"eps is {eps}: expected 0 or a number above it")
        # Samples that don't have to be moved are not broken at eps 0, where the clean pass had them right.
        broken = bisect_right(self.distances, min(eps, _LARGEST)) if eps > 0 else 0
        return Interval.of(len(self.distances) - broken, self.total, self.confidence)

    def steps(self) -> tuple[tuple[float, Interval], ...]:
        """Every eps at which it changes with the robust accuracy from there on, 0 and the clean accuracy first."""
        ends = sorted({eps for eps in self.distances if 0 < eps < math.inf})
        return tuple((eps, self.at(eps)) for eps in (0.0, *ends))

    def quantile(self, share: float) -> float | None:
        """Smallest eps at which this share of the samples that are right when clean is broken; None where none is."""
        if not 0 < share <= 1:
            raise UserError(f"share is {share}: expected a number above 0, and at most 1")
        count = math.ceil(round(share * len(self.distances), 9))  # a share such as 0.07 of 100 is 7, not 7.0000001
        eps = self.distances[count - 1] if self.distances else math.inf
        return eps if math.isfinite(eps) else None

    @property
    def median(self) -> float | None:
        """Eps at which half of the samples that are right when clean are broken; None where more are never broken."""
        return self.quantile(0.5)


def smallest_eps(row: Outcome, eps: Mapping[str, float]) -> float:
    """Smallest eps at which a sample is known to be broken, of threat models by name with their eps; or inf."""
    # An example may lie out of the ball by as much as rounding takes: in the ball it counts for the ball's eps.
    known = [found.distance for found in row.nearest if found.threat in eps]
    return min([*known, *(eps[found.threat] for found in row.breaks if found.threat in eps)], default=math.inf)
