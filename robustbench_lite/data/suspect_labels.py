"""Labels that are probably wrong, by confident learning: what a cross-validated classifier is sure of against them."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FOLDS = 5
MOST = 10_000
"""Samples that are looked at; more take long and tell little more."""
_PARTS = 64
"""Principal components that the classifier sees."""
_NEIGHBOURS = 7
_SKILL = 0.6
"""Cross-validated accuracy below which a disagreement says nothing about the label."""
_BEYOND_COMMONEST = 0.5
"""Share of the errors of one who always says the commonest class that a classifier with skill doesn't make."""


class Doubt(NamedTuple):
    """A label that the classifiers don't believe."""

    row: int
    better: int
    """The class that they take it for."""
    probability: float
    """Of that class, cross-validated."""


class Doubts(NamedTuple):
    """What came of it."""

    found: list[Doubt]
    """The surest first."""
    accuracy: float
    """Of the classifier, cross-validated; NaN where there were too few samples."""
    commonest: float
    """Share of the commonest class: the accuracy of one who always says it; NaN as above."""

    @property
    def skilled(self) -> bool:
        """Whether the classifier is good enough to doubt a label."""
        return self.accuracy >= max(_SKILL, self.commonest + _BEYOND_COMMONEST * (1 - self.commonest))


def doubted(x: NDArray[np.float32], y: NDArray[np.int64], seed: int = 0) -> Doubts:
    """Find labels that are probably wrong.

    Parameters
    ----------
    x
        Features, (N, D), such as pixels of small versions.
    y
        Labels, (N,).
    seed
        Of the folds.

    Returns
    -------
    Doubts
        A sample is doubted where, cross-validated, a logistic regression gives another class at least the probability
        that samples of that class have on average for it (the off-diagonal of the confident joint), and most of its
        nearest neighbours have that other label as well; or a clearly larger one, and nearly all of them have.

    References
    ----------
    Northcutt, Jiang and Chuang, *Confident Learning: Estimating Uncertainty in Dataset Labels*, JAIR 2021.
    https://arxiv.org/abs/1911.00068
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold
    from sklearn.neighbors import NearestNeighbors
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classes, counts = np.unique(y, return_counts=True)
    usable = np.isin(y, classes[counts >= FOLDS])
    rows = usable.nonzero()[0]
    if len(np.unique(y[rows])) < 2:
        return Doubts([], float("nan"), float("nan"))
    x, y = x[rows], y[rows]
    known = np.unique(y)
    probability = np.zeros((len(x), len(known)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fit that has not quite converged is good enough
        for train, test in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(x, y):
            parts = min(_PARTS, x.shape[1], len(train))
            model = make_pipeline(
                PCA(parts, random_state=seed), StandardScaler(), LogisticRegression(C=0.1, max_iter=100)
            )
            probability[test] = model.fit(x[train], y[train]).predict_proba(x[test])
    label = np.searchsorted(known, y)
    everyone = np.arange(len(x))
    threshold = np.array([probability[label == one, one].mean() for one in range(len(known))])
    sure = np.where(probability >= threshold, probability, -1.0)
    taken = sure.argmax(1)
    best = probability.argmax(1)
    taken = np.where(sure.max(1) >= 0, taken, best)
    against = taken != label
    near = NearestNeighbors(n_neighbors=min(_NEIGHBOURS + 1, len(x))).fit(x).kneighbors(x, return_distance=False)[:, 1:]
    agree = (label[near] == taken[:, None]).mean(1)
    margin = probability[everyone, taken] - probability[everyone, label]
    confident = (sure.max(1) >= 0) & (agree > 0.5)
    unanimous = (margin > 0.5) & (agree > 0.8)
    rows_found = (against & (confident | unanimous)).nonzero()[0]
    found = [
        Doubt(int(rows[one]), int(known[taken[one]]), float(probability[one, taken[one]]))
        for one in rows_found[np.argsort(-margin[rows_found], kind="stable")]
    ]
    return Doubts(found, float((best == label).mean()), float(np.bincount(label).max() / len(label)))
