"""The command line, ``rblite``: one file a command.

In come a command's arguments; out come text on the terminal, files, and an exit code. `start` is the script's entry,
`group` holds the commands together and turns every error into plain words. What a command needs is imported when it
runs, so that ``--help`` comes at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustbench_lite.core.lazy import lazy_names

if TYPE_CHECKING:
    from robustbench_lite.faces.cli.group import main as main

__getattr__, __dir__ = lazy_names(__name__, {"main": "group"})
