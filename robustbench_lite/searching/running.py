"""Running the trials of a search, in this process or in others, on this machine or on those of a Ray cluster."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from robustbench_lite.core.cost import BudgetTracker, Stop
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.files import NO_ROOM
from robustbench_lite.hardening.checkpoint import Epoch
from robustbench_lite.hardening.pipeline import Listeners
from robustbench_lite.hardening.several import run_unless_done
from robustbench_lite.results.scorecard import Scorecard
from robustbench_lite.searching.space import of_model
from robustbench_lite.searching.strategies.interface import find_strategy
from robustbench_lite.searching.trials import Job, Tried, tried
from robustbench_lite.workers import Executor, Lost
from robustbench_lite.workers.local import LocalExecutor
from robustbench_lite.workers.processes import ProcessExecutor

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

_MOST_FAILURES = 5  # in a row; then something else than the settings is wrong
_PAUSE = 0.2  # seconds between two looks at what the other processes do
_ENDLESS = 10_000  # trials, where time is the limit


@dataclass(frozen=True)
class Ended:
    """A trial that came to its end, however it did."""

    name: str
    fault: str
    """Why it failed; empty where it didn't."""


def run_trials(
    job: Job, before: Scorecard, executor: Executor, listeners: Listeners, on_begin: Callable[[str], None]
) -> Iterator[Ended]:
    """Run trials until there are enough, or the time is spent; tell each that has ended.

    Parameters
    ----------
    before
        The scorecard of the model that the trials start from.
    executor
        Who runs them. A process that dies is followed by another, which goes on with the trial that it ran.
    listeners, on_begin
        Told of the trials that run in this process.

    Raises
    ------
    UserError
        Where too many fail one after the other.
    KeyboardInterrupt
        At Ctrl-C.
    """
    budget = BudgetTracker()
    heard = _heard(executor, budget, listeners, on_begin)
    slots = range(int(min(job.limit, _ENDLESS)) + executor.workers)
    failures: list[str] = []
    for ended in executor.map(partial(_one, job, before, budget, *heard), slots, budget, _is_last):
        if budget.interrupted:
            raise KeyboardInterrupt
        if ended is None:
            continue
        if isinstance(ended, Lost):
            ended = _given_up(job, ended.reason)
        failures = [*failures, f"  {ended.name}: {ended.fault}"] if ended.fault else []
        yield ended
        if len(failures) >= _MOST_FAILURES:
            raise UserError(
                "\n".join([f"{len(failures)} trials failed one after the other, so the search ends:", *failures])
            )


def executor_of(jobs: int | Executor) -> Executor:
    """Who runs the trials: this process where there is one job, several on this machine, or whoever is given."""
    if not isinstance(jobs, int):
        return jobs
    return LocalExecutor() if jobs == 1 else ProcessExecutor(jobs)


def _heard(
    executor: Executor, budget: BudgetTracker, listeners: Listeners, on_begin: Callable[[str], None]
) -> tuple[Listeners, Callable[[str], None]]:
    """Who hears of the trials: where other processes run them, nobody but what ends them."""
    return (listeners, on_begin) if isinstance(executor, LocalExecutor) else (_stopping(budget), _nobody)


def _one(
    job: Job,
    before: Scorecard,
    budget: BudgetTracker,
    listeners: Listeners,
    on_begin: Callable[[str], None],
    _: int,
) -> Ended | None:
    """Run a trial; None where there is no more to do."""
    study = job.study()
    if (taken := _take(job, study, budget)) is None:
        return None
    trial, lock = taken
    name = f"trial-{trial.number}"
    try:
        on_begin(name)
        return Ended(name, _run(job, study, trial, before, listeners))
    finally:
        lock.release()


def run_in_full(job: Job, name: str, values: Mapping[str, Any], before: Scorecard, listeners: Listeners) -> Tried:
    """Run the recipe with some settings and without a proxy, or read what came of it."""
    full = job.in_full
    with full.lock(name):
        try:
            start = None if of_model(values) else before
            facts = full.facts(run_unless_done(full.plan(values), full.folder / name, listeners, start))
        except Exception as fault:  # whatever it was: the others go on
            if _no_room(fault):
                raise
            return tried(name, values, "failed", {"out": _words(fault)})
    return tried(name, values, "done", facts)


def run_finals(
    job: Job,
    before: Scorecard,
    finals: Mapping[str, Mapping[str, Any]],
    executor: Executor,
    listeners: Listeners,
    on_begin: Callable[[str], None],
) -> Iterator[Tried]:
    """Run settings in full, each under a name; the arguments are those of `run_trials`."""
    budget = BudgetTracker()
    heard = _heard(executor, budget, listeners, on_begin)
    parts = list(finals.items())
    for (name, values), ended in zip(
        parts, executor.map(partial(_final, job, before, *heard), parts, budget, _never), strict=True
    ):
        if budget.interrupted:
            raise KeyboardInterrupt
        yield tried(name, values, "failed", {"out": ended.reason}) if isinstance(ended, Lost) else ended


def _final(
    job: Job,
    before: Scorecard,
    listeners: Listeners,
    on_begin: Callable[[str], None],
    part: tuple[str, Mapping[str, Any]],
) -> Tried:
    on_begin(part[0])
    return run_in_full(job, *part, before, listeners)


def _never(_: Tried | Lost) -> bool:
    return False


def _no_room(fault: Exception) -> bool:
    """Whether the disk is full, which is no fault of the settings."""
    return isinstance(fault, OSError) and fault.errno in NO_ROOM


def _words(fault: Exception) -> str:
    return str(fault) if isinstance(fault, UserError) else f"{type(fault).__name__}: {fault}"


def _is_last(ended: Ended | None) -> bool:
    return ended is None


def _nobody(_: str) -> None:
    """Hear that a trial begins in another process, where nobody looks."""


def _stopping(budget: BudgetTracker) -> Listeners:
    """What ends a trial in another process once all are to end."""

    def hear(_: Any) -> None:
        _check(budget)

    return Listeners(on_progress=hear, on_attack=hear)


def _check(budget: BudgetTracker) -> None:
    try:
        budget.check(0)
    except Stop:
        raise KeyboardInterrupt from None


def _given_up(job: Job, reason: str) -> Ended:
    """Tell the study that a trial ended each process that ran it."""
    from optuna.trial import Trial, TrialState

    study, owner = job.study(), job.owner()
    with job.lock("ask"):
        for one in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            lock = job.lock(f"trial-{one.number}")
            if _is_ours(job, one, owner) and _acquired(lock):
                Trial(study, one._trial_id).set_user_attr("out", reason)
                study.tell(one.number, state=TrialState.FAIL)
                lock.release()
                return Ended(f"trial-{one.number}", reason)
    return Ended("a trial", reason)  # another process has taken it up meanwhile


def _take(job: Job, study: Study, budget: BudgetTracker) -> tuple[Trial, FileLock] | None:
    """Take up a trial that a dead process left, or begin one; None where there is no more to do.

    A process that runs a trial holds its lock. While others run theirs it waits: one of them may die.
    """
    from optuna.trial import TrialState

    owner = job.owner()
    while True:
        with job.lock("ask"):
            trials = study.get_trials(deepcopy=False)
            ours = [one for one in trials if one.state == TrialState.RUNNING and _is_ours(job, one, owner)]
            others_at_work = False
            for one in ours:
                lock = job.lock(f"trial-{one.number}")
                if not _acquired(lock):
                    others_at_work = True
                elif job.over:
                    lock.release()
                else:
                    return _resumed(job, study, one), lock
            if not job.over and len(trials) < job.limit:
                return _begun(job, study, len(trials), owner)
            if not others_at_work:
                return None
        _check(budget)
        time.sleep(_PAUSE)


def _is_ours(job: Job, trial: FrozenTrial, owner: str) -> bool:
    """Whether a trial's folder is here. A kill as it began may leave one that nobody has put a name to."""
    named = trial.user_attrs.get("owner")
    return named == owner or (named is None and job.storage is None)


def _acquired(lock: FileLock) -> bool:
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    return True


def _resumed(job: Job, study: Study, trial: FrozenTrial) -> Trial:
    from optuna.trial import Trial

    study.sampler = find_strategy(job.sampler).sampler(job.axes, job.sampling.seed, trial.number)
    return Trial(study, trial._trial_id)


def _begun(job: Job, study: Study, number: int, owner: str) -> tuple[Trial, FileLock]:
    """Begin a trial: its settings are chosen, and its lock is held, before another process may look."""
    study.sampler = find_strategy(job.sampler).sampler(job.axes, job.sampling.seed, number)
    trial = study.ask()
    lock = job.lock(f"trial-{trial.number}")
    lock.acquire()
    trial.set_user_attr("owner", owner)
    for axis in job.axes:
        axis.suggest(trial)
    return trial, lock


def _run(job: Job, study: Study, trial: Trial, before: Scorecard, listeners: Listeners) -> str:
    """Run a trial and tell the study what came of it; return why it failed, or nothing."""
    from optuna import TrialPruned
    from optuna.trial import TrialState

    try:
        values = {axis.key: axis.suggest(trial) for axis in job.axes}
        heard = Listeners(
            on_progress=listeners.on_progress,
            on_attack=listeners.on_attack,
            # Optuna takes no numbers by epoch, and prunes nothing, where there are several objectives.
            on_epoch=_pruning(trial, listeners) if len(job.objectives) == 1 else listeners.on_epoch,
        )
        start = None if of_model(values) else before  # another network starts from another card
        card = run_unless_done(job.plan(values), job.folder / f"trial-{trial.number}", heard, start)
        facts = job.facts(card)
    except TrialPruned:
        trial.set_user_attr("out", "it was behind the others at the same epoch")
        study.tell(trial, state=TrialState.PRUNED)
        return ""
    except Exception as fault:  # whatever it was: the others go on
        if _no_room(fault):
            raise  # the trial is taken up again once there is room
        trial.set_user_attr("out", _words(fault))
        study.tell(trial, state=TrialState.FAIL)
        return _words(fault)
    for name, value in facts.items():
        trial.set_user_attr(name, value)
    numbers = [one.of(card) for one in job.objectives]
    if len(numbers) == 1 and not find_strategy(job.sampler).constrained:
        numbers = [0.0] if facts["out"] else numbers
    elif not trial.constraints:
        floor = 0.0 if job.proxy else job.min_clean
        # Above 0: broken. By how much tells the sampler where to go.
        trial.set_constraint("clean accuracy under the floor", floor - card.clean_accuracy.value)
        trial.set_constraint("not to be trusted", 1.0 if card.verdict == "INVALID" else 0.0)
    study.tell(trial, numbers)
    return ""


def _pruning(trial: Trial, listeners: Listeners) -> Any:
    """What is called after each epoch: it ends a trial that the study's pruner gives up."""
    from optuna import TrialPruned

    epochs = len(trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values)  # some where it is resumed

    def note(line: Epoch) -> None:
        nonlocal epochs
        epochs += 1
        if listeners.on_epoch is not None:
            listeners.on_epoch(line)
        trial.report(line.robust, epochs)
        if trial.should_prune():
            raise TrialPruned

    return note
