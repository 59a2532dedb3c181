"""What ``rblite doctor --data`` prints: every check with what it saw, each finding with its cure and its samples."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from robustbench_lite.faces.cli.output import plain
from robustbench_lite.results.data_quality import DataQuality, Fault, Looked, Suspect
from robustbench_lite.results.scorecard import Severity

_STYLES: dict[Severity, str] = {"error": "bold red", "warning": "yellow", "info": "cyan"}
_NAMED = 8


def report(found: DataQuality) -> RenderableType:
    """What was found, for a terminal of 80 columns."""
    sizes = ", ".join(f"{number:,} {split}" for split, number in found.samples.items())
    head = Text.assemble((_line(found.data), "bold"), f": {sizes} samples")
    table = Table.grid(padding=(0, 1))
    table.add_column(width=7)
    table.add_column(ratio=1)
    for check in found.checks:
        for row in _rows(check):
            table.add_row(*row)
    return Group(head, Text(), table, Text(), Text(_verdict(found), style="bold"))


def _rows(check: Looked) -> Iterator[tuple[RenderableType, RenderableType]]:
    if not check.faults:
        line = Text(_line(f"{check.name}: {check.saw}"), style="dim")
        yield Text("ok" if check.asked else "-", style="dim"), line
    for fault in check.faults:
        yield Text(fault.finding.code, style=_STYLES[fault.finding.severity]), _fault(fault)


def _fault(fault: Fault) -> RenderableType:
    finding = fault.finding
    text = Text(f"{finding.severity}: ", style=_STYLES[finding.severity])
    text.append(_line(finding.message), style="not bold default")
    named = [Text(_line(_words(one)), style="dim") for one in fault.suspects[:_NAMED]]
    if len(fault.suspects) > _NAMED:
        named.append(Text(f"and {len(fault.suspects) - _NAMED} more (--json names them all)", style="dim"))
    return Group(text, *(Padding(one, (0, 0, 0, 2)) for one in (*named, Text(f"cure: {_line(finding.cure)}"))))


def _words(one: Suspect) -> str:
    where = f", {one.file}" if one.file else ""
    return f"{one.split} {one.index} ({one.label}{where}): {one.why}"


def _verdict(found: DataQuality) -> str:
    if found.errors:
        errors = "1 error" if found.errors == 1 else f"{found.errors} errors"
        return f"{errors}: a number on these data would not mean what it says."
    warned = sum(fault.finding.severity == "warning" for fault in found.faults)
    if not warned:
        return "Nothing stands against these data."
    return f"Nothing stands against these data, but for {warned} warning{'s' if warned > 1 else ''}."


def _line(text: str) -> str:
    """One line that can't steer the terminal."""
    return " ".join(plain(text).split())
