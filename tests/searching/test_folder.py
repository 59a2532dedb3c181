"""The folder of a search: which may be written, and what a fault leaves of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from robustbench_lite.core.errors import UserError
from robustbench_lite.searching.folder import JOURNAL_FILE, LOCKS, SETTINGS_FILE, claimed

SETTINGS = {"seed": "0"}


def test_a_new_folder_holds_the_settings_and_is_found_again(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with claimed(out, SETTINGS):
        assert json.loads((out / SETTINGS_FILE).read_text()) == SETTINGS
        assert (out / LOCKS).is_dir()
    with claimed(out, SETTINGS):
        pass
    with pytest.raises(UserError, match="seed: was 0, is 1"), claimed(out, {"seed": "1"}):
        raise AssertionError("another search's folder was claimed")
    assert json.loads((out / SETTINGS_FILE).read_text()) == SETTINGS


@pytest.mark.parametrize("there", [True, False])
def test_a_fault_leaves_nothing_behind(tmp_path: Path, there: bool) -> None:
    out = tmp_path / "out"
    if there:
        out.mkdir()
    with pytest.raises(ZeroDivisionError), claimed(out, SETTINGS):
        raise ZeroDivisionError
    assert out.is_dir() == there
    assert list(tmp_path.rglob("*")) == ([out] if there else [])


def test_a_fault_takes_nothing_from_a_search_that_was_there(tmp_path: Path) -> None:
    with claimed(tmp_path, SETTINGS):
        pass
    with pytest.raises(ZeroDivisionError), claimed(tmp_path, SETTINGS):
        raise ZeroDivisionError
    assert (tmp_path / SETTINGS_FILE).is_file()


def test_a_study_that_was_made_goes_on_after_a_fault(tmp_path: Path) -> None:
    def fails_late() -> None:
        with claimed(tmp_path, SETTINGS):
            (tmp_path / JOURNAL_FILE).touch()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails_late()
    with claimed(tmp_path, SETTINGS):
        pass


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".settings.json.01234567").touch()  # what a kill in the middle of writing leaves
    with claimed(tmp_path, SETTINGS):
        pass
    (tmp_path / SETTINGS_FILE).unlink()
    (tmp_path / "mine.txt").touch()
    with pytest.raises(UserError, match="is not empty and holds no search"), claimed(tmp_path, SETTINGS):
        pass
    with pytest.raises(UserError, match="can't be used"), claimed(tmp_path / "mine.txt", SETTINGS):
        pass
    (tmp_path / SETTINGS_FILE).write_text("[]")
    with pytest.raises(UserError, match="can't be used"), claimed(tmp_path, SETTINGS):
        pass
