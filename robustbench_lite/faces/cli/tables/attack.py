"""One attack in full, for ``rblite list attacks NAME``: what it does, and every parameter with default and meaning."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from robustbench_lite.core import registry


class Parameter(NamedTuple):
    """A parameter of an attack."""

    name: str
    default: str
    """As it is written in Python; empty where it has none."""
    doc: str


def details(name: str) -> RenderableType:
    """Show an attack; its code is run.

    Raises
    ------
    UserError
        For an unknown name, and for code that can't be loaded.
    """
    found = registry.find("attacks", name)
    parts: list[RenderableType] = [Text(name, style="bold"), _indented(_prose(inspect.getdoc(found) or ""))]
    for parameter in parameters(found):
        default = f" = {parameter.default}" if parameter.default else "  (must be given)"
        parts += [Text.assemble("\n", (parameter.name, "bold"), default), _indented(_prose(parameter.doc))]
    return Group(*parts)


def as_json(name: str) -> str:
    """The same for machines: one JSON object, defaults as they are written in Python."""
    found = registry.find("attacks", name)
    told = [one._asdict() for one in parameters(found)]
    doc = _prose(inspect.getdoc(found) or "")
    return json.dumps({"name": name, "doc": doc, "parameters": told}, indent=1, ensure_ascii=False)


def parameters(attack: Any) -> Iterator[Parameter]:
    """Every parameter of an attack: of a dataclass its fields, of a function its arguments."""
    if not dataclasses.is_dataclass(attack):
        for one in inspect.signature(attack).parameters.values():
            if one.kind is not one.VAR_KEYWORD:
                yield Parameter(one.name, "" if one.default is one.empty else repr(one.default), "")
        return
    docs = _field_docs(attack if isinstance(attack, type) else type(attack))
    for field in dataclasses.fields(attack):
        default = field.default
        if default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        yield Parameter(field.name, "" if default is dataclasses.MISSING else repr(default), docs.get(field.name, ""))


def _field_docs(owner: type) -> dict[str, str]:
    """The strings that stand below the fields of a class and of those that it inherits from."""
    docs: dict[str, str] = {}
    for one in reversed(owner.__mro__[:-1]):
        try:
            [tree] = ast.parse(textwrap.dedent(inspect.getsource(one))).body
        except (OSError, TypeError, SyntaxError, ValueError):
            continue
        body = tree.body if isinstance(tree, ast.ClassDef) else []
        for field, below in pairwise(body):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
                and isinstance(below.value.value, str)
            ):
                docs[field.target.id] = inspect.cleandoc(below.value.value)
    return docs


def _prose(doc: str) -> str:
    """A docstring with its paragraphs unfolded, without the marks of the source."""
    paragraphs = doc.replace("``", "").split("\n\n")
    return "\n\n".join(one if "---" in one or one.startswith(" ") else " ".join(one.split()) for one in paragraphs)


def _indented(text: str) -> RenderableType:
    return Padding(Text(text), (0, 0, 0, 2))
