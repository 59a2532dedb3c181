"""A scorecard on a terminal, at 80 columns, with or without colour and Unicode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from robustbench_lite.core.names import name_lines, name_parts
from robustbench_lite.results.compare import Change
from robustbench_lite.results.ranking import TRAINING_PASSES, TRAINING_SECONDS
from robustbench_lite.results.scorecard import AttackResult, Finding, Interval, Plot, Scorecard, Severity, Verdict

from . import _format as fmt
from . import _view as view
from ._against_eps import Against, against_eps

_VERDICTS: dict[Verdict, str] = {
    "PASS": "bold white on green",
    "FAIL": "bold white on red",
    "UNDECIDED": "bold black on yellow",
    "MEASURED": "bold reverse",
    "INVALID": "bold black on yellow",
}
_SEVERITIES: dict[Severity, str] = {"error": "bold red", "warning": "yellow", "info": "cyan"}
_STATES = {"met": "green", "undecided": "yellow", "failed": "bold red"}
_ASCII = str.maketrans(
    {"–": "-", "−": "-", "—": "-", "·": "-", "×": "x", "█": "#", "░": ".", "│": "|", "…": "~", "→": ">"}
    | dict(zip("▁▂▃▄▅▆▇", "_.:-=+*", strict=True))
)
_BLOCKS = "▁▂▃▄▅▆▇█"
_SPARKS = 32  # blocks of a line, at most
_BAR = 24
_COLUMN = 16
_ABREAST = 3  # columns of an overview that fit beside its labels


def render(cards: Sequence[Scorecard], *, title: str | None = None, story: Sequence[str] = ()) -> RenderableType:
    """Show scorecards on a terminal: one in full, several side by side.

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
    RenderableType
        What `rich.console.Console.print` takes. On a terminal without Unicode it uses ASCII alone.
    """
    lead: list[RenderableType] = [Text(view.heading(cards, title), style="bold"), Text()]
    for paragraph in story:
        lead += [Text(fmt.plain(paragraph)), Text()]
    return _Portable(Group(*lead, scorecard(cards[0]) if len(cards) == 1 else comparison(cards)))


def scorecard(card: Scorecard) -> RenderableType:
    """One scorecard: verdict, accuracy, attacks, findings, gates, checks, cost."""
    curves = map(_against, against_eps(card))
    parts = [_verdict(card), _about(card), _accuracies(card), *curves, _attacks(card), _findings(card), _gates(card)]
    parts.append(_measures(card))
    return _Portable(Group(*_spaced(parts), *_checked(card), _cost(card)))


def comparison(cards: Sequence[Scorecard]) -> RenderableType:
    """Several scorecards side by side; of two, also what changed on the samples they share."""
    names = view.labels(cards)
    parts: list[RenderableType | None] = [
        Group(*(_verdict(card, name) for card, name in zip(cards, names, strict=True))),
        _unlike(cards),
    ]
    for start in range(0, len(cards), _ABREAST):
        parts.append(_overview(cards[start : start + _ABREAST], names[start : start + _ABREAST]))
    return _Portable(Group(*_spaced([*parts, _ranked(cards, names), _paired(cards)])))


@dataclass(frozen=True)
class _Portable:
    """Content that a terminal without Unicode shows in ASCII, each character as wide as it was."""

    content: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self.content, options):
            yield _ascii(segment) if options.ascii_only else segment


def _ascii(segment: Segment) -> Segment:
    text = segment.text.translate(_ASCII)
    kept = (character if character.isascii() else "?" * cell_len(character) for character in text)
    return Segment("".join(kept), segment.style, segment.control)


def _verdict(card: Scorecard, name: str | None = None) -> RenderableType:
    badge = Text(f" {card.verdict} ", style=_VERDICTS[card.verdict])
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=11)
    grid.add_column(ratio=1)
    grid.add_row(badge, Text(name, style="bold") if name else _headline(card))
    if name:
        grid.add_row("", _headline(card))
    for note in (*view.reasons(card), *view.reservations(card)):
        grid.add_row("", Text(fmt.plain(note)))
    if name:  # a card by itself shows its findings in full
        for line in _doubts(card):
            grid.add_row("", line)
    return grid


def _doubts(card: Scorecard) -> Iterator[Text]:
    """Findings that the reasons don't tell already, a line each code."""
    told = ("error", "info") if card.verdict == "INVALID" else ("info",)
    found: dict[tuple[str, Severity], list[Finding]] = {}
    for finding in card.validity:
        if finding.severity not in told:
            found.setdefault((finding.code, finding.severity), []).append(finding)
    for (code, severity), findings in found.items():
        attacks = dict.fromkeys(fmt.plain(finding.attack) for finding in findings if finding.attack)
        about = f" in {', '.join(attacks)}" if attacks else ""
        line = Text(f"{fmt.plain(code)} {severity}{about}: ", style=_SEVERITIES[severity])
        yield line.append(fmt.plain(findings[0].message), style="not bold default")


def _headline(card: Scorecard) -> Text:
    bound = "at most " if card.interrupted else ""
    threats = " and ".join(str(row.threat) for row in card.threats)
    text = Text("Robust accuracy ")
    text.append(f"{bound}{fmt.percent(card.robust_accuracy.value)}", style="bold")
    return text.append(f" {fmt.interval(card.robust_accuracy)} under {fmt.plain(threats)}")


def _about(card: Scorecard) -> RenderableType:
    target, data, suite = card.target, card.data, card.suite
    order = "independent attacks" if suite.independent else "cascade"
    classes = f"{data.class_count:,} classes"
    rows = {
        "target": (target.name, fmt.inside(target), target.device, target.weights_sha256[:12]),
        "data": (data.name, fmt.plural(data.samples, "sample"), fmt.shape(data), classes),
        "suite": (suite.name or "unnamed", order, fmt.plural(len(suite.attacks), "attack"), f"seed {card.seed}"),
    }
    grid = Table.grid(padding=(0, 2))
    for key, values in rows.items():
        grid.add_row(Text(key, style="dim"), Text(" · ".join(fmt.plain(value) for value in values if value)))
    return grid


def _accuracies(card: Scorecard) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    grid.add_row(*_bar("clean accuracy", card.clean_accuracy, "blue"))
    for threat, worst, _ in view.results_by_threat(card):
        grid.add_row(*_bar(f"robust, {threat}", worst, "yellow"))
    if len(card.threats) > 1:
        grid.add_row(*_bar("robust, worst case", card.robust_accuracy, "yellow"))
    if card.certified_accuracy is not None:
        grid.add_row(*_bar("certified", card.certified_accuracy, "green"))
    return grid


def _bar(label: str, accuracy: Interval, style: str) -> tuple[Text, Text, Text, Text]:
    full = int(_BAR * accuracy.value)  # down: a bar that looks full is full
    bar = Text("█" * full, style=style).append("░" * (_BAR - full), style="dim")
    ends = Text(fmt.interval(accuracy), style="dim")
    return Text(fmt.plain(label)), bar, Text(fmt.percent(accuracy.value), style="bold", justify="right"), ends


def _against(found: Against) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    for eps, accuracy in found.rows:
        style = "yellow" if any(eps == one.eps_text for one in found.asked) else "blue"
        grid.add_row(*_bar(f"  {eps}", accuracy, style))
    head = Text(f"Robust accuracy against eps, {fmt.plain(found.label)}", style="bold")
    return Group(head, grid, Text(found.statement, style="dim"))


def _attacks(card: Scorecard) -> RenderableType | None:
    if not card.attacks:
        return None
    table = _table()
    table.add_column("attack", overflow="fold")
    for head in ("tried", "broken", "robust\nafter", "alone", "median\ndistance", "passes\n/sample", "time"):
        table.add_column(head, justify="right", no_wrap=True)
    several = len(card.threats) > 1
    for threat, _, results in view.results_by_threat(card):
        if several:
            table.add_row(Text(f"under {fmt.plain(str(threat))}", style="italic"))
        for result in results:
            table.add_row(*_attack(result), end_section=several and result is results[-1])
    notes = "\n".join([view.RUNNING, view.ALONE, *view.left_out(card)])
    return Group(table, Text(f"\n{notes}", style="dim"))


def _attack(result: AttackResult) -> Iterator[RenderableType]:
    yield _Name(fmt.plain(result.name) + ("" if result.finished else " (cut short)"))
    yield Text(fmt.count(result.attempted))
    yield Text(fmt.count(result.broken))
    yield Text(fmt.percent(result.robust_accuracy.value), style="bold")
    yield Text(fmt.percent(result.alone.value) if result.alone else "–")
    yield Text(fmt.number(result.distance_median))
    yield Text(fmt.per_sample(result.passes, result.attempted))
    yield Text(fmt.seconds(result.seconds))


def _findings(card: Scorecard) -> RenderableType | None:
    if not card.validity:
        return None
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(ratio=1)
    for finding in card.validity:
        grid.add_row(Text(fmt.plain(finding.code), style=_SEVERITIES[finding.severity]), _finding(finding))
    return Group(Text("Findings", style="bold"), grid)


def _finding(finding: Finding) -> Text:
    head = f"{finding.severity} {fmt.about(finding)}".rstrip()
    text = Text.assemble((f"{head}: ", _SEVERITIES[finding.severity]))
    text.append(f"{fmt.plain(finding.message)}\n→ {fmt.plain(finding.cure)}")
    if finding.plot and (line := _sparkline(finding.plot)):
        y, x = fmt.plain(finding.plot.y), fmt.plain(finding.plot.x)
        text.append(f"\n{y} ", style="dim").append(line).append(f" against {x}", style="dim")
    return text


def _sparkline(plot: Plot) -> str:
    values = [y for _, y in view.plotted(plot)]
    if not values:
        return ""
    if len(values) > _SPARKS:
        values = [values[round(place * (len(values) - 1) / (_SPARKS - 1))] for place in range(_SPARKS)]
    low, span = min(values), (max(values) - min(values)) or 1.0
    return "".join(_BLOCKS[round((len(_BLOCKS) - 1) * (value - low) / span)] for value in values)


def _gates(card: Scorecard) -> RenderableType | None:
    if not card.gates:
        return None
    grid = Table.grid(padding=(0, 2))
    for gate in card.gates:
        state = fmt.gate_state(gate)
        grid.add_row(
            Text(state, style=_STATES[state]), Text(fmt.plain(fmt.gate_demand(gate))), Text(fmt.gate_found(gate))
        )
    return Group(Text("Gates", style="bold"), grid)


def _measures(card: Scorecard) -> RenderableType | None:
    if not card.measures:
        return None
    grid = Table.grid(padding=(0, 2))
    for number in card.measures:
        grid.add_row(Text(fmt.measure_name(number)), Text(fmt.measured(number)))
    return Group(Text("Measures", style="bold"), grid)


def _checked(card: Scorecard) -> Iterator[RenderableType]:
    grid = Table.grid(padding=(0, 2))
    grid.add_column()
    grid.add_column(ratio=1)
    for what, sentences in view.checked(card):
        grid.add_row(Text(what, style="dim"), Text("\n".join(sentences)))
    if grid.row_count:
        yield Padding(grid, (0, 0, 1, 0))


def _cost(card: Scorecard) -> RenderableType:
    passes = card.passes
    what = (
        f"{fmt.count(passes.forward)} forward and {fmt.count(passes.backward)} backward passes "
        f"in {fmt.seconds(card.seconds)} · robustbench_lite {card.version}"
    )
    return Text(fmt.plain(what), style="dim")


def _overview(cards: Sequence[Scorecard], names: Sequence[str]) -> RenderableType:
    table = _table()
    table.add_column("accuracy", overflow="fold")
    for name in names:
        table.add_column(_Name(name), justify="right", overflow="fold", max_width=_COLUMN)
    threat = None
    for stage in view.stages(cards):
        if stage.threat is not None and stage.threat != threat:
            table.add_row(Text(f"under {fmt.plain(str(stage.threat))}", style="italic"))
            threat = stage.threat
        indent = "" if stage.threat is None else "  "
        style = "bold" if stage.kind == "worst" else ""
        table.add_row(Padding(_Name(stage.label), (0, 0, 0, len(indent))), *map(_cell, stage.accuracy), style=style)
    return table


@dataclass(frozen=True)
class _Name:
    """A name, in lines as wide as its column, broken after what parts its words: pkg.models: / digits (before)."""

    text: str

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        longest = max(map(cell_len, name_parts(self.text)), default=0)
        return Measurement(longest, cell_len(self.text)).with_maximum(options.max_width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text("\n".join(name_lines(self.text, options.max_width, cell_len)))


def _cell(accuracy: Interval | None) -> Text:
    return Text(fmt.percent(accuracy.value) if accuracy else "–")


def _ranked(cards: Sequence[Scorecard], names: Sequence[str]) -> RenderableType | None:
    order = view.ranked(cards)
    if order is None or isinstance(order, str):
        return Text(fmt.plain(order)) if order else None
    told = any(one.cost(TRAINING_PASSES) is not None for one in order.ranks)
    table = _table()
    table.add_column("", justify="right")
    table.add_column("", overflow="fold")
    heads = ["robust", "clean", "p\nrobust", "p\nclean", *(["training\npasses", "training\ntime"] if told else [])]
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for place, one in enumerate(order.ranks, 1):
        found = one.against
        costs = [fmt.cost(one, name) for name in (TRAINING_PASSES, TRAINING_SECONDS)] if told else []
        table.add_row(
            "–" if one.out else str(place),
            _Name(names[one.position]),
            *(
                f"{fmt.percent(share.value)}\n{fmt.interval(share)}"
                for share in (one.card.robust_accuracy, one.card.clean_accuracy)
            ),
            *(fmt.p_value(p) for p in ((found.p_robust, found.p_clean) if found else ())),
            *(() if found else ("–", "–")),
            *costs,
        )
    notes = [view.winner(order, names), "p: exact McNemar against the best, Holm-corrected"]
    notes += [f"{names[one.position]} can't win: {one.out}" for one in order.ranks if one.out]
    return Group(Text(notes[0], style="bold"), Text(), table, Text("\n" + "\n".join(notes[1:]), style="dim"))


def _paired(cards: Sequence[Scorecard]) -> RenderableType | None:
    found = view.paired(cards)
    if found is None or isinstance(found, str):
        return Text(fmt.plain(found)) if found else None
    table = _table()
    table.add_column(f"on {fmt.plural(found.samples, 'common sample')}")
    one, two = view.sides(cards).heads
    for head in (one, two, "difference", f"only\n{one}", f"only\n{two}", "McNemar"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_row("clean accuracy", *_change(found.clean))
    table.add_row("robust accuracy", *_change(found.robust), style="bold")
    return table


def _change(change: Change) -> Iterator[str]:
    yield fmt.percent(change.before.value)
    yield fmt.percent(change.after.value)
    yield fmt.points(change.difference)
    yield f"{change.only_before:,}"
    yield f"{change.only_after:,}"
    yield fmt.p_in_words(change.p_value)


def _unlike(cards: Sequence[Scorecard]) -> RenderableType | None:
    found = view.unlike(cards)
    if not found:
        return None
    lines: list[RenderableType] = [Text("Compare with care", style="bold yellow")]
    for pair, sentences in found:
        lines.append(Text(pair))
        lines += [Padding(Text(fmt.plain(sentence)), (0, 0, 0, 2)) for sentence in sentences]
    return Group(*lines)


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 0, 0, 1))


def _spaced(parts: Sequence[RenderableType | None]) -> Iterator[RenderableType]:
    for part in parts:
        if part is not None:
            yield Padding(part, (0, 0, 1, 0))
