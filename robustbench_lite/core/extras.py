"""Libraries that come with an extra: imported where they are used, and told how to install where they are missing."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from robustbench_lite.core.errors import UserError


def library(module: str, who: str, cure: str, *, name: str = "") -> Any:
    """Import a module of a library that may be missing.

    Parameters
    ----------
    module
        Its full name.
    who
        Who needs it, such as ``an ONNX file``.
    cure
        What to do where it is missing, such as ``pip install 'robustbench_lite[onnx]'``.
    name
        What the library is called; by default as the module.

    Raises
    ------
    UserError
        Where it can't be imported.
    """
    try:
        import_module(module.partition(".")[0])
        return import_module(module)
    except ImportError as fault:
        raise UserError(f"{who} needs {name or module}, which can't be imported ({fault}); {cure}") from None
