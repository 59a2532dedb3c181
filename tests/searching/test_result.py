"""What came of a search as its file tells it."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial

from robustbench_lite.core.errors import UserError
from robustbench_lite.hardening.gain import weigh
from robustbench_lite.results.search import RESULT_FILE, SearchResult
from robustbench_lite.searching.judgement import Fall, Judged
from robustbench_lite.searching.proxy import Proxy
from robustbench_lite.searching.result import importances, result_of
from robustbench_lite.searching.trials import RECIPE, Job, Tried
from tests.cards import make_card
from tests.searching.test_trials import job_in

STRONG, WEAK = make_card("strong", breaks={"pgd": 0.1}, seed=1), make_card("weak", breaks={"pgd": 0.6}, seed=1)


def attempt(name: str, robust: float, passes: float = 100.0) -> Tried:
    card = make_card(name, breaks={"pgd": 1 - robust})
    return Tried(
        name=name, robust=card.robust_accuracy, clean=card.clean_accuracy, passes=passes, values={"lr": robust}
    )


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return job_in(tmp_path)


def test_a_search_is_written_and_read_again(job: Job, tmp_path: Path) -> None:
    best, failed = attempt("trial-0", 0.8), Tried(name="trial-1", state="failed", out="it diverges", epochs={1: 0.2})
    trials = (best, attempt(RECIPE, 0.5), failed)
    assert best.robust is not None
    fall = Fall(validation=best.robust, fresh=STRONG.robust_accuracy, low=-0.1, high=0.2)
    judged = Judged(winner=best, card=STRONG, fall=fall, gain=weigh(WEAK, STRONG), passed_over=("trial-9",))
    told = result_of(job, trials, (), judged, 3.5, {"fANOVA": {"lr": 1.0}})
    told.save(tmp_path / RESULT_FILE)
    assert SearchResult.load(tmp_path) == SearchResult.load(tmp_path / RESULT_FILE) == told
    assert (told.winner, told.tried, told.found_better, told.passed_over) == ("trial-0", 2, True, ("trial-9",))
    assert told.fresh is not None
    assert (told.fresh.card, told.fresh.robust) == ("trial-0/fresh.json", STRONG.robust_accuracy)
    assert told.fall is not None
    assert told.fall.by == pytest.approx(best.robust.value - STRONG.robust_accuracy.value)
    assert told.against_recipe is not None
    assert told.against_recipe.p_robust < 0.05
    assert [(one.number, one.can_win, one.can_not_win) for one in told.trials] == [
        (0, True, None),
        (None, True, None),
        (1, False, "it diverges"),
    ]
    assert told.trials[2].epochs == {1: 0.2}


def test_none_wins_where_none_can(job: Job) -> None:
    told = result_of(job, (Tried(name="trial-0", state="pruned"),), (), None, 1.0, {})
    assert (told.winner, told.fresh, told.fall, told.found_better) == (None, None, None, False)


def test_the_proxy_is_held_against_the_finalists(tmp_path: Path) -> None:
    job = job_in(tmp_path, proxy=Proxy(epochs=1))
    trials = [attempt(f"trial-{place}", 0.2 + place / 10) for place in range(6)]
    finals = [attempt(f"final-{place}", 0.9 - place / 10, 1000.0) for place in range(2, 6)]
    told = result_of(job, trials, [*finals, attempt(RECIPE, 0.5, 1000.0)], None, 1.0, {})
    assert told.proxy is not None
    assert [name for name, _, _ in told.proxy.pairs] == ["trial-2", "trial-3", "trial-4", "trial-5"]
    assert told.proxy.correlation == pytest.approx(-1)
    assert (told.proxy.passes, told.proxy.passes_in_full) == (600.0, 6000.0)
    assert [one.name for one in told.finals] == [one.name for one in finals] + [RECIPE]


@pytest.mark.parametrize(("text", "words"), [("{", "can't be read"), ('{"recipe": 3}', "recipe: "), ("[]", "search")])
def test_a_file_that_is_no_search_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / RESULT_FILE).write_text(text)
    with pytest.raises(UserError, match=words):
        SearchResult.load(tmp_path)
    with pytest.raises(UserError, match="can't be read"):
        SearchResult.load(tmp_path / "nothing.json")


def test_the_setting_that_moves_the_robust_accuracy_is_the_important_one() -> None:
    study = optuna.create_study(direction="maximize")
    ranges = {name: FloatDistribution(0.0, 1.0) for name in ("strong", "weak")}
    assert importances(study) == {}
    for place in range(20):
        params = {"strong": place / 20, "weak": (7 * place % 20) / 20}
        value = params["strong"] + 0.05 * params["weak"]
        study.add_trial(create_trial(params=params, distributions=ranges, value=value))
    found = importances(study)
    assert set(found) == {"fANOVA", "PED-ANOVA"}
    assert all(one["strong"] > one["weak"] for one in found.values())


def test_of_several_objectives_the_importance_is_that_of_robust_accuracy() -> None:
    study = optuna.create_study(directions=["minimize", "maximize"])
    ranges = {name: FloatDistribution(0.0, 1.0) for name in ("strong", "weak")}
    for place in range(20):
        params = {"strong": place / 20, "weak": (7 * place % 20) / 20}
        values = [params["weak"], params["strong"] + 0.05 * params["weak"]]
        study.add_trial(create_trial(params=params, distributions=ranges, values=values))
    found = importances(study, 1)
    assert set(found) == {"fANOVA", "PED-ANOVA"}
    assert all(one["strong"] > one["weak"] for one in found.values())
