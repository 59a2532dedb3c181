"""Tune: a model, data, a recipe and a space of its settings in; the best trial out, judged on fresh samples."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.suite import Suite, load_suite
from robustbench_lite.data.load import as_data
from robustbench_lite.hardening.checkpoint import check_settings
from robustbench_lite.hardening.folder import BEFORE_FILE
from robustbench_lite.hardening.pipeline import Listeners, judge
from robustbench_lite.hardening.preparation import Changes, Plan, Sampling, prepare
from robustbench_lite.hardening.recipe import Recipe, load_recipe
from robustbench_lite.model.architectures.files import FILE as ARCHITECTURE_FILE
from robustbench_lite.model.architectures.files import save_architecture
from robustbench_lite.model.target import Target
from robustbench_lite.results.scorecard import Scorecard
from robustbench_lite.results.search import RESULT_FILE, ROBUST, SearchResult
from robustbench_lite.searching.folder import claimed
from robustbench_lite.searching.judgement import Judged, judge_winner
from robustbench_lite.searching.objectives import Objective, objectives_of, with_measures
from robustbench_lite.searching.result import importances, result_of
from robustbench_lite.searching.running import executor_of, run_finals, run_in_full, run_trials
from robustbench_lite.searching.space import Space, axes, check_grid, load_space
from robustbench_lite.searching.storage import Pruner
from robustbench_lite.searching.strategies.interface import BEFOREHAND, Strategy, find_strategy
from robustbench_lite.searching.trials import RECIPE, Job, Tried, all_tried
from robustbench_lite.workers import Executor

if TYPE_CHECKING:
    from optuna import Study

_VALIDATION_SHARE = 0.2  # of the training data, held out for the search to look at


@dataclass(frozen=True, kw_only=True)
class Search:
    """How to search, and for how long."""

    trials: int | None = None
    """Most trials, beside the one of the recipe as it is."""
    seconds: float | None = None
    """Time after which no further trial begins."""
    sampler: str = "tpe"
    """Name of a strategy: ``grid``, ``random``, ``tpe``, ``gp``, ``nsga2``, ``cmaes``, ``hyperopt``,
    ``evolution``, ``reinforce``, ``gradient``, ``gdas``, or one's own."""
    objective: str = "robust"
    """What trials are to be better in: ``robust``, or a front of several, such as ``robust,clean,bytes``: ``clean``,
    ``bytes``, ``latency``, ``passes`` (of training), or any measure by its name."""
    pruner: Pruner = "none"
    """Ends trials that are behind the others: ``median`` of them at the same epoch, or ``hyperband``. Of several
    objectives there is no pruning."""
    min_clean: float = 0.0
    """Floor of clean accuracy on the validation samples, in [0, 1]: a trial below it can't win."""
    suite: str | Path | Suite | None = None
    """Attacks the validation samples; by default the short one of the norm, such as ``linf_quick``."""
    storage: str | None = None
    """Optuna's storage: a database by its URL, or a journal file; by default one in the folder."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where a search stands as a trial begins, or after the last."""

    running: tuple[str, ...]
    """Names of the trials under way; none after the last."""
    done: int
    """Trials that ended, however they did, the recipe as it is not counted."""
    total: int | None
    """How many there will be; None where time is the limit."""
    best: Tried | None
    """None where none can win so far."""
    failed: tuple[Tried, ...]
    seconds_left: float | None
    """None where nothing tells."""

    @property
    def name(self) -> str:
        """Of the trials under way; empty after the last."""
        return ", ".join(self.running)


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """What came of a search."""

    trials: tuple[Tried, ...]
    """The best on the validation samples first; those that can't win stand behind."""
    judged: Judged | None
    """The winner on fresh samples; None where no trial can win."""
    folder: Path
    result: SearchResult = field(compare=False)
    """All of it, as ``search.json`` keeps it."""
    finals: tuple[Tried, ...] = ()
    """With a proxy: the best trials and the recipe as it is, run in full, the best first."""


_TWENTY, _NO_CHANGES, _ALL_SAMPLES, _NOBODY = Search(trials=20), Changes(), Sampling(), Listeners()


def tune(
    model: nn.Module | Target,
    data: Any,
    recipe: str | Path | Recipe,
    space: str | Path | Space,
    *,
    out: str | Path,
    search: Search = _TWENTY,
    changes: Changes = _NO_CHANGES,
    sampling: Sampling = _ALL_SAMPLES,
    listeners: Listeners = _NOBODY,
    on_trial: Callable[[Standing], None] | None = None,
    jobs: int | Executor = 1,
) -> Tuned:
    """Search for the settings of a recipe that make a model most robust.

    The training data are split once: trials learn from four fifths, and a fifth, the validation samples, is what the
    search looks at. The test samples are seen by nothing but the winner and the recipe as it is, at the end.

    Parameters
    ----------
    model, data
        As in `harden`.
    recipe
        Name of a recipe, path of a TOML file, or a `Recipe`; run as it is, too, as a trial of its own.
    space
        TOML file of the settings to search, or a `Space`.
    out
        A new or empty folder; ``trial-7`` and the like in it are as `harden` writes them. Where it holds this very
        search, the search goes on: trials that are done are not run again, one that was cut off is resumed. So a
        second process with the same arguments takes part.
    changes
        In the place of the recipe's own; the suite judges the winner.
    sampling
        Which samples are taken. ``limit`` is of the validation samples, and of the test samples.
    on_trial
        Called as the recipe as it is begins, as each trial begins, and after the last; with several jobs, as each ends.
    jobs
        Processes on this machine that run the trials; of those nothing is told but by ``on_trial``. Or who runs them,
        such as `workers.cluster.RayExecutor`: its machines must all see ``out``, and keep locks on its files.

    Raises
    ------
    UserError
        For whatever was given wrong, before anything runs; where five trials fail one after the other.
    KeyboardInterrupt
        At Ctrl-C; the same arguments go on from there.
    """
    started = time.time()
    _check_limits(search, jobs)
    executor = executor_of(jobs)
    folder = Path(out) if isinstance(jobs, int) else Path(out).absolute()  # elsewhere one stands in another folder
    judging, job, settings = _prepared(model, data, recipe, load_space(space), folder, search, changes, sampling)
    with claimed(job.folder, settings):
        study = job.study()
        _same_study(study, settings)
        if job.architecture is not None:
            save_architecture(job.architecture, job.folder / ARCHITECTURE_FILE)
    plain: Tried | None = None

    def tell(running: tuple[str, ...]) -> None:
        if on_trial is not None:
            on_trial(_standing(job, study, plain, running, executor.workers))

    _beforehand(job, study, listeners)
    before = _before(job, listeners)
    if not job.proxy:
        tell((RECIPE,))
        plain = run_in_full(job, RECIPE, {}, before, listeners)
    if executor.workers > 1:
        tell((f"{executor.workers} jobs",))
    for _ in run_trials(job, before, executor, listeners, lambda name: tell((name,))):
        if executor.workers > 1 and (running := tuple(one.name for one in all_tried(study) if one.state == "running")):
            tell(running)
    tell(())
    finals = _finals(job, study, executor, listeners, tell)
    trials = sorted((*([plain] if plain else []), *all_tried(study)), key=lambda one: one.order)
    with job.lock("judge"):
        judged = judge_winner(judging, job.suite, job.folder, finals or trials, listeners)
        weights = importances(study, [one.name for one in job.objectives].index(ROBUST))
        told = result_of(job, trials, finals, judged, time.time() - started, weights, study.user_attrs.get(BEFOREHAND))
        told.save(job.folder / RESULT_FILE)
    return Tuned(trials=tuple(trials), finals=tuple(finals), judged=judged, folder=job.folder, result=told)


def _finals(
    job: Job, study: Study, executor: Executor, listeners: Listeners, tell: Callable[[tuple[str, ...]], None]
) -> list[Tried]:
    """With a proxy: the best trials and the recipe as it is, run in full, the best first."""
    if job.proxy is None:
        return []
    best = sorted((one for one in all_tried(study) if one.can_win), key=lambda one: one.order)
    asked: dict[str, Mapping[str, Any]] = {RECIPE: {}}
    for one in best[: job.proxy.finalists]:
        values = {axis.key: axis.setting(one.values[axis.key]) for axis in job.axes}
        asked[one.name.replace("trial", "final")] = values
    before = _before(job.in_full, listeners)
    found: list[Tried] = []
    for one in run_finals(job, before, asked, executor, listeners, lambda name: tell((name,))):
        found.append(one)
        if executor.workers > 1 and (left := [name for name in asked if name not in {each.name for each in found}]):
            tell(tuple(left))
    return sorted(found, key=lambda one: one.order)


def _prepared(
    model: nn.Module | Target,
    data: Any,
    recipe: str | Path | Recipe,
    space: Space,
    folder: Path,
    search: Search,
    changes: Changes,
    sampling: Sampling,
) -> tuple[Plan, Job, dict[str, str]]:
    """Check everything: the plan that judges, what the trials have in common, and what identifies the search."""
    strategy = find_strategy(search.sampler)
    objectives = _objectives(search, strategy)
    test_data = sampling.test_data
    if isinstance(data, str):
        test_data = as_data(data, split="test") if test_data is None else test_data
        data = as_data(data, split="train")
    whole = Sampling(test_data=test_data, limit=sampling.limit, seed=sampling.seed)
    judging = prepare(model, data, with_measures(load_recipe(recipe), objectives), changes, whole)
    architecture = None
    if space.architecture is not None:
        classes = judging.target.classes or int(judging.known.labels.max()) + 1
        architecture = space.architecture.start(tuple(judging.known.shape), classes, judging.target)
    found = axes(space, judging.recipe, judging.target, architecture)
    limit = float("inf") if search.trials is None else float(search.trials)
    if strategy.in_order:
        limit = min(limit, check_grid(found, search.trials))
    training, validation = judging.known.split(_VALIDATION_SHARE, sampling.seed)
    suite = load_suite(_short_suite(judging) if search.suite is None else search.suite)
    job = Job(
        target=judging.target,
        training=training,
        validation=validation,
        recipe=judging.recipe,
        axes=found,
        suite=suite,
        sampling=Sampling(
            test_data=validation, limit=sampling.limit, limit_train=sampling.limit_train, seed=sampling.seed
        ),
        folder=folder,
        sampler=search.sampler,
        pruner=search.pruner,
        storage=search.storage,
        limit=limit,
        deadline=None if search.seconds is None else time.time() + search.seconds,
        min_clean=search.min_clean,
        objectives=objectives,
        proxy=space.proxy,
        architecture=architecture,
    )
    if strategy.unfit is not None and (fault := strategy.unfit(job)):
        raise UserError(f"sampler {search.sampler}: {fault}")
    if space.proxy is not None:
        space.proxy.check(judging.recipe, [axis.key for axis in found])
        job.plan({})
    own = {
        "space": json.dumps([(axis.key, axis.values.model_dump()) for axis in found]),
        "sampler": search.sampler,
        "pruner": search.pruner,
        "min_clean": str(search.min_clean),
        "proxy": "" if space.proxy is None else space.proxy.model_dump_json(),
        "judged by": judging.fingerprint()["suite"],
        "judged on": judging.fingerprint()["test_data"],
    }
    if architecture is not None:
        own["architecture"] = architecture.toml()
    if len(objectives) > 1:
        own["objective"] = ",".join(one.name for one in objectives)
    return judging, job, job.in_full.plan({}).fingerprint() | own


def _check_limits(search: Search, jobs: int | Executor) -> None:
    if search.trials is None and search.seconds is None:
        raise UserError("a search needs an end: give trials, or a budget of time")
    if search.trials is not None and search.trials < 1:
        raise UserError(f"trials is {search.trials}: expected 1 or more")
    if isinstance(jobs, int) and jobs < 1:
        raise UserError(f"jobs is {jobs}: expected the number of processes, 1 or more")
    if not 0 <= search.min_clean < 1:
        raise UserError(f"min_clean is {search.min_clean:g}: expected a share from 0 to below 1, such as 0.8")


def _objectives(search: Search, strategy: Strategy) -> tuple[Objective, ...]:
    """What the search wants; refuses what a sampler or a pruner can't do with several of them."""
    found = objectives_of(search.objective)
    if len(found) == 1:
        return found
    if not strategy.several:
        able = [name for name in registry.names("strategies") if registry.find("strategies", name).several]
        raise UserError(
            f"sampler {search.sampler}: seeks robust accuracy alone; for the objective {search.objective} take one of "
            f"{', '.join(able)}"
        )
    if search.pruner != "none":
        raise UserError(
            f"pruner {search.pruner}: Optuna can't prune a search with several objectives ({search.objective}); leave "
            "the pruner out, or give the objective robust"
        )
    return found


def _short_suite(judging: Plan) -> str | Suite:
    name = f"{judging.recipe.threat.norm.lower()}_quick"
    return name if name in registry.names("suites") else judging.suite


def _same_study(study: Study, settings: dict[str, str]) -> None:
    """See that a study that was there is of this search."""
    known = study.user_attrs.get("settings")
    if known is None:
        study.set_user_attr("settings", settings)
    else:
        check_settings(Path(f"study {study.study_name}"), known, settings)


def _beforehand(job: Job, study: Study, listeners: Listeners) -> None:
    """Do what the strategy does once, before the first trial."""
    strategy = find_strategy(job.sampler)
    if strategy.beforehand is None:
        return
    with job.lock(BEFOREHAND):
        if BEFOREHAND not in study.user_attrs:
            study.set_user_attr(BEFOREHAND, dict(strategy.beforehand(job, listeners)))


def _before(job: Job, listeners: Listeners) -> Scorecard:
    """The scorecard of the model that all trials start from."""
    path = job.folder / (BEFORE_FILE if job.proxy is None else f"proxy-{BEFORE_FILE}")
    with job.lock("before"):
        if not path.is_file():
            judge(job.plan({}), job.target, listeners).save(path)
        return Scorecard.load(path)


def _standing(job: Job, study: Study, plain: Tried | None, running: tuple[str, ...], jobs: int) -> Standing:
    trials = all_tried(study)
    ended = [one for one in trials if one.state != "running"]
    return Standing(
        running=running,
        done=len(ended),
        total=None if job.limit == float("inf") else int(job.limit),
        best=min((one for one in (plain, *trials) if one and one.can_win), key=lambda one: one.order, default=None),
        failed=tuple(one for one in trials if one.state == "failed"),
        seconds_left=_left(study, job, len(ended), jobs) if len(ended) < job.limit else None,
    )


def _left(study: Study, job: Job, ended: int, jobs: int) -> float | None:
    """Seconds until the end, at the pace of the trials so far; None before the first has ended."""
    by_time = None if job.deadline is None else max(0.0, job.deadline - time.time())
    took = [one.duration.total_seconds() for one in study.get_trials(deepcopy=False) if one.duration is not None]
    by_count = None
    if took and job.limit != float("inf"):
        by_count = max(0.0, job.limit - ended) * sum(took) / len(took) / jobs
    known = [one for one in (by_time, by_count) if one is not None]
    return min(known, default=None)
