"""Entrants: models beside those of a search. Other libraries' AutoML by name, and any model by its spec."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from robustbench_lite.core.errors import UserError, unknown
from robustbench_lite.core.extras import library
from robustbench_lite.data.dataset import Data
from robustbench_lite.model.loading import load_target
from robustbench_lite.model.target import Target

if TYPE_CHECKING:
    import numpy as np

    Answers = Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]
    """From rows (N, F) to probabilities (N, classes)."""
    Fit = Callable[[np.ndarray[Any, Any], np.ndarray[Any, Any], float, int], Answers]
    """From rows (N, F), labels (N,), seconds and a seed."""

AUTOML_EXTRA = "pip install 'robustbench_lite[automl]'"


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A library that makes a model of rows and labels by itself."""

    fit: Fit
    module: str
    cure: str
    """What to do where it is missing."""


def check_entrant(name: str) -> None:
    """See that an entrant can take part, as far as that is known before it is made.

    Raises
    ------
    UserError
        For an unknown name, a library that is missing, and H2O without Java.
    """
    if name in PEERS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a library's own, about its own
            library(PEERS[name].module, f"the entrant {name}", PEERS[name].cure)
        if name == "h2o" and shutil.which("java") is None:
            raise UserError("the entrant h2o needs Java, and no java is on the PATH: install it, or leave h2o out")
    elif ":" not in name and "/" not in name:
        raise UserError(f"{unknown('entrant', name, PEERS)}. Or give a MODEL, such as http://HOST/v2/models/NAME")


def entrant(name: str, data: Data, seconds: float, seed: int) -> Target:
    """Make an entrant: one of another library is fitted to data.

    Parameters
    ----------
    name
        One of `PEERS`, or the spec of a model.
    data
        What it may learn from.
    seconds
        How long it may.

    Raises
    ------
    UserError
        For a model that can't be loaded, and a library that fails, with what it says.
    """
    classes = max(len(data.classes), int(data.labels.max()) + 1)
    if name not in PEERS:
        target = load_target(name, classes=data.classes or classes, device="auto")
        target.name = name
        return target
    x = data.fetch(range(len(data))).flatten(1).numpy()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a library's own, about its own
            answers = PEERS[name].fit(x, data.labels.numpy(), seconds, seed)
    except Exception as fault:
        raise UserError(f"the entrant {name} can't be fitted ({type(fault).__name__}: {fault})") from fault

    def scores(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return answers(rows.reshape(len(rows), -1))

    return Target.from_callable(scores, classes=classes, access="scores", name=name)


def _flaml(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any], seconds: float, seed: int) -> Answers:
    """FLAML: cost-frugal search over boosted trees and forests (Wang et al. 2021, https://arxiv.org/abs/1911.04706)."""
    from flaml import AutoML

    found = AutoML()
    found.fit(
        x,
        y,
        task="classification",
        metric="accuracy",
        time_budget=seconds,
        estimator_list=["lgbm", "rf", "extra_tree"],  # its xgboost is another than tpot's
        seed=seed,
        verbose=0,
    )
    return lambda rows: found.predict_proba(rows)


def _tpot(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any], seconds: float, seed: int) -> Answers:
    """TPOT: pipelines of scikit-learn by genetic programming (Olson et al. 2016, https://arxiv.org/abs/1603.06212)."""
    from tpot import TPOTClassifier

    minutes = seconds / 60
    found = TPOTClassifier(
        search_space="linear-light",
        scorers=["accuracy"],
        scorers_weights=[1],
        max_time_mins=minutes,
        max_eval_time_mins=minutes,
        population_size=10,
        n_jobs=1,
        random_state=seed,
        verbose=0,
    )
    found.fit(x, y)
    return lambda rows: found.predict_proba(rows)


def _h2o(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any], seconds: float, seed: int) -> Answers:
    """H2O AutoML: stacked ensembles, by a server in Java (LeDell and Poirier 2020)."""
    import h2o
    import numpy as np
    from h2o.automl import H2OAutoML

    h2o.init(log_level="FATA", verbose=False)
    h2o.no_progress()
    frame = h2o.H2OFrame(np.column_stack([x, y]), column_names=[*(f"x{at}" for at in range(x.shape[1])), "y"])
    frame["y"] = frame["y"].asfactor()
    found = H2OAutoML(max_runtime_secs=int(max(10, seconds)), seed=seed)
    found.train(y="y", training_frame=frame)

    def answers(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        asked = h2o.H2OFrame(rows, column_names=[f"x{at}" for at in range(rows.shape[1])])
        told: np.ndarray[Any, Any] = found.leader.predict(asked)[1:].as_data_frame().to_numpy()
        return told

    return answers


PEERS: dict[str, Peer] = {
    "flaml": Peer(fit=_flaml, module="flaml", cure=AUTOML_EXTRA),
    "tpot": Peer(fit=_tpot, module="tpot", cure=AUTOML_EXTRA),
    "h2o": Peer(fit=_h2o, module="h2o", cure="pip install h2o"),
}
"""Libraries that make a model by themselves, by the name of their entrant."""
