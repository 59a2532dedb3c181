from __future__ import annotations

import json
import sys

import pytest

from robustbench_lite.core.errors import UserError
from robustbench_lite.core.extras import library


def test_a_library_that_is_there_is_imported() -> None:
    assert library("json", "a test", "nothing") is json


def test_one_that_is_missing_is_told_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"^a test needs optuna, which can't be imported \(.*optuna.*\); get it$"):
        library("optuna", "a test", "get it")
    with pytest.raises(UserError, match=r"^a test needs Optuna, which"):
        library("optuna", "a test", "get it", name="Optuna")
