"""scikit-learn's conventions: its own checks, searches, pipelines, and the scorer."""

from __future__ import annotations

import pickle
from functools import partial
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits, make_blobs
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

from robustbench_lite import evaluate
from robustbench_lite.core.errors import UserError
from robustbench_lite.sklearn import HardenedClassifier, robust_accuracy

CHEAP: dict[str, Any] = {
    "recipe": "fgsm_rs",
    "threat": "Linf 0.02",
    "hidden": (),
    "epochs": 4,
    "lr": 0.1,
    "batch_size": 32,
}
SUITE = ["fgsm"]
QUICK = partial(robust_accuracy, suite=SUITE)


@parametrize_with_checks([HardenedClassifier(**CHEAP)])
def test_it_keeps_scikit_learn_s_conventions(estimator: Any, check: Any) -> None:
    check(estimator)


def blobs(samples: int = 120) -> Any:
    return make_blobs(samples, centers=3, n_features=4, cluster_std=1.5, random_state=0)


@pytest.fixture(scope="module")
def fitted() -> HardenedClassifier:
    return HardenedClassifier(**CHEAP, random_state=0).fit(*blobs())


def test_the_score_is_that_of_evaluate(fitted: HardenedClassifier) -> None:
    x, y = blobs()
    scaled = np.clip((x - x.min(0)) / (x.max(0) - x.min(0)), 0, 1).astype(np.float32)
    card = evaluate(fitted.target_, (scaled, y), SUITE, "Linf 0.02")
    assert QUICK(fitted, x, y) == card.robust_accuracy.value
    assert fitted.score(x, y) == pytest.approx(card.clean_accuracy.value)
    assert 0 < card.robust_accuracy.value <= card.clean_accuracy.value


def test_features_may_be_in_standardised_units() -> None:
    x, y = blobs()
    fitted = HardenedClassifier(**CHEAP | {"epochs": 30}, scale="std", random_state=0).fit(x, y)
    scaled = (0.5 + (x - x.mean(0)) / x.std(0) / 10).astype(np.float32)
    card = evaluate(fitted.target_, (scaled, y), SUITE, "Linf 0.02")
    assert QUICK(fitted, x, y) == card.robust_accuracy.value > 0.4


def test_hardening_makes_it_more_robust_than_plain_training() -> None:
    x, y = load_digits(return_X_y=True)
    x, y = x[:500] / 16, y[:500]
    given = CHEAP | {"threat": "Linf 0.1", "scale": "none", "epochs": 8, "lr": 0.05}
    robust = {}
    for recipe in ("standard", "fgsm_rs"):
        made = HardenedClassifier(**given | {"recipe": recipe}, random_state=0).fit(x, y)
        robust[recipe] = QUICK(made, x[:200], y[:200])
    assert robust["fgsm_rs"] > robust["standard"] + 0.05


def test_the_same_seed_gives_the_same_network_and_it_can_be_pickled(fitted: HardenedClassifier) -> None:
    x, y = blobs()
    again = HardenedClassifier(**CHEAP, random_state=0).fit(x, y)
    other = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(again.predict_proba(x), fitted.predict_proba(x))
    assert np.array_equal(other.predict_proba(x), fitted.predict_proba(x))
    assert QUICK(other, x, y) == QUICK(fitted, x, y)


def test_grids_cross_validation_and_pipelines_just_work() -> None:
    x, y = blobs(90)
    names = np.array(["ant", "bee", "cat"])[y]
    search = GridSearchCV(HardenedClassifier(**CHEAP, random_state=0), {"lr": [1e-5, 0.1]}, scoring=QUICK, cv=2)
    with pytest.warns(UserWarning, match="non-finite|INVALID"):  # it learns nothing at the small rate
        search.fit(x, names)
    assert search.best_params_ == {"lr": 0.1}
    assert set(search.predict(x)) <= set(names)
    pipeline = make_pipeline(StandardScaler(), HardenedClassifier(**CHEAP, random_state=0))
    scores = cross_val_score(pipeline, x, names, scoring=QUICK, cv=2)
    assert np.all((scores > 0.3) & (scores <= 1))
    assert QUICK(pipeline.fit(x, names), x, names) > 0.3


def test_a_halving_search_just_works() -> None:
    from sklearn.experimental import enable_halving_search_cv  # noqa: F401
    from sklearn.model_selection import HalvingRandomSearchCV

    x, y = blobs(120)
    search = HalvingRandomSearchCV(
        HardenedClassifier(**CHEAP, random_state=0),
        {"lr": [0.1, 0.2, 0.3, 0.4]},
        scoring=QUICK,
        cv=2,
        n_candidates=4,
        factor=2,
        min_resources=60,
        return_train_score=False,
        random_state=0,
    ).fit(x, y)
    assert search.n_iterations_ == 2
    assert 0.3 < search.best_score_ <= 1


def small_net(shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(shape[0], 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, classes))


def test_images_go_through_a_network_of_one_s_own() -> None:
    x, y = load_digits(return_X_y=True)
    x, y = x[:300] / 16, y[:300]
    given = CHEAP | {"model": small_net, "shape": (1, 8, 8), "scale": "none", "lr": 0.01}
    made = HardenedClassifier(**given, random_state=0).fit(x, y)
    assert made.score(x, y) > 0.5
    assert isinstance(made.target_.module[0], nn.Conv2d)
    with pytest.raises(UserError, match=r"values from 0 to 16: expected \[0, 1\]"):
        made.predict(x * 16)


def test_what_is_given_wrong_is_told(fitted: HardenedClassifier) -> None:
    x, y = blobs()
    with pytest.raises(UserError, match=r"shape is \(1, 8, 8\), and X has 4 features"):
        HardenedClassifier(**CHEAP, shape=(1, 8, 8)).fit(x, y)
    with pytest.raises(UserError, match="scale is 'both': expected 'std', 'range' or 'none'"):
        HardenedClassifier(**CHEAP, scale="both").fit(x, y)
    with pytest.raises(ValueError, match="holds 1 class"):
        HardenedClassifier(**CHEAP).fit(x, np.zeros(len(x)))
    with pytest.raises(UserError, match="y holds 7, which was not in the training data"):
        fitted.evaluate(x, np.full(len(x), 7), SUITE)
    with pytest.raises(UserError, match="StandardScaler is no HardenedClassifier"):
        robust_accuracy(StandardScaler(), x, y)
