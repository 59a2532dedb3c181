"""Files that people write: TOML with a name and a description, checked as a whole, every fault told with its key."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError, faults


class NamedFile(BaseModel):
    """What every such file holds."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    called: ClassVar[str] = ""
    """What errors call such a file; by default the class's name."""

    name: str = ""
    """By default the file's name."""
    description: str = ""
    """What it is for, in a line."""


_AnyFile = TypeVar("_AnyFile", bound=NamedFile)


def describe(kind: str, name: str) -> str:
    """One line on a suite or a recipe, without loading what it names."""
    return str(read_toml(kind, name)[0].get("description", ""))


def read_toml(kind: str, name: str | Path) -> tuple[dict[str, Any], str]:
    """Read a file by name or path, unchecked; return what it holds, and its path for errors."""
    path = registry.find_file(kind, name)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as fault:  # a number of thousands of digits, too
        raise UserError(f"{path}: can't be read as TOML: {fault}") from None
    except RecursionError:
        raise UserError(f"{path}: can't be read as TOML: it is nested too deep") from None
    raw.setdefault("name", path.stem)
    return raw, str(path)


def checked(model: type[_AnyFile], raw: dict[str, Any], where: str, more: list[str]) -> _AnyFile:
    """Check what a file holds; ``more`` are faults that its model doesn't see. All are told at once."""
    what = model.called or model.__name__.lower()
    try:
        found = model.model_validate(raw)
    except ValidationError as error:
        told = faults(error, model)
        raise UserError("\n".join([f"{where}: not a valid {what}", told, *more])) from None
    except ValueError as fault:  # of pydantic's own: a whole number too long to be written in an error
        raise UserError(f"{where}: not a valid {what}: {fault}") from None
    if more:
        raise UserError("\n".join([f"{where}: not a valid {what}", *more]))
    return found


def build_fault(kind: str, key: str, name: Any, params: Any) -> list[str]:
    """Say what keeps an entry of the catalogue from being made with its parameters; empty where nothing does."""
    if not isinstance(name, str) or not isinstance(params, dict):
        return []  # pydantic tells
    try:
        registry.build(kind, name, params)
    except UserError as fault:
        return [f"  {key}: {fault}"]
    return []
