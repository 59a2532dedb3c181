"""Without the extra `mlflow` what to install is told; with it, tests/extras/test_mlflow.py runs (make test-mlflow)."""

from __future__ import annotations

import sys

import pytest
from click.testing import CliRunner

from robustbench_lite.core.errors import UserError
from robustbench_lite.faces import mlflow
from robustbench_lite.faces.cli import main


def test_without_the_extra_what_to_install_is_told(make_card, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(UserError, match=r"pip install 'robustbench_lite\[mlflow\]'"):
        mlflow.log([make_card(samples=4)], str(tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


def test_a_missing_extra_is_told_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    done = CliRunner().invoke(main, ["evaluate", "gone.py:build", "--data", "digits", "--mlflow", "runs"])
    assert done.exit_code == 2
    assert "pip install 'robustbench_lite[mlflow]'" in done.output
