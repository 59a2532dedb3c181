"""Tables of what the registry knows by name, for ``rblite list``."""

from __future__ import annotations

import inspect
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from robustbench_lite import registry
from robustbench_lite.suite import describe

KINDS = ("attacks", "suites", "defenses", "recipes", "reports", "data")


def listing(kind: str | None = None) -> RenderableType:
    """One table for a kind, or one each for all."""
    return Group(*(_table(one) for one in ([kind] if kind else KINDS)))


def _table(kind: str) -> Table:
    table = Table(title=kind, title_justify="left", title_style="bold", box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True, style="bold")
    if kind == "attacks":
        table.add_column(no_wrap=True)
    table.add_column()
    for row in _rows(kind):
        table.add_row(*(escape(cell) for cell in row))
    table.add_row("")
    return table


def _rows(kind: str) -> list[tuple[str, ...]]:
    if kind == "data":
        from robustbench_lite.sources import described

        return list(described().items())
    if kind in ("suites", "recipes"):
        return [(name, describe(kind, name)) for name in registry.names(kind)]
    return [_described(kind, name) for name in registry.names(kind)]


def _described(kind: str, name: str) -> tuple[str, ...]:
    if name.endswith(":*"):
        library = name.removesuffix(":*")
        return (f"{library}:NAME", "", f"any attack of {library} by its name there")
    found: Any = registry.find(kind, name)
    summary = (inspect.getdoc(found) or "").partition("\n\n")[0].replace("\n", " ").replace("``", "")
    return (name, ", ".join(found.norms), f"{summary} {found.paper}".strip()) if kind == "attacks" else (name, summary)
