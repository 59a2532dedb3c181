"""Several scorecards of the same samples in order, the best first, and which of them can't be told from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from robustbench_lite.core.errors import UserError
from robustbench_lite.core.suite import adversary
from robustbench_lite.results.compare import Change, compare
from robustbench_lite.results.scorecard import Interval, Scorecard

LEVEL = 0.05
"""Of all tests of a ranking together, clean and robust apart."""

TRAINING_PASSES, TRAINING_SECONDS = "training_passes", "training_seconds"
"""Measures that tell what a model cost to make, where a card has them."""


@dataclass(frozen=True, kw_only=True)
class Against:
    """A scorecard beside the best one, on the samples that both have."""

    robust: Change
    """Before is the best, after is this one."""
    clean: Change
    p_robust: float
    """Of the paired test, corrected by Holm for all that are compared with the best."""
    p_clean: float

    @property
    def told_apart(self) -> bool:
        """Whether its robust accuracy is another than the best's by more than chance could do."""
        return self.p_robust < LEVEL


@dataclass(frozen=True, kw_only=True)
class Rank:
    """Where a scorecard stands."""

    position: int
    """Its place among the scorecards as they were given, from 0."""
    card: Scorecard
    out: str = ""
    """Why it can't win; empty where it can."""
    against: Against | None = None
    """None of the best itself, and of those that can't win."""

    def cost(self, name: str) -> float | None:
        """What it cost to make: the number of a measure; None where the card doesn't tell."""
        return next((one.value for one in self.card.measures if one.name == name), None)


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Scorecards in order: those that can win by robust accuracy, then clean accuracy; the others behind them."""

    ranks: tuple[Rank, ...]

    @property
    def best(self) -> Rank | None:
        """The first; None where none can win."""
        return self.ranks[0] if not self.ranks[0].out else None

    @property
    def level(self) -> tuple[Rank, ...]:
        """Those whose robust accuracy can't be told from the best's."""
        return tuple(one for one in self.ranks if one.against is not None and not one.against.told_apart)


def rank(cards: Sequence[Scorecard]) -> Ranking:
    """Rank scorecards of the same samples under the same threat models.

    The one with the best robust accuracy is compared with each of the others (exact McNemar on common samples; Holm's
    correction over the others). That it is the best of several was itself seen on these samples, so a difference that
    is barely clear deserves a second look on others.

    Raises
    ------
    ValueError
        Without scorecards, where their threat models differ, and where one that can win has no sample in common with
        the best.

    References
    ----------
    Holm, *A simple sequentially rejective multiple test procedure*, 1979. https://www.jstor.org/stable/4615733
    """
    if not cards:
        raise ValueError("expected one scorecard or more to rank")
    if len({_threats(card) for card in cards}) > 1:
        raise UserError(
            "The scorecards are of different threat models, so they have no order; evaluate all under the same ones."
        )
    ranks = [Rank(position=place, card=card, out=_out(card)) for place, card in enumerate(cards)]
    # Python's sort keeps the order of equals: of two that are alike the one given first.
    ranks.sort(key=lambda one: (bool(one.out), -one.card.robust_accuracy.value, -one.card.clean_accuracy.value))
    best, others = ranks[0], [one for one in ranks[1:] if not one.out]
    compared = [compare(best.card, one.card) for one in others]
    robust = holm([one.robust.p_value for one in compared])
    clean = holm([one.clean.p_value for one in compared])
    against = {
        one.position: Against(robust=found.robust, clean=found.clean, p_robust=p_robust, p_clean=p_clean)
        for one, found, p_robust, p_clean in zip(others, compared, robust, clean, strict=True)
    }
    return Ranking(
        ranks=tuple(
            Rank(position=one.position, card=one.card, out=one.out, against=against.get(one.position)) for one in ranks
        )
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values so that all tests together err no more often than one alone; see `rank` for the source."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted, most = [0.0] * len(p_values), 0.0
    for done, place in enumerate(order):
        most = max(most, min(1.0, (len(p_values) - done) * p_values[place]))
        adjusted[place] = most
    return adjusted


def as_json(ranking: Ranking, names: Sequence[str]) -> dict[str, Any]:
    """A ranking as plain values, for a file.

    Parameters
    ----------
    names
        What each scorecard is called, in the order in which they were given.
    """
    best = ranking.best
    return {
        "best": None if best is None else names[best.position],
        "not_told_apart": [names[one.position] for one in ranking.level],
        "test": f"exact McNemar against the best, Holm-corrected, at {LEVEL:g}",
        "ranks": [_entry(one, names[one.position]) for one in ranking.ranks],
    }


def _entry(one: Rank, name: str) -> dict[str, Any]:
    found = one.against
    return {
        "name": name,
        "verdict": one.card.verdict,
        "can_not_win": one.out or None,
        "robust": _ends(one.card.robust_accuracy),
        "clean": _ends(one.card.clean_accuracy),
        "p_robust": found and found.p_robust,
        "p_clean": found and found.p_clean,
        TRAINING_PASSES: one.cost(TRAINING_PASSES),
        TRAINING_SECONDS: one.cost(TRAINING_SECONDS),
    }


def _ends(share: Interval) -> dict[str, float]:
    return {"value": share.value, "low": share.low, "high": share.high}


def _threats(card: Scorecard) -> frozenset[tuple[Any, ...]]:
    return frozenset((*adversary(one.threat), one.threat.eps) for one in card.threats)


def _out(card: Scorecard) -> str:
    if card.verdict == "INVALID":
        return "its evaluation can't be trusted"
    if card.interrupted or not all(result.finished for result in card.attacks):
        return "its evaluation stopped early, so its robust accuracy is only an upper bound"
    return ""
