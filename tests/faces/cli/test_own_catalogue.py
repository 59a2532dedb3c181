"""A user's own attacks, suites and recipes are found by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustbench_lite import Scorecard

from .conftest import EVALUATE, HARDEN, RECIPE, evaluated, rblite, refused

pytestmark = pytest.mark.usefixtures("here")


OWN_ATTACK = '''
from typing import NamedTuple
from pydantic.dataclasses import dataclass
from torch import Tensor
from robustbench_lite.attacking.interface import Attack

class State(NamedTuple):
    x: Tensor

@dataclass(frozen=True, kw_only=True)
class Mine(Attack):
    """Goes all the way at once."""
    @property
    def steps(self): return 1
    def init(self, problem): return State(problem.x)
    def step(self, problem, state, output): return State(output.x + output.grad.sign())
'''


def own_attacks(**entries: str) -> None:
    Path("attacks/suites").mkdir(parents=True)
    Path("attacks/__init__.py").write_text(f"CATALOGUE = {entries!r}\n")
    Path("attacks/mine.py").write_text(OWN_ATTACK)
    Path("attacks/suites/ours.toml").write_text('description = "Ours."\nthreats = ["Linf 0.5"]\nattacks = ["mine"]\n')


def test_own_attacks_suites_and_recipes_are_found_by_name() -> None:
    own_attacks(mine="mine:Mine")
    card = evaluated("zoo.py:good", "--suite", "ours")
    assert [result.name for result in card.attacks] == ["mine"]
    assert card.robust_accuracy.value == 0

    Path("defenses/recipes").mkdir(parents=True)
    Path("defenses/recipes/gentle.toml").write_text(
        RECIPE.replace("short.toml", "ours").replace("epochs = 20", "epochs = 1")
    )
    assert rblite(*HARDEN[:4], "--recipe", "gentle", "--out", "hard").exit_code == 0
    assert Scorecard.load("hard/after.json").suite.name == "ours"

    listed = rblite("list").output
    assert all(name in listed for name in ("mine", "ours", "gentle", "carlini_wagner_linf", "linf_standard"))


def test_own_attacks_stand_before_the_built_in_ones() -> None:
    own_attacks(pgd="mine:Mine")
    Path("attacks/suites/linf_quick.toml").write_text('threats = ["Linf 0.5"]\nattacks = ["pgd"]\n')
    card = evaluated("zoo.py:good", "--suite", "linf_quick")
    assert [result.name for result in card.attacks] == ["pgd"]
    assert card.attacks[0].params == {}  # theirs has none


@pytest.mark.parametrize(
    ("entry", "told"),
    [("ghost:Ghost", "ghost"), ("raises:Mine", "out of tea"), ("broken:Mine", "SyntaxError"), ("mine:Mime", "Mime")],
)
def test_an_own_attack_that_cannot_be_loaded(here: Path, entry: str, told: str) -> None:
    own_attacks(mine=entry)
    Path("attacks/raises.py").write_text('raise RuntimeError("out of tea")\n')
    Path("attacks/broken.py").write_text("def (\n")
    refused(here, ("evaluate", "zoo.py:good", *EVALUATE, "--suite", "ours"), [told, "attacks"])


def test_one_bad_entry_does_not_hide_the_others() -> None:
    own_attacks(mine="mine:Mine", ghost="ghost:Ghost")
    result = rblite("list", "attacks")
    assert result.exit_code == 0, result.output
    assert all(name in result.output for name in ("mine", "ghost", "carlini_wagner"))


def test_one_bad_suite_does_not_hide_the_others() -> None:
    own_attacks(mine="mine:Mine")
    Path("attacks/suites/bad.toml").write_text("threats = [")
    result = rblite("list", "suites")
    assert result.exit_code == 0, result.output
    assert all(name in result.output for name in ("ours", "bad", "linf_standard"))
