"""The plan of an evaluation: what was asked, checked and resolved; what can't be run is refused here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from robustbench_lite.attacking.interface import Attack
from robustbench_lite.core import registry
from robustbench_lite.core.columns import Columns
from robustbench_lite.core.cost import Budget, BudgetTracker, Progress
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.suite import Suite, load_suite, once_each
from robustbench_lite.core.threat import NORMS, Access, ThreatModel, enough
from robustbench_lite.data.dataset import Data, check_inputs, check_steady
from robustbench_lite.data.load import as_data
from robustbench_lite.evaluating import corpus
from robustbench_lite.evaluating.cache import Slot
from robustbench_lite.evaluating.measures.interface import Measure
from robustbench_lite.evaluating.measures.take import asked_for
from robustbench_lite.model.target import Target, as_target
from robustbench_lite.model.wrapping import passed_over
from robustbench_lite.results.gates import Gates
from robustbench_lite.results.scorecard import Skipped
from robustbench_lite.workers import Executor
from robustbench_lite.workers.local import LocalExecutor
from robustbench_lite.workers.processes import ProcessExecutor

_BATCH = {"cpu": 128, "cuda": 512}


class PlannedAttack(NamedTuple):
    """An attack of the suite, ready to run."""

    name: str
    algorithm: str
    attack: Attack


@dataclass(frozen=True, kw_only=True)
class Options:
    """How an evaluation is run: what `evaluate` takes by keyword, and says what it means."""

    seed: int = 0
    limit: int | None = None
    batch_size: int | None = None
    device: str | torch.device | None = None
    independent: bool | None = None
    curve: bool | None = None
    keep_witnesses: bool = False
    gates: Gates = field(default_factory=Gates)
    budget: Budget | None = None
    sequential: bool = False
    cache: str | Path | None = None
    corpus: str | Path | None = None
    adapt: bool = False
    anyway: bool = False
    measures: tuple[str, ...] = ()
    reference: Any = None
    workers: int | Executor = 1
    on_progress: Callable[[Progress], None] | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What was asked, checked and resolved."""

    target: Target
    probe_passes: int
    """How often the first samples were asked about to find out what the target shows."""
    data: Data
    limit: int | None
    suite: Suite
    attacks: tuple[PlannedAttack, ...]
    skipped: tuple[Skipped, ...]
    seed: int
    batch_size: int
    keep_witnesses: bool
    gates: Gates
    measures: dict[str, Measure]
    """Further numbers to put on the card, by name."""
    reference: Target | None
    """Another model, that measures may compare the target with."""
    sequential: bool
    """Whether it ends as soon as the gates are settled."""
    cache: Path | None
    corpus: Path | None
    budget: BudgetTracker
    executor: Executor = field(default_factory=LocalExecutor)
    """Runs the parts of the samples."""
    slot: Slot = field(default_factory=lambda: Slot(None))
    """Where the cache keeps what is found on the way."""
    earlier: Mapping[str, Mapping[int, NDArray[np.float32]]] = field(default_factory=dict)
    """By threat model and sample key, witnesses of an evaluation before this one, to be tried first."""
    suspect: bool = False
    """Whether that one couldn't be trusted, so that more survivors are asked."""
    adapt: bool = False
    """Whether another evaluation follows, which works around what has a cure."""
    anyway: bool = False
    """Whether the attacks are run also where the checks before them make the evaluation INVALID."""


def make_plan(model: Any, data: Any, suite: Any, threat: Any, options: Options) -> Plan:
    """Resolve what was asked, see `evaluate`.

    Raises
    ------
    ValueError
        For whatever was given wrong.
    """
    asked = resolve(load_suite(suite), threat, options)
    target, samples = as_target(model, options.device), as_data(data)
    if options.limit is not None:
        samples = samples.stratified(options.limit, options.seed)
    batch_size = _BATCH.get(target.device.type, 512) if options.batch_size is None else options.batch_size
    if batch_size < 1:
        raise UserError(f"batch size is {batch_size}: expected at least 1")
    if not 0 <= options.seed < 2**63:
        raise UserError(f"seed is {options.seed}: expected a number from 0 to 2^63 - 1")
    check_steady(samples)
    fit = fitting(asked, target, samples)
    measures = asked_for(options.measures, options.gates)
    if options.corpus is not None:
        corpus.claim(options.corpus)
    return Plan(
        target=target,
        probe_passes=fit.probe_passes,
        data=samples,
        limit=options.limit,
        suite=asked,
        attacks=fit.attacks,
        skipped=fit.skipped,
        seed=options.seed,
        batch_size=batch_size,
        keep_witnesses=options.keep_witnesses
        or options.adapt
        or passed_over(target) is not None  # evaluated twice
        or any(one.witnesses for one in measures.values()),
        gates=options.gates,
        measures=measures,
        reference=None if options.reference is None else as_target(options.reference, target.device),
        sequential=options.sequential,
        cache=None if options.cache is None else Path(options.cache),
        corpus=None if options.corpus is None else Path(options.corpus),
        budget=BudgetTracker(asked.budget, options.on_progress),
        executor=_executor(options.workers),
        adapt=options.adapt,
        anyway=options.anyway,
    )


def _executor(workers: int | Executor) -> Executor:
    if isinstance(workers, int):
        return LocalExecutor() if workers == 1 else ProcessExecutor(workers)
    return workers


def resolve(suite: Suite, threat: Any, options: Options) -> Suite:
    """Put what the caller asked for in place of what the suite says."""
    threats = suite.threats
    if threat is not None:
        given = threat if isinstance(threat, list | tuple) else [threat]
        threats = once_each(tuple(ThreatModel.parse(one) for one in given))
        if not threats:
            raise UserError("no threat model was given: expected at least one, such as 'Linf 8/255'")
    return suite.model_copy(
        update={
            "threats": threats,
            "independent": suite.independent if options.independent is None else options.independent,
            "curve": suite.curve if options.curve is None else options.curve,
            "budget": options.budget or suite.budget,
        }
    )


class Fitting(NamedTuple):
    """What of a suite can be run."""

    attacks: tuple[PlannedAttack, ...]
    skipped: tuple[Skipped, ...]
    probe_passes: int
    """How often the first samples were asked about to find out what the target shows."""


def fitting(suite: Suite, target: Target, data: Data) -> Fitting:
    """Make the attacks, and divide them into those that can be run and those left out.

    Raises
    ------
    ValueError
        For a suite that doesn't fit the target or the data.
    """
    _check_ball(suite, data)
    built = _build(suite)
    probe_passes = _introduce(target, data)
    attacks, skipped = _select(built, target, suite, tuple(data.shape), data.columns)
    _check_curve(suite, attacks)
    return Fitting(attacks, skipped, probe_passes)


def _check_ball(suite: Suite, data: Data) -> None:
    values = int(np.prod(data.shape))
    widest = {"L2": values**0.5, "L1": values, "L0": values}
    for threat in suite.threats:
        if threat.norm in widest and threat.eps >= widest[threat.norm]:
            raise UserError(
                f"eps is {threat.eps_text}: no two inputs of shape {data.shape} in [0, 1] are farther apart than "
                f"{widest[threat.norm]:.6g} in {threat.norm}; expected less"
            )


def _build(suite: Suite) -> tuple[PlannedAttack, ...]:
    """Make the attacks, and refuse those that don't do the norms that are asked for."""
    attacks = tuple(
        PlannedAttack(spec.name, spec.attack, registry.build("attacks", spec.attack, spec.params))
        for spec in suite.attacks
    )
    if wrong := [name for name, _, attack in attacks if not isinstance(attack, Attack)]:
        raise UserError(f"{', '.join(wrong)}: expected a subclass of robustbench_lite.attacking.interface.Attack")
    faults = [
        f"  {name} can't be run under {threat}: it does {', '.join(attack.norms)}"
        for threat in suite.threats
        for name, _, attack in attacks
        if threat.norm not in attack.norms
    ]
    if faults:
        raise UserError("\n".join([f"suite {suite.name!r} doesn't fit the threat model:", *faults]))
    return attacks


def _introduce(target: Target, data: Data) -> int:
    """Tell a function what the data know of its classes, and ask it what it shows; return how often it was asked."""
    target.predictor.expect(max(len(data.classes), int(data.labels.max()) + 1))
    if target.predictor.shows is not None:
        return 0
    first = data.fetch(torch.arange(min(2, len(data))))
    check_inputs(first, data.name)
    target.probe(first)
    return 1


def _select(
    attacks: tuple[PlannedAttack, ...],
    target: Target,
    suite: Suite,
    shape: tuple[int, ...],
    columns: Columns | None,
) -> tuple[tuple[PlannedAttack, ...], tuple[Skipped, ...]]:
    """Divide the attacks into those that see enough of the target and can be run on its inputs, and those left out."""
    if not any(enough(target.access, attack.access) for _, _, attack in attacks):
        names = ", ".join(planned.name for planned in attacks)
        can = [name for name in registry.names("attacks") if _runs(name, target.access, suite)]
        black_box = load_suite("black_box").attacks if "black_box" in registry.names("suites") else ()
        ready = "the suite black_box, or " if any(_runs(one.attack, target.access, suite) for one in black_box) else ""
        raise UserError(
            f"no attack of suite {suite.name!r} can run: of {target.name} only the {target.access} are seen, and "
            f"{names} need more; give {ready}attacks such as {', '.join(can) or 'your own'}"
        )
    skipped = []
    unseen = f"of the target only the {target.access} are seen"
    for threat in suite.threats:
        reasons = {
            name: attack.misfit(shape, threat, columns)
            if enough(target.access, attack.access)
            else f"needs {attack.access}; {unseen}"
            for name, _, attack in attacks
        }
        left_out = {name: reason for name, reason in reasons.items() if reason}
        if len(left_out) == len(attacks):
            told = "; ".join(f"{name} {reason}" for name, reason in left_out.items())
            raise UserError(
                f"no attack of suite {suite.name!r} can run under {threat} on inputs of shape {shape}: {told}"
            )
        skipped += [Skipped(attack=name, threat=str(threat), reason=reason) for name, reason in left_out.items()]
    everywhere = {name for name in reasons if sum(one.attack == name for one in skipped) == len(suite.threats)}
    return tuple(planned for planned in attacks if planned.name not in everywhere), tuple(skipped)


def _runs(name: str, shown: Access, suite: Suite) -> bool:
    """Whether an attack of the catalogue sees enough of a target and does a norm that is asked for."""
    if ":" in name:  # another library's: any of many
        return False
    try:
        kind = registry.find("attacks", name)
    except UserError:
        return False
    if not (isinstance(kind, type) and issubclass(kind, Attack)):
        return False
    return enough(shown, kind.access) and all(threat.norm in kind.norms for threat in suite.threats)


def _check_curve(suite: Suite, attacks: tuple[PlannedAttack, ...]) -> None:
    if suite.curve and not any(attack.minimal for _, _, attack in attacks):
        ready = [f"{threat.norm.lower()}_curve" for threat in suite.threats if threat.norm in NORMS]
        advice = f"as the suite {' or '.join(dict.fromkeys(ready))} has; or " if ready else "and here there is none; "
        raise UserError(
            f"no attack of suite {suite.name!r} that can run looks for the smallest perturbation: a curve needs one, "
            f"{advice}ask for several eps of one norm, without a curve"
        )
