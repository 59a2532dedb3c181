"""Entrants: who may take part, and what is told of those that can't."""

from __future__ import annotations

import importlib.util
import shutil
from typing import Any

import numpy as np
import pytest

from robustbench_lite.core.errors import UserError
from robustbench_lite.data.convert import from_arrays
from robustbench_lite.searching import entrants
from robustbench_lite.searching.entrants import PEERS, Peer, check_entrant, entrant

X = np.linspace(0, 1, 40, dtype=np.float32).reshape(20, 2)
DATA = from_arrays(X, (X[:, 0] > 0.5).astype(int), "ramp")


def test_a_library_that_is_missing_is_told_with_its_cure() -> None:
    for name, peer in PEERS.items():
        if importlib.util.find_spec(peer.module) is None:
            with pytest.raises(UserError, match=f"the entrant {name} needs {peer.module}, which can't be imported"):
                check_entrant(name)
    check_entrant("http://localhost/v2/models/mine")
    check_entrant("folder/of/a/model")


def test_h2o_needs_java(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PEERS, "h2o", Peer(fit=PEERS["h2o"].fit, module="json", cure=""))
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(UserError, match="needs Java, and no java is on the PATH"):
        check_entrant("h2o")


def test_what_a_library_fits_is_asked_in_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.linear_model import LogisticRegression

    def fit(x: Any, y: Any, seconds: float, seed: int) -> Any:
        assert (x.shape, y.shape, seconds, seed) == ((20, 2), (20,), 3.0, 1)
        return LogisticRegression(C=1000).fit(x, y).predict_proba

    monkeypatch.setitem(entrants.PEERS, "flaml", Peer(fit=fit, module="sklearn", cure=""))
    target = entrant("flaml", DATA, 3.0, 1)
    assert (target.name, target.access) == ("flaml", "scores")
    assert (target(DATA.fetch(range(20))).argmax(1) == DATA.labels).float().mean() > 0.9


def test_a_library_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fit(*_: Any) -> Any:
        raise RuntimeError("no luck")

    monkeypatch.setitem(entrants.PEERS, "flaml", Peer(fit=fit, module="sklearn", cure=""))
    with pytest.raises(UserError, match=r"the entrant flaml can't be fitted \(RuntimeError: no luck\)"):
        entrant("flaml", DATA, 3.0, 1)
