"""Geometry of the charts. The templates draw it: in percent of the width, so that a chart fits any page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from robustbench_lite.scorecard import Trace

_POINTS = 240  # as many as a small chart can show


@dataclass(frozen=True)
class Curve:
    """A line in a box of 100 by 100, its origin at the top left."""

    paths: tuple[str, ...]
    """Points of ``polyline``s: one a stretch without gaps."""
    first: float
    last: float
    low: float
    high: float


def loss_curve(trace: Trace) -> Curve | None:
    """Mean loss by step; None where no step has a finite one."""
    return _curve(trace.loss)


def broken_curve(trace: Trace) -> Curve | None:
    """Samples broken up to each step, from 0."""
    return _curve([0, *accumulate(trace.broken)], floor=0)


def _curve(values: Sequence[float], floor: float | None = None) -> Curve | None:
    kept = _thin(values)
    finite = [value for _, value in kept if math.isfinite(value)]
    if not finite:
        return None
    low = min(finite) if floor is None else floor
    high = max(finite)
    span = (high - low) or 1.0
    last = max(len(values) - 1, 1)
    stretches: list[list[str]] = [[]]
    for step, value in kept:
        if math.isfinite(value):
            stretches[-1].append(f"{100 * step / last:.2f},{100 - 100 * (value - low) / span:.2f}")
        elif stretches[-1]:
            stretches.append([])
    return Curve(tuple(" ".join(points) for points in stretches if points), finite[0], finite[-1], low, high)


def _thin(values: Sequence[float]) -> list[tuple[int, float]]:
    count = len(values)
    if count <= _POINTS:
        return list(enumerate(values))
    places = sorted({round(place * (count - 1) / (_POINTS - 1)) for place in range(_POINTS)})
    return [(place, values[place]) for place in places]
