"""What the rows of a scorecard tell beyond its accuracies: who broke what, and what broken samples are taken for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from robustbench_lite.core.suite import adversary
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.results.scorecard import Outcome, Scorecard

from ._format import plain

_MATRIX = 20  # classes or attacks whose table still fits a page
_PAIRS = 12


@dataclass(frozen=True)
class Part:
    """A stretch of the bar in which every sample of the card has its place."""

    label: str
    kind: str
    """``wrong``, ``broken`` or ``stands``."""
    size: int
    start: float
    """In percent of the bar."""
    width: float


@dataclass(frozen=True)
class Fate:
    """What became of the samples under one threat model."""

    threat: ThreatModel
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Overlap:
    """Which of the samples that one broke another broke as well."""

    what: str
    """``attack`` or ``threat model``."""
    where: str
    """The threat model, of attacks."""
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    """Samples that each broke."""
    alone: tuple[int, ...]
    """Samples that each broke and no other did."""
    both: tuple[tuple[int, ...], ...]
    """Samples that the one of the row and the one of the column broke."""


@dataclass(frozen=True)
class Confusion:
    """What the samples of each class are taken for."""

    names: tuple[str, ...]
    """Classes in the order of rows and columns; none where they are too many for a table."""
    totals: tuple[int, ...]
    cells: tuple[tuple[int, ...], ...]
    """Samples by true class and by class under attack; on the diagonal those that stand."""
    pairs: tuple[tuple[str, str, int], ...]
    """The commonest mistakes: true class, class under attack, samples."""


def fates(card: Scorecard) -> list[Fate]:
    """What became of the samples, a bar for each threat model; nothing of a card without samples."""
    return [_fate(card, row.threat) for row in card.threats if card.outcomes]


def overlaps(card: Scorecard) -> list[Overlap]:
    """Who broke the same samples: attacks that saw all samples, and threat models."""
    found = []
    if card.suite.independent:
        for row in card.threats:
            found.append(_overlap("attack", str(row.threat), _broken_by_attack(card.outcomes, str(row.threat))))
    if len(card.threats) > 1:
        within = {str(row.threat): _within(card, row.threat) for row in card.threats}
        broken = {
            name: {place for place, row in enumerate(card.outcomes) if row.correct and _breaker(row, threats)}
            for name, threats in within.items()
        }
        found.append(_overlap("threat model", "", broken))
    return [one for one in found if 1 < len(one.names) <= _MATRIX and any(one.sizes)]


def confusion(card: Scorecard) -> Confusion | None:
    """True class against class under attack; a sample that is wrong when clean counts as what it is taken for."""
    counts = Counter((row.label, _taken_for(row)) for row in card.outcomes)
    mistakes = [(pair, size) for pair, size in counts.most_common() if pair[0] != pair[1]]
    if not mistakes:
        return None
    classes = sorted({label for pair in counts for label in pair})
    fits = 1 < len(classes) <= _MATRIX
    shown = classes if fits else []
    return Confusion(
        names=tuple(plain(card.class_name(label)) for label in shown),
        totals=tuple(sum(counts[label, other] for other in classes) for label in shown),
        cells=tuple(tuple(counts[label, other] for other in shown) for label in shown),
        pairs=tuple(
            (plain(card.class_name(true)), plain(card.class_name(taken)), size)
            for (true, taken), size in mistakes[: _PAIRS // 2 if fits else _PAIRS]
        ),
    )


def _fate(card: Scorecard, threat: ThreatModel) -> Fate:
    rows, within = card.outcomes, _within(card, threat)
    first: Counter[str] = Counter()
    wrong = stands = 0
    for row in rows:
        attack = _breaker(row, within)
        if not row.correct:
            wrong += 1
        elif attack is None:
            stands += 1
        else:
            first[attack] += 1
    order = [*dict.fromkeys([*(result.name for result in card.attacks), *first])]
    sizes = [
        ("withstand all attacks", "stands", stands),
        *((plain(attack), "broken", first[attack]) for attack in sorted(first, key=order.index)),
        ("wrong when clean", "wrong", wrong),
    ]
    parts, start = [], 0.0
    for label, kind, size in sizes:
        if size:
            width = 100 * size / len(rows)
            parts.append(Part(label, kind, size, round(start, 3), round(width, 3)))
            start += width
    return Fate(threat, tuple(parts))


def _broken_by_attack(rows: Sequence[Outcome], threat: str) -> dict[str, set[int]]:
    broken: dict[str, set[int]] = {}
    for place, row in enumerate(rows):
        for found in row.breaks:
            if found.threat == threat:
                broken.setdefault(found.attack, set()).add(place)
    return broken


def _within(card: Scorecard, threat: ThreatModel) -> set[str]:
    """The threat models whose ball lies in this one's: what breaks under them breaks under this one."""
    among = (row.threat for row in card.threats if adversary(row.threat) == adversary(threat))
    return {str(one) for one in among if one.eps <= threat.eps}


def _breaker(row: Outcome, threats: set[str]) -> str | None:
    return next((found.attack for found in row.breaks if found.threat in threats), None)


def _overlap(what: str, where: str, broken: dict[str, set[int]]) -> Overlap:
    sets = list(broken.values())
    times = Counter(place for one in sets for place in one)
    return Overlap(
        what=what,
        where=where,
        names=tuple(plain(name) for name in broken),
        sizes=tuple(len(one) for one in sets),
        alone=tuple(sum(times[place] == 1 for place in one) for one in sets),
        both=tuple(tuple(len(one & other) for other in sets) for one in sets),
    )


def _taken_for(row: Outcome) -> int:
    return row.breaks[0].prediction if row.correct and row.breaks else row.prediction
