"""Tables of what the registry knows by name, for ``rblite list``."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.markup import escape
from rich.padding import Padding
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.toml import describe

if TYPE_CHECKING:
    from robustbench_lite.attacking.interface import Attack

KINDS = ("attacks", "suites", "defenses", "recipes", "measures", "explanations", "reports", "data")
_FOLDERS = {"suites": "attacks", "recipes": "defenses"}
_SHADOWS = "(yours, in place of the built-in one)"
_HEAD = ("attack", "norms", "sees", "passes")
_LEGEND = (
    "sees: gradients (of a white box), scores or labels (of a black box, too)\n"
    "passes: forward + backward of a sample that withstands, with default parameters\n"
    "  -: one of your own, whose code is not run to list it\n"
    "  'rblite list attacks NAME' tells every parameter, of your own ones too"
)

_Row = tuple[str, ...]


def listing(kind: str | None = None) -> RenderableType:
    """One table for a kind, or one each for all. What can't be loaded is told in its row."""
    return _Cropped(Group(*(_table(one) for one in ([kind] if kind else KINDS))))


def as_json(kind: str | None = None) -> str:
    """The names and what they are, by kind; one JSON object."""
    told = {one: {row[0]: row[-1] for row in _rows(one)} for one in ([kind] if kind else KINDS)}
    return json.dumps(told, indent=1, ensure_ascii=False)


@dataclass(frozen=True)
class _Cropped:
    """Content without the blanks at the ends of its lines, so that a narrower terminal doesn't fold them."""

    content: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in console.render_lines(self.content, options, pad=False):
            while line and not line[-1].text.strip():
                line.pop()
            if line:
                text, style, control = line.pop()
                line.append(Segment(text.rstrip(), style, control))
            yield from line
            yield Segment.line()


def _table(kind: str) -> RenderableType:
    if kind == "attacks":
        return _attack_table()
    table = Table(title=kind, title_justify="left", title_style="bold", box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for row in _rows(kind):
        table.add_row(*(escape(cell) for cell in row))
    table.add_row("")
    return table


def _attack_table() -> RenderableType:
    """Facts in columns, and below them what the attack does: beside them there is no room at 80 columns."""
    rows = list(_rows("attacks"))
    widths = [max(map(cell_len, cells)) for cells in zip(_HEAD, *(row[:-1] for row in rows), strict=True)]
    parts: list[RenderableType] = [Text("attacks", style="bold"), Text(_facts(_HEAD, widths), style="dim")]
    for *facts, text in rows:
        line = Text(_facts(facts, widths))
        line.stylize("bold", 0, len(facts[0]))
        parts += [line, Padding(Text(text), (0, 0, 0, 2))]
    return Group(*parts, Text(f"\n{_LEGEND}\n", style="dim"))


def _facts(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell + " " * (width - cell_len(cell)) for cell, width in zip(cells, widths, strict=True))


def _rows(kind: str) -> Iterator[_Row]:
    if kind == "data":
        from robustbench_lite.data.sources import described

        yield from described().items()
        return
    found: dict[str, list[registry.Room]] = {}
    broken = []
    for room in registry.rooms(_FOLDERS.get(kind, kind)):
        try:
            for name in _names(kind, room):
                found.setdefault(name, []).append(room)
        except UserError as fault:
            broken.append(_failed(kind, f"{room.folder.name}/", f"{fault}; until then no name is found"))
    for name, rooms in found.items():
        try:
            row = _described(kind, name, rooms[0])
        except (Exception, SystemExit) as fault:  # a user's module can raise anything
            told = str(fault) if isinstance(fault, UserError) else f"{type(fault).__name__}: {fault}"
            row = _failed(kind, name, told)
        yield (*row[:-1], f"{row[-1]} {_SHADOWS}".strip()) if len(rooms) > 1 else row
    yield from broken


def _names(kind: str, room: registry.Room) -> list[str]:
    return sorted(path.stem for path in (room.folder / kind).glob("*.toml")) if kind in _FOLDERS else list(room.table())


def _described(kind: str, name: str, room: registry.Room) -> _Row:
    if kind in _FOLDERS:
        return (name, describe(kind, str(room.folder / kind / f"{name}.toml")))
    if name.endswith(":*") and kind == "measures":
        return (name.replace(":*", ":NAME"), _summary(inspect.getdoc(room.load(room.table()[name])) or ""))
    if name.endswith(":*"):
        library = name.removesuffix(":*")
        facts = ("varies",) * 3 if kind == "attacks" else ()
        return (f"{library}:NAME", *facts, f"any attack of {library} by its name there")
    if room.own:
        facts = ("-",) * 3 if kind == "attacks" else ()
        return (name, *facts, _summary(_docstring(room, room.table()[name])))
    found: Any = room.load(room.table()[name])
    if kind == "measures":
        return (name, f"{found.definition} [{found.unit}, {found.better} is better]")
    summary = _summary(inspect.getdoc(found) or "")
    if kind == "explanations":
        return (name, f"{summary} [needs {found.access}]")
    if kind != "attacks":
        return (name, summary)
    from robustbench_lite.attacking.interface import Attack

    if not (isinstance(found, type) and issubclass(found, Attack)):
        raise UserError(f"{room.table()[name]} is no Attack; subclass robustbench_lite.attacking.interface.Attack")
    own = ", ".join(f"{parameter} = {json.dumps(value)}" for parameter, value in found.published.items())
    differs = "than in the paper" in " ".join((found.__doc__ or "").split())
    other = f"Other than in the paper: see 'rblite list attacks {name}'." if differs else ""
    text = " ".join(filter(None, (summary, found.paper, f"The own algorithm of the paper: {own}." if own else other)))
    return (name, ", ".join(found.norms), found.access, _passes(found), text)


def _summary(doc: str) -> str:
    return doc.partition("\n\n")[0].replace("\n", " ").replace("``", "")


def _docstring(room: registry.Room, entry: str) -> str:
    """What a user's object says of itself, read from its file: listing runs none of their code."""
    module, _, name = entry.partition(":")
    place = room.folder.joinpath(*module.split("."))
    path = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    shown = path.relative_to(room.folder.parent)
    try:
        body = ast.parse(path.read_text(encoding="utf-8-sig")).body
    except OSError as fault:
        raise UserError(f"{shown}: {fault.strerror}") from None
    except (SyntaxError, ValueError, RecursionError, MemoryError) as fault:
        raise UserError(f"{shown}: {type(fault).__name__}: {fault}") from None
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
            return ast.get_docstring(node) or ""
    if name not in {text for node in body for text in _bound(node)}:
        raise UserError(f"{shown}: there is no {name} in it")
    return ""


def _bound(node: ast.stmt) -> Iterator[str]:
    """Names that a statement may bind, wherever in it."""
    for one in ast.walk(node):
        if isinstance(one, ast.Name):
            yield one.id
        elif isinstance(one, ast.alias):
            yield one.asname or one.name
        elif isinstance(one, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield one.name


def _passes(attack: type[Attack]) -> str:
    """Cost of a sample with default parameters, such as ``41 + 40``; an attack may have some without a default."""
    try:
        passes = attack().passes
    except (TypeError, ValueError):
        return "varies"
    return f"{passes.forward:,} + {passes.backward:,}"


def _failed(kind: str, name: str, fault: str) -> _Row:
    blank = ("",) * 3 if kind == "attacks" else ()
    return (name, *blank, f"can't be loaded: {' '.join(fault.split())}")
