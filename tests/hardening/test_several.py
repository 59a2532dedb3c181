"""Several recipes from the same start: ranked, and resumed wherever they were stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from robustbench_lite.core.errors import UserError
from robustbench_lite.core.suite import Suite
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.hardening.interface import TrainingProgress
from robustbench_lite.hardening.pipeline import harden
from robustbench_lite.hardening.recipe import Recipe
from robustbench_lite.hardening.several import HardenedAll, harden_all
from robustbench_lite.results.scorecard import Scorecard

SUITE = Suite.model_validate(
    {"name": "short", "threats": ["Linf 0.1"], "attacks": [{"attack": "pgd", "params": {"steps": 3}}]}
)


def recipe(name: str, defense: str, **schedule: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "name": name,
            "defense": defense,
            "params": {"steps": 2} if defense == "pgd_training" else {},
            "threat": "Linf 0.1",
            "schedule": {"epochs": 2, "batch_size": 64, "lr": 0.05} | schedule,
        }
    )


RECIPES = [recipe("plain", "standard"), recipe("pgd", "pgd_training", epochs=6), recipe("quick", "fgsm_rs")]

OTHER_THREAT = RECIPES[0].model_copy(update={"threat": ThreatModel.parse("Linf 0.2"), "name": "other"})


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


def run(out: Path, recipes: list[Recipe] | None = None, **more: Any) -> HardenedAll:
    return harden_all(network(), "digits", recipes or RECIPES, out=out, **{"suite": SUITE, "limit": 60} | more)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> HardenedAll:
    return run(tmp_path_factory.mktemp("several") / "out")


def test_each_is_as_if_it_were_run_alone_and_the_start_is_judged_once(made: HardenedAll) -> None:
    alone = harden(network(), "digits", RECIPES[1], suite=SUITE, limit=60)
    assert made.after["pgd"].target.weights_sha256 == alone.after.target.weights_sha256
    assert made.after["pgd"].outcomes == alone.after.outcomes
    written = {path.name for path in (made.folder / "pgd").iterdir()}
    assert written == {"model.safetensors", "model.json", "recipe.toml", "log.jsonl", "before.json", "after.json"}
    cards = [Scorecard.load(made.folder / name / "before.json") for name in ("plain", "pgd", "quick")]
    assert {card.created for card in cards} == {made.before.created}


def test_the_best_is_named_with_what_it_cost(made: HardenedAll) -> None:
    assert [card.target.name for card in made.cards] == ["before", "plain", "pgd", "quick"]
    best = made.ranking.best
    assert best is not None
    assert made.best == best.card.target.name
    told = json.loads((made.folder / "ranking.json").read_text())
    assert told["best"] == made.best
    cost = {one["name"]: one["training_passes"] for one in told["ranks"]}
    samples = 1132  # learnt from; forward and backward
    assert cost == {
        "before": None,
        "plain": 2 * samples * 2,
        "pgd": 6 * samples * 2 * 3,
        "quick": 2 * samples * 2 * 2,
    }


def test_a_finished_run_is_read_and_other_settings_are_refused(made: HardenedAll) -> None:
    again = run(made.folder, resume=True, on_progress=never, on_attack=never)
    assert again.after == made.after
    with pytest.raises(UserError, match=r"(?s)other settings.*pgd: seed: was 0, is 1"):
        run(made.folder, resume=True, seed=1)
    with pytest.raises(UserError, match="go on with it"):
        run(made.folder)


def never(*_: object) -> None:
    raise AssertionError("something was done again")


class Stop:
    """Ctrl-C at the so-manieth batch."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self, progress: TrainingProgress) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.mark.parametrize("batches", [20, 60], ids=["in the first", "in the second"])
def test_it_goes_on_where_it_was_stopped(made: HardenedAll, tmp_path: Path, batches: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", on_progress=Stop(batches))
    resumed = run(tmp_path / "cut", resume=True)
    for name, card in made.after.items():
        assert resumed.after[name].target.weights_sha256 == card.target.weights_sha256
        assert resumed.after[name].outcomes == card.outcomes


def test_one_that_fails_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    wild = recipe("wild", "standard", lr=1e30)
    found = run(tmp_path / "out", [wild, RECIPES[0]])
    assert list(found.after) == ["plain"]
    assert "diverges" in found.failed["wild"]
    assert not (tmp_path / "out" / "wild").exists()
    with pytest.raises(UserError, match=r"(?s)no recipe came to its end.*wild: .*diverges"):
        run(tmp_path / "other", [wild])


@pytest.mark.parametrize(
    ("recipes", "told"),
    [
        ([], "no recipe is given"),
        ([RECIPES[0], RECIPES[0]], "is given twice"),
        (["standrad", "trads"], r"(?s)did you mean standard.*did you mean trades"),
        (
            [RECIPES[0], RECIPES[0].model_copy(update={"threat": ThreatModel.parse("Linf 0.2"), "name": "b"})],
            "one threat model",
        ),
    ],
)
def test_what_can_not_be_ranked_is_told_before_anything_runs(tmp_path: Path, recipes: Any, told: str) -> None:
    with pytest.raises(UserError, match=told):
        harden_all(network(), "digits", recipes, out=tmp_path / "out", suite=SUITE, limit=9)
    assert not (tmp_path / "out").exists()
