"""What pytest's terminal shows at the end: a line for each evaluation, and why where one is needed."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from robustbench_lite.core import registry
from robustbench_lite.core.names import name_lines
from robustbench_lite.faces import asserts
from robustbench_lite.faces.plugin.evaluations import Result
from robustbench_lite.results.allowed import allowed_because
from robustbench_lite.results.scorecard import Interval, Scorecard

_STYLES = {
    "PASS": "bold green",
    "FAIL": "bold red",
    "UNDECIDED": "bold yellow",
    "MEASURED": "bold",
    "INVALID": "bold yellow",
}

_CACHED = "from the cache"


def rendered(results: Sequence[Result], *, width: int, colour: bool, verbosity: int) -> str:
    """Text of the section.

    Parameters
    ----------
    results
        What was evaluated.
    width
        Columns of the terminal.
    colour
        Whether it shows colours.
    verbosity
        Below 0: a line each; 0: with the reasons; above: each scorecard in full.
    """
    stream = io.StringIO()
    console = Console(
        file=stream,
        width=width,
        force_terminal=colour,
        color_system="standard" if colour else None,
        legacy_windows=False,
        highlight=False,
    )
    console.print(_table(results))
    for result in results if verbosity >= 0 else ():
        if parts := list(_reasons(result)):
            console.print(Text(result.request.name, style="bold"), Padding(Group(*parts), (0, 0, 0, 2)))
    for result in results if verbosity > 0 else ():
        console.print("", registry.find("reports", "terminal")([result.card], title=result.request.name))
    return "".join(f"{line.rstrip()}\n" for line in stream.getvalue().splitlines())


def _table(results: Sequence[Result]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column()
    table.add_column(ratio=1)
    for _ in range(4):
        table.add_column(justify="right", no_wrap=True)
    table.add_row("", "", *(Text(head, style="dim") for head in ("clean", "robust", "[95 %]", "passes")))
    for result in results:
        card = result.card
        bound = "<= " if card.interrupted else ""
        table.add_row(
            Text(card.verdict, style=_STYLES[card.verdict]),
            _Name(result.request.name, result.outcome.cached),
            f"{card.clean_accuracy.value:.1%}",
            Text(f"{bound}{card.robust_accuracy.value:.1%}", style="bold"),
            Text(_ends(card.robust_accuracy)),
            f"{card.passes.total:,}",
        )
    return table


@dataclass(frozen=True)
class _Name:
    """A name in lines as wide as its column, and whether the cache had the answer."""

    text: str
    cached: bool

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        told = f"{self.text}  {_CACHED}" if self.cached else self.text
        name = Text("\n".join(name_lines(told, options.max_width, cell_len)))
        if self.cached:
            name.highlight_words([*_CACHED.split()], style="dim")
        yield name


def _ends(accuracy: Interval) -> str:
    return f"[{100 * accuracy.low:.1f}, {100 * accuracy.high:.1f}]"


def _reasons(result: Result) -> Iterator[RenderableType]:
    card = result.card
    for finding in card.validity:
        about = f" {'in' if finding.attack else 'under'} {finding.where}" if finding.where else ""
        yield Text(f"{finding.code} {finding.severity}{about}: {finding.message}")
        yield Padding(Text(f"cure: {finding.cure}", style="dim"), (0, 0, 0, 6))
    for gate in card.gates:
        if fault := asserts.missed(gate):
            yield Text(f"failed: {fault}", style="red")
        elif not gate.decided:
            yield Text(f"{gate.name} {gate.threshold:g}: {gate.words}", style="yellow")
    if result.outcome.regression:
        yield Text(f"regression {result.outcome.regression}")
    if result.outcome.refused:
        yield Text(f"not compared: {result.outcome.refused}", style="red")
    if saved := _saved(card):
        yield Text(saved)
    if note := _bare(card):
        yield Text(note, style="dim")


def _saved(card: Scorecard) -> str | None:
    """What stopping early came to."""
    seen, planned = card.data.samples, card.data.planned
    if not planned or seen >= planned or card.interrupted:
        return None
    return f"settled after {seen:,} of {planned:,} samples, about {1 - seen / planned:.0%} of the passes saved"


def _bare(card: Scorecard) -> str | None:
    """What a green line must not hide."""
    if card.gates or allowed_because(card):
        return None
    return "no gate was set: nothing was demanded of the model"
