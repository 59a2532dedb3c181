"""How a function goes to another process: pickled, with those of the user's modules that aren't found there."""

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


def packed(content: Any, by_value: Iterable[ModuleType]) -> bytes:
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


def users_modules() -> tuple[list[str], list[ModuleType]]:
    """Where a process on this machine finds the modules that are loaded here, and those that it can't find by name."""
    paths = [path or str(Path.cwd()) for path in sys.path]
    unknown = []
    for name, module, file in _loaded():
        place = file.with_suffix("")
        tail = (*name.split("."), "__init__") if place.name == "__init__" else tuple(name.split("."))
        if place.parts[-len(tail) :] != tail:
            unknown.append(module)
        elif (root := str(Path(*place.parts[: -len(tail)]))) not in paths:
            paths.append(root)
    return paths, unknown


def all_users_modules() -> list[ModuleType]:
    """What another machine doesn't have: the modules that are loaded here and not installed."""
    return [module for name, module, _ in _loaded() if name.partition(".")[0] != __name__.partition(".")[0]]


def _loaded() -> Iterable[tuple[str, ModuleType, Path]]:
    library = os.path.join(sysconfig.get_path("stdlib"), "")  # noqa: PTH118 - for its trailing separator
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name in ("__main__", "__mp_main__") or not file or not file.endswith(".py") or file.startswith(library):
            continue
        if not _INSTALLED.intersection(Path(file).parts):
            yield name, module, Path(file)
