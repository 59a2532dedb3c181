"""Which properties of a sample tell whether it breaks: InterpretML's glass-box model, and whether to believe it.

Nori, Jenkins, Koch and Caruana 2019, *InterpretML: a unified framework for machine learning interpretability*.
https://arxiv.org/abs/1909.09223. The score is Brier's, *Verification of forecasts expressed in terms of probability*,
1950, https://doi.org/10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustbench_lite.explaining.extra import library
from robustbench_lite.explaining.properties import Property
from robustbench_lite.results.explained import Group, Reasons, Step, Term
from robustbench_lite.results.scorecard import Interval

FOLDS = 5
LEAST = 10
"""Samples that must have broken, and that must have stood, for anything to be fitted."""
_RESAMPLES = 2000
_SETTINGS = {"outer_bags": 4, "max_bins": 16, "max_rounds": 100, "learning_rate": 0.1, "interactions": 0, "n_jobs": 1}
"""Coarser and quicker than the package's own: a tenth of the time, and the same check on samples held out."""


def reasons(properties: Sequence[Property], broken: NDArray[np.bool_], seed: int) -> Reasons:
    """Fit a sum of one curve a property to the log-odds of breaking, and check it on samples held out.

    The check is the Brier skill score, over five folds: by which share the mean squared error of the chances is below
    that of a constant, with its interval by the bootstrap over samples. Where that interval reaches 0, the properties
    tell nothing that could be believed.

    Parameters
    ----------
    properties
        Of each sample, (N,).
    broken
        Whether it broke, (N,).
    seed
        Of folds, fit and bootstrap.

    Raises
    ------
    UserError
        Where interpret-core isn't installed.
    """
    samples, fallen = len(broken), int(broken.sum())
    if min(fallen, samples - fallen) < LEAST:
        missing = (
            f"{fallen} of {samples} samples broke: too few to tell of {'those that broke' if fallen < LEAST else ''}"
            f"{'those that stood' if fallen >= LEAST else ''}, {LEAST} are needed"
        )
        return Reasons(samples=samples, broken=fallen, missing=missing)
    table = np.empty((samples, len(properties)), dtype=object)
    for place, one in enumerate(properties):
        table[:, place] = one.values
    chance, constant = _held_out(properties, table, broken, seed)
    errors, of_constant = (chance - broken) ** 2, (constant - broken) ** 2
    low, high = _interval(errors, of_constant, seed)
    model = _fit(properties, table, broken, seed)
    terms = [_term(model, place, one, broken) for place, one in enumerate(properties)]
    return Reasons(
        samples=samples,
        broken=fallen,
        told=float(1 - errors.mean() / of_constant.mean()),
        low=low,
        high=high,
        folds=FOLDS,
        terms=tuple(sorted(terms, key=lambda term: -term.importance)),
    )


def _fit(properties: Sequence[Property], table: NDArray[Any], broken: NDArray[np.bool_], seed: int) -> Any:
    make = library("interpret.glassbox").ExplainableBoostingClassifier
    kinds = ["nominal" if one.values.dtype == object else "continuous" for one in properties]
    model = make(feature_names=[one.name for one in properties], feature_types=kinds, random_state=seed, **_SETTINGS)
    return model.fit(table, broken.astype(int))


def _held_out(
    properties: Sequence[Property], table: NDArray[Any], broken: NDArray[np.bool_], seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Chance of breaking of each sample, (N,), by the model and by the constant that saw the other folds."""
    from sklearn.model_selection import StratifiedKFold

    chance, constant = np.empty(len(broken)), np.empty(len(broken))
    for known, held in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(table, broken):
        model = _fit(properties, table[known], broken[known], seed)
        chance[held] = model.predict_proba(table[held])[:, 1]
        constant[held] = broken[known].mean()
    return chance, constant


def _interval(errors: NDArray[np.float64], of_constant: NDArray[np.float64], seed: int) -> tuple[float, float]:
    dice = np.random.default_rng(seed)
    drawn = dice.integers(0, len(errors), (_RESAMPLES, len(errors)))
    low, high = np.quantile(1 - errors[drawn].mean(1) / of_constant[drawn].mean(1), (0.025, 0.975))
    return float(low), float(high)


def _term(model: Any, place: int, one: Property, broken: NDArray[np.bool_]) -> Term:
    importance = float(model.term_importances()[place])
    about = {"name": one.name, "definition": one.definition, "importance": importance}
    if one.values.dtype == object:
        return Term(**about, groups=tuple(_classes(one, broken)))
    return Term(**about, groups=tuple(_quarters(one, broken)), steps=tuple(_steps(model, place)))


def _steps(model: Any, place: int) -> Iterator[Step]:
    curve = model.explain_global().data(place)
    ends = [float(one) for one in curve["names"]]
    for at, (score, low, high) in enumerate(
        zip(curve["scores"], curve["lower_bounds"], curve["upper_bounds"], strict=True)
    ):
        yield Step(start=ends[at], end=ends[at + 1], score=float(score), low=float(low), high=float(high))


def _classes(one: Property, broken: NDArray[np.bool_]) -> Iterator[Group]:
    for name in sorted(set(one.values)):
        of = broken[one.values == name]
        yield Group(label=str(name), broken=Interval.of(int(of.sum()), len(of)))


def _quarters(one: Property, broken: NDArray[np.bool_]) -> Iterator[Group]:
    """Quarters of the samples, by rank: each with its least and largest value."""
    order = np.argsort(one.values, kind="stable")
    for part in np.array_split(order, 4):
        values, of = one.values[part], broken[part]
        yield Group(label=f"{values[0]:.3g} to {values[-1]:.3g}", broken=Interval.of(int(of.sum()), len(of)))
