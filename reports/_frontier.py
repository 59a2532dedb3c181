"""Robust accuracy against what a model costs, such as its size or its latency, with the frontier."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from robustbench_lite.results.scorecard import Measured, Scorecard

from ._format import measured, plain

_SHOWN = 4  # pictures; the table has all measures
_APART = 10.0  # a ratio from which the axis is logarithmic
_MARGIN = 0.06


@dataclass(frozen=True)
class Spot:
    """A scorecard in the picture, in percent from the left and from the top."""

    x: float
    y: float
    high: float
    """Of the interval of its robust accuracy, the end that is nearer to the top."""
    low: float
    best: bool
    """Whether it lies on the frontier: no other is at least as good in both, and better in one."""
    told: str
    """The measure's number."""


@dataclass(frozen=True)
class Frontier:
    """Robust accuracy, upwards, against one measure, to the right."""

    name: str
    better: str
    """``to the left`` or ``to the right``."""
    logarithmic: bool
    spots: tuple[Spot, ...]
    """One a scorecard."""
    line: str
    """Points of the staircase through those on the frontier; empty for fewer than two."""
    ends: tuple[str, str]
    """The measure at the left end and at the right end of the axis."""


def table(cards: Sequence[Scorecard]) -> list[tuple[str, list[str]]]:
    """Every measure that one of the scorecards has, with its number on each; a dash where it has none."""
    names = dict.fromkeys(number.name for card in cards for number in card.measures)
    rows = [(name, [_of(card, name) for card in cards]) for name in names]
    return [(plain(name).replace("_", " "), [measured(one) if one else "–" for one in row]) for name, row in rows]


def frontiers(cards: Sequence[Scorecard]) -> list[Frontier]:
    """A picture for each measure of cost that all the scorecards have, and in which they differ."""
    found = []
    for name in dict.fromkeys(number.name for number in (cards[0].measures if len(cards) > 1 else ())):
        numbers = [one for card in cards if (one := _of(card, name)) is not None]
        if len(numbers) == len(cards) and _differ(numbers):
            found.append(_frontier(cards, numbers))
    return found[:_SHOWN]


def _of(card: Scorecard, name: str) -> Measured | None:
    return next((number for number in card.measures if number.name == name), None)


def _differ(numbers: Sequence[Measured]) -> bool:
    values = {one.value for one in numbers}
    same = len({(one.unit, one.better) for one in numbers}) == 1 and numbers[0].unit != "share"
    return same and len(values) > 1 and all(math.isfinite(value) and abs(value) < 1e300 for value in values)


def _frontier(cards: Sequence[Scorecard], numbers: Sequence[Measured]) -> Frontier:
    values = [one.value for one in numbers]
    least, most = min(values), max(values)
    logarithmic = least > 0 and most / least > _APART
    scale = math.log if logarithmic else float
    first, last = scale(least), scale(most)
    sign = 1.0 if numbers[0].better == "lower" else -1.0
    goods = [
        (sign * value, -card.robust_accuracy.value) if card.verdict != "INVALID" else None
        for value, card in zip(values, cards, strict=True)
    ]
    spots = []
    for card, number, good in zip(cards, numbers, goods, strict=True):
        share = _MARGIN + (1 - 2 * _MARGIN) * (scale(number.value) - first) / (last - first)
        robust = card.robust_accuracy
        best = good is not None and not any(_beats(other, good) for other in goods if other is not None)
        y, high, low = (round(100 - 100 * one, 2) for one in (robust.value, robust.high, robust.low))
        spots.append(Spot(round(100 * share, 2), y, high, low, best, measured(number)))
    return Frontier(
        name=plain(numbers[0].name).replace("_", " "),
        better="to the left" if numbers[0].better == "lower" else "to the right",
        logarithmic=logarithmic,
        spots=tuple(spots),
        line=_staircase([spot for spot in spots if spot.best]),
        ends=(measured(numbers[values.index(least)]), measured(numbers[values.index(most)])),
    )


def _beats(other: tuple[float, float], one: tuple[float, float]) -> bool:
    return other != one and other[0] <= one[0] and other[1] <= one[1]


def _staircase(best: Sequence[Spot]) -> str:
    """What can be had: between two of the frontier no more than the cheaper of them gives."""
    ordered = sorted({(spot.x, spot.y) for spot in best})
    if len(ordered) < 2:
        return ""
    rising = ordered[-1][1] < ordered[0][1]  # more cost, more robust; else the other way round
    points = [ordered[0]]
    for x, y in ordered[1:]:
        before = points[-1]
        points += [(x, before[1]) if rising else (before[0], y), (x, y)]
    return " ".join(f"{x:g},{y:g}" for x, y in points)
