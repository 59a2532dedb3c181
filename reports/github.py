"""Scorecards for GitHub Actions: the Markdown of a job summary, and annotations.

https://docs.github.com/actions/reference/workflows-and-actions/workflow-commands
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from robustbench_lite.results.scorecard import Scorecard

from . import _format as fmt
from . import _view as view
from .markdown import escape
from .markdown import render as markdown

LIMIT = 1024 * 1024
"""Bytes of a step's summary; one that is longer is not shown at all."""

_LEVELS = {"error": "error", "warning": "warning", "info": "notice"}

Place = tuple[str, int | None]
"""File of a user's repo, from its root, and the line in it, where it is known."""


def render(
    cards: Sequence[Scorecard], *, title: str | None = None, story: Sequence[str] = (), room: int = LIMIT
) -> str:
    """Show scorecards as a job summary: a line each, and the whole of each folded away.

    Parameters
    ----------
    cards
        One or more scorecards.
    title
        Heading; by default made of the targets' names.
    story
        Paragraphs to show above.
    room
        Bytes, in UTF-8, that the text may have; what doesn't fit is left out, the last scorecard first, and said.

    Returns
    -------
    str
        Markdown. What comes from the scorecards is escaped.
    """
    head = [f"## {escape(view.heading(cards, title))}", *map(escape, story), _overview(cards)]
    bodies = [_folded(card, name) for card, name in zip(cards, view.labels(cards), strict=True)]
    for shown in range(len(bodies), -1, -1):
        left = len(bodies) - shown
        more = [f"{fmt.plural(left, 'scorecard')} left out: a summary holds {room:,} bytes."] if left else []
        text = "\n\n".join([*head, *bodies[:shown], *more]) + "\n"
        if len(text.encode()) <= room:
            return text
    return _cut("\n\n".join(head) + "\n", room)


def annotate(
    cards: Sequence[Scorecard],
    *,
    title: str | None = None,
    story: Sequence[str] = (),
    places: Sequence[Place | None] = (),
) -> str:
    """Workflow commands, one a line: an error for each gate that failed and each finding that makes a card INVALID.

    Parameters
    ----------
    cards
        One or more scorecards.
    title
        Before each annotation's own title.
    story
        Sentences to show as notices.
    places
        Where each card's evaluation is written in the user's repo; by default nowhere.

    Returns
    -------
    str
        What a step prints; empty where nothing is to be said.
    """
    lines = [_command("notice", title or "Adversarial robustness", fmt.plain(sentence), None) for sentence in story]
    known = [*places, *[None] * (len(cards) - len(places))]
    for card, name, place in zip(cards, view.labels(cards), known, strict=True):
        head = f"{title}: {name}" if title else name
        lines += [_command(level, f"{head}: {what}", text, place) for level, what, text in _notes(card)]
    return "".join(f"{line}\n" for line in lines)


def _notes(card: Scorecard) -> Iterator[tuple[str, str, str]]:
    """Level, subject and text of each annotation."""
    allowed = any(finding.code == "RB901" for finding in card.validity)
    for finding in card.validity:
        where = f"{fmt.plain(finding.where)}: " if finding.where else ""
        text = f"{where}{fmt.plain(finding.message)}\nCure: {fmt.plain(finding.cure)}"
        level = "warning" if allowed and finding.severity == "error" else _LEVELS[finding.severity]
        yield level, f"{card.verdict} {finding.code}" if finding.severity == "error" else finding.code, text
    for gate in card.gates:
        if not gate.passed:
            yield "error", "FAIL", f"{fmt.gate_demand(gate)} demanded, found {fmt.gate_found(gate)}"
        elif not gate.decided:
            yield "warning", "undecided", f"{fmt.gate_demand(gate)}, found {fmt.gate_found(gate)}: {gate.words}"


def _command(level: str, title: str, text: str, place: Place | None) -> str:
    properties = {"title": fmt.plain(title)}
    if place is not None:
        path, line = place
        properties = {"file": path, **({"line": str(line)} if line is not None else {}), **properties}
    given = ",".join(f"{key}={_escaped(value, ':,')}" for key, value in properties.items())
    return f"::{level} {given}::{_escaped(text)}"


def _escaped(text: str, more: str = "") -> str:
    return "".join(f"%{ord(character):02X}" if character in f"%\r\n{more}" else character for character in text)


def _overview(cards: Sequence[Scorecard]) -> str:
    rows = ["| Target | Verdict | Clean | Robust | Interval | Under |", "| --- | --- | ---: | ---: | ---: | --- |"]
    for card, name in zip(cards, view.labels(cards), strict=True):
        bound = "≤ " if card.interrupted else ""
        cells = (
            escape(name),
            f"{fmt.MARKS[card.verdict]} {card.verdict}",
            fmt.percent(card.clean_accuracy.value),
            f"**{bound}{fmt.percent(card.robust_accuracy.value)}**",
            fmt.interval(card.robust_accuracy),
            escape(" and ".join(str(row.threat) for row in card.threats)),
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _folded(card: Scorecard, name: str) -> str:
    # The inner text starts with a heading of its own: the summary says that already.
    inner = markdown([card], title="-").partition("\n\n")[2]
    line = f"{fmt.MARKS[card.verdict]} {escape(name)}: {card.verdict}"
    return f"<details><summary>{line}</summary>\n\n{inner}\n</details>"


def _cut(text: str, room: int) -> str:
    """The first lines of a text, as many as there is room for."""
    lines, size = [], 0
    for line in text.splitlines(keepends=True):
        size += len(line.encode())
        if size > room:
            break
        lines.append(line)
    return "".join(lines)
