"""What is to be run, checked as a whole before anything runs."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError, faults
from robustbench_lite.core.suite import Suite, load_suite
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.data.dataset import Data, change_seen, check_inputs, check_labels
from robustbench_lite.data.load import as_data
from robustbench_lite.hardening.folder import BEFORE_FILE
from robustbench_lite.hardening.interface import Artifact, Defense, Step, StepRecord
from robustbench_lite.hardening.memory import Memory, Task
from robustbench_lite.hardening.mixture import Mixture
from robustbench_lite.hardening.recipe import Recipe, RecipeStep, load_recipe
from robustbench_lite.hardening.schedule import Schedule
from robustbench_lite.hardening.training import unfit_schedule
from robustbench_lite.hardening.transfer import frozen_names
from robustbench_lite.model.target import Target, as_target
from robustbench_lite.results.gates import Gates

_REMEMBERED = 200  # samples of earlier data, where the recipe doesn't say
_OF_EARLIER = ("forgetting", "backward_transfer")
_TEST_SHARE = 0.2  # held out for the scorecards, where the data bring no test samples of their own


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What the caller gives in the place of the recipe's own; None where it stays."""

    threat: str | ThreatModel | None = None
    suite: str | Path | Suite | None = None
    epochs: int | None = None
    lr: float | None = None
    batch_size: int | None = None
    freeze: tuple[str, ...] | None = None
    remember: int | None = None
    gates: Gates = field(default_factory=Gates)
    """What is demanded of the model afterwards."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Which samples are trained on and which evaluated."""

    test_data: Any = None
    limit: int | None = None
    """Size of the sample of the test samples."""
    limit_train: int | None = None
    """Size of the sample of those to learn from."""
    earlier: Any = None
    """What was learnt before: a model's folder with its memory, a `Memory`, or the data themselves."""
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class PlannedStep:
    """A step of the recipe, made."""

    step: Step
    spec: RecipeStep
    """As it stands in the recipe, with its schedule."""
    place: str
    """Position in the recipe, from 1, and name."""
    seed: int
    extra: Data | None = None
    """What its schedule mixes into each batch."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that a hardening needs, checked."""

    recipe: Recipe
    """As it is run: with the caller's changes, and with every parameter."""
    steps: tuple[PlannedStep, ...]
    suite: Suite
    target: Target
    """A copy of the caller's."""
    known: Data
    """Samples that may be learnt from; each step holds a share of them out."""
    test: Data
    sampling: Sampling
    memory: Memory | None = None
    """Of earlier tasks."""
    gates: Gates = field(default_factory=Gates)
    note: str = ""
    """A comment on the recipe, for its file."""

    def split(self, planned: PlannedStep) -> tuple[Data, Data]:
        """Samples that a step learns from, and those that are held out from it."""
        schedule = planned.spec.schedule or self.recipe.schedule
        return self.known.split(schedule.held_out, self.sampling.seed)

    def fingerprint(self) -> dict[str, str]:
        """Everything on which the result depends, by name: what a resumed run must have in common with the first."""
        judging = hashlib.sha256(self.suite.model_dump_json().encode()).hexdigest()[:16]
        values: dict[str, Any] = {
            "threat": self.recipe.threat,
            "suite": f"{self.suite.name} ({judging})",
            "data": f"{self.known.name}, {len(self.known)} samples ({_digest(self.known)})",
            "test_data": f"{self.test.name}, {len(self.test)} samples ({_digest(self.test)})",
            "limit": self.sampling.limit,
            "limit_train": self.sampling.limit_train,
            "seed": self.sampling.seed,
            "weights": self.target.weights_sha256(),
        }
        if self.memory is not None or self.recipe.remember:
            values["earlier"] = "" if self.memory is None else self.memory.digest()
            values["remember"] = self.recipe.remember
        for planned in self.steps:
            head = f"steps.{planned.place}." if self.recipe.steps else ""
            values[f"{head}defense"] = planned.spec.name
            values |= {f"{head}params.{name}": value for name, value in dataclasses.asdict(planned.step).items()}
            if planned.step.trains and planned.spec.schedule is not None:
                dumped = planned.spec.schedule.model_dump()
                values |= {f"{head}schedule.{name}": value for name, value in dumped.items()}
            if planned.extra is not None:
                values[f"{head}extra"] = f"{len(planned.extra)} samples ({_digest(planned.extra)})"
        return {name: str(value) for name, value in values.items()}


def prepare(
    model: nn.Module | Target,
    data: Any,
    recipe: str | Path | Recipe,
    changes: Changes,
    sampling: Sampling,
    device: str | torch.device | None = None,
) -> Plan:
    """Load and check everything; the arguments are those of `harden`.

    Raises
    ------
    UserError
        For whatever was given wrong. All faults of the recipe's steps are told at once.
    """
    recipe = _changed(load_recipe(recipe), changes)
    suite = load_suite(recipe.suite if changes.suite is None else changes.suite)
    _check_suite(suite, recipe.threat)
    target = as_target(copy.deepcopy(model), device)
    recipe, steps = _planned(recipe, target, sampling.seed)
    known, test = _train_and_test(data, sampling.test_data, sampling.seed)
    if sampling.limit_train is not None:
        known = known.stratified(sampling.limit_train, sampling.seed)
    _check(target, known)
    memory = _recalled(sampling, recipe, suite)
    for data in () if memory is None else memory.rehearsed:
        Mixture(own=known, extra=data)  # refuses another shape
        _check(target, data)
    _check_memory(steps, memory, changes.gates)
    if memory is not None and not recipe.remember:
        recipe = recipe.model_copy(update={"remember": len(memory.rehearsed[-1])})
    steps = tuple(_with_extra(planned, target, known) for planned in steps)
    for planned in steps:
        if planned.step.trains and planned.spec.schedule is not None:
            frozen_names(target.module, planned.spec.schedule.freeze, target.classes)  # refuses what matches nothing
            known.split(planned.spec.schedule.held_out, sampling.seed)  # refuses too few samples
    return Plan(
        recipe=recipe,
        steps=steps,
        suite=suite,
        target=target,
        known=known,
        test=test,
        sampling=sampling,
        memory=memory,
        gates=changes.gates,
        note=f"# Evaluated by {suite.name!r}, given as an object; see {BEFORE_FILE}.\n"
        if isinstance(changes.suite, Suite)
        else "",
    )


def _changed(recipe: Recipe, changes: Changes) -> Recipe:
    """Put what the caller gave in the place of the recipe's own."""
    given = {name: getattr(changes, name) for name in ("epochs", "lr", "batch_size", "freeze")}
    given = {name: value for name, value in given.items() if value is not None}
    try:
        # model_copy alone would take any value unchecked
        schedule = _rescheduled(recipe.schedule, given)
        steps = tuple(
            step.model_copy(update={"schedule": step.schedule and _rescheduled(step.schedule, given)})
            for step in recipe.steps
        )
    except ValidationError as error:
        raise UserError(f"can't train with {_listed(given)}\n{faults(error)}") from None
    update: dict[str, Any] = {"schedule": schedule, "steps": steps}
    if changes.remember is not None:
        update["remember"] = changes.remember
    if changes.threat is not None:
        update["threat"] = ThreatModel.parse(changes.threat)
        update["suite"] = _counterpart(recipe.suite, recipe.threat.norm, update["threat"].norm)
    if isinstance(changes.suite, str | Path):  # a `Suite` has no name by which a recipe could find it
        update["suite"] = str(changes.suite)
    return recipe.model_copy(update=update)


def _rescheduled(schedule: Schedule, given: Mapping[str, Any]) -> Schedule:
    return Schedule.model_validate(schedule.model_dump() | dict(given))


def _planned(recipe: Recipe, target: Target, seed: int) -> tuple[Recipe, tuple[PlannedStep, ...]]:
    """Make the steps, and ask each whether it can be run after those before it; all faults are told at once."""
    planned: list[PlannedStep] = []
    wrong: list[str] = []
    artifact = Artifact(target=target, threat=recipe.threat)
    for number, spec in enumerate(recipe.chain, 1):
        place = f"{number}-{spec.name}"
        try:
            step = registry.build("defenses", spec.name, spec.params)
        except UserError as fault:
            wrong.append(str(fault))
            continue
        wrong += [f"{spec.name}: {fault}" for fault in _unfit(step, artifact, recipe, number)]
        # The first step's seed is the run's own, so that a recipe of one step draws what it always drew.
        own_seed = seed if number == 1 else zlib.crc32(f"{seed}|{place}".encode())
        planned.append(PlannedStep(step=step, spec=spec, place=place, seed=own_seed))
        artifact = artifact.after(target, StepRecord(name=spec.name, params=spec.params))
    if wrong:
        if len(recipe.chain) == 1:
            raise UserError("; ".join(wrong))
        raise UserError("\n".join([f"recipe {recipe.name!r} can't be run:", *(f"  {fault}" for fault in wrong)]))
    return _in_full(recipe, planned), tuple(planned)


def _unfit(step: Any, artifact: Artifact, recipe: Recipe, number: int) -> Iterator[str]:
    if not isinstance(step, Step):
        yield f"is of type {type(step).__name__}: expected a robustbench_lite.hardening.Step"
        return
    if fault := step.unfit(artifact):
        yield fault
    if isinstance(step, Defense) and (fault := unfit_schedule(step, recipe.chain[number - 1].schedule or Schedule())):
        yield fault
    if recipe.steps and recipe.steps[number - 1].schedule is not None and not step.trains:
        yield "has a schedule, but doesn't train: take the schedule away"


def _recalled(sampling: Sampling, recipe: Recipe, suite: Suite) -> Memory | None:
    """Find what the model keeps of earlier tasks, or make it of the earlier data."""
    earlier = sampling.earlier
    if earlier is None or isinstance(earlier, Memory):
        return earlier
    if isinstance(earlier, str | Path) and Path(earlier).is_dir():
        return Memory.load(Path(earlier))
    learnt, judged = _train_and_test(str(earlier) if isinstance(earlier, Path) else earlier, None, sampling.seed)
    size = recipe.remember or _REMEMBERED
    task = Task(name=learnt.name, threat=recipe.threat, suite=suite)
    parts = [data.stratified(size, sampling.seed) for data in (learnt, judged)]
    return Memory(tasks=(task,), rehearsed=(parts[0],), judged=(parts[1],))


def _check_memory(steps: Sequence[PlannedStep], memory: Memory | None, gates: Gates) -> None:
    cure = "give the model's folder or the earlier data as earlier (--earlier)"
    for planned in steps:
        if not planned.step.rehearses:
            continue
        if memory is None:
            raise UserError(
                f"{planned.spec.name}: rehearses what was learnt before, and nothing is known of it; {cure}"
            )
        if planned.spec.schedule is not None and planned.spec.schedule.extra:
            raise UserError(f"{planned.spec.name}: rehearses in the place of extra; take extra out of its schedule")
    if memory is None and (asked := [name for name in gates.measured if name.startswith(_OF_EARLIER)]):
        raise UserError(f"a gate is about {', '.join(asked)}, and nothing was learnt before; {cure}")


def _with_extra(planned: PlannedStep, target: Target, known: Data) -> PlannedStep:
    """Load what the schedule of a step mixes into each batch."""
    schedule = planned.spec.schedule
    if not isinstance(planned.step, Defense) or schedule is None or not schedule.extra:
        return planned
    extra = as_data(schedule.extra, split="train")
    Mixture(own=known, extra=extra, share=schedule.extra_share)  # refuses another shape
    _check(target, extra)
    return dataclasses.replace(planned, extra=extra)


def _in_full(recipe: Recipe, planned: list[PlannedStep]) -> Recipe:
    """The recipe with every parameter, defaults included."""
    params = [dataclasses.asdict(one.step) for one in planned]
    if not recipe.steps:
        return recipe.model_copy(update={"params": params[0]})
    steps = zip(recipe.steps, params, strict=True)
    return recipe.model_copy(
        update={"steps": tuple(step.model_copy(update={"params": given}) for step, given in steps)}
    )


def _counterpart(suite: str, old: str, new: str) -> str:
    """Name of the suite for another norm, where there is one: ``linf_standard`` to ``l2_standard``."""
    named_after = f"{old.lower()}_"
    other = f"{new.lower()}_{suite.removeprefix(named_after)}"
    return other if suite.startswith(named_after) and other in registry.names("suites") else suite


def _check_suite(suite: Suite, threat: ThreatModel) -> None:
    attacks = {spec.name: registry.build("attacks", spec.attack, spec.params) for spec in suite.attacks}
    unfit = [
        f"{name} does {', '.join(attack.norms)}" for name, attack in attacks.items() if threat.norm not in attack.norms
    ]
    if unfit:
        fit = [name for name in registry.names("suites") if name.startswith(f"{threat.norm.lower()}_")]
        advice = f", such as --suite {fit[-1]}" if fit else ""
        raise UserError(
            f"suite {suite.name!r} doesn't fit the threat model {threat}: {'; '.join(unfit)}; give a suite that "
            f"does{advice}"
        )


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())


def _train_and_test(data: Any, test_data: Any, seed: int) -> tuple[Data, Data]:
    """Return the samples to train on and, apart from them, those for the scorecards."""
    known = test = as_data(data, split="train")
    if test_data is not None:
        test = as_data(test_data)
    elif isinstance(data, str):
        test = as_data(data, split="test")
    if seen := change_seen(test):
        raise UserError(
            f"{test.name}: the test samples change from one reading to the next ({seen}), as those to learn from may: "
            "give test samples without random transforms (test_data)"
        )
    if _digest(known) != _digest(test):
        return known, test
    # There are no others, or the source has no splits and gives the same samples twice.
    known, test = known.split(_TEST_SHARE, seed)
    return known, dataclasses.replace(test, name=f"{test.name}, {_TEST_SHARE:.0%} held out")


def _digest(data: Data) -> str:
    """Hash of all labels and of a few samples: enough to tell one source from another without reading it all."""
    few = range(0, len(data), max(1, len(data) // 16))
    digest = hashlib.sha256(data.labels.numpy().tobytes())
    if not change_seen(data):  # a training set's random transforms make another picture each time
        digest.update(data.fetch(few).numpy().tobytes())
    if data.columns is not None:
        digest.update(data.columns.digest.encode())
    return digest.hexdigest()[:16]


def _check(target: Target, data: Data) -> None:
    first = data.fetch(range(min(2, len(data))))
    check_inputs(first, data.name)
    try:
        check_labels(data.labels, target.probe(first))
    except UserError as fault:
        raise UserError(f"{fault}, or give it a new head (--classes {int(data.labels.max()) + 1})") from None
