"""Scorecards as a table for spreadsheets and data frames: one row a sample."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

from robustbench_lite.results.scorecard import Outcome, Scorecard

from ._format import plain
from ._view import labels

_HEAD = (
    "target",
    "sample",
    "key",
    "label",
    "class",
    "prediction",
    "predicted_class",
    "correct",
    "robust",
    "broken_by",
    "threat",
    "adversarial_prediction",
    "adversarial_class",
    "distance",
    "forward_passes",
    "backward_passes",
)
_FORMULA = ("=", "+", "-", "@")


def render(cards: Sequence[Scorecard], *, title: str | None = None, story: Sequence[str] = ()) -> str:
    """Show what became of each sample; the samples of several scorecards follow one another.

    The columns from ``broken_by`` to ``distance`` tell of the first witness and are empty where there is none. After
    them stand, for each threat model of the scorecards, who broke the sample under it, ``broken_by Linf 8/255``, and
    where the suite asked for a curve the distance of the nearest adversarial example known, ``nearest Linf 8/255``.

    Parameters
    ----------
    cards
        One or more scorecards.
    title, story
        Not shown: a table has no place for them.

    Returns
    -------
    str
        Comma-separated values, UTF-8, the first line the names of the columns. A text that a spreadsheet would take for
        a formula has an apostrophe before it.
    """
    threats = list(dict.fromkeys(str(row.threat) for card in cards for row in card.threats))
    nearest = [threat for threat in threats if any(card.suite.curve for card in cards)]
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(
        [*_HEAD, *(f"broken_by {plain(one)}" for one in threats), *(f"nearest {plain(one)}" for one in nearest)]
    )
    for card, name in zip(cards, labels(cards), strict=True):
        for row in card.outcomes:
            writer.writerow(map(_cell, [name, *_sample(card, row), *_under(row, threats, nearest)]))
    return table.getvalue()


def _sample(card: Scorecard, row: Outcome) -> Iterator[object]:
    first = row.breaks[0] if row.breaks else None
    yield from (row.index, row.key, row.label, card.class_name(row.label))
    yield from (row.prediction, card.class_name(row.prediction), int(row.correct), int(row.robust))
    if first is None:
        yield from ("",) * 5
    else:
        yield from (first.attack, first.threat, first.prediction, card.class_name(first.prediction), first.distance)
    yield from (row.passes.forward, row.passes.backward)


def _under(row: Outcome, threats: Sequence[str], nearest: Sequence[str]) -> Iterator[object]:
    for threat in threats:
        yield next((found.attack for found in row.breaks if found.threat == threat), "")
    for threat in nearest:
        yield next((found.distance for found in row.nearest if found.threat == threat), "")


def _cell(value: object) -> object:
    """A value as it can't be taken for a formula."""
    if not isinstance(value, str):
        return value
    text = plain(value)
    return f"'{text}" if text.lstrip().startswith(_FORMULA) else text
