"""Imports users' code, and reports the line where it fails."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError

ARCHITECTURE = "arch:"
"""What stands before the path of a file that is no code, and tells an architecture."""

_NAMES_SHOWN = 5


class MissingModuleError(UserError):
    """The module that a spec names isn't there."""


class ExitError(Exception):
    """A user's code raised what ends a process, and is no error."""


@contextmanager
def no_exit() -> Iterator[None]:
    """Call a user's code inside: `sys.exit`, and any other exit that isn't an exception of its own, is an error.

    Ctrl-C stays what it is, and so does what a test runner raises to end a test.

    Raises
    ------
    ExitError
        Says what was raised, and where.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt):
        raise
    except BaseException as fault:
        if type(fault).__module__.partition(".")[0] in ("_pytest", "pytest"):
            raise
        raise ExitError(
            f"it raised {type(fault).__name__}({fault}), which would end the process{users_line(fault)}"
        ) from fault


@contextmanager
def users_code(spec: str) -> Iterator[None]:
    """Import and call a user's code inside: their folders are searched, and what fails is told with its place.

    Raises
    ------
    UserError
        For any exception inside, with its type, message, and the line of the user's code.
    """
    path, _ = _file_and_name(spec)
    folders = [str(Path.cwd())] if path is None else [str(path.resolve().parent), str(Path.cwd())]
    sys.path[:0] = folders
    try:
        yield
    except UserError:
        raise
    except KeyboardInterrupt:
        raise
    except BaseException as fault:
        raise UserError(f"{spec}: {type(fault).__name__}: {fault}{users_line(fault)}") from fault
    finally:
        for folder in folders:  # and nothing else: the user's code may have added folders of its own
            with suppress(ValueError):
                sys.path.remove(folder)


def import_object(spec: str, prefixes: Iterable[str] = ()) -> Any:
    """Import what ``package.module:name`` or ``path/to/file.py:name`` names; to be used inside `users_code`.

    Parameters
    ----------
    spec
        The name.
    prefixes
        What the caller takes before the colon other than a module, so that a misspelt one is told.

    Raises
    ------
    UserError
        For a module, a file or a name that isn't there.
    """
    path, name = _file_and_name(spec)
    place = spec.rpartition(":")[0]
    if not place or not name or (path is None and place.startswith(".")):
        raise UserError(f"{spec!r}: expected package.module:name or path/to/file.py:name")
    found: Any = _import_module(place, _meant(spec, prefixes)) if path is None else _import_file(path)
    for part in name.split("."):
        if not hasattr(found, part):
            known = _own_names(found)
            near = difflib.get_close_matches(part, known, n=_NAMES_SHOWN, cutoff=0.5)
            raise UserError(registry.unknown(f"object in {place}", part, near or known[:_NAMES_SHOWN]))
        found = getattr(found, part)
    return found


def _own_names(holder: Any) -> list[str]:
    """Public names of a module or an object, without the classes, functions and modules that it imports."""
    package = getattr(holder, "__name__", "").partition(".")[0]
    names = []
    for name, value in getattr(holder, "__dict__", {}).items():
        named = hasattr(value, "__name__") or type(value).__module__ == "__future__"
        imported = named and (getattr(value, "__module__", None) or "").partition(".")[0] != package
        if not name.startswith("_") and not (isinstance(holder, ModuleType) and imported):
            names.append(name)
    return names


def change_path(spec: str, change: Callable[[Path], Path | str]) -> str:
    """Change the path of the file in a spec; one that names a module is handed back as it is."""
    if spec.startswith(ARCHITECTURE):
        return f"{ARCHITECTURE}{change(Path(spec.removeprefix(ARCHITECTURE)))}"
    path, name = _file_and_name(spec)
    return spec if path is None else f"{change(path)}:{name}"


def _file_and_name(spec: str) -> tuple[Path | None, str]:
    """Part a spec in the file it names, None where it names a module, and the object in it."""
    place, _, name = spec.rpartition(":")
    return Path(place) if place.endswith(".py") else None, name


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UserError(f"{path}: no such file; it was looked for from {Path.cwd()}")
    # A private name, so that two files called model.py don't take each other's place.
    name = f"_rblite_user_{path.stem}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None or spec.loader is None:
        raise UserError(f"{path}: can't be imported as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _import_module(name: str, hint: str) -> ModuleType:
    importlib.invalidate_caches()  # the file may have been written a moment ago
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as fault:
        if fault.name is None or not f"{name}.".startswith(f"{fault.name}."):
            raise  # the module is there; what it imports is not
        raise MissingModuleError(
            f"no module named {fault.name!r}; it was looked for in {Path.cwd()} and among the installed packages{hint}"
        ) from None


def _meant(spec: str, prefixes: Iterable[str]) -> str:
    """Tell which prefix a spec may have meant, to end a sentence with; empty where none is near."""
    given, _, rest = spec.partition(":")
    near = difflib.get_close_matches(given.lower(), prefixes, n=1)
    return f"; did you mean {near[0]}:{rest}?" if near else ""


def users_line(fault: BaseException) -> str:
    """Where in the user's code an exception came from; empty where none of it was on the way."""
    if isinstance(fault, SyntaxError) and fault.filename:
        return f" ({fault.filename}:{fault.lineno})"
    ours = [str(Path(__file__).parents[1]), *(sysconfig.get_path(key) for key in ("stdlib", "purelib", "platlib"))]
    not_theirs = ("<", *(os.path.join(folder, "") for folder in ours))  # noqa: PTH118 (for its trailing separator)
    frames = [frame for frame in traceback.extract_tb(fault.__traceback__) if not frame.filename.startswith(not_theirs)]
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
