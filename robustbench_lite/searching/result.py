"""What came of a search as its file tells it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import robustbench_lite
from robustbench_lite.results.search import AgainstRecipe, Aim, Beforehand, Fall, Fresh, SearchResult, Trial
from robustbench_lite.searching.judgement import FRESH_FILE, Judged
from robustbench_lite.searching.proxy import agreement
from robustbench_lite.searching.storage import quiet
from robustbench_lite.searching.trials import RECIPE, Job, Tried

if TYPE_CHECKING:
    from optuna import Study

_FEWEST = 5  # trials that tell of any importance


def result_of(
    job: Job,
    trials: Sequence[Tried],
    finals: Sequence[Tried],
    judged: Judged | None,
    seconds: float,
    importance: Mapping[str, Mapping[str, float]],
    beforehand: Mapping[str, Any] | None = None,
) -> SearchResult:
    """Put together what a search has found.

    Parameters
    ----------
    trials, finals
        The best first.
    importance
        As `importances` tells it.
    beforehand
        What the study keeps of what its strategy did before the first trial.
    """
    told = SearchResult(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        version=robustbench_lite.__version__,
        model=job.target.name,
        data=job.training.name,
        threat=str(job.recipe.threat),
        recipe=job.recipe.name or job.recipe.defense or "recipe",
        sampler=job.sampler,
        pruner=job.pruner,
        min_clean=job.min_clean,
        objectives=tuple(Aim(name=one.name, better=one.better, unit=one.unit) for one in job.objectives),
        seconds=seconds,
        tried=sum(one.name != RECIPE for one in trials),
        winner=None,
        trials=tuple(_entry(job, one) for one in trials),
        finals=tuple(_entry(job, one) for one in finals),
        importance=importance,
        beforehand=beforehand and Beforehand(**{key: beforehand[key] for key in Beforehand.model_fields}),
    )
    if job.proxy is not None:
        by_proxy = {one.name: one for one in trials}
        pairs = [
            (name, cheap.robust.value, one.robust.value)
            for one in finals
            if one.robust is not None
            and (name := one.name.replace("final", "trial")) in by_proxy
            and (cheap := by_proxy[name]).robust is not None
        ]
        took = [one.passes for one in finals if one.passes is not None]
        passes = sum(one.passes or 0 for one in trials)
        mean = sum(took) / len(took) if took else None
        told = told.model_copy(update={"proxy": agreement(job.proxy, pairs, passes, mean, told.tried)})
    return told if judged is None else told.model_copy(update=_judged(judged))


def importances(study: Study, place: int = 0) -> dict[str, dict[str, float]]:
    """How much of the robust accuracy's variation each setting explains, by two evaluators of Optuna's.

    Parameters
    ----------
    place
        Of robust accuracy among the study's objectives.
    """
    from optuna import importance
    from optuna.trial import TrialState

    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(done) < _FEWEST or len({one.values[place] for one in done}) < 2:
        return {}
    evaluators = {
        "fANOVA": (importance.FanovaImportanceEvaluator(seed=0), lambda one: one.values[place]),
        # It takes a lower number for a better one.
        "PED-ANOVA": (importance.PedAnovaImportanceEvaluator(), lambda one: -one.values[place]),
    }
    found = {}
    for name, (evaluator, number) in evaluators.items():
        with warnings.catch_warnings(), quiet():
            warnings.simplefilter("ignore")  # of its being an experiment, and of few trials
            try:
                found[name] = dict(importance.get_param_importances(study, evaluator=evaluator, target=number))
            except (ValueError, RuntimeError):  # trials without a setting in common, or all alike
                continue
    return found


def _judged(judged: Judged) -> dict[str, object]:
    card, fall, gain = judged.card, judged.fall, judged.gain
    return {
        "winner": judged.winner.name,
        "found_better": judged.found_better,
        "fresh": Fresh(
            verdict=card.verdict,
            robust=card.robust_accuracy,
            clean=card.clean_accuracy,
            suite=card.suite.name,
            card=f"{judged.winner.name}/{FRESH_FILE}",
        ),
        "against_recipe": gain and AgainstRecipe(word=gain.word, why=gain.why, p_robust=gain.robust.p_value),
        "fall": Fall(validation=fall.validation, fresh=fall.fresh, by=fall.by, low=fall.low, high=fall.high),
        "passed_over": judged.passed_over,
    }


def _entry(job: Job, one: Tried) -> Trial:
    return Trial(
        name=one.name,
        state=one.state,
        settings=dict(one.values),
        architecture=job.words(one.values),
        robust=one.robust,
        clean=one.clean,
        training_passes=one.passes,
        seconds=one.seconds,
        epochs=dict(one.epochs),
        can_not_win=one.out or None,
        numbers=dict(one.numbers),
    )
