"""Scorecards of one model from several days: how its accuracies went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise

from robustbench_lite.core.errors import UserError
from robustbench_lite.results.compare import Change, compare
from robustbench_lite.results.scorecard import Interval, Scorecard

from ._charts import Curve, curve_of
from ._format import plain

_FEWEST = 3  # of two, one is before and the other after


@dataclass(frozen=True)
class Day:
    """One scorecard, and what is different from the one before that can be trusted."""

    card: Scorecard
    x: float
    """Its place in the chart, in percent."""
    change: Change | None
    """Of the robust accuracy on the samples that it and the one before share; None where they share none, of the
    first, and of one that is INVALID."""

    @property
    def trusted(self) -> bool:
        """Whether its robust accuracy means something."""
        return self.card.verdict != "INVALID"


@dataclass(frozen=True)
class Course:
    """An accuracy over the days, from 0 at the bottom to 1 at the top."""

    kind: str
    line: Curve | None
    bands: tuple[str, ...]
    """Points of the intervals around it: one a stretch without gaps."""


@dataclass(frozen=True)
class Trend:
    """All scorecards of one model by the time they were made."""

    name: str
    days: tuple[Day, ...]
    courses: tuple[Course, ...]
    """Clean and robust accuracy. Where a scorecard is INVALID, the robust one has a gap."""

    @property
    def newest(self) -> Scorecard:
        """The last of them."""
        return self.days[-1].card


def trend(cards: Sequence[Scorecard]) -> Trend | None:
    """The trend of three scorecards or more of one model under the same threat models, each made at another time.

    None of any others.
    """
    questions = {(card.target.name, tuple(sorted(str(row.threat) for row in card.threats))) for card in cards}
    if len(cards) < _FEWEST or len(questions) > 1 or len({card.created for card in cards}) < len(cards):
        return None
    ordered = sorted(cards, key=_when)
    trusted = [card for card in ordered if card.verdict != "INVALID"]
    changes = {id(after): _change(before, after) for before, after in pairwise(trusted)}
    days = tuple(
        Day(card, round(100 * place / (len(ordered) - 1), 2), changes.get(id(card)))
        for place, card in enumerate(ordered)
    )
    courses = (
        _course("clean", [card.clean_accuracy for card in ordered]),
        _course("robust", [day.card.robust_accuracy if day.trusted else None for day in days]),
    )
    return Trend(plain(ordered[0].target.name).strip() or "unnamed", days, courses)


def _when(card: Scorecard) -> tuple[float, str]:
    try:
        moment = datetime.fromisoformat(card.created)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp(), ""
    except (ValueError, OverflowError):
        return float("inf"), card.created


def _change(before: Scorecard, after: Scorecard) -> Change | None:
    try:
        return compare(before, after).robust
    except UserError:
        return None


def _course(kind: str, shares: Sequence[Interval | None]) -> Course:
    stretches: list[list[tuple[float, Interval]]] = [[]]
    for place, share in enumerate(shares):
        if share is not None:
            stretches[-1].append((100 * place / (len(shares) - 1), share))
        elif stretches[-1]:
            stretches.append([])
    values = [float("nan") if share is None else share.value for share in shares]
    return Course(kind, curve_of(values, floor=0.0, ceiling=1.0), tuple(_band(one) for one in stretches if one))


def _band(stretch: Sequence[tuple[float, Interval]]) -> str:
    top = [f"{x:.2f},{100 - 100 * share.high:.2f}" for x, share in stretch]
    return " ".join([*top, *(f"{x:.2f},{100 - 100 * share.low:.2f}" for x, share in reversed(stretch))])
