"""The trials of a search: what each process knows, and what is kept of a trial."""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from robustbench_lite.core.errors import UserError
from robustbench_lite.core.suite import Suite
from robustbench_lite.core.usercode import ARCHITECTURE
from robustbench_lite.data.dataset import Data
from robustbench_lite.hardening.preparation import Changes, Plan, Sampling, prepare
from robustbench_lite.hardening.recipe import Recipe
from robustbench_lite.model.architectures.files import FILE as ARCHITECTURE_FILE
from robustbench_lite.model.architectures.interface import Architecture
from robustbench_lite.model.building import rebuilt
from robustbench_lite.model.target import Target
from robustbench_lite.results.ranking import TRAINING_PASSES
from robustbench_lite.results.scorecard import Interval, Scorecard
from robustbench_lite.results.search import CLEAN, ROBUST, State
from robustbench_lite.results.search import RECIPE as RECIPE
from robustbench_lite.searching.folder import LOCKS
from robustbench_lite.searching.objectives import ROBUST_ALONE, Objective
from robustbench_lite.searching.proxy import Proxy
from robustbench_lite.searching.settings import with_settings
from robustbench_lite.searching.space import Axis, of_model, of_recipe
from robustbench_lite.searching.storage import Pruner, open_study

if TYPE_CHECKING:
    from optuna import Study

_OWNER_FILE = ".owner"


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
    seconds: float | None = field(default=None, compare=False)
    """From its begin to its end, pauses included."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """The objectives beside robust and clean accuracy."""
    epochs: Mapping[int, float] = field(default_factory=dict)
    """Robust accuracy on held-out samples by epoch, by which a pruner compares."""
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
    pruner: Pruner
    storage: str | None
    """As in `open_study`."""
    limit: float
    """Most trials in the study."""
    deadline: float | None
    """Time, as `time.time` tells it, from which on no trial begins."""
    min_clean: float
    """A run in full below it can't win."""
    objectives: tuple[Objective, ...] = ROBUST_ALONE
    """What the study is told of each trial."""
    proxy: Proxy | None = None
    """What is cheaper than in full."""
    architecture: Architecture | None = None
    """Where architectures are searched: what the trials' networks are changes of."""

    def plan(self, values: Mapping[str, Any]) -> Plan:
        """Prepare the recipe with some settings."""
        recipe, changes, sampling = (
            with_settings(self.recipe, of_recipe(values)),
            Changes(suite=self.suite),
            self.sampling,
        )
        if self.proxy is not None:
            recipe, changes = self.proxy.recipe(recipe), self.proxy.changes(changes)
            sampling = self.proxy.sampling(sampling)
        return prepare(self.target_of(values), self.training, recipe, changes, sampling)

    @property
    def in_full(self) -> Job:
        """The same search without its proxy."""
        return dataclasses.replace(self, proxy=None)

    def target_of(self, values: Mapping[str, Any]) -> Target:
        """The model that a trial with some settings starts from."""
        arguments, spec = of_model(values), None
        if not arguments:
            return self.target
        if self.architecture is not None:
            spec = f"{ARCHITECTURE}{self.folder / ARCHITECTURE_FILE}"
        return rebuilt(self.target, arguments, self.sampling.seed, spec=spec)

    def words(self, values: Mapping[str, Any]) -> str | None:
        """The architecture of some settings, in words; None where none is searched."""
        if self.architecture is None or not of_model(values):
            return None
        try:
            return self.architecture.changed(of_model(values)).words
        except UserError:  # it failed for that
            return None

    def study(self) -> Study:
        """Open the study, or make it."""
        return open_study(self.storage, self.folder, self.pruner, self.objectives)

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
        elif self.proxy is None and card.clean_accuracy.value < self.min_clean:
            out = f"clean accuracy {card.clean_accuracy.value:.1%} is below the floor of {self.min_clean:.1%}"
        return {
            "robust": card.robust_accuracy.model_dump(),
            "clean": card.clean_accuracy.model_dump(),
            "passes": next((one.value for one in card.measures if one.name == TRAINING_PASSES), None),
            "out": out,
            "numbers": {one.name: one.of(card) for one in self.objectives if one.name not in (ROBUST, CLEAN)},
        }


def tried(name: str, values: Mapping[str, Any], state: State, facts: Mapping[str, Any]) -> Tried:
    """A trial from what the study keeps of it."""
    robust, clean = (Interval.model_validate(facts[key]) if facts.get(key) else None for key in ("robust", "clean"))
    told = {"passes": facts.get("passes"), "out": facts.get("out", ""), "numbers": facts.get("numbers", {})}
    return Tried(name=name, values=values, state=state, robust=robust, clean=clean, **told)


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
        dataclasses.replace(
            tried(f"trial-{one.number}", one.params, states[one.state], one.user_attrs),
            seconds=one.duration.total_seconds() if one.duration is not None else None,
            epochs=dict(one.intermediate_values),
        )
        for one in study.get_trials(deepcopy=False)
        if one.state in states
    ]
