"""Scorecards as GitHub-flavoured Markdown: for a pull request, a job summary, a file in a repo."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from robustbench_lite.results.compare import Change, Comparison
from robustbench_lite.results.ranking import TRAINING_PASSES, TRAINING_SECONDS, Rank, Ranking
from robustbench_lite.results.scorecard import AttackResult, Interval, Scorecard

from . import _format as fmt
from . import _view as view
from ._against_eps import against_eps

_SPECIAL = re.compile(r"([\\`*_\[\]|~#]|^[-+=])")
_NUMBERED = re.compile(r"^(\d+)([.)])(?=\s|$)")
_UNSAFE_IN_CODE = re.compile(r"[^\w.:-]")
_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "@&#8203;"})


def render(cards: Sequence[Scorecard], *, title: str | None = None, story: Sequence[str] = ()) -> str:
    """Show scorecards as Markdown: one with its attacks, several side by side.

    Parameters
    ----------
    cards
        One or more scorecards; two are before and after where their names say so, else the first and the second.
    title
        Heading; by default made of the targets' names.
    story
        Paragraphs to show above.

    Returns
    -------
    str
        Markdown. What comes from the scorecards is escaped: no markup, no mentions, no line breaks.
    """
    lead = [f"## {escape(view.heading(cards, title))}", *map(escape, story)]
    blocks = _card(cards[0]) if len(cards) == 1 else _comparison(cards)
    return "\n\n".join([*lead, *blocks]) + "\n"


def escape(text: str) -> str:
    """Text that Markdown shows as it is, on one line, and that notifies nobody."""
    escaped = _SPECIAL.sub(r"\\\1", fmt.plain(text).strip())
    return _NUMBERED.sub(r"\1\\\2", escaped).translate(_ENTITIES)


def _code(text: str) -> str:
    return f"`{_UNSAFE_IN_CODE.sub('', text)}`"


def _card(card: Scorecard) -> Iterator[str]:
    yield _verdict(card)
    yield _table(
        ("", "Accuracy", f"{fmt.confidence(card.clean_accuracy)} interval"),
        [("Clean", *_share(card.clean_accuracy)), *_robust(card)],
    )
    yield from _against(card)
    yield "### Attacks"
    yield _table(
        (
            "Threat model",
            "Attack",
            "Attempted",
            "Broken",
            "Robust after",
            "Alone",
            "Median distance",
            "Passes a sample",
        ),
        [_attack(result) for _, _, results in view.results_by_threat(card) for result in results],
        text=2,
    )
    yield "  \n".join([view.RUNNING, view.ALONE, *map(escape, view.left_out(card))])
    yield from _findings(card)
    yield from _gates(card)
    yield from _measures(card)
    if checked := view.checked(card):
        yield "  \n".join(f"{what.capitalize()}: {'; '.join(map(escape, sentences))}" for what, sentences in checked)
    weights = f"weights {_code(card.target.weights_sha256[:12])}" if card.target.weights_sha256 else "a function"
    yield (
        f"{escape(card.target.name)} ({weights}) on "
        f"{fmt.plural(card.data.samples, 'sample')} of {escape(card.data.name)}, suite {escape(card.suite.name)}, "
        f"seed {card.seed}, {fmt.count(card.passes.total)} passes in {fmt.seconds(card.seconds)}, "
        f"robustbench\\_lite {escape(card.version)}"
    )


def _verdict(card: Scorecard) -> str:
    lines = [f"**{fmt.MARKS[card.verdict]} {card.verdict}**", *map(escape, view.reasons(card))]
    return "  \n".join([*lines, *map(escape, view.reservations(card))])


def _robust(card: Scorecard) -> Iterator[tuple[str, str, str]]:
    for threat, worst, _ in view.results_by_threat(card):
        yield (f"Robust, {escape(str(threat))}", *_share(worst, card))
    if len(card.threats) > 1:
        yield ("Robust, worst case", *_share(card.robust_accuracy, card))
    if card.certified_accuracy is not None:
        yield ("Certified", *_share(card.certified_accuracy))


def _share(accuracy: Interval, card: Scorecard | None = None) -> tuple[str, str]:
    bound = "≤ " if card and card.interrupted else ""
    return f"**{bound}{fmt.percent(accuracy.value)}**", fmt.interval(accuracy)


def _against(card: Scorecard) -> Iterator[str]:
    if not (shown := against_eps(card)):
        return
    yield "### Robust accuracy against eps"
    yield _table(
        ("Threat model", "eps", "Robust", f"{fmt.confidence(card.clean_accuracy)} interval"),
        [(escape(one.label), escape(eps), *_share(found, card)) for one in shown for eps, found in one.rows],
    )
    yield "  \n".join(f"{escape(one.label)}: {escape(one.statement)}" for one in shown)


def _attack(result: AttackResult) -> tuple[str, ...]:
    return (
        escape(str(result.threat)),
        escape(result.name) + ("" if result.finished else " (cut short)"),
        fmt.count(result.attempted),
        fmt.count(result.broken),
        f"**{fmt.percent(result.robust_accuracy.value)}**",
        fmt.percent(result.alone.value) if result.alone else "–",
        fmt.number(result.distance_median),
        fmt.per_sample(result.passes, result.attempted),
    )


def _findings(card: Scorecard) -> Iterator[str]:
    if card.validity:
        yield "### Findings"
        yield "\n".join(
            f"- **{finding.severity}** {_code(finding.code)} {escape(finding.message)}  \n"
            f"  *Cure:* {escape(finding.cure)}"
            for finding in card.validity
        )


def _gates(card: Scorecard) -> Iterator[str]:
    if card.gates:
        yield "### Gates"
        rows = [(escape(fmt.gate_demand(gate)), fmt.gate_found(gate), fmt.gate_state(gate)) for gate in card.gates]
        yield _table(("Demand", "Found", "State"), rows)


def _measures(card: Scorecard) -> Iterator[str]:
    if card.measures:
        yield "### Measures"
        rows = [
            (escape(fmt.measure_name(number)), escape(fmt.measured(number)), escape(number.definition))
            for number in card.measures
        ]
        yield _table(("Measure", "Found", "What it is"), rows)


def _comparison(cards: Sequence[Scorecard]) -> Iterator[str]:
    names = [escape(name) for name in view.labels(cards)]
    for name, card in zip(names, cards, strict=True):
        yield f"**{name}**: {_verdict(card)}"
    for pair, sentences in view.unlike(cards):
        told = "\n".join(f"> - {escape(sentence)}" for sentence in sentences)
        yield f"> [!WARNING]\n> Compare with care: {escape(pair)}\n{told}"
    yield _table(("Threat model", "Accuracy", *names), list(_stages(cards)), text=2)
    order = view.ranked(cards)
    if isinstance(order, Ranking):
        yield escape(view.winner(order, view.labels(cards)))
        yield _table(
            ("Target", "Robust", "p", "Clean", "p", "Training passes", "Training time"),
            [_rank(one, names[one.position]) for one in order.ranks],
        )
    elif order:
        yield escape(order)
    found = view.paired(cards)
    if isinstance(found, Comparison):
        yield f"On the {fmt.plural(found.samples, 'sample')} that both have:"
        one, two = view.sides(cards).heads
        yield _table(
            ("Accuracy", one.title(), two.title(), "Difference", f"Only {one}", f"Only {two}", "McNemar"),
            [("Clean", *_change(found.clean)), ("Robust", *_change(found.robust))],
        )
    elif found:
        yield escape(found)


def _rank(one: Rank, name: str) -> tuple[str, ...]:
    robust, clean, found = one.card.robust_accuracy, one.card.clean_accuracy, one.against
    return (
        f"{name} (can't win: {escape(one.out)})" if one.out else name,
        f"**{fmt.percent(robust.value)}** {fmt.interval(robust)}",
        escape(fmt.p_value(found.p_robust)) if found else "–",
        f"{fmt.percent(clean.value)} {fmt.interval(clean)}",
        escape(fmt.p_value(found.p_clean)) if found else "–",
        fmt.cost(one, TRAINING_PASSES),
        fmt.cost(one, TRAINING_SECONDS),
    )


def _stages(cards: Sequence[Scorecard]) -> Iterator[tuple[str, ...]]:
    for stage in view.stages(cards):
        shares = (f"{fmt.percent(one.value)} {fmt.interval(one)}" if one else "–" for one in stage.accuracy)
        label = f"**{escape(stage.label)}**" if stage.kind == "worst" else escape(stage.label)
        yield (escape(str(stage.threat)) if stage.threat else "", label, *shares)


def _change(change: Change) -> tuple[str, ...]:
    return (
        fmt.percent(change.before.value),
        fmt.percent(change.after.value),
        fmt.points(change.difference),
        f"{change.only_before:,}",
        f"{change.only_after:,}",
        escape(fmt.p_in_words(change.p_value)),
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], text: int = 1) -> str:
    """Rows of a table; all columns but the first ``text`` are set right."""
    rule = ["---"] * text + ["---:"] * (len(head) - text)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))
