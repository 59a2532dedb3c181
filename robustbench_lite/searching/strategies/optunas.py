"""Optuna's own samplers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from robustbench_lite.searching.strategies.interface import STARTUP, Strategy

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from robustbench_lite.searching.space import Axis

_POPULATION = 8  # of a search of tens of trials; Optuna's own number is made for hundreds


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

    return TPESampler(seed=seed, n_startup_trials=STARTUP)


def _gp(_: tuple[Axis, ...], seed: int) -> BaseSampler:
    from optuna.samplers import GPSampler

    return GPSampler(seed=seed, n_startup_trials=STARTUP, warn_independent_sampling=False)


def _nsga2(_: tuple[Axis, ...], seed: int) -> BaseSampler:
    from optuna.samplers import NSGAIISampler

    return NSGAIISampler(seed=seed, population_size=_POPULATION)


def _cmaes(_: tuple[Axis, ...], seed: int) -> BaseSampler:
    from optuna.samplers import CmaEsSampler

    return CmaEsSampler(seed=seed, warn_independent_sampling=False)


GRID = Strategy(make=_grid, several=True, in_order=True)
RANDOM = Strategy(make=_random, several=True)
TPE = Strategy(make=_tpe, several=True)
GP = Strategy(make=_gp, several=True)
NSGA2 = Strategy(make=_nsga2, several=True)
CMAES = Strategy(make=_cmaes, needs=("cmaes",), constrained=False)
