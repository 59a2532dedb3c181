"""What a fault of a file says: its key, wherever it stands, and what a misspelt one may have meant."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, ValidationError

from robustbench_lite.core.errors import UserError, faults, unknown
from robustbench_lite.core.suite import load_suite
from robustbench_lite.hardening.recipe import load_recipe

SUITE = """
threats = ["Linf 0.1"]
{}
[[attacks]]
attack = "pgd"
{}
"""
RECIPE = """
threat = "Linf 0.1"
suite = "linf_quick"
{}
[[steps]]
name = "pgd_training"
{}
"""


@pytest.mark.parametrize(
    ("top", "inner", "told"),
    [
        ("[bugdet]\nseconds = 1", "", "bugdet: unknown key 'bugdet': did you mean budget?"),
        ("[budget]\nsecnds = 1", "", "budget.secnds: unknown key 'secnds': did you mean seconds"),
        ("", "parms = { steps = 3 }", "attacks.0.parms: unknown key 'parms': did you mean params?"),
    ],
)
def test_a_misspelt_key_of_a_suite_is_told_at_any_depth(tmp_path: Path, top: str, inner: str, told: str) -> None:
    (tmp_path / "suite.toml").write_text(SUITE.format(top, inner))
    with pytest.raises(UserError) as fault:
        load_suite(tmp_path / "suite.toml")
    assert told in str(fault.value)


@pytest.mark.parametrize(
    ("top", "inner", "told"),
    [
        ("[schedule]\nepoch = 3", "", "schedule.epoch: unknown key 'epoch': did you mean epochs"),
        ("", "parms = { steps = 3 }", "steps.0.parms: unknown key 'parms': did you mean params?"),
        ("", "[steps.schedule]\nepcohs = 3", "steps.0.schedule.epcohs: unknown key 'epcohs': did you mean epochs?"),
    ],
)
def test_a_misspelt_key_of_a_recipe_is_told_at_any_depth(tmp_path: Path, top: str, inner: str, told: str) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE.format(top, inner))
    with pytest.raises(UserError) as fault:
        load_recipe(tmp_path / "recipe.toml")
    assert told in str(fault.value)


class _Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")

    colour: str = ""


class _Outer(BaseModel):
    one: _Inner | None = None
    table: dict[str, tuple[_Inner, ...]] = {}


@pytest.mark.parametrize("given", [{"one": {"color": "x"}}, {"table": {"key": [{"color": "x"}]}}])
def test_without_a_model_or_on_a_way_through_names_of_ones_own_a_key_is_still_told(given: dict[str, object]) -> None:
    with pytest.raises(ValidationError) as fault:
        _Outer.model_validate(given)
    assert "color: unknown key; take it out" in faults(fault.value)
    assert "color: unknown key" in faults(fault.value, _Outer)


def test_a_name_whose_first_word_is_right_is_taken_for_one_of_its_family() -> None:
    suites = ["l1_quick", "l2_quick", "linf_quick", "linf_standard"]
    assert unknown("suite", "linf_quik", suites).endswith("did you mean linf_quick?")
    assert unknown("suite", "l2_quik", suites).endswith("did you mean l2_quick?")
    assert "linf_quick" in unknown("suite", "lin_quick", suites)
