"""Geometry of the charts of a search, in percent of the width, and the words for what came out of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from robustbench_lite.results.scorecard import Interval
from robustbench_lite.results.search import CLEAN, RECIPE, ROBUST, Aim, SearchResult, Trial

from ._charts import ShareAxis
from ._format import exact, number, plain, plural

_MARGIN = 3.0  # percent at both ends of an axis
_ROW = 64  # pixels from one setting's axis to the next
_NAMED = 6  # choices that are named on an axis
_APART = 20.0  # a ratio from which an axis is logarithmic
_OF_MODEL = "model."  # what the names of settings of the network begin with
_WORDS = {CLEAN: "clean accuracy", "passes": "passes of training"}
_TOP = 0.25  # share of the trials that is drawn as the best


@dataclass(frozen=True)
class Dot:
    """A trial in a picture: where it stands, in percent, and how it is drawn."""

    x: float
    y: float
    kind: str
    """``done``, ``out`` (it can't win), ``pruned`` or ``failed``."""
    winner: bool
    trial: Trial


@dataclass(frozen=True)
class Course:
    """The trials as they began, with the best so far."""

    dots: tuple[Dot, ...]
    best: str
    """Points of the staircase, in a box of 100 by 100."""
    plain: float | None
    """Where the recipe as it is stands, from the top."""
    ends: tuple[str, str]


@dataclass(frozen=True)
class Scatter:
    """Trials by two shares."""

    dots: tuple[Dot, ...]
    line: str
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class Lane:
    """The axis of a setting: its name, where it stands, and its ticks."""

    name: str
    y: int
    ticks: tuple[tuple[float, str, str], ...]
    """From the left, in percent; the text; where it is anchored."""


@dataclass(frozen=True)
class Parallel:
    """Every trial as a line through its settings, from the first axis down to its robust accuracy."""

    lanes: tuple[Lane, ...]
    ways: tuple[tuple[str, str], ...]
    """Points, and how a line is drawn; the most important last."""
    height: int


def verdict(found: SearchResult) -> tuple[str, str, str]:
    """What came out: how it is coloured, in a word, in a sentence."""
    if found.winner is None or found.fresh is None:
        return "invalid", "NO WINNER", "No trial came to its end, can be trusted and keeps the floor of clean accuracy."
    if found.winner == RECIPE:
        return "measured", "NOTHING BETTER", "The recipe as it is wins: the search found nothing better."
    if found.against_recipe is None:
        return (
            "measured",
            "FOUND",
            f"{found.winner} wins. The recipe as it is failed, so nothing is compared.",
        )
    if found.found_better:
        return "pass", "BETTER", f"{found.winner} is better than the recipe as it is: {found.against_recipe.why}."
    why = found.against_recipe.why
    return "measured", "NOT SHOWN", f"{found.winner} is not shown to be better than the recipe as it is: {why}."


def headline(found: SearchResult) -> str:
    """What was searched, in a line."""
    return f"Search: {plain(found.recipe)} for {plain(found.model)} on {plain(found.data)}"


def tally(found: SearchResult) -> str:
    """How many trials there were, and what became of them."""
    states = [one.state for one in found.in_order]
    told = [f"{states.count(state)} {state}" for state in ("pruned", "failed", "running") if state in states]
    out = sum(one.state == "done" and not one.can_win for one in found.in_order)
    told += [f"{out} can't win"] if out else []
    return plural(found.tried, "trial") + (f" ({', '.join(told)})" if told else "")


def value(setting: Any) -> str:
    """A setting's value, no finer than it needs to be read."""
    return f"{setting:.4g}" if isinstance(setting, float) else plain(str(setting))


def numbers(found: SearchResult, one: Trial) -> str:
    """The objectives of a trial that the table has no column for, in a line; empty where there are none."""
    aims = [aim for aim in found.objectives if aim.name in one.numbers and aim.name != "passes"]
    told = [(aim, f"{plain(aim.name)} {exact(one.numbers[aim.name])}") for aim in aims]
    return ", ".join(text if aim.unit in (aim.name, "share") else f"{text} {plain(aim.unit)}" for aim, text in told)


def sought(found: SearchResult) -> str:
    """The objectives of the front, in words: ``clean and robust``."""
    *others, last = found.sought
    return f"{', '.join(map(plain, others))} and {plain(last)}"


def settings(one: Trial) -> str:
    """All settings of a trial in a line; those of an architecture as it is written."""
    told = one.settings
    if one.architecture is not None:
        told = {key: given for key, given in told.items() if not key.startswith(_OF_MODEL)}
    parts = [f"{plain(key)} {value(given)}" for key, given in told.items()]
    if one.architecture is not None:
        parts.insert(0, plain(one.architecture))
    return ", ".join(parts) or "the recipe as it is"


def network(found: SearchResult) -> str | None:
    """The winner's architecture, as it is written; None where none was searched, or the recipe as it is wins."""
    return next((one.architecture for one in (*found.finals, *found.trials) if one.name == found.winner), None)


def reasons(found: SearchResult) -> list[tuple[str, list[str]]]:
    """Why trials came to no end or can't win: each reason, and the trials that it is said of."""
    said: dict[str, list[str]] = {}
    for one in (*found.in_order, *found.finals):
        if one.can_not_win:
            said.setdefault(one.can_not_win, []).append(one.name)
    return sorted(said.items(), key=lambda pair: -len(pair[1]))


def best_so_far(trials: Sequence[Trial]) -> list[float | None]:
    """Of each trial, the best robust accuracy of those that can win, up to it."""
    best: float | None = None
    found = []
    for one in trials:
        if one.can_win and one.robust:
            best = one.robust.value if best is None else max(best, one.robust.value)
        found.append(best)
    return found


def course(found: SearchResult) -> Course | None:
    """Draw the trials as they began; None without a trial."""
    trials = found.in_order
    if not trials:
        return None
    wins = (found.winner or "").replace("final", "trial")
    xs = [_spread(place, len(trials)) for place in range(len(trials))]
    points: list[str] = []
    for x, best in zip(xs, best_so_far(trials), strict=True):
        if best is not None:
            points += [f"{x:g},{points[-1].partition(',')[2]}"] if points else []
            points.append(f"{x:g},{100 - 100 * best:.2f}")
    return Course(
        dots=tuple(_dot(one, x, _height(one), one.name == wins) for one, x in zip(trials, xs, strict=True)),
        best=" ".join(points),
        plain=100 - 100 * found.plain.robust.value if found.plain and found.plain.robust else None,
        ends=(trials[0].name, trials[-1].name),
    )


def _height(one: Trial) -> float:
    """From the top, in percent: where it ended, or was when it was pruned; at the bottom where nothing is known."""
    if one.robust is not None:
        return 100 - 100 * one.robust.value
    return 100 - 100 * (list(one.epochs.values())[-1] if one.epochs else 0.0)


def _dot(one: Trial, x: float, y: float, winner: bool) -> Dot:
    kind = one.state if one.state != "done" else "done" if one.can_win else "out"
    return Dot(x=x, y=round(y, 2), kind=kind, winner=winner, trial=one)


def fronts(found: SearchResult) -> list[tuple[str, str, Scatter]]:
    """Draw robust accuracy against clean accuracy, and against each further objective of the search.

    Returns
    -------
    list
        Of each: the objective in words, where it is better (``to the right``), and the picture. Empty for fewer than
        two that can win.
    """
    shown = [one for one in found.judged_together if one.clean and one.robust]
    if len(shown) < 2:
        return []
    drawn = []
    aims = {one.name: one for one in (Aim(name=CLEAN), *found.objectives)}
    for name, aim in aims.items():
        if name != ROBUST and all(one.number_of(name) is not None for one in shown):
            told = _WORDS.get(name) or (plain(name) if name == aim.unit else f"{plain(name)} ({plain(aim.unit)})")
            better = "to the left" if aim.better == "lower" else "to the right"
            drawn.append((told, better, _against(found, shown, name)))
    return drawn


def _against(found: SearchResult, shown: Sequence[Trial], name: str) -> Scatter:
    """Robust accuracy, upwards, against an objective, with those that no other beats in both."""
    up = ShareAxis.around([one.robust for one in shown if one.robust])
    at, x_ticks = _shares([one.clean for one in shown if one.clean])
    if name != CLEAN:
        at, x_ticks = _line([one.number_of(name) or 0.0 for one in shown])
    spots = {one.name: (at(one.number_of(name) or 0.0), 100 - up.at(one.number_of(ROBUST) or 0.0)) for one in shown}
    points: list[str] = []
    line = found.front_of((name, ROBUST))
    for x, y in (spots[one.name] for one in line):
        points += [f"{points[-1].partition(',')[0]},{y:g}"] if points else []
        points.append(f"{x:g},{y:g}")
    return Scatter(
        dots=tuple(_dot(one, *spots[one.name], one.name == found.winner) for one in shown),
        line=" ".join(points) if len(line) > 1 else "",
        x_ticks=x_ticks,
        y_ticks=up.marks(down=True),
    )


def by_proxy(found: SearchResult) -> Scatter | None:
    """Draw the finalists by the proxy's robust accuracy, to the right, and that of the full run, upwards."""
    pairs = found.proxy.pairs if found.proxy else ()
    runs = {one.name.replace("final", "trial"): one for one in found.finals}
    if len(pairs) < 2:
        return None
    across, up = ShareAxis.of([cheap for _, cheap, _ in pairs]), ShareAxis.of([full for _, _, full in pairs])
    dots = [
        _dot(runs[name], across.at(cheap), 100 - up.at(full), runs[name].name == found.winner)
        for name, cheap, full in pairs
    ]
    return Scatter(tuple(dots), "", across.marks(), up.marks(down=True))


def parallel(found: SearchResult) -> Parallel | None:
    """Draw each trial that came to its end through its settings; None for fewer than two."""
    trials = [one for one in found.trials if one.robust is not None and one.settings]
    if len(trials) < 2:
        return None
    lanes, places = [], []
    for row, key in enumerate(found.ways):
        at, ticks = _scale([one.settings[key] for one in trials if key in one.settings])
        lanes.append(Lane(plain(key), 40 + row * _ROW, ticks))
        places.append([at(one.settings[key]) if key in one.settings else None for one in trials])
    axis = ShareAxis.of([one.robust.value for one in trials if one.robust])
    last = 40 + len(found.ways) * _ROW
    lanes.append(Lane("robust accuracy", last, tuple((_inside(x), text, "middle") for x, text in axis.marks())))
    places.append([_inside(axis.at(one.robust.value)) if one.robust else None for one in trials])
    wins = (found.winner or "").replace("final", "trial")
    best = {one.name for one in sorted(trials, key=_order)[: max(1, math.ceil(_TOP * len(trials)))] if one.can_win}
    ways = []
    for place, one in enumerate(trials):
        points = [f"{xs[place]:.2f},{lane.y}" for xs, lane in zip(places, lanes, strict=True) if xs[place] is not None]
        kind = "winner" if one.name == wins else "best" if one.name in best else "" if one.can_win else "out"
        ways.append((" ".join(points), kind))
    ways.sort(key=lambda way: ("out", "", "best", "winner").index(way[1]))
    return Parallel(tuple(lanes), tuple(ways), last + 30)


def _order(one: Trial) -> tuple[bool, float]:
    return not one.can_win, -(one.robust.value if one.robust else 0.0)


def _scale(values: Sequence[Any]) -> tuple[Any, tuple[tuple[float, str, str], ...]]:
    """Where values of a setting stand, and the ticks of its axis."""
    numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in values)
    if not numbers or len(set(values)) <= _NAMED:
        known = sorted(set(values)) if numbers else sorted({plain(str(one)) for one in values})
        xs = {one: _spread(place, len(known)) for place, one in enumerate(known)}
        anchors = ["start", *["middle"] * (len(known) - 2), "end"] if len(known) > 1 else ["middle"]
        named = zip(known, anchors, strict=True)
        ticks = tuple((xs[one], value(one), anchor) for one, anchor in named) if len(known) <= _NAMED else ()
        return (lambda one: xs[one if numbers else plain(str(one))]), ticks
    low, high = min(values), max(values)
    return _between(low, high), ((_MARGIN, number(low), "start"), (100 - _MARGIN, number(high), "end"))


_Axis = tuple[Callable[[float], float], tuple[tuple[float, str], ...]]
"""Where a number stands, in percent; the places of the ticks, and their texts."""


def _shares(values: Sequence[Interval]) -> _Axis:
    axis = ShareAxis.around(values)
    return axis.at, axis.marks()


def _line(values: Sequence[float]) -> _Axis:
    """Where numbers stand on an axis from the least to the largest, and both with their places."""
    low, high = min(values), max(values)
    if low == high:
        return (lambda _: 50.0), ((50.0, exact(low)),)
    return _between(low, high), ((_MARGIN, exact(low)), (100 - _MARGIN, exact(high)))


def _between(low: float, high: float) -> Callable[[float], float]:
    """Where a number stands on an axis with these ends, which is logarithmic where they are far apart."""
    scale: Callable[[float], float] = math.log if low > 0 and high / low > _APART else float
    first, last = scale(low), scale(high)
    return lambda one: _inside(100 * (scale(one) - first) / (last - first))


def _inside(percent: float) -> float:
    """A place on an axis that leaves a margin at both ends."""
    return round(_MARGIN + (100 - 2 * _MARGIN) * percent / 100, 2)


def _spread(place: int, count: int) -> float:
    """The so-manieth of several places, from 0, as far from one another."""
    return _inside(100 * place / (count - 1)) if count > 1 else 50.0
