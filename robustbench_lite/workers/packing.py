"""How a function goes to another process: pickled, with what finds the user's modules there."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from robustbench_lite.core.errors import UserError

_INSTALLED = {"site-packages", "dist-packages"}


def packed(content: Any, by_value: Iterable[ModuleType] = ()) -> bytes:
    """Pickle what a worker runs; of these modules with their code, of all others by name.

    Raises
    ------
    UserError
        For what can't be pickled.
    """
    import cloudpickle

    by_value = list(by_value)
    for module in by_value:
        cloudpickle.register_pickle_by_value(module)
    try:
        done: bytes = cloudpickle.dumps(content)
    except Exception as fault:
        raise UserError(
            f"the model or its data can't be sent to worker processes ({type(fault).__name__}: {fault}): give a model "
            "and data that can be pickled, or evaluate with one worker"
        ) from fault
    finally:
        for module in by_value:
            cloudpickle.unregister_pickle_by_value(module)
    return done


def users_modules() -> tuple[list[str], dict[str, str]]:
    """How a process on this machine finds the modules that are loaded here.

    Returns
    -------
    paths
        Folders to search.
    files
        By name, the files of those that no folder leads to, as they were loaded under a private name.
    """
    paths = [path or str(Path.cwd()) for path in sys.path]
    files = {}
    for name, _, file in _loaded():
        place = file.with_suffix("")
        tail = (*name.split("."), "__init__") if place.name == "__init__" else tuple(name.split("."))
        if place.parts[-len(tail) :] != tail:
            files[name] = str(file)
        elif (root := str(Path(*place.parts[: -len(tail)]))) not in paths:
            paths.append(root)
    return paths, files


def all_users_modules() -> list[ModuleType]:
    """What another machine doesn't have: the modules that are loaded here and not installed."""
    return [module for _, module, _ in _loaded()]


def _loaded() -> Iterable[tuple[str, ModuleType, Path]]:
    library = os.path.join(sysconfig.get_path("stdlib"), "")  # noqa: PTH118 - for its trailing separator
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name in ("__main__", "__mp_main__") or not file or not file.endswith(".py") or file.startswith(library):
            continue
        ours = name.partition(".")[0] == __name__.partition(".")[0]  # it is installed there, however it is laid out
        if not ours and Path(file).is_absolute() and not _INSTALLED.intersection(Path(file).parts):
            yield name, module, Path(file)
