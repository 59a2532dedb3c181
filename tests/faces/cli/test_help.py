"""Help, version, and what the command line says when something goes wrong inside."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

import click
import pytest

import robustbench_lite
from robustbench_lite.faces.cli import main
from tests.forked import RBLITE, ran

from .conftest import EVALUATE, own_report, rblite, shell

pytestmark = pytest.mark.usefixtures("here")


COMMANDS = [
    *(
        "demo",
        "evaluate",
        "explain",
        "doctor",
        "calibrate",
        "harden",
        "federate",
        "tune",
        "auto",
        "export",
        "report",
        "compare",
        "attest",
        "list",
        "init",
        "cache",
        "completion",
    )
]


@pytest.mark.parametrize("arguments", [[], *([name] for name in COMMANDS)], ids=lambda names: " ".join(names) or "main")
def test_help_fits_80_columns(arguments: list[str]) -> None:
    result = rblite(*arguments, "--help")
    assert result.exit_code == 0
    assert max(len(line) for line in result.output.splitlines()) <= 80
    assert "\\" not in result.output  # a mark of the source that was meant to format, such as \b


def test_every_command_and_option_says_what_it_is_for() -> None:
    assert sorted(main.commands) == sorted(COMMANDS)
    for name, one in main.commands.items():
        assert one.help, name
        for option in one.params:
            assert not isinstance(option, click.Option) or option.help, f"{name} {option.name}"


def test_help_tells_the_exit_codes() -> None:
    told = " ".join(rblite("--help").output.split())
    for code, word in ((0, "PASS"), (1, "FAIL"), (2, "wrong input"), (3, "INVALID"), (130, "interrupted")):
        assert re.search(rf"\b{code} (\w+ )?\(?{word}", told), (code, word)


def test_help_comes_at_once() -> None:
    def seconds() -> float:
        """Processor time, so that it doesn't matter what else the machine does."""
        before = os.times()
        assert shell("--help").returncode == 0
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert min(seconds() for _ in range(5)) < 0.4


def test_the_version() -> None:
    assert rblite("--version").output == f"rblite, version {robustbench_lite.__version__}\n"


def test_debug_shows_where_a_users_code_fails() -> None:
    assert "Traceback" not in rblite("evaluate", "zoo.py:raises", *EVALUATE).output
    shown = rblite("--debug", "evaluate", "zoo.py:raises", *EVALUATE)
    assert shown.exit_code == 2
    assert "Traceback" in shown.output
    assert 'raise RuntimeError("out of tea")' in shown.output


@pytest.mark.parametrize("debug", [(), ("--debug",)])
def test_an_unexpected_error_has_a_code_of_its_own(debug: tuple[str, ...], make_card: Callable[..., Any]) -> None:
    make_card().save("card.json")
    own_report('raise ZeroDivisionError("a bug")')
    done = ran(RBLITE, *debug, "report", "card.json", "--format", "mine")
    assert "ZeroDivisionError: a bug" in done.stderr
    assert ("Traceback" in done.stderr) == bool(debug)
    assert done.returncode == 4  # with --debug too: 1 would say that a gate is missed
