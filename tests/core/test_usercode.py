"""Users' code: found by name, told with its line where it fails, and the interpreter left as it was."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from robustbench_lite.core.errors import UserError
from robustbench_lite.core.usercode import change_path, import_object, users_code


def write(path: Path, source: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(source))
    return path


def called(spec: str, **options: Any) -> Any:
    with users_code(spec):
        return import_object(spec, **options)()


def test_a_file_a_module_of_the_working_directory_and_a_nested_name_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "rblite_zoo_4" / "small.py", "class Zoo:\n    @staticmethod\n    def make(): return 3")
    monkeypatch.chdir(tmp_path)
    assert called("rblite_zoo_4/small.py:Zoo.make") == 3
    assert called("rblite_zoo_4.small:Zoo.make") == 3


def test_two_files_of_one_name_do_not_clash(tmp_path: Path) -> None:
    for number in (2, 3):
        write(tmp_path / str(number) / "model.py", f"def make(): return {number}")
    assert [called(f"{tmp_path}/{number}/model.py:make") for number in (2, 3, 2)] == [2, 3, 2]


def test_a_file_finds_the_files_beside_it_and_the_search_path_is_left_alone(tmp_path: Path) -> None:
    write(tmp_path / "rblite_layers_2.py", "WIDTH = 6")
    path = write(
        tmp_path / "model.py",
        """
        def make():
            import rblite_layers_2
            return rblite_layers_2.WIDTH
        """,
    )
    before = list(sys.path)
    assert called(f"{path}:make") == 6
    assert sys.path == before


def test_folders_that_users_code_adds_to_the_search_path_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = list(sys.path)
    path = write(tmp_path / "model.py", "import sys\ndef make(): sys.path.insert(0, 'theirs')")
    called(f"{path}:make")
    assert sys.path == ["theirs", *before]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("broken", r"ZeroDivisionError: division by zero \(.*model\.py:2\)"),
        ("leaves", r"SystemExit: 3 \(.*model\.py:5\)"),
        ("deep", r"JSONDecodeError: .*\(.*model\.py:9\)"),
        ("brocken", "did you mean broken"),
    ],
)
def test_what_fails_is_told_with_the_users_line(tmp_path: Path, name: str, told: str) -> None:
    path = write(
        tmp_path / "model.py",
        """\
        def broken():
            return 1 / 0

        def leaves():
            raise SystemExit(3)

        def deep():
            import json
            return json.loads("{")
        """,
    )
    with pytest.raises(UserError, match=told):
        called(f"{path}:{name}")


def test_an_interrupt_is_no_fault_of_the_users_code() -> None:
    with pytest.raises(KeyboardInterrupt), users_code("module:name"):
        raise KeyboardInterrupt


def test_a_file_that_fails_to_import_is_told_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.py", "x = 1\nimport rblite_is_not_there\n")
    with pytest.raises(UserError, match=r"ModuleNotFoundError: .*rblite_is_not_there.*a\.py:2\)"):
        called(f"{path}:make")
    path = write(tmp_path / "b.py", "x = 1\n\ndef make(:\n")
    with pytest.raises(UserError, match=r"SyntaxError: .*b\.py:3\)"):
        called(f"{path}:make")


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("missing.py:make", r"missing\.py: no such file"),
        ("rblite_no_such.thing:make", "no module named 'rblite_no_such'"),
        ("json.no_such:make", r"no module named 'json\.no_such'"),
    ],
)
def test_a_name_that_leads_nowhere_is_told(spec: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        called(spec)


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("imagefoler:a/folder", "; did you mean imagefolder:a/folder?"),
        ("Npz:a:b.npz", "; did you mean npz:a:b.npz?"),
        ("rblite_no_such:make", ""),
    ],
)
def test_a_misspelt_prefix_is_told(spec: str, hint: str) -> None:
    with pytest.raises(UserError) as told:
        called(spec, prefixes=["imagefolder", "npz"])
    assert str(told.value).endswith(f"among the installed packages{hint}")


def test_a_module_that_is_there_is_no_misspelt_prefix() -> None:
    with pytest.raises(UserError, match="unknown object in json 'lods': did you mean loads"):
        called("json:lods", prefixes=["jsonl"])


def test_the_path_in_a_spec_is_changed_and_a_module_is_not() -> None:
    assert change_path("a/b/model.py:make", lambda path: path.name) == "model.py:make"
    assert change_path("a.b.model:make", lambda path: path.name) == "a.b.model:make"
