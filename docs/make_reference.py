"""Writes ``docs/reference``: commands, attacks, steps, the Python API, the fields of a scorecard, from the code itself.

    python docs/make_reference.py

A test compares the pages with what this would write.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

import robustbench_lite
from robustbench_lite.core import registry
from robustbench_lite.faces.cli.group import main
from robustbench_lite.faces.cli.tables.attack import Parameter, parameters
from robustbench_lite.results.scorecard import Scorecard

FOLDER = Path(__file__).parent / "reference"
_MADE = "\n*Written by `python docs/make_reference.py` from the code.*\n"


def pages() -> dict[str, str]:
    """Every page of the reference, by its file's name."""
    made = {
        "commands.md": _commands(),
        "attacks.md": _attacks(),
        "steps.md": _steps(),
        "python.md": _python(),
        "scorecard.md": _scorecard(),
    }
    return {name: "\n".join(lines).rstrip() + "\n" + _MADE for name, lines in made.items()}


# -- commands --------------------------------------------------------------------------------------------------------


def _commands() -> Iterator[str]:
    yield "# Commands\n"
    yield "Every command with its options beside `-h` and `--help`; see [the command line](../cli.md).\n"
    yield "## Exit codes\n"
    yield from ("```text", _exit_codes(), "```", "")
    for name, command in sorted(main.commands.items()):
        context = click.Context(command, info_name=name, parent=click.Context(main, info_name="rblite"))
        yield f"## rblite {name}\n"
        yield f"{_prose(command.help or '')}\n"
        usage = " ".join(command.collect_usage_pieces(context))
        yield f"```text\nrblite {name} {usage}\n```\n"
        options = [one for one in command.params if isinstance(one, click.Option)]
        if not options:
            continue
        yield "| option | default | what it does |\n|---|---|---|"
        for option in options:
            names = ", ".join(f"`{one}`" for one in (*option.opts, *option.secondary_opts))
            shown = "" if option.is_flag else f" `{option.make_metavar(context)}`"
            yield f"| {names}{shown.replace('|', BAR)} | {_default(option)} | {_cell(option.help or '')} |"
        yield ""


BAR = "\\|"


def _exit_codes() -> str:
    text = inspect.cleandoc(main.help or "")
    return text.partition("\b\n")[2].partition("\n\n")[0].partition("\n")[2]


def _default(option: click.Option) -> str:
    if option.is_flag or option.default in (None, ()) or "UNSET" in repr(option.default) or callable(option.default):
        return ""
    value = option.default
    return f"`{', '.join(map(str, value)) if isinstance(value, tuple) else value}`"


# -- the catalogue ---------------------------------------------------------------------------------------------------


def _attacks() -> Iterator[str]:
    yield "# Attacks\n"
    yield "Every attack with all its parameters; [how suites are made of them](../attacks.md). `foolbox:NAME` and"
    yield "`art:NAME` are any attack of these libraries, with the parameters that they have there.\n"
    for name in registry.names("attacks"):
        if name.endswith(":*"):
            continue
        found = registry.find("attacks", name)
        yield f"## {name}\n"
        yield f"{_prose(inspect.getdoc(found) or '')}\n"
        yield f"Norms: {', '.join(found.norms)}. It must see of the model: {found.access}.\n"
        if found.published:
            own = ", ".join(f"`{key} = {value!r}`" for key, value in found.published.items())
            yield f"The own algorithm of the paper: {own}.\n"
        yield from _table(parameters(found))


def _steps() -> Iterator[str]:
    yield "# Steps of recipes\n"
    yield "Every step with all its parameters; [how recipes are made of them](../hardening.md).\n"
    for name in registry.names("defenses"):
        found = registry.find("defenses", name)
        yield f"## {name}\n"
        yield f"{_prose(inspect.getdoc(found) or '')}\n"
        yield from _table(parameters(found))


def _table(found: Iterator[Parameter]) -> Iterator[str]:
    rows = list(found)
    if not rows:
        yield "It has no parameters.\n"
        return
    yield "| parameter | default | what it is |\n|---|---|---|"
    for one in rows:
        default = f"`{one.default}`" if one.default else "must be given"
        yield f"| `{one.name}` | {default.replace('|', BAR)} | {_cell(one.doc)} |"
    yield ""


# -- Python ----------------------------------------------------------------------------------------------------------


def _python() -> Iterator[str]:
    yield "# Python\n"
    yield "All of it is imported from `robustbench_lite`.\n"
    for name in robustbench_lite.__all__:
        found = getattr(robustbench_lite, name)
        yield f"## {name}\n"
        if not _is_model(found):
            yield f"```python\n{_signature(name, found)}\n```\n"
        yield f"{_docstring(inspect.getdoc(found) or '')}\n"
        if isinstance(found, type):
            yield from _members(found)


def _is_model(found: Any) -> bool:
    return hasattr(found, "model_fields")


def _signature(name: str, found: Any) -> str:
    signature = inspect.signature(found)
    told = [re.sub(r": '([^']*)'", r": \1", str(one)) for one in signature.parameters.values()]
    returned = "" if isinstance(found, type) else f" -> {signature.return_annotation}"
    return f"{name}(\n    " + ",\n    ".join(told) + f",\n){returned}" if told else f"{name}(){returned}"


def _members(kind: type) -> Iterator[str]:
    rows = []
    for name, member in inspect.getmembers(kind):
        doc = inspect.getdoc(member)
        own = any(name in vars(one) and one.__module__.startswith("robustbench_lite") for one in kind.__mro__)
        if name.startswith("_") or not own or not doc or not (callable(member) or isinstance(member, property)):
            continue
        brackets = "()" if callable(member) else ""
        rows.append(f"| `{name}{brackets}` | {_cell(doc.partition(chr(10) * 2)[0])} |")
    if rows:
        yield "| member | what it is |\n|---|---|"
        yield from rows
        yield ""


# -- the scorecard ---------------------------------------------------------------------------------------------------


def _scorecard() -> Iterator[str]:
    yield "# Fields of a scorecard\n"
    yield "What its JSON file holds; [how to read it](../scorecard.md), [the JSON schema](../scorecard.schema.json).\n"
    schema = Scorecard.model_json_schema()
    yield from _object("Scorecard", schema)
    for name, part in schema["$defs"].items():
        if part.get("properties"):
            yield from _object(name, part)


def _object(name: str, schema: dict[str, Any]) -> Iterator[str]:
    yield f"## {name}\n"
    yield f"{_prose(schema.get('description', ''))}\n"
    yield "| field | type | what it is |\n|---|---|---|"
    for key, field in schema["properties"].items():
        yield f"| `{key}` | {_type(field)} | {_cell(field.get('description', ''))} |"
    yield ""


def _type(field: dict[str, Any]) -> str:
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "const" in field:
        return f"`{field['const']}`"
    if "enum" in field:
        return ", ".join(f"`{one}`" for one in field["enum"])
    if "anyOf" in field:
        return " or ".join(_type(one) for one in field["anyOf"])
    if field.get("type") == "array":
        return f"list of {_type(field['items'])}" if "items" in field else "list"
    return {"integer": "int", "number": "float", "boolean": "bool", "string": "text"}.get(
        field.get("type", ""), field.get("type", "any")
    )


# -- text ------------------------------------------------------------------------------------------------------------

_SECTION = re.compile(r"^(\w[\w ]*)\n-+$", re.MULTILINE)


def _prose(doc: str) -> str:
    """A docstring as Markdown: its paragraphs unfolded, the marks of the source as code."""
    text = _SECTION.sub(r"**\1**\n", doc.replace("\b\n", ""))
    paragraphs = re.split(r"\n\s*\n", _code(text))
    return "\n\n".join(" ".join(one.split()) for one in paragraphs)


def _docstring(doc: str) -> str:
    """A NumPy docstring as Markdown: its sections as lists of definitions."""
    head, *parts = re.split(_SECTION, doc)
    found = [_prose(head)]
    for title, body in zip(parts[::2], parts[1::2], strict=True):
        found.append(f"**{title}**")
        entries = re.split(r"^(?=\S)", inspect.cleandoc(body), flags=re.MULTILINE)
        for entry in filter(str.strip, entries):
            term, _, text = entry.partition("\n")
            told = " ".join(_code(text).split())
            found.append(f"- `{term.strip('`')}`: {told}" if told else _code(term))
    return "\n\n".join(found)


def _code(text: str) -> str:
    return text.replace("``", "`").replace("<", "&lt;")


def _cell(text: str) -> str:
    return " ".join(_code(text).split()).replace("|", BAR)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
