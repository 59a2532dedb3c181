"""Finds attacks, defenses, reports, suites and recipes by name, and loads none before it is used.

A room (``attacks``, ``defenses``, ``reports``) is a folder whose ``__init__.py`` holds one literal table::

    CATALOGUE = {"pgd": "pgd:PGD"}          # name -> "module:object", the module relative to the folder

and whose ``suites`` or ``recipes`` hold TOML files. A user's repo may have rooms of its own, which are searched first.
The table is read, not run: finding a name executes no code, and a folder that only happens to be called ``attacks`` is
left alone.
"""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from robustbench_lite.core.errors import UserError, faults
from robustbench_lite.core.errors import unknown as unknown

_FILES = {"suites": "attacks", "recipes": "defenses"}
_BUILT_IN = {
    "measures": "evaluating.measures",
    "strategies": "searching.strategies",
    "explanations": "explaining.methods",
}
"""Where the built-in room of a kind is, if not at the top."""


@dataclasses.dataclass(frozen=True)
class Room:
    """One folder of the catalogue."""

    kind: str
    folder: Path
    package: str
    own: bool
    """Whether it is the user's, not ours."""

    def table(self) -> dict[str, str]:
        """Names and where their objects stand; empty for a folder without a ``CATALOGUE``."""
        source = self.folder / "__init__.py"
        if not source.is_file():
            return {}
        return _table(source)

    def load(self, entry: str) -> Any:
        """Import the object of an entry of the table."""
        module, _, name = entry.partition(":")
        if self.own and self.package not in sys.modules:
            _adopt(self.package, self.folder)
        try:
            return getattr(importlib.import_module(f"{self.package}.{module}"), name)
        except Exception as fault:  # it is the user's code that runs here
            what = f"{type(fault).__name__}: {fault}"
            raise UserError(f"{self.folder}: the catalogue names {entry!r}, which can't be loaded: {what}") from fault


def rooms(kind: str) -> list[Room]:
    """Rooms of a kind, in the order of search: the user's (in the working directory), then the built-in one."""
    package = f"robustbench_lite.{_BUILT_IN.get(kind, kind)}"
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"{package} is missing from this installation; install robustbench_lite again")
    built_in = Path(next(iter(spec.submodule_search_locations))).resolve()
    own = (Path.cwd() / kind).resolve()
    found = [Room(kind, built_in, package, own=False)]
    if own.is_dir() and own != built_in:
        # One name a folder: the working directory may change while a program runs.
        mark = hashlib.sha256(str(own).encode()).hexdigest()[:12]
        found.insert(0, Room(kind, own, f"_rblite_{kind}_{mark}", own=True))
    return found


def names(kind: str) -> list[str]:
    """Every name of a kind, such as ``attacks``, ``measures`` or ``suites``, the user's first."""
    seen: dict[str, None] = {}
    for room in rooms(_FILES.get(kind, kind)):
        if kind in _FILES:
            seen.update(dict.fromkeys(sorted(path.stem for path in (room.folder / kind).glob("*.toml"))))
        else:
            seen.update(dict.fromkeys(room.table()))
    return list(seen)


def known(kind: str, name: str) -> bool:
    """Whether something bears a name, which may be of the form ``backend:rest``; nothing is loaded."""
    prefix, colon, _ = name.partition(":")
    return (f"{prefix}:*" if colon else name) in names(kind)


def find(kind: str, name: str) -> Any:
    """Load the object that bears a name.

    A name ``backend:rest`` is looked up under ``backend:*``, whose object is called with the rest.

    Raises
    ------
    ValueError
        For an unknown name, with the nearest ones.
    """
    prefix, colon, rest = name.partition(":")
    key = f"{prefix}:*" if colon else name
    for room in rooms(kind):
        if entry := room.table().get(key):
            found = room.load(entry)
            return found(rest) if colon else found
    raise UserError(unknown(kind.removesuffix("s"), name, names(kind)))


def find_file(kind: str, name: str | Path) -> Path:
    """Path of a suite or a recipe: by its name, or the path itself where it ends in ``.toml``."""
    if str(name).endswith(".toml"):
        if not Path(name).is_file():
            raise UserError(f"{kind[:-1]} {str(name)!r}: no such file")
        return Path(name)
    for room in rooms(_FILES[kind]):
        path = room.folder / kind / f"{name}.toml"
        if path.parent == room.folder / kind and path.name in {file.name for file in path.parent.glob("*.toml")}:
            return path
    raise UserError(f"{unknown(kind.removesuffix('s'), str(name), names(kind))} (or give the path of a .toml file)")


def build(kind: str, name: str, params: Mapping[str, Any]) -> Any:
    """Find an object by name and call it with its parameters.

    Raises
    ------
    ValueError
        For an unknown name, an unknown parameter, or a parameter that the object refuses.
    """
    factory: Callable[..., Any] = find(kind, name)
    strange: list[str] = []
    if dataclasses.is_dataclass(factory):
        known = [field.name for field in dataclasses.fields(factory) if field.init]
        strange = [unknown("parameter", key, known) for key in params if key not in known]
        params = {key: value for key, value in params.items() if key in known}
    try:
        made = factory(**params)
    except ValidationError as fault:
        strange += [line.strip() for line in faults(fault).splitlines()]
    except (TypeError, ValueError) as fault:
        strange.append(str(fault))
    if strange:
        raise UserError(f"{name}: {'; '.join(strange)}")
    return made


def _table(source: Path) -> dict[str, str]:
    try:
        tree = ast.parse(source.read_text(encoding="utf-8"), filename=str(source))
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two where it is nested too deep
        return {}
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if not any(isinstance(target, ast.Name) and target.id == "CATALOGUE" for target in targets):
            continue
        value = getattr(node, "value", None)
        if not isinstance(value, ast.Dict):
            break
        try:
            pairs = [(_text(key), _text(entry)) for key, entry in zip(value.keys, value.values, strict=True)]
        except ValueError:
            break
        table: dict[str, str] = {}
        for name, entry in pairs:
            if name in table:
                raise UserError(f"{source}: the name {name!r} is taken twice; give one of the two another name")
            table[name] = entry
        return table
    else:
        return {}
    raise UserError(f"{source}: CATALOGUE must be a literal table, such as {{'pgd': 'pgd:PGD'}}")


def _text(node: ast.expr | None) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    raise ValueError("not a literal text")


def _adopt(package: str, folder: Path) -> None:
    # A private name, so that a user's `attacks` never collides with another package of that name.
    spec = importlib.util.spec_from_file_location(
        package, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    if spec is None or spec.loader is None:
        raise UserError(f"{folder}: can't be imported as a package")
    module = importlib.util.module_from_spec(spec)
    sys.modules[package] = module
    try:
        spec.loader.exec_module(module)
    except Exception as fault:
        del sys.modules[package]
        raise UserError(f"{folder / '__init__.py'}: {type(fault).__name__}: {fault}") from fault
