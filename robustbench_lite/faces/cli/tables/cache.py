"""What a cache folder holds, as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from robustbench_lite.evaluating.cache import Kept

_DAY = 86400.0


def table(found: Sequence[Kept]) -> Table:
    """Show what is kept, for a terminal."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("what", overflow="fold", ratio=1)
    shown.add_column("state", no_wrap=True)
    shown.add_column("size", justify="right", no_wrap=True)
    shown.add_column("last used", justify="right", no_wrap=True)
    for one in found:
        shown.add_row(escape(one.about), "done" if one.done else "partial", size_text(one.size), _age_text(one.age))
    return shown


def size_text(size: int) -> str:
    """Bytes for people: ``1.2 MB``."""
    if size < 1000:
        return f"{size} B"
    for unit in ("kB", "MB"):
        size_in_unit = size / {"kB": 1e3, "MB": 1e6}[unit]
        if size_in_unit < 999.95:
            return f"{size_in_unit:.1f} {unit}"
    return f"{size / 1e9:.1f} GB"


def _age_text(age: float) -> str:
    for unit, seconds in (("days", _DAY), ("h", 3600.0), ("min", 60.0)):
        if age >= 2 * seconds:
            return f"{int(age / seconds)} {unit} ago"
    return "just now"
