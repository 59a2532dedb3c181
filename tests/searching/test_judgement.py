"""The winner on fresh samples: who it is, how far its number fell, and what is told of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from robustbench_lite.core.errors import UserError
from robustbench_lite.core.suite import Suite
from robustbench_lite.hardening.pipeline import Listeners
from robustbench_lite.hardening.preparation import Changes, Plan, Sampling, prepare
from robustbench_lite.results.scorecard import Finding, Scorecard
from robustbench_lite.results.statistics import unpaired_interval
from robustbench_lite.searching.judgement import FRESH_FILE, FRESH_SEARCH_FILE, Judged, judge_winner
from robustbench_lite.searching.trials import RECIPE, Tried
from tests.cards import make_card

SUITE = Suite.model_validate({"name": "short", "threats": ["Linf 0.05"], "attacks": [{"attack": "pgd"}]})


@pytest.fixture(scope="module")
def plan() -> Plan:
    changes = Changes(suite=SUITE, threat="Linf 0.05")
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    return prepare(model, "digits", "pgd_training", changes, Sampling(limit=20, limit_train=50))


def attempt(name: str, card: Scorecard, **more: Any) -> Tried:
    return Tried(name=name, robust=card.robust_accuracy, clean=card.clean_accuracy, passes=7.0, **more)


def kept(folder: Path, name: str, card: Scorecard, file: str = FRESH_FILE) -> None:
    """Put the scorecard of the fresh samples where an earlier judgement leaves it."""
    (folder / name).mkdir(exist_ok=True)
    card.save(folder / name / file)


STRONG, WEAK = make_card("strong", breaks={"pgd": 0.1}, seed=1), make_card("weak", breaks={"pgd": 0.6}, seed=1)
BLIND = Finding(code="RB201", severity="error", message="the gradient is zero", cure="add an attack", attack="pgd")
CHOSEN = make_card("chosen", breaks={"pgd": 0.05}, samples=100)


def judged(plan: Plan, folder: Path, *trials: Tried, suite: Suite = SUITE) -> Judged | None:
    return judge_winner(plan, suite, folder, trials, Listeners())


def test_the_best_that_can_win_is_judged_against_the_recipe(plan: Plan, tmp_path: Path) -> None:
    kept(tmp_path, "trial-1", STRONG)
    kept(tmp_path, RECIPE, WEAK)
    masked = attempt("trial-0", CHOSEN, out="its evaluation can't be trusted (INVALID)")
    trials = (masked, attempt("trial-1", CHOSEN, values={"schedule.lr": 0.1}), attempt(RECIPE, WEAK))
    found = judged(plan, tmp_path, *trials)
    assert found is not None
    assert (found.winner.name, found.card, found.found_better) == ("trial-1", STRONG, True)
    assert found.fall.by == pytest.approx(CHOSEN.robust_accuracy.value - STRONG.robust_accuracy.value)
    was, now = CHOSEN.robust_accuracy, STRONG.robust_accuracy
    assert (found.fall.low, found.fall.high) == unpaired_interval((was.count, was.total), (now.count, now.total))


def test_a_winner_that_is_invalid_on_fresh_samples_gives_way_to_the_next(plan: Plan, tmp_path: Path) -> None:
    kept(tmp_path, "trial-0", make_card("masked", verdict="INVALID", validity=(BLIND,)))
    kept(tmp_path, RECIPE, WEAK)
    found = judged(plan, tmp_path, attempt("trial-0", CHOSEN), attempt(RECIPE, WEAK))
    assert found is not None
    assert (found.winner.name, found.passed_over, found.gain, found.found_better) == (RECIPE, ("trial-0",), None, False)


def test_none_wins_where_none_can(plan: Plan, tmp_path: Path) -> None:
    trials = (attempt("trial-0", CHOSEN, state="pruned"), Tried(name="trial-1", state="failed", out="it diverges"))
    assert judged(plan, tmp_path, *trials) is None


def test_the_fall_is_told_under_the_search_s_own_attack(plan: Plan, tmp_path: Path) -> None:
    kept(tmp_path, "trial-0", WEAK)
    kept(tmp_path, "trial-0", STRONG, FRESH_SEARCH_FILE)
    shorter = SUITE.model_copy(update={"name": "shorter"})
    found = judged(plan, tmp_path, attempt("trial-0", CHOSEN), suite=shorter)
    assert found is not None
    assert (found.card, found.fall.fresh) == (WEAK, STRONG.robust_accuracy)
    assert found.gain is None  # the recipe as it is came to no end
    assert not found.found_better


def test_a_winner_that_was_run_elsewhere_is_asked_for(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"trial-0 is the best trial, and was run elsewhere.*copy it"):
        judged(plan, tmp_path, attempt("trial-0", CHOSEN))
