"""The question: what is asked of which target, resolved, and refused where it can't be answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from robustbench_lite.attacking.interface import Attack
from robustbench_lite.core import registry
from robustbench_lite.core.cost import Budget, BudgetTracker
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.suite import Suite, load_suite, once_each
from robustbench_lite.core.threat import NORMS, Access, ThreatModel
from robustbench_lite.data.dataset import Data, check_inputs
from robustbench_lite.evaluating.cache import Slot
from robustbench_lite.model.black_box import BlackBox
from robustbench_lite.model.target import Target
from robustbench_lite.results.gates import Gates
from robustbench_lite.results.scorecard import Skipped


class PlannedAttack(NamedTuple):
    """An attack of the suite, ready to run."""

    name: str
    algorithm: str
    attack: Attack


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What was asked, checked and resolved."""

    target: Target
    asked_before: int
    """How often the first samples were asked about to find out what the target shows."""
    data: Data
    limit: int | None
    suite: Suite
    attacks: tuple[PlannedAttack, ...]
    skipped: tuple[Skipped, ...]
    seed: int
    size: int
    keep_witnesses: bool
    until: Gates | None
    corpus: Path | None
    budget: BudgetTracker
    slot: Slot | None = None
    earlier: Mapping[str, Mapping[int, NDArray[np.float32]]] = field(default_factory=dict)
    """By threat model and sample key, witnesses of an evaluation before this one, to be tried first."""
    suspect: bool = False
    """Whether that one couldn't be trusted, so that more survivors are asked."""


def resolve(suite: Suite, threat: Any, independent: bool | None, curve: bool | None, budget: Budget | None) -> Suite:
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
            "independent": suite.independent if independent is None else independent,
            "curve": suite.curve if curve is None else curve,
            "budget": budget or suite.budget,
        }
    )


class Fitting(NamedTuple):
    """What of a suite can be run."""

    attacks: tuple[PlannedAttack, ...]
    skipped: tuple[Skipped, ...]
    asked: int
    """How often the first samples were asked about to find out what the target shows."""


def fitting(suite: Suite, target: Target, data: Data) -> Fitting:
    """Make the attacks, and part them in those that can be run and those left out.

    Raises
    ------
    ValueError
        For a suite that doesn't fit the target or the data.
    """
    _check_ball(suite, data)
    built = _built(suite)
    asked = _acquaint(target, data)
    attacks, skipped = _parted(built, target, suite, tuple(data.shape))
    _check_curve(suite, attacks)
    return Fitting(attacks, skipped, asked)


def _check_ball(suite: Suite, data: Data) -> None:
    values = int(np.prod(data.shape))
    widest = {"L2": values**0.5, "L1": values, "L0": values}
    for threat in suite.threats:
        if threat.norm in widest and threat.eps >= widest[threat.norm]:
            raise UserError(
                f"eps is {threat.eps_text}: no two inputs of shape {data.shape} in [0, 1] are farther apart than "
                f"{widest[threat.norm]:.6g} in {threat.norm}; expected less"
            )


def _built(suite: Suite) -> tuple[PlannedAttack, ...]:
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


def _acquaint(target: Target, data: Data) -> int:
    """Tell a function what the data know of its classes, and ask it what it shows; return how often it was asked."""
    if not isinstance(target.module, BlackBox):
        return 0
    target.module.expect(max(len(data.classes), int(data.labels.max()) + 1))
    if target.module.access is not None:
        return 0
    first = data.fetch(torch.arange(min(2, len(data))))
    check_inputs(first, data.name)
    target.probe(first)
    return 1


def _parted(
    attacks: tuple[PlannedAttack, ...], target: Target, suite: Suite, shape: tuple[int, ...]
) -> tuple[tuple[PlannedAttack, ...], tuple[Skipped, ...]]:
    """Part the attacks in those that see enough of the target and can be run on its inputs, and those left out."""
    if not any(_enough(target.access, attack.access) for _, _, attack in attacks):
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
            name: attack.unfit(shape, threat)
            if _enough(target.access, attack.access)
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


def _enough(shown: Access, needed: Access) -> bool:
    order = get_args(Access)
    return bool(order.index(needed) <= order.index(shown))


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
    return _enough(shown, kind.access) and all(threat.norm in kind.norms for threat in suite.threats)


def _check_curve(suite: Suite, attacks: tuple[PlannedAttack, ...]) -> None:
    if suite.curve and not any(attack.minimal for _, _, attack in attacks):
        ready = [f"{threat.norm.lower()}_curve" for threat in suite.threats if threat.norm in NORMS]
        advice = f"as the suite {' or '.join(dict.fromkeys(ready))} has; or " if ready else "and here there is none; "
        raise UserError(
            f"no attack of suite {suite.name!r} that can run looks for the smallest perturbation: a curve needs one, "
            f"{advice}ask for several eps of one norm, without a curve"
        )
