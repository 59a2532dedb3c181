"""What ``rblite doctor`` prints: every check with what it saw, and each finding with its cure."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from robustbench_lite.data.dataset import Data
from robustbench_lite.evaluating.doctor import errors
from robustbench_lite.evaluating.preflight import Preflight
from robustbench_lite.evaluating.preflight.check import Check
from robustbench_lite.model.target import Target
from robustbench_lite.results.scorecard import Finding, Severity

_STYLES: dict[Severity, str] = {"error": "bold red", "warning": "yellow", "info": "cyan"}


def report(target: Target, data: Data, found: Preflight) -> RenderableType:
    """What was found, for a terminal of 80 columns."""
    head = Text.assemble((_plain(target.name), "bold"), f" on {found.samples:,} samples of {_plain(data.name)}")
    table = Table.grid(padding=(0, 1))
    table.add_column(width=7)
    table.add_column(ratio=1)
    for check in found.checks:
        for row in _rows(check):
            table.add_row(*row)
    passes = f"{int(found.forward.sum()):,} forward and {int(found.backward.sum()):,} backward passes"
    return Group(head, Text(), table, Text(), Text(_verdict(found), style="bold"), Text(passes, style="dim"))


def _rows(check: Check) -> Iterator[tuple[RenderableType, RenderableType]]:
    if not check.findings:
        saw = f": {check.saw}" if check.saw else ""
        line = Text(_plain(f"{check.name}{saw}"), style="dim")
        yield Text("ok" if check.asked else "-", style="dim"), line
    for finding in check.findings:
        yield Text(finding.code, style=_STYLES[finding.severity]), _finding(finding)


def _finding(finding: Finding) -> RenderableType:
    text = Text(f"{finding.severity}: ", style=_STYLES[finding.severity])
    text.append(_plain(finding.message), style="not bold default")
    return Group(text, Padding(Text(f"cure: {_plain(finding.cure)}"), (0, 0, 0, 2)))


def _verdict(found: Preflight) -> str:
    if wrong := errors(found):
        return f"{_count(wrong, 'error')}: an evaluation of this model would be INVALID."
    warned = sum(finding.severity == "warning" for finding in found.findings)
    but = f", but for {_count(warned, 'warning')}" if warned else ""
    return f"Nothing stands against an evaluation{but}."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _plain(text: str) -> str:
    """Text that can't steer the terminal."""
    return "".join(character if character.isprintable() else " " for character in text)
