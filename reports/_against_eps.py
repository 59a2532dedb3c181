"""Robust accuracy against eps: the curve, the eps to show it at, and what is proven beside it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from robustbench_lite.core.suite import adversary
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.results.scorecard import Curve, Interval, Scorecard
from robustbench_lite.results.scorecard.measured import CERTIFIED

from ._format import number


@dataclass(frozen=True)
class Against:
    """Robust accuracy against eps, under one norm and goal."""

    label: str
    """Norm and goal, such as ``L2`` or ``Linf targeted next``."""
    curve: Curve
    asked: tuple[ThreatModel, ...]
    """The threat models of this norm and goal that the card was run under, by rising eps."""
    end: float
    """Where to stop: nearly all that is ever broken is broken before."""
    ticks: tuple[float, ...]
    """Round numbers from 0 to the end."""
    rows: tuple[tuple[str, Interval], ...]
    """Eps in words and the accuracy there: at the threat models and, where all between is known, at the ticks."""
    certified: tuple[tuple[ThreatModel, Interval], ...]
    """Balls of this norm that something is proven of, by rising eps: no attack can go below."""

    @property
    def statement(self) -> str:
        """What it comes to, in a sentence."""
        if not self.curve.searched:
            return "Between these eps nothing was attacked: the accuracy there is at most that at the eps before."
        if self.curve.median is None:
            return "More than half of the samples that are right when clean were broken at no eps."
        return f"Half of the samples that are right when clean are broken within {number(self.curve.median)}."


def against_eps(card: Scorecard) -> list[Against]:
    """Curves of a card: one for each norm and goal whose smallest perturbation was looked for, or with several eps."""
    families: dict[tuple[str, str, str], list[ThreatModel]] = {}
    for row in card.threats:
        families.setdefault(adversary(row.threat), []).append(row.threat)
    shown = ((sorted(asked, key=lambda one: one.eps), card.curve(asked[0])) for asked in families.values())
    return [
        _against(asked, curve, tuple(_certified(card, asked)))
        for asked, curve in shown
        if curve.searched or len(asked) > 1
    ]


def _certified(card: Scorecard, asked: Sequence[ThreatModel]) -> Iterator[tuple[ThreatModel, Interval]]:
    """What was proven in balls of the norm of these threat models; they are given by rising eps."""
    for one in card.measures:
        name, _, radius = one.name.partition(":")
        if name != CERTIFIED or one.count is None or one.total is None:
            continue
        if not radius:  # in the balls of all the threat models of the card
            yield asked[-1], Interval.of(one.count, one.total)
        elif asked[0].norm == card.threats[0].threat.norm:
            with suppress(ValueError):
                yield ThreatModel.parse(f"{asked[0].norm} {radius}"), Interval.of(one.count, one.total)


def _against(
    asked: Sequence[ThreatModel], curve: Curve, certified: tuple[tuple[ThreatModel, Interval], ...]
) -> Against:
    broken = [eps for eps in curve.distances if math.isfinite(eps)]
    nearly_all = broken[int(0.99 * (len(broken) - 1))] if broken and curve.searched else 0.0
    ticks = _ticks(max(nearly_all, asked[-1].eps), whole=curve.threat.norm == "L0")
    step = ticks[1]
    between = [eps for eps in ticks if curve.searched and all(abs(eps - one.eps) > step / 4 for one in asked)]
    places = {0.0: "0", **{eps: f"{eps:g}" for eps in between}, **{one.eps: one.eps_text for one in asked}}
    return Against(
        label=str(curve.threat).replace(f" {curve.threat.eps_text}", "", 1),
        curve=curve,
        asked=tuple(asked),
        end=ticks[-1],
        ticks=ticks,
        rows=tuple((places[eps], curve.at(eps)) for eps in sorted(places)),
        certified=tuple(sorted(certified, key=lambda pair: pair[0].eps)),
    )


def _ticks(end: float, whole: bool) -> tuple[float, ...]:
    """Five to ten round numbers from 0 to at least the end, as far as floats allow."""
    end = min(max(end, 1e-300), 1e300)
    unit = 10.0 ** math.floor(math.log10(end / 5))
    step = next(unit * part for part in (1, 2, 2.5, 5, 10) if unit * part * 8 >= end)
    step = max(1.0, math.ceil(step)) if whole else step
    return tuple(float(f"{place * step:.12g}") for place in range(math.ceil(end / step * (1 - 1e-9)) + 1))
