"""What becomes of commands that torchrun starts. That they train together is tested in ``tests/hardening``."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from robustbench_lite.faces.cli import main, processes
from robustbench_lite.faces.cli.output import EXIT_USAGE


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was waited, in the place of waiting."""
    found: list[float] = []
    monkeypatch.setattr(processes.time, "sleep", found.append)
    monkeypatch.setenv("WORLD_SIZE", "2")
    return found


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_command_that_does_not_train_is_not_run_several_times(
    monkeypatch: pytest.MonkeyPatch, waited: list[float], rank: str
) -> None:
    monkeypatch.setenv("RANK", rank)
    told = CliRunner().invoke(main, ["evaluate", "net.py:build", "--data", "digits"])
    assert told.exit_code == EXIT_USAGE
    assert "rblite evaluate was started in 2 processes" in told.stderr
    assert bool(waited) == (rank == "1")  # the first tells before


def test_a_wrong_word_is_told_by_the_first_before_the_others(
    monkeypatch: pytest.MonkeyPatch, waited: list[float]
) -> None:
    monkeypatch.setenv("RANK", "1")
    told = CliRunner().invoke(main, ["harden", "net.py:build", "--dataa", "digits"])
    assert told.exit_code == EXIT_USAGE
    assert "--dataa" in told.stderr
    assert waited
