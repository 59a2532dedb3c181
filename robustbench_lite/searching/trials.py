"""The trials of a search: each is one run of the recipe, in a folder of its own."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from filelock import FileLock, Timeout

from robustbench_lite.core.errors import UserError
from robustbench_lite.core.suite import Suite
from robustbench_lite.data.dataset import Data
from robustbench_lite.hardening.checkpoint import Epoch
from robustbench_lite.hardening.pipeline import Listeners
from robustbench_lite.hardening.preparation import Changes, Plan, Sampling, prepare
from robustbench_lite.hardening.recipe import Recipe
from robustbench_lite.hardening.several import run_unless_done
from robustbench_lite.model.target import Target
from robustbench_lite.results.ranking import TRAINING_PASSES
from robustbench_lite.results.scorecard import Interval, Scorecard
from robustbench_lite.searching.folder import LOCKS
from robustbench_lite.searching.settings import with_settings
from robustbench_lite.searching.space import Axis
from robustbench_lite.searching.storage import BLIND, make_sampler

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

RECIPE = "recipe"
"""What the trial is called that runs the recipe as it is; it stands beside those that Optuna proposes."""

State = Literal["done", "failed", "pruned", "running"]

_OWNER_FILE = ".owner"
_MOST_FAILURES = 5  # in a row; then something else than the settings is wrong
_PAUSE = 0.2  # seconds between two looks at what the other processes do


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What came of a trial, on the validation samples."""

    name: str
    """Of its folder: ``trial-7``, or ``recipe`` for the recipe as it is."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """The settings that were tried."""
    state: State = "done"
    robust: Interval | None = None
    """None where it came to no end, as of ``clean``."""
    clean: Interval | None = None
    passes: float | None = None
    """What its training cost."""
    out: str = ""
    """Why it can't win; empty where it can."""

    @property
    def can_win(self) -> bool:
        """Whether it came to its end, can be trusted, and keeps the floor of clean accuracy."""
        return self.state == "done" and not self.out

    @property
    def order(self) -> tuple[Any, ...]:
        """The best first: by robust, then clean accuracy."""
        robust, clean = (0.0 if one is None else one.value for one in (self.robust, self.clean))
        return (not self.can_win, self.state != "done", -robust, -clean)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every process of a search has in common. The samples that judge the winner are not among it."""

    target: Target
    training: Data
    """Samples that the trials learn from."""
    validation: Data
    """Samples that the search looks at."""
    recipe: Recipe
    axes: tuple[Axis, ...]
    suite: Suite
    """Attacks the validation samples."""
    sampling: Sampling
    """Its test data are the validation samples."""
    folder: Path
    sampler: str
    limit: float
    """Most trials in the study."""
    deadline: float | None
    """Time, as `time.time` tells it, from which on no trial begins."""
    min_clean: float

    def plan(self, values: Mapping[str, Any]) -> Plan:
        """Prepare the recipe with some settings."""
        recipe = with_settings(self.recipe, values)
        return prepare(self.target, self.training, recipe, Changes(suite=self.suite), self.sampling)

    def lock(self, name: str) -> FileLock:
        """A lock that ends with the process that holds it."""
        return FileLock(self.folder / LOCKS / name)

    @property
    def over(self) -> bool:
        """Whether the time is spent."""
        return self.deadline is not None and time.time() >= self.deadline

    def owner(self) -> str:
        """A name for the folder: of a shared study, only trials whose folders are here are taken up here."""
        path = self.folder / _OWNER_FILE
        with self.lock("owner"):
            if not path.is_file():
                path.write_text(secrets.token_hex(8), encoding="ascii")
            return path.read_text(encoding="ascii")

    def facts(self, card: Scorecard) -> dict[str, Any]:
        """What the study keeps of a scorecard, and the table shows."""
        out = ""
        if card.verdict == "INVALID":
            out = "its evaluation can't be trusted (INVALID)"
        elif card.clean_accuracy.value < self.min_clean:
            out = f"clean accuracy {card.clean_accuracy.value:.1%} is below the floor of {self.min_clean:.1%}"
        return {
            "robust": card.robust_accuracy.model_dump(),
            "clean": card.clean_accuracy.model_dump(),
            "passes": next((one.value for one in card.measures if one.name == TRAINING_PASSES), None),
            "out": out,
        }


def tried(name: str, values: Mapping[str, Any], state: State, facts: Mapping[str, Any]) -> Tried:
    """A trial from what the study keeps of it."""
    robust, clean = (Interval.model_validate(facts[key]) if facts.get(key) else None for key in ("robust", "clean"))
    out = facts.get("out", "")
    return Tried(name=name, values=values, state=state, robust=robust, clean=clean, passes=facts.get("passes"), out=out)


def all_tried(study: Study) -> list[Tried]:
    """The study's trials, in the order of their numbers."""
    from optuna.trial import TrialState

    states: dict[Any, State] = {
        TrialState.COMPLETE: "done",
        TrialState.FAIL: "failed",
        TrialState.PRUNED: "pruned",
        TrialState.RUNNING: "running",
    }
    return [
        tried(f"trial-{one.number}", one.params, states[one.state], one.user_attrs)
        for one in study.get_trials(deepcopy=False)
        if one.state in states
    ]


def run_trials(job: Job, study: Study, before: Scorecard, listeners: Listeners) -> Iterator[str]:
    """Run trials until there are enough, or the time is spent; tell the name of each as it begins.

    Raises
    ------
    UserError
        Where too many fail one after the other.
    """
    failures: list[str] = []
    while (taken := _take(job, study)) is not None:
        trial, lock = taken
        name = f"trial-{trial.number}"
        try:
            yield name
            fault = _run(job, study, trial, before, listeners)
        finally:
            lock.release()
        failures = [*failures, f"  {name}: {fault}"] if fault else []
        if len(failures) >= _MOST_FAILURES:
            raise UserError(
                "\n".join([f"{len(failures)} trials failed one after the other, so the search ends:", *failures])
            )


def _take(job: Job, study: Study) -> tuple[Trial, FileLock] | None:
    """Take up a trial that a dead process left, or begin one; None where there is no more to do.

    A process that runs a trial holds its lock. While others run theirs it waits: one of them may die.
    """
    from optuna.trial import TrialState

    owner = job.owner()
    while True:
        with job.lock("ask"):
            trials = study.get_trials(deepcopy=False)
            ours = [one for one in trials if one.state == TrialState.RUNNING and _is_ours(one, owner)]
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
        time.sleep(_PAUSE)


def _is_ours(trial: FrozenTrial, owner: str) -> bool:
    return bool(trial.user_attrs.get("owner") == owner)


def _acquired(lock: FileLock) -> bool:
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    return True


def _resumed(job: Job, study: Study, trial: FrozenTrial) -> Trial:
    from optuna.trial import Trial

    study.sampler = make_sampler(job.sampler, job.axes, job.sampling.seed, trial.number)
    return Trial(study, trial._trial_id)


def _begun(job: Job, study: Study, number: int, owner: str) -> tuple[Trial, FileLock]:
    """Begin a trial: its settings are chosen, and its lock is held, before another process may look."""
    study.sampler = make_sampler(job.sampler, job.axes, job.sampling.seed, number)
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
            on_progress=listeners.on_progress, on_attack=listeners.on_attack, on_epoch=_pruning(trial, listeners)
        )
        card = run_unless_done(job.plan(values), job.folder / f"trial-{trial.number}", heard, before)
    except TrialPruned:
        trial.set_user_attr("out", "pruned: it was behind the others at the same epoch")
        study.tell(trial, state=TrialState.PRUNED)
        return ""
    except Exception as fault:  # whatever it was: the others go on
        told = str(fault) if isinstance(fault, UserError) else f"{type(fault).__name__}: {fault}"
        trial.set_user_attr("out", told)
        study.tell(trial, state=TrialState.FAIL)
        return told
    facts = job.facts(card)
    for name, value in facts.items():
        trial.set_user_attr(name, value)
    value = card.robust_accuracy.value
    if job.sampler in BLIND:
        value = 0.0 if facts["out"] else value
    elif not trial.constraints:
        # Above 0: broken. By how much tells the sampler where to go.
        trial.set_constraint("clean accuracy under the floor", job.min_clean - card.clean_accuracy.value)
        trial.set_constraint("not to be trusted", 1.0 if card.verdict == "INVALID" else 0.0)
    study.tell(trial, value)
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
