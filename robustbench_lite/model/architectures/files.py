"""Architectures in files: read, checked as a whole, and written so that a folder is whole."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robustbench_lite.core.errors import UserError, unknown
from robustbench_lite.core.files import write_atomically
from robustbench_lite.core.toml import checked
from robustbench_lite.core.usercode import ARCHITECTURE
from robustbench_lite.model.architectures.cells import Cells
from robustbench_lite.model.architectures.interface import Architecture
from robustbench_lite.model.architectures.plain import Plain

SPACES: dict[str, type[Architecture]] = {"plain": Plain, "cells": Cells}
"""Kinds of networks by name."""

FILE = "architecture.toml"
"""What an architecture is called in a folder."""


def find_space(name: str) -> type[Architecture]:
    """Find a kind of network by its name.

    Raises
    ------
    UserError
        For an unknown name.
    """
    if name not in SPACES:
        raise UserError(unknown("space of architectures", name, SPACES))
    return SPACES[name]


def load_architecture(path: str | Path, changes: Mapping[str, Any] | None = None) -> Architecture:
    """Read an architecture from a TOML file.

    Parameters
    ----------
    changes
        Values in the place of the file's.

    Raises
    ------
    UserError
        With every fault of the file, each with its key.
    """
    try:
        raw = tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"architecture {str(path)!r}: no such file; it was looked for from {Path.cwd()}") from None
    except (OSError, ValueError, RecursionError) as fault:
        raise UserError(f"{path}: can't be read as TOML: {str(fault) or 'it is nested too deep'}") from None
    space = raw.get("space")
    if not isinstance(space, str) or space not in SPACES:
        told = f"is missing; expected {' or '.join(SPACES)}" if space is None else unknown("space", str(space), SPACES)
        raise UserError(f"{path}: not a valid architecture\n  space: {told}")
    found = checked(SPACES[space], {"name": Path(path).stem} | raw, str(path), [])
    return found.changed(changes) if changes else found


def save_architecture(architecture: Architecture, path: Path) -> None:
    """Write an architecture, from which `load_architecture` reads the same."""
    text = f"# {architecture.words}\n{architecture.toml()}"
    write_atomically(path, text)


def kept_architecture(spec: str, arguments: Mapping[str, Any], folder: Path) -> str:
    """Write the architecture that a spec and its arguments name into a folder; return the spec from there."""
    save_architecture(load_architecture(spec.removeprefix(ARCHITECTURE), arguments), folder / FILE)
    return f"{ARCHITECTURE}{FILE}"
