"""Shells complete commands, options, names of the catalogue, and files."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from click.shell_completion import BashComplete

from robustbench_lite.faces.cli import main

from .conftest import command, environment, rblite


def completed(*words: str) -> list[tuple[str, str]]:
    *before, last = words
    found = BashComplete(main, {}, "rblite", "_RBLITE_COMPLETE").get_completions(before, last)
    return [(one.type, one.value) for one in found]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["eva"], ["evaluate"]),
        (["evaluate", "--su"], ["--suite"]),
        (["evaluate", "--suite", "linf_q"], ["linf_quick"]),
        (["harden", "--recipe", "pgd_tr"], ["pgd_training"]),
        (["report", "--format", "mlb"], ["mlbom"]),
        (["evaluate", "--data", "cifar10"], ["cifar10", "cifar100"]),
        (["completion", "z"], ["zsh"]),
    ],
)
def test_names_are_completed(words: list[str], names: list[str]) -> None:
    assert [value for _, value in completed(*words)] == names


@pytest.mark.parametrize(
    "words",
    [["evaluate", "mod"], ["evaluate", "--weights", "w"], ["report", "car"], ["attest", "c"], ["compare", "x", "y"]],
)
def test_files_are_left_to_the_shell(words: list[str]) -> None:
    assert completed(*words) == [("file", words[-1])]


def test_a_table_that_can_not_be_read_breaks_no_shell(here: Path) -> None:
    (here / "reports").mkdir()
    (here / "reports" / "__init__.py").write_text("CATALOGUE = 3\n")
    assert completed("report", "--format", "mlb") == [("file", "mlb")]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_one_of_its_shell(shell: str, tmp_path: Path) -> None:
    result = rblite("completion", shell)
    assert result.exit_code == 0
    assert f"_RBLITE_COMPLETE={shell}_complete" in result.stdout
    if shutil.which(shell):
        (tmp_path / "script").write_text(result.stdout)
        subprocess.run([shell, "-n", str(tmp_path / "script")], check=True)


def test_the_program_answers_the_shell() -> None:
    told = {"_RBLITE_COMPLETE": "bash_complete", "COMP_WORDS": "rblite comp", "COMP_CWORD": "1"}
    done = subprocess.run(command(), capture_output=True, text=True, check=False, env=environment(**told))
    assert done.stdout.split() == ["plain,compare", "plain,completion"]
