"""The folder of a search: what is in it, and whether it may be written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from robustbench_lite.core.errors import UserError, why
from robustbench_lite.core.files import read_json, write_atomically
from robustbench_lite.hardening.checkpoint import check_settings

SETTINGS_FILE, JOURNAL_FILE = "settings.json", "study.journal"
LOCKS = ".locks"
"""Folder of the locks: a trial that runs holds one."""


@contextmanager
def claimed(folder: Path, settings: Mapping[str, str]) -> Iterator[None]:
    """Make the folder ready, or see that it holds this very search.

    Where what is inside fails in a folder that was made ready just now, nothing is left of it.

    Raises
    ------
    UserError
        For a folder that holds something else, or can't be written.
    """
    was_there = folder.is_dir()
    begun = _begun(folder, settings)
    try:
        yield
    except BaseException:
        if begun and not (folder / JOURNAL_FILE).exists():  # a study that was made goes on
            (folder / SETTINGS_FILE).unlink(missing_ok=True)
            with suppress(OSError):  # what another process holds there stays
                (folder / LOCKS).rmdir()
                if not was_there:
                    folder.rmdir()
        raise


def _begun(folder: Path, settings: Mapping[str, str]) -> bool:
    """Whether the folder was made ready, and held no search before."""
    path = folder / SETTINGS_FILE
    try:
        if path.is_file():
            check_settings(path, read_json(path), settings)
            return False
        held = [one.name for one in folder.iterdir()] if folder.is_dir() else []
        if any(not name.startswith(".") for name in held):  # a kill in the middle of writing may leave hidden ones
            raise UserError(f"out {folder}: is not empty and holds no search; give a new or empty folder")
        (folder / LOCKS).mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(settings, indent=1) + "\n")
    except (OSError, AttributeError) as fault:
        raise UserError(
            f"out {folder}: can't be used ({why(fault)}); give a new or empty folder that can be written"
        ) from None
    return True
