"""The tree of Parzen estimators of the library hyperopt, as a sampler of Optuna's.

References
----------
Bergstra, Bardenet, Bengio and Kégl, *Algorithms for hyper-parameter optimization*, 2011.
https://papers.nips.cc/paper/4443-algorithms-for-hyper-parameter-optimization
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from robustbench_lite.searching.strategies.interface import STARTUP, Strategy
from robustbench_lite.searching.strategies.proposals import Done, proposing

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

    from robustbench_lite.searching.space import Axis


def _sampler(found: tuple[Axis, ...], seed: int) -> BaseSampler:
    return proposing(found, seed, lambda _, done, drawn: _proposal(found, done, drawn))


def _proposal(found: tuple[Axis, ...], done: Done, seed: int) -> dict[str, Any]:
    """The settings that hyperopt proposes after some trials, as Optuna names them."""
    from hyperopt import Trials, tpe
    from hyperopt.base import Domain

    history = Trials()
    history.insert_trial_docs([_told(found, number, trial) for number, trial in enumerate(done)])
    history.refresh()
    domain = Domain(lambda _: 0.0, {axis.key: _expression(axis) for axis in found})
    (proposed,) = tpe.suggest([len(done)], domain, history, seed, n_startup_jobs=STARTUP)
    return {axis.key: _value(axis, proposed["misc"]["vals"][axis.key][0]) for axis in found}


def _told(found: tuple[Axis, ...], number: int, trial: FrozenTrial) -> dict[str, Any]:
    """A trial as hyperopt keeps it; it minimises."""
    return {
        "tid": number,
        "state": 2,  # done
        "spec": None,
        "result": {"loss": -float(trial.value or 0.0), "status": "ok"},
        "misc": {
            "tid": number,
            "cmd": None,
            "idxs": {axis.key: [number] for axis in found},
            "vals": {axis.key: [_named(axis, trial.params[axis.key])] for axis in found},
        },
        "exp_key": None,
        "owner": None,
        "version": 0,
        "book_time": None,
        "refresh_time": None,
    }


def _expression(axis: Axis) -> Any:
    """The values of a setting in hyperopt's words: choices and steps are told by their places."""
    from hyperopt import hp

    points = axis.grid()
    if axis.values.choices is not None and points is not None:
        return hp.randint(axis.key, len(points))
    if points is not None and not axis.values.log:
        return hp.quniform(axis.key, -0.5, len(points) - 0.5, 1)
    low, high = axis.values.low, axis.values.high
    if low is None or high is None:
        raise AssertionError("a setting without choices has a range")
    if axis.values.log:
        logs = math.log(low), math.log(high)
        return hp.qloguniform(axis.key, *logs, 1) if axis.whole else hp.loguniform(axis.key, *logs)
    return hp.uniform(axis.key, low, high)


def _named(axis: Axis, value: Any) -> Any:
    """What hyperopt calls a value."""
    points = axis.grid()
    if points is None or axis.values.log:
        return value
    if axis.values.choices is not None:
        return points.index(value)
    return min(range(len(points)), key=lambda place: abs(points[place] - value))


def _value(axis: Axis, named: Any) -> Any:
    """What Optuna calls what hyperopt calls so; a place is kept within the range, as a rounded one may be out of it."""
    points = axis.grid()
    if points is None:
        return min(max(float(named), float(axis.values.low or 0)), float(axis.values.high or 0))
    if axis.values.log and axis.values.choices is None:
        return min(max(round(float(named)), points[0]), points[-1])
    return points[min(max(int(named), 0), len(points) - 1)]


HYPEROPT = Strategy(make=_sampler, needs=("hyperopt",), extra="hyperopt", constrained=False)
