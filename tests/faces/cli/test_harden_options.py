"""`rblite harden` with --gate, --classes, --freeze, --remember and --earlier: what each does, seen from outside."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from robustbench_lite import Scorecard

from .conftest import HARDEN, rblite, refused, samples

pytestmark = pytest.mark.usefixtures("here")

SHORT = ("--epochs", "1", "--limit", "20")
BOTH = ("harden", "zoo.py:net", "--data", "npz:ok.npz", "--recipe", "short_recipe.toml,standard", "--quiet")


def told(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def test_a_gate_decides_how_it_ends() -> None:
    for demand, out, verdict, code in ((">= 1", "met", "PASS", 0), ("<= 1", "missed", "FAIL", 1)):
        result = rblite(*HARDEN, "--out", out, "--gate", f"training_passes {demand}")
        assert re.search(rf"Gate m.._training_passes 1 is {out}: found", told(result.stdout)), result.output
        assert Scorecard.load(f"{out}/after.json").verdict == verdict
        assert result.exit_code == code


@pytest.mark.parametrize(("passes", "verdict", "code"), [(10**6, "PASS", 0), (1, "FAIL", 1)])
def test_of_several_recipes_the_best_one_decides(passes: int, verdict: str, code: int) -> None:
    options = ("--threat", "Linf 0.1", "--suite", "short.toml", "--epochs", "8", "--lr", "0.05", "--limit", "20")
    result = rblite(*BOTH, *options, "--out", "out", "--gate", f"training_passes <= {passes}")
    ranks = [one["name"] for one in json.loads(Path("out/ranking.json").read_text())["ranks"]]
    best = next(name for name in ranks if name != "before")
    assert Scorecard.load(f"out/{best}/after.json").verdict == verdict
    assert result.exit_code == code, result.output
    for name in ("short_recipe", "standard"):
        assert f"Gate {name}: max_training_passes" in told(result.stdout)
    again = rblite(*BOTH, *options, "--out", "out", "--resume", "--gate", f"training_passes <= {passes}")
    assert again.exit_code == code  # read, not run


def test_another_number_of_classes_gets_a_new_head_and_it_is_told() -> None:
    assert rblite(*HARDEN, *SHORT, "--out", "three").exit_code == 0
    x, y = samples()
    np.savez("two.npz", x=x, y=y % 2)
    given = ("harden", "zoo.py:net", "--weights", "three/model.safetensors", "--data", "npz:two.npz", "--quiet")
    recipe = ("--recipe", "short_recipe.toml", *SHORT)
    result = rblite(*given, *recipe, "--classes", "2", "--out", "two")
    assert result.exit_code == 0, result.output
    assert re.search(r"Head .*3\b.*2\b", told(result.output))
    first, last = "1.weight", "3.weight"
    assert len(load_file("two/model.safetensors")[last]) == 2
    assert load_file("two/model.safetensors")[first].shape == load_file("three/model.safetensors")[first].shape


def test_what_is_frozen_stays_and_a_pattern_of_nothing_is_refused(here: Path) -> None:
    assert rblite(*HARDEN, *SHORT, "--out", "start").exit_code == 0
    given = (*HARDEN, *SHORT, "--weights", "start/model.safetensors")
    assert rblite(*given, "--freeze", "backbone", "--out", "head").exit_code == 0
    before, after = load_file("start/model.safetensors"), load_file("head/model.safetensors")
    moved = {name for name in before if not np.array_equal(before[name].numpy(), after[name].numpy())}
    assert moved == {"3.weight", "3.bias"}
    refused(here, (*given, "--freeze", "features.*", "--out", "none"), ["features.*"])


def test_what_was_learnt_before_is_remembered_and_judged_again() -> None:
    x, y = samples(120)
    np.savez("old.npz", x=x[:60], y=y[:60])
    np.savez("new.npz", x=x[60:], y=y[60:])
    given = ("harden", "zoo.py:net", "--recipe", "short_recipe.toml", "--quiet", *SHORT)
    first = rblite(*given, "--data", "npz:old.npz", "--remember", "6", "--out", "first")
    assert first.exit_code == 0, first.output
    assert Path("first/memory.npz").is_file()
    on = ("harden", "first", "--data", "npz:new.npz", "--recipe", "short_recipe.toml", "--quiet", *SHORT)
    second = rblite(*on, "--remember", "6", "--out", "second", "--gate", "forgetting <= 1")
    assert re.search(r"Task 1 .*Task 2 ", told(second.stdout)), second.output
    assert {"forgetting", "backward_transfer"} <= {one.name for one in Scorecard.load("second/after.json").measures}
    assert "Gate max_forgetting 1 is met" in told(second.stdout)
    # Of a model that kept nothing, --earlier names the data.
    bare = (*given, "--weights", "first/model.safetensors", "--data", "npz:new.npz", "--remember", "6")
    named = rblite(*bare, "--earlier", "npz:old.npz", "--out", "named")
    assert re.search(r"Task 1 .*old.*Task 2 ", told(named.stdout)), named.output
    assert "Task" not in rblite(*bare, "--out", "unnamed").stdout
