"""`rblite list attacks NAME`: every parameter of an attack, with its default and what it means."""

from __future__ import annotations

import dataclasses

import pytest
from click.testing import CliRunner

from robustbench_lite.core import registry
from robustbench_lite.faces.cli import main
from robustbench_lite.faces.cli.tables.attack import parameters

OURS = [name for name in registry.names("attacks") if ":" not in name]


@pytest.mark.parametrize("name", OURS)
def test_every_parameter_of_every_attack_is_explained(name: str) -> None:
    attack = registry.find("attacks", name)
    told = list(parameters(attack))
    assert [one.name for one in told] == [field.name for field in dataclasses.fields(attack)]
    assert all(one.doc for one in told), [one.name for one in told if not one.doc]


def test_an_attack_is_shown_in_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = CliRunner().invoke(main, ["list", "attacks", "pgd"])
    assert done.exit_code == 0
    assert all(text in done.output for text in ("steps = 40", "Number of steps.", "step_size = None", "arxiv.org"))
    assert max(map(len, done.output.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(["attacks", "pdg"], "did you mean pgd"), (["suites", "linf_quick"], "only an attack is shown by its name")],
)
def test_what_cannot_be_shown_is_refused(arguments: list[str], told: str) -> None:
    done = CliRunner().invoke(main, ["list", *arguments])
    assert done.exit_code == 2
    assert told in done.output
