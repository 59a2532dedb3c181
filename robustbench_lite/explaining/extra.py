"""The libraries of the extra ``explain``: imported when they are used, and told how to install where they are not."""

from __future__ import annotations

import warnings
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from robustbench_lite.core.errors import UserError

_INSTALLED_AS = {"interpret": "interpret-core"}


def library(module: str) -> Any:
    """Import a module of a library.

    Raises
    ------
    UserError
        Where it can't be imported, with what to install.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a library deprecates within itself is no news for the user
            return import_module(module)
    except ImportError as fault:
        raise UserError(f"{missing(module.partition('.')[0])} ({fault})") from None


def missing(package: str) -> str:
    """Say that a package is missing, and what to install."""
    name = _INSTALLED_AS.get(package, package)
    return f"needs {name}, which can't be imported; pip install 'robustbench_lite[explain]'"


def installed(package: str) -> bool:
    """Whether a package is there; it is not imported."""
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):  # the latter where it was put out of reach
        return False
