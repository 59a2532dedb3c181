"""The storage of a study."""

from __future__ import annotations

import time
from pathlib import Path

import optuna
import pytest

from robustbench_lite.core.errors import UserError
from robustbench_lite.searching.storage import open_study
from tests.forked import Forked


def test_a_study_is_opened_again_by_the_folder_s_name(tmp_path: Path) -> None:
    first = open_study(None, tmp_path, "none")
    first.tell(first.ask(), 0.25)
    again = open_study(None, tmp_path, "none")
    assert (again.study_name, again.best_value) == (tmp_path.name, 0.25)
    other = open_study(str(tmp_path / "other.journal"), tmp_path, "none")
    assert other.trials == []


def test_optuna_tells_nothing_and_is_as_it_was(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    level = optuna.logging.get_verbosity()
    open_study(f"sqlite:///{tmp_path / 'study.db'}", tmp_path, "none")
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == level


def test_no_password_is_told_wherever_it_stands(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        open_study("nosuch+driver://me:secret@host:1/db", tmp_path, "none")
    assert "secret" not in str(caught.value)
    assert "nosuch+driver://***@host:1/db" in str(caught.value)


HOLD = """
import sys, time
from pathlib import Path
from robustbench_lite.searching.storage import _storage
_storage(None, Path(sys.argv[1]))._backend._lock.acquire()
Path(sys.argv[1], "held").touch()
time.sleep(60)
"""


def test_a_process_that_is_killed_with_the_lock_keeps_no_other_waiting(tmp_path: Path) -> None:
    open_study(None, tmp_path, "none")
    (tmp_path / "study.journal.lock").symlink_to(tmp_path / "study.journal")  # left by a search of an older version
    killed = Forked(HOLD, tmp_path)
    killed.wait_for((tmp_path / "held").exists)
    killed.kill()
    begun = time.monotonic()
    study = open_study(None, tmp_path, "none")
    study.tell(study.ask(), 0.25)
    assert time.monotonic() - begun < 15  # Optuna's own lock is broken after 30 seconds
    assert open_study(None, tmp_path, "none").best_value == 0.25
