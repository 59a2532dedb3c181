"""Recipes that wrap, from outside: hardened by name, saved, and evaluated again from the folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from robustbench_lite import Scorecard, Target, harden
from robustbench_lite.core.errors import UserError
from robustbench_lite.faces.cli import main
from robustbench_lite.hardening.recipe import Recipe, load_recipe
from robustbench_lite.model.wrapping import wrapped

NET = """
from torch import nn
def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
"""


def run(*arguments: str) -> str:
    done = CliRunner().invoke(main, [*arguments])
    assert done.exit_code in (0, 1, 3), done.output
    return done.output


def test_a_smoothed_model_is_the_same_when_it_is_evaluated_from_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NET, encoding="utf-8")
    few = ("--data", "digits", "--limit", "16")
    told = run("harden", "net.py:build", "--recipe", "smoothing", "--out", "out", "--epochs", "6", *few)
    assert "without smoothing" in told  # the line for plain torch
    after = Scorecard.load("out/after.json")
    recipe = load_recipe("out/recipe.toml")
    assert recipe.measures == load_recipe("smoothing").measures
    assert [one.name for one in recipe.chain] == ["gaussian", "smoothing"]
    run("evaluate", "out", "--suite", recipe.suite, "--threat", str(recipe.threat), *few, "--json", "again.json",
        *(part for name in recipe.measures for part in ("--measure", name)))  # fmt: skip
    again = Scorecard.load("again.json")
    assert again.outcomes == after.outcomes
    assert again.measures == after.measures[:3]
    assert len(again.measures) == 3
    certified = again.certified_accuracy
    assert certified is not None
    assert certified.count <= again.robust_accuracy.count <= again.clean_accuracy.count
    assert again.clean_accuracy.count > 8


def test_each_built_in_recipe_of_them_is_valid() -> None:
    assert load_recipe("ibp").measures == ("certified_accuracy",)
    assert [one.name for one in load_recipe("purification").chain] == ["jpeg"]


def test_a_measure_that_there_is_not_is_told_with_the_files_other_faults(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('defense = "jpg"\nthreat = "Linf 0.1"\nmeasures = ["certifed_accuracy"]\n', encoding="utf-8")
    with pytest.raises(UserError) as fault:
        load_recipe(path)
    assert "certified_accuracy" in str(fault.value)
    assert "jpeg" in str(fault.value)


def test_what_cannot_follow_smoothing_is_told_before_anything_runs(tmp_path: Path) -> None:
    names: dict[str, object] = {}
    exec(NET, names)
    target = Target(names["build"]())  # type: ignore[operator]
    steps = [{"name": "smoothing"}, {"name": "jpeg"}, {"name": "smoothing"}]
    recipe = Recipe.model_validate({"threat": "L2 0.5", "suite": "l2_quick", "steps": steps})
    with pytest.raises(UserError) as fault:
        harden(target, "digits", recipe, out=tmp_path / "out")
    assert "put it before" in str(fault.value)
    assert "smoothed already" in str(fault.value)


def test_a_wrapping_step_leaves_the_model_it_was_given_as_it_was(tmp_path: Path) -> None:
    names: dict[str, object] = {}
    exec(NET, names)
    target = Target(names["build"]())  # type: ignore[operator]
    recipe = Recipe.model_validate({"threat": "Linf 0.1", "suite": "linf_quick", "defense": "median"})
    done = harden(target, "digits", recipe, out=tmp_path / "out", limit=12)
    assert [one.made_by.name for one in wrapped(done.target)] == ["median"]
    assert not list(wrapped(target))
    assert json.loads((tmp_path / "out" / "model.json").read_text())["wrappers"][0]["name"] == "median"


def test_a_recipe_that_trains_nothing_says_nothing_of_samples_learnt_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NET, encoding="utf-8")
    few = ("--data", "digits", "--limit", "12", "--suite", "linf_quick")
    told = run("harden", "net.py:build", "--recipe", "purification", "--out", "out", *few)
    assert "12 evaluated" in told
    assert "learnt from" not in told
