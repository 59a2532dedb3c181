"""Whether a session has anything to evaluate: asked in every session, so it imports the standard library alone."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

MARKER = "robustness"
FIXTURE = "robustness"
EVALUATIONS = pytest.StashKey[Any]()
"""Of a session that has evaluated: `robustbench_lite.faces.plugin.evaluations.Evaluations`."""


def raw_table(root: Path) -> dict[str, Any] | None:
    """The table of the project as it stands in the file, unchecked; None where there is none.

    Raises
    ------
    pytest.UsageError
        For a file that is no TOML, and for a table that is none.
    """
    path = root / "pyproject.toml"
    try:
        text = path.read_text(encoding="utf-8")
        tool = tomllib.loads(text).get("tool", {}) if "robustbench_lite" in text else {}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as fault:
        raise pytest.UsageError(f"{path}: can't be read as TOML: {fault}") from None
    found = tool.get("robustbench_lite") if isinstance(tool, dict) else None
    if found is not None and not isinstance(found, dict):
        raise pytest.UsageError(f"{path}: tool.robustbench_lite is {found!r}: expected a table")
    return found


def suite_files(raw: Mapping[str, Any] | None, root: Path) -> list[Path]:
    """Files that the table makes tests of: suites, and ``pyproject.toml`` itself for those that it names."""
    named = (raw or {}).get("suites", [])
    named = [named] if isinstance(named, str) else named
    texts = [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
    files = [Path(os.path.normpath(root / name)) for name in texts if name.endswith(".toml")]
    return files if len(files) == len(texts) else [root / "pyproject.toml", *files]


def is_asked_for(path: Path, arguments: Iterable[str], folder: Path) -> bool:
    """Whether what pytest was told to collect, named from a folder, is a file or holds it."""
    named = (Path(os.path.normpath(folder / argument.partition("::")[0])) for argument in arguments)
    return any(path.is_relative_to(place) for place in named)


def ask_for_fixture(collector: pytest.Collector, found: object) -> bool:
    """Have a marked test use the fixture, whether its function names it or not; say whether it is marked.

    It is done before the test is made, so that fixtures behind it may be parametrized as always.
    """
    if not isinstance(found, FunctionType):
        return False
    marked = any(mark.name == MARKER for mark in getattr(found, "pytestmark", ()))
    if marked:
        pytest.mark.usefixtures(FIXTURE)(found)
    for node in collector.listchain():
        if any(mark.name == MARKER for mark in node.own_markers):
            marked = True
            if not any(mark.name == "usefixtures" and FIXTURE in mark.args for mark in node.own_markers):
                node.add_marker(pytest.mark.usefixtures(FIXTURE))
    return marked
