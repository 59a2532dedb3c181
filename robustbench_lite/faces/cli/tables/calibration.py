"""What ``rblite calibrate`` prints: each published number beside the one that was measured here."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from robustbench_lite.evaluating.calibration import run
from robustbench_lite.evaluating.calibration.numbers import Verdict
from robustbench_lite.evaluating.calibration.run import Calibration, Result

_STYLES: dict[Verdict, str] = {
    "reproduces": "green",
    "differs": "bold red",
    "impossible": "bold white on red",
    "not run": "yellow",
}


def report(found: Calibration) -> RenderableType:
    """What was found, for a terminal of 80 columns."""
    table = Table(box=None, pad_edge=False, show_edge=False)
    for head in ("case", "published", "here", "verdict"):
        table.add_column(head, overflow="fold")
    for case in dict.fromkeys(result.case.name for result in found.results):
        table.add_row(Text(case, style="bold"))
        for result in found.results:
            if result.case.name == case:
                table.add_row(*_row(result, whole=found.whole))
    parts: list[RenderableType] = [table, Text()]
    for note, style in _notes(found):
        parts += [Text(note, style=style), Text()]
    return Group(*parts, Text(_summary(found), style="bold"))


def _row(result: Result, *, whole: bool) -> tuple[RenderableType, ...]:
    number, here = result.number, result.here
    told = "differs" if result.verdict == "impossible" else result.verdict
    seen = "-" if here is None else number.text(here.value)
    if here is not None and not whole:
        low, high = (f"{end:.1%}" if number.share else f"{end:.2f}" for end in here[1:])
        seen += f" [{low}, {high}]"
    return f"  {number.what}", number.demand, seen, Text(told, style=_STYLES[result.verdict])


def _notes(found: Calibration) -> Iterator[tuple[str, str]]:
    if not found.official:
        yield (
            "The data are not the official MNIST test set, so nothing was published about them.\n"
            f"  found     {found.data_sha256}\n  expected  {run.MNIST_SHA256}",
            "bold yellow",
        )
    if found.samples < found.available:
        yield (
            f"{found.samples:,} of {found.available:,} samples: a part can't reproduce a published number exactly. It "
            "is judged by whether what was published is in its 95 % interval.",
            "",
        )
    notes: dict[str, list[Result]] = {}
    for result in found.results:
        if result.note:
            notes.setdefault(result.note, []).append(result)
    for note, about in notes.items():
        whole = all(result.verdict == "not run" for result in about)
        names = dict.fromkeys(
            result.case.name if whole else f"{result.case.name}, {result.number.what}" for result in about
        )
        yield f"{'; '.join(names)}: {note}", _STYLES["impossible"] if about[0].verdict == "impossible" else ""


def _summary(found: Calibration) -> str:
    if not found.ran:
        return "Nothing was run."
    left = f" {found.count('not run')} not run." if found.count("not run") else ""
    if wrong := found.count("differs", "impossible"):
        return f"{wrong} of {found.ran} published numbers differ here.{left}"
    return f"This install reproduces {found.ran} of {found.ran} published numbers.{left}"
