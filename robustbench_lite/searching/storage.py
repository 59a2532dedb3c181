"""Optuna's storage, which holds the study."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from filelock import FileLock

from robustbench_lite.core.errors import UserError
from robustbench_lite.searching.folder import JOURNAL_FILE
from robustbench_lite.searching.objectives import ROBUST_ALONE, Objective

if TYPE_CHECKING:
    from optuna import Study
    from optuna.pruners import BasePruner
    from optuna.storages import BaseStorage


Pruner = Literal["none", "median", "hyperband"]
"""What ends trials that are behind the others."""


def open_study(
    storage: str | None, folder: Path, pruner: Pruner, objectives: Sequence[Objective] = ROBUST_ALONE
) -> Study:
    """Open a study, or make it.

    Parameters
    ----------
    storage
        A database by its URL, such as ``sqlite:///study.db``, or the path of a journal file; by default the journal
        file in the folder.
    folder
        Where the search writes; the study bears its name.
    objectives
        What its trials are told to be better in.

    Raises
    ------
    UserError
        For a storage that can't be reached.
    """
    import optuna

    told = re.sub(r"//[^@/]*@", "//***@", storage or "")  # no password on a screen
    try:
        with quiet():
            return optuna.create_study(
                storage=_storage(storage, folder),
                pruner=_pruner(pruner),
                study_name=folder.resolve().name,
                directions=["maximize" if one.better == "higher" else "minimize" for one in objectives],
                load_if_exists=True,
            )
    except Exception as fault:  # each database has errors of its own
        what = re.sub(r"//[^@/\s]*@", "//***@", str(fault)).strip().partition("\n")[0]
        if isinstance(fault, ImportError):
            what += " For PostgreSQL: pip install psycopg2-binary"
        raise UserError(
            f"storage {told or JOURNAL_FILE!r}: can't be reached ({type(fault).__name__}: {what}); expected "
            "sqlite:///FILE.db, postgresql://..., or the path of a journal file"
        ) from None


def _pruner(name: Pruner) -> BasePruner:
    from optuna import pruners

    if name == "median":
        return pruners.MedianPruner(n_startup_trials=3)
    return pruners.HyperbandPruner() if name == "hyperband" else pruners.NopPruner()


def _storage(storage: str | None, folder: Path) -> BaseStorage:
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    if storage is not None and "://" in storage:
        return RDBStorage(storage)
    path = (folder / JOURNAL_FILE if storage is None else Path(storage)).resolve()
    # Optuna's own lock is a file that is there: after a kill all others wait for half a minute. This one ends with its
    # process. It has another name, as a search of an older version may have left a link under Optuna's.
    lock = FileLock(path.with_name(f".{path.name}.lock"), poll_interval=0.01)
    # Optuna calls `acquire` and `release` alone; the class that it asks for is private.
    return JournalStorage(JournalFileBackend(str(path), lock))  # type: ignore[arg-type]


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna from telling what it does, such as that a study was made."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)
