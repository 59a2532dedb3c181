"""`--json -` prints JSON and nothing else, of every command that has it; `--quiet` and the next step."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from robustbench_lite import Scorecard
from robustbench_lite.faces.cli import main

from .conftest import rblite

CARD = ("evaluate", "zoo.py:loud", "--data", "npz:ok.npz", "--suite", "short.toml")
LOUD = """
def loud():
    print("a print of the user's")
    return good()
"""


@pytest.fixture
def cards(here: Path, make_card: Callable[..., Any]) -> None:
    with Path("zoo.py").open("a") as stream:
        stream.write(LOUD)
    make_card("a", samples=20).save("a.json")
    make_card("b", samples=20, breaks={"pgd": 0.1}).save("b.json")


def printed(*words: str) -> Any:
    result = rblite(*words, "--json", "-")
    assert "Next" not in result.stderr
    return json.loads(result.stdout)


@pytest.mark.usefixtures("cards")
def test_json_alone_is_on_stdout_and_the_same_in_a_file() -> None:
    assert printed("compare", "a.json", "b.json")["robust"]["only_after"] > 0
    assert "pgd" in printed("list", "attacks")["attacks"]
    assert printed("list", "attacks", "pgd")["parameters"][0]["name"] == "steps"
    assert printed("cache") == []
    assert printed("attest", "a.json")["_type"] == "https://in-toto.io/Statement/v1"
    assert printed("attest", "a.json", "--verify", "a.intoto.json")[0]["state"] == "as attested"
    rblite("compare", "a.json", "b.json", "--json", "new/pairs.json")
    assert json.loads(Path("new/pairs.json").read_text()) == printed("compare", "a.json", "b.json")


@pytest.mark.usefixtures("cards")
def test_evaluate_and_doctor_print_json_alone_whatever_the_model_prints() -> None:
    result = rblite(*CARD, "--json", "-")
    assert "a print of the user's" in result.stderr
    Path("card.json").write_text(result.stdout)
    assert Scorecard.load("card.json").verdict == "MEASURED"
    [kept] = Path(".robustbench").glob("*.json")
    assert Scorecard.load(kept) == Scorecard.load("card.json")
    assert printed("doctor", "zoo.py:loud", "--data", "npz:ok.npz")["errors"] == 0
    refused = rblite("doctor", "--data", "npz:ok.npz", "--json", "zoo.py:loud")
    assert (refused.exit_code, "write MODEL before it" in refused.output) == (2, True)


def test_quiet_and_json_are_the_same_wherever_they_are() -> None:
    for name, command in main.commands.items():
        options = {one.name: one for one in command.params if isinstance(one, click.Option)}
        if quiet := options.get("quiet"):
            assert quiet.opts == ["-q", "--quiet"], name
        if as_json := options.get("json_path"):
            assert as_json.help is not None
            assert as_json.help.endswith("as JSON; - prints it, and all else on stderr."), name


@pytest.mark.usefixtures("cards")
def test_the_next_step_names_a_folder_that_is_not_there_yet() -> None:
    Path("hardened").mkdir()
    Path("hardened-2").mkdir()
    assert "--out hardened-3\n" in rblite(*CARD).stderr


@pytest.mark.usefixtures("cards")
def test_the_next_step_is_told_to_people_alone() -> None:
    found = rblite(*CARD)
    assert "Next       the same with --min-robust-accuracy SHARE" in found.stderr
    assert "rblite harden zoo.py:loud --data npz:ok.npz --out hardened\n" in found.stderr
    assert "Next" not in found.stdout
    assert "Next" not in rblite(*CARD, "-q").output
    for words in (["report", "a.json"], ["compare", "a.json", "b.json"], ["list"], ["cache"], ["attest", "a.json"]):
        assert "Next " in rblite(*words).stderr, words
    for words in (["compare", "a.json", "b.json"], ["cache"], ["attest", "a.json"]):
        quiet = rblite(*words, "-q")
        assert len(quiet.output.splitlines()) <= 2, words
    doctor = rblite("doctor", "zoo.py:loud", "--data", "npz:ok.npz")
    assert "Next       rblite evaluate zoo.py:loud --data npz:ok.npz" in doctor.stderr
