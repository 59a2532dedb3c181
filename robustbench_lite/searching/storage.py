"""Optuna, the library that proposes the trials: its samplers by name, and the storage that holds the study."""

from __future__ import annotations

import importlib
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustbench_lite.core.errors import UserError, unknown
from robustbench_lite.searching.folder import JOURNAL_FILE
from robustbench_lite.searching.space import Axis

if TYPE_CHECKING:
    from optuna import Study
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage

_STARTUP, _POPULATION = 5, 8  # a search of trainings has tens of trials; Optuna's own numbers are made for hundreds


def _grid(found: tuple[Axis, ...], seed: int) -> BaseSampler:
    from optuna.samplers import GridSampler

    class Grid(GridSampler):
        def after_trial(self, *_: Any) -> None:
            """Optuna's own ends a loop of Optuna's, which isn't used here."""

    return Grid({axis.key: axis.grid() or [] for axis in found}, seed)


def _random(_: tuple[Axis, ...], seed: int) -> BaseSampler:
    from optuna.samplers import RandomSampler

    return RandomSampler(seed)


def _tpe(_: tuple[Axis, ...], seed: int) -> BaseSampler:
    from optuna.samplers import TPESampler

    return TPESampler(seed=seed, n_startup_trials=_STARTUP)


def _gp(_: tuple[Axis, ...], seed: int) -> BaseSampler:
    from optuna.samplers import GPSampler

    return GPSampler(seed=seed, n_startup_trials=_STARTUP, warn_independent_sampling=False)


def _nsga2(_: tuple[Axis, ...], seed: int) -> BaseSampler:
    from optuna.samplers import NSGAIISampler

    return NSGAIISampler(seed=seed, population_size=_POPULATION)


def _cmaes(_: tuple[Axis, ...], seed: int) -> BaseSampler:
    from optuna.samplers import CmaEsSampler

    return CmaEsSampler(seed=seed, warn_independent_sampling=False)


SAMPLERS: Mapping[str, Callable[[tuple[Axis, ...], int], BaseSampler]] = {
    "grid": _grid,
    "random": _random,
    "tpe": _tpe,
    "gp": _gp,
    "nsga2": _nsga2,
    "cmaes": _cmaes,
}
"""By name, what makes it of the settings and a seed."""

BLIND = ("cmaes",)
"""Those that know of no constraints: a trial that can't win is told to them as one without any robust accuracy."""


def check_sampler(name: str) -> None:
    """Refuse an unknown sampler, and one whose library is missing."""
    if name not in SAMPLERS:
        raise UserError(unknown("sampler", name, SAMPLERS))
    for library in ("optuna", *(("cmaes",) if name == "cmaes" else ())):
        try:
            importlib.import_module(library)
        except ImportError as fault:
            raise UserError(
                f"a search with {name} needs {library}, which can't be imported ({fault}); "
                "pip install 'robustbench_lite[tune]'"
            ) from None


def make_sampler(name: str, found: tuple[Axis, ...], seed: int, number: int) -> BaseSampler:
    """Make the sampler for one trial.

    It is made anew each time, from the seed and the trial's number: so it proposes the same whether the search was
    killed before or not, and several processes don't propose the same. A grid is one order of points for all trials.
    """
    own = seed if name == "grid" else zlib.crc32(f"{seed}|{number}".encode())
    return SAMPLERS[name](found, own)


def open_study(storage: str | None, folder: Path, pruner: BasePruner) -> Study:
    """Open a study, or make it.

    Parameters
    ----------
    storage
        A database by its URL, such as ``sqlite:///study.db``, or the path of a journal file; by default the journal
        file in the folder.
    folder
        Where the search writes; the study bears its name.

    Raises
    ------
    UserError
        For a storage that can't be reached.
    """
    import optuna

    told = re.sub(r"//[^@/]*@", "//***@", storage or "")  # no password on a screen
    try:
        with _quiet():
            return optuna.create_study(
                storage=_storage(storage, folder),
                pruner=pruner,
                study_name=folder.resolve().name,
                direction="maximize",
                load_if_exists=True,
            )
    except Exception as fault:  # each database has errors of its own
        what = re.sub(r"//[^@/\s]*@", "//***@", str(fault)).strip().partition("\n")[0]
        raise UserError(
            f"storage {told or JOURNAL_FILE!r}: can't be reached ({type(fault).__name__}: {what}); expected "
            "sqlite:///FILE.db, postgresql://..., or the path of a journal file"
        ) from None


def _storage(storage: str | None, folder: Path) -> BaseStorage:
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    if storage is not None and "://" in storage:
        return RDBStorage(storage)
    # The whole path: Optuna's lock is a link to it, and a killed process leaves one that must lead somewhere.
    path = folder / JOURNAL_FILE if storage is None else Path(storage)
    return JournalStorage(JournalFileBackend(str(path.resolve())))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna from telling that a study was made."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)
