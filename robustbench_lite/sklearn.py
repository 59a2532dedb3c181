"""Hardening in scikit-learn's conventions: a classifier for its grids, searches and pipelines, and a scorer.

The classifier runs a recipe, and the scorer a suite, exactly as `harden` and `evaluate` do.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import nn

from robustbench_lite.core.errors import UserError
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.data.scaling import SCALES, ends
from robustbench_lite.evaluating.pipeline import evaluate
from robustbench_lite.hardening.pipeline import run_steps
from robustbench_lite.hardening.preparation import Changes, Sampling, prepare
from robustbench_lite.results.scorecard import Scorecard

_BATCH = 1024  # samples that are predicted at once
_UNSEEN = "the evaluation can't be trusted (INVALID), so the score is nan"


class HardenedClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A network that is trained to withstand an adversary.

    Parameters
    ----------
    recipe
        Name of a recipe, path of a TOML file, or a `Recipe`.
    threat
        What to withstand, such as ``"Linf 0.05"``, in the units of the scaled features; by default the recipe's own.
    model
        What makes the network: a function of the shape of one sample and the number of classes, which returns a
        ``torch.nn.Module`` of logits. By default a perceptron with the hidden layers of ``hidden``.
    hidden
        Units of each hidden layer of the perceptron.
    shape
        Shape of one sample for the network, such as ``(1, 8, 8)``; by default the row of features as it is.
    scale
        ``"range"``: each feature goes from its least to its greatest value in the training data to [0, 1], so that eps
        is a share of that range, and what is beyond is cut off. ``"std"``: in standardised units, from 5 standard
        deviations below the mean to 5 above it, so that an eps of 0.1 is one standard deviation. ``"none"``: the
        features are in [0, 1] already.
    epochs, lr, batch_size
        Instead of the recipe's, in every step that trains.
    device
        Such as ``"cpu"`` or ``"cuda:0"``.
    random_state
        Of the first weights and every random draw.

    Attributes
    ----------
    classes_
        The labels, in the order of the network's logits.
    target_
        The hardened network, as `evaluate` takes it.
    threat_
        The threat model that it was hardened against.
    """

    def __init__(
        self,
        recipe: Any = "pgd_training",
        *,
        threat: str | ThreatModel | None = None,
        model: Callable[[tuple[int, ...], int], nn.Module] | None = None,
        hidden: Sequence[int] = (64,),
        shape: tuple[int, ...] | None = None,
        scale: Literal["range", "std", "none"] = "range",
        epochs: int | None = None,
        lr: float | None = None,
        batch_size: int | None = None,
        device: str | None = None,
        random_state: Any = None,
    ) -> None:
        self.recipe = recipe
        self.threat = threat
        self.model = model
        self.hidden = hidden
        self.shape = shape
        self.scale = scale
        self.epochs = epochs
        self.lr = lr
        self.batch_size = batch_size
        self.device = device
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> HardenedClassifier:  # noqa: N803  # as scikit-learn calls it
        """Train the network by the recipe.

        Parameters
        ----------
        X
            Samples, shape (N, features).
        y
            Their labels, shape (N,).

        Raises
        ------
        ValueError
            For what scikit-learn refuses, for a single class, and for what the recipe refuses.
        """
        x, y = validate_data(self, X, y)
        check_classification_targets(y)
        self._check()
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"y holds 1 class, {self.classes_[0]!r}: expected two or more to tell apart")
        self._low, self._span = np.zeros(x.shape[1]), np.ones(x.shape[1])
        if self.scale != "none":
            self._low, self._span = ends(x, self.scale)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        samples, known = self._scaled(x).float(), torch.from_numpy(labels.astype(np.int64))
        plan = prepare(
            self._network(seed),
            (samples, known),
            self.recipe,
            Changes(threat=self.threat, epochs=self.epochs, lr=self.lr, batch_size=self.batch_size),
            Sampling(test_data=(samples[:1].clone(), known[:1].clone()), seed=seed),  # nothing is evaluated here
            self.device,
        )
        self.target_ = run_steps(plan).target
        self.threat_ = plan.recipe.threat
        self.target_.module.eval()
        return self

    def predict_proba(self, X: Any) -> Any:  # noqa: N803
        """Probabilities of the classes, shape (N, classes)."""
        check_is_fitted(self, "target_")
        samples = self._scaled(validate_data(self, X, reset=False))
        # In float64, so that an answer doesn't depend on which other samples are asked about.
        exact = copy.deepcopy(self.target_.module).double()
        with torch.inference_mode():
            parts = [exact(part.to(self.target_.device)) for part in torch.split(samples, _BATCH)]
        return torch.cat(parts).softmax(1).cpu().numpy()

    def predict(self, X: Any) -> Any:  # noqa: N803
        """The likeliest class of each sample, shape (N,)."""
        places = self.predict_proba(X).argmax(1)
        return self.classes_[places]

    def evaluate(self, X: Any, y: Any, suite: Any = None, *, limit: int | None = None, seed: int = 0) -> Scorecard:  # noqa: N803
        """Attack the network with a suite, under the threat model that it was hardened against.

        Parameters
        ----------
        X, y
            Samples and labels; a label that it has not learnt is refused.
        suite
            As `evaluate` takes it; by default the short one of the norm, such as ``linf_quick``.
        limit, seed
            As in `evaluate`.

        Raises
        ------
        ValueError
            For what scikit-learn refuses, and for labels that are none of ``classes_``.
        """
        check_is_fitted(self, "target_")
        x, y = validate_data(self, X, y, reset=False)
        places = {label: place for place, label in enumerate(self.classes_.tolist())}
        if strange := sorted({str(label) for label in y.tolist() if label not in places}):
            raise UserError(
                f"y holds {', '.join(strange[:5])}, which was not in the training data; leave those samples out"
            )
        labels = torch.tensor([places[label] for label in y.tolist()])
        suite = f"{self.threat_.norm.lower()}_quick" if suite is None else suite
        return evaluate(
            self.target_, (self._scaled(x).float(), labels), suite, self.threat_, limit=limit, seed=seed, gates=None
        )

    def _check(self) -> None:
        """Refuse a scale or a shape that is none; the number of features is known."""
        if self.scale not in (*SCALES, "none"):
            raise UserError(f"scale is {self.scale!r}: expected 'std', 'range' or 'none'")
        if self.shape is not None and math.prod(self.shape) != self.n_features_in_:
            raise UserError(f"shape is {self.shape}, and X has {self.n_features_in_} features: expected as many values")

    def _scaled(self, x: Any) -> torch.Tensor:
        """Samples in [0, 1], (N, *shape), float64."""
        scaled = (np.asarray(x, dtype=np.float64) - self._low) / self._span
        if self.scale == "none" and len(scaled) and not (scaled.min() >= 0 and scaled.max() <= 1):
            raise UserError(
                f"X holds values from {scaled.min():g} to {scaled.max():g}: expected [0, 1] with scale='none'; "
                "give scale='range', or scale it before"
            )
        rows = torch.from_numpy(np.clip(scaled, 0.0, 1.0))
        return rows if self.shape is None else rows.reshape(-1, *self.shape)

    def _network(self, seed: int) -> nn.Module:
        """The network before its training; the caller's generator is left as it was."""
        shape = (int(self.n_features_in_),) if self.shape is None else tuple(self.shape)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if self.model is not None:
                return self.model(shape, len(self.classes_))
            sizes = [math.prod(shape), *self.hidden]
            layers: list[nn.Module] = [nn.Flatten()]
            for before, after in pairwise(sizes):
                layers += [nn.Linear(before, after), nn.ReLU()]
            return nn.Sequential(*layers, nn.Linear(sizes[-1], len(self.classes_)))


def robust_accuracy(
    estimator: Any,
    X: Any,  # noqa: N803
    y: Any,
    *,
    suite: Any = None,
    limit: int | None = None,
    seed: int = 0,
) -> float:
    """Robust accuracy as a scorer: ``GridSearchCV(..., scoring=robust_accuracy)``.

    Parameters
    ----------
    estimator
        A fitted `HardenedClassifier`, or a pipeline that ends with one: then the adversary acts on what the pipeline's
        other steps make of the samples.
    X, y
        Samples and labels.
    suite, limit, seed
        As in `HardenedClassifier.evaluate`; ``functools.partial`` gives a scorer with other ones.

    Returns
    -------
    float
        In [0, 1]; nan where the evaluation can't be trusted, so that a search doesn't choose what only seems robust.

    Raises
    ------
    ValueError
        For an estimator that is none of these.
    """
    steps = getattr(estimator, "steps", None)
    x = X
    if steps is not None:
        x, estimator = estimator[:-1].transform(X) if len(steps) > 1 else X, steps[-1][1]
    if not isinstance(estimator, HardenedClassifier):
        raise UserError(
            f"robust_accuracy: {type(estimator).__name__} is no HardenedClassifier, nor a pipeline that ends with one"
        )
    card = estimator.evaluate(x, y, suite, limit=limit, seed=seed)
    if card.verdict == "INVALID":
        reason = next((finding.code for finding in card.validity if finding.severity == "error"), "")
        warnings.warn(f"{_UNSEEN}: {reason}", UserWarning, stacklevel=2)
        return float("nan")
    return card.robust_accuracy.value
