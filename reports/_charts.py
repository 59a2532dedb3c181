"""Geometry of the charts. The templates draw it: in percent of the width, so that a chart fits any page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from robustbench_lite.results.scorecard import Interval, Plot, Scorecard, Trace

from ._against_eps import Against
from ._format import number
from ._view import plotted

_POINTS = 240  # as many as a small chart can show
_BINS = 40


@dataclass(frozen=True)
class Curve:
    """A line in a box of 100 by 100, its origin at the top left."""

    paths: tuple[str, ...]
    """Points of ``polyline``s: one a stretch without gaps."""
    first: float
    last: float
    low: float
    high: float


@dataclass(frozen=True)
class Mark:
    """A place on the axis of eps."""

    x: float
    """In percent."""
    text: str
    side: str
    """Where its text goes, so that it stays in the chart: ``start`` (to the right of it) or ``end``."""
    y: int = 12
    """Where its text stands, in pixels of the 200 of the chart."""


@dataclass(frozen=True)
class Proven:
    """A certified accuracy at an eps: from the left in percent, from the top in pixels of the 200 of the chart."""

    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True)
class EpsChart:
    """Robust accuracy against eps, in a box of 100 by 100, with a histogram of the distances below it."""

    line: str
    """Points of the staircase."""
    band: str
    """Points of its intervals, around."""
    ticks: tuple[Mark, ...]
    asked: tuple[Mark, ...]
    """The threat models of the card."""
    median: Mark | None
    certified: tuple[Proven, ...]
    """The certified side: what no attack can go below."""
    bars: tuple[tuple[float, float, int], ...]
    """Left end and height in percent, and samples, of each bin; all are as wide."""
    beyond: int
    """Samples that are broken farther out than the chart reaches, or never."""


def eps_chart(found: Against) -> EpsChart:
    """Draw a curve as far as it tells something."""
    curve, end = found.curve, found.end
    steps = [step for step in curve.steps() if step[0] <= end]
    stairs = [steps[place] for place, _ in _thin(range(len(steps)))]

    def across(eps: float) -> float:
        return round(100 * eps / end, 2)

    def mark(eps: float, text: str, line: int = 0) -> Mark:
        x = across(eps)
        # Clear of the curve: above it or below, the texts of neighbours on lines of their own.
        top = 12 if curve.at(eps).value < 0.6 else 150
        return Mark(x, text, "start" if x < 75 else "end", top + 14 * (line % 4))

    def edge(values: Sequence[float]) -> list[str]:
        points = [f"0,{100 - 100 * values[0]:.2f}"]
        for (eps, _), before, after in zip(stairs[1:], values, values[1:], strict=False):
            x = 100 * eps / end
            points += [f"{x:.2f},{100 - 100 * before:.2f}", f"{x:.2f},{100 - 100 * after:.2f}"]
        return [*points, f"100,{100 - 100 * values[-1]:.2f}"]

    shares = [share for _, share in stairs]
    near = [eps for eps in curve.distances if eps <= end]
    counts = [0] * _BINS
    for eps in near if curve.searched else ():
        counts[min(_BINS - 1, int(_BINS * eps / end))] += 1
    return EpsChart(
        line=" ".join(edge([share.value for share in shares])),
        band=" ".join([*edge([share.high for share in shares]), *reversed(edge([share.low for share in shares]))]),
        ticks=tuple(mark(eps, f"{eps:g}") for eps in found.ticks),
        asked=tuple(mark(one.eps, f"eps {one.eps_text}", line) for line, one in enumerate(found.asked)),
        median=mark(curve.median, f"median {number(curve.median)}", len(found.asked))
        if curve.searched and curve.median is not None and curve.median <= end
        else None,
        certified=tuple(
            Proven(across(one.eps), *(round(200 - 200 * share, 1) for share in (sure.value, sure.low, sure.high)))
            for one, sure in found.certified
            if one.eps <= end
        ),
        bars=tuple((100 * place / _BINS, 100 * size / max(counts), size) for place, size in enumerate(counts) if size),
        beyond=len(curve.distances) - len(near),
    )


@dataclass(frozen=True)
class Place:
    """A scorecard in the picture of clean against robust accuracy: its value and both ends, in percent of the box."""

    x: tuple[float, float, float]
    """Clean accuracy from the left: value, low, high."""
    y: tuple[float, float, float]
    """Robust accuracy from the top: value, low, high."""


@dataclass(frozen=True)
class TradeOff:
    """Clean against robust accuracy of several scorecards, the axes as far as the intervals reach."""

    places: tuple[Place, ...]
    x_ticks: tuple[tuple[float, str], ...]
    """From the left, in percent of the box, and the accuracy there."""
    y_ticks: tuple[tuple[float, str], ...]
    """From the top."""


def trade_off(cards: Sequence[Scorecard]) -> TradeOff:
    """Draw scorecards by clean accuracy, to the right, and robust accuracy, upwards."""
    across = ShareAxis.around([card.clean_accuracy for card in cards])
    up = ShareAxis.around([card.robust_accuracy for card in cards])

    def place(card: Scorecard) -> Place:
        clean, robust = card.clean_accuracy, card.robust_accuracy
        x, low, high = (across.at(share) for share in (clean.value, clean.low, clean.high))
        y, bottom, top = (100 - up.at(share) for share in (robust.value, robust.low, robust.high))
        return Place((x, low, high), (y, bottom, top))

    return TradeOff(
        places=tuple(map(place, cards)),
        x_ticks=across.marks(),
        y_ticks=up.marks(down=True),
    )


@dataclass(frozen=True)
class ShareAxis:
    """A stretch of the shares from 0 to 1, between two tenths."""

    low: int
    high: int

    @classmethod
    def around(cls, shares: Sequence[Interval]) -> ShareAxis:
        return cls.of([end for share in shares for end in (share.low, share.high)])

    @classmethod
    def of(cls, shares: Sequence[float]) -> ShareAxis:
        """From the tenth below the least to that above the largest."""
        low = math.floor(10 * min(shares))
        return cls(low, max(low + 1, math.ceil(10 * max(shares))))

    def marks(self, down: bool = False) -> tuple[tuple[float, str], ...]:
        """Where ticks stand, in percent, and their texts; ``down`` counts from the top."""
        return tuple((100 - self.at(share) if down else self.at(share), f"{share:.0%}") for share in self.ticks)

    def at(self, share: float) -> float:
        """Where a share stands, in percent of the axis."""
        return round(100 * (10 * share - self.low) / (self.high - self.low), 2)

    @property
    def ticks(self) -> list[float]:
        step = 1 if self.high - self.low <= 5 else 2
        return [tenth / 10 for tenth in range(self.low, self.high + 1, step)]


@dataclass(frozen=True)
class Sketch:
    """The plot of a finding."""

    curve: Curve
    left: float
    right: float


def sketch(plot: Plot) -> Sketch | None:
    """Draw the plot of a finding; None where none of its points is a number."""
    points = plotted(plot)
    if not points:
        return None
    left, right = points[0][0], points[-1][0]
    curve = curve_of([y for _, y in points], places=[(x - left) / ((right - left) or 1.0) for x, _ in points])
    return Sketch(curve, left, right) if curve else None


def loss_curve(trace: Trace) -> Curve | None:
    """Mean loss by step; None where no step has a finite one."""
    return curve_of(trace.loss)


def broken_curve(trace: Trace) -> Curve | None:
    """Samples broken up to each step, from 0."""
    return curve_of([0, *accumulate(trace.broken)], floor=0)


def curve_of(
    values: Sequence[float],
    floor: float | None = None,
    places: Sequence[float] | None = None,
    ceiling: float | None = None,
) -> Curve | None:
    """Draw values at places from 0 to 1; by default they stand in steps as wide as one another. None without a number.

    Floor and ceiling are what stands at the bottom and at the top; by default the least and the largest value.
    """
    kept = _thin(values)
    finite = [value for _, value in kept if math.isfinite(value)]
    if not finite:
        return None
    low = min(finite) if floor is None else floor
    high = max(finite) if ceiling is None else ceiling
    span = (high - low) or 1.0
    places = places or [step / max(len(values) - 1, 1) for step in range(len(values))]
    stretches: list[list[str]] = [[]]
    for step, value in kept:
        if math.isfinite(value):
            stretches[-1].append(f"{100 * places[step]:.2f},{100 - 100 * (value - low) / span:.2f}")
        elif stretches[-1]:
            stretches.append([])
    return Curve(tuple(" ".join(points) for points in stretches if points), finite[0], finite[-1], low, high)


def _thin(values: Sequence[float]) -> list[tuple[int, float]]:
    count = len(values)
    if count <= _POINTS:
        return list(enumerate(values))
    places = sorted({round(place * (count - 1) / (_POINTS - 1)) for place in range(_POINTS)})
    return [(place, values[place]) for place in places]
