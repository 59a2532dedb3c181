"""What a user of version 0.1 has in their repo still loads, and means the same: see ``v0_1/make.py``."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from robustbench_lite import Scorecard, Target, evaluate, harden, load_recipe, load_suite, load_target
from robustbench_lite.core.errors import UserError
from robustbench_lite.results import baseline

FILES = Path(__file__).with_name("v0_1")


@pytest.fixture(scope="module")
def target() -> Target:
    """As today's advice to the owner of such a folder says: its code lies outside of it."""
    return load_target(f"{FILES / 'net.py'}:build", weights=FILES / "hardened/model.safetensors")


@pytest.fixture(scope="module")
def card(target: Target) -> Scorecard:
    """Today's answer to what the baseline was asked."""
    return evaluate(target, "digits", FILES / "suite.toml", limit=20)


def test_the_suite_is_read_as_it_was(card: Scorecard) -> None:
    suite = load_suite(FILES / "suite.toml")
    assert suite == card.suite == baseline.load(FILES / "baselines", "main").suite
    assert [str(threat) for threat in suite.threats] == ["Linf 16/255", "L2 0.5 targeted next"]
    assert [spec.name for spec in suite.attacks] == ["fgsm", "pgd-margin"]
    assert (suite.independent, suite.budget.passes) == (True, 1_000_000)


@pytest.mark.parametrize("path", ["recipe.toml", "hardened/recipe.toml"], ids=["the user's", "the one that was kept"])
def test_a_recipe_hardens_to_the_same_weights(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FILES)
    recipe = load_recipe(path)
    assert (recipe.defense, str(recipe.threat), recipe.schedule.epochs) == ("pgd_training", "Linf 16/255", 4)
    torch.manual_seed(0)
    harden(load_target("net.py:build"), "digits", path, out=tmp_path / "again", limit=20)
    then, now = (load_file(folder / "model.safetensors") for folder in (FILES / "hardened", tmp_path / "again"))
    assert then.keys() == now.keys()
    for name, weights in now.items():
        torch.testing.assert_close(weights, then[name], rtol=1e-3, atol=1e-3)
    for line, before in zip(*(_log(folder) for folder in (tmp_path / "again", FILES / "hardened")), strict=True):
        assert line["epoch"] == before["epoch"]
        assert line["loss"] == pytest.approx(before["loss"], rel=1e-3)


def _log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_model_folder_tells_how_it_is_loaded_and_is_the_model_that_was_evaluated(target: Target) -> None:
    with pytest.raises(UserError, match=r"model\.json.*leads out of the folder.*MODEL, with --weights .*safetensors"):
        load_target(str(FILES / "hardened"))
    after = Scorecard.load(FILES / "hardened/after.json")
    assert target.weights_sha256() == after.target.weights_sha256


def test_the_baseline_is_met_to_the_sample(card: Scorecard) -> None:
    before = baseline.load(FILES / "baselines", "main")
    assert [row.prediction for row in card.outcomes] == [row.prediction for row in before.outcomes]
    assert [result.robust_accuracy for result in card.threats] == [result.robust_accuracy for result in before.threats]
    found = baseline.check(card, before)
    assert (found.newly_broken, found.newly_withstood) == (0, 0)
    assert found.gate.passed


def test_the_corpus_is_replayed_and_breaks_what_it_broke(target: Target, tmp_path: Path) -> None:
    before = baseline.load(FILES / "baselines", "main")
    shutil.copytree(FILES / "corpus", tmp_path / "corpus")
    card = evaluate(target, "digits", FILES / "suite.toml", limit=20, corpus=tmp_path / "corpus")
    replayed = [result for result in card.attacks if result.name == "replay"]
    lost = [before.clean_accuracy.count - result.robust_accuracy.count for result in before.threats]
    assert [result.broken for result in replayed] == lost == [3, 4]
