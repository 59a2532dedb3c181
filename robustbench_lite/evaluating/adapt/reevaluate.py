"""The second evaluation: what hid from the attacks of the first one is measured, worked around and attacked again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustbench_lite.core import registry
from robustbench_lite.core.cost import BudgetTracker, Stop
from robustbench_lite.evaluating import validity
from robustbench_lite.evaluating.adapt import adapted, curable, surrogate
from robustbench_lite.evaluating.plan import Plan, PlannedAttack
from robustbench_lite.model.target import Target
from robustbench_lite.results.scorecard import Adaptation, Countermeasure, Scorecard

_log = logging.getLogger(__name__)
_ROUNDS = 2  # of an adaptive evaluation


def adaptively(
    plan: Plan, plain: Scorecard, evaluate_plan: Callable[[Plan], Scorecard], budget: Callable[[], BudgetTracker]
) -> Scorecard:
    """Evaluate again what a finding of the plain evaluation kept attacks from, where it has a cure.

    What the second evaluation finds in turn (a masked gradient, say, of which a random target shows nothing) is cured
    with the rest, from the target itself, where that leads to other measures.
    """
    card, findings = plain, plain.validity
    taken: tuple[Countermeasure, ...] = ()
    earlier = witnesses_of(plain)
    for _ in range(_ROUNDS):
        if card.interrupted is not None:
            break
        spent = budget()
        try:
            found = adapted(
                plan.target,
                plan.data,
                findings,
                plan.suite.threats,
                seed=plan.seed,
                batch_size=plan.batch_size,
                budget=spent,
            )
        except Stop:
            break
        except KeyboardInterrupt:
            return interrupted(card)
        if found is None or [one.name for one in found.measures] == [one.name for one in taken]:
            break
        try:
            helper = surrogate_attack(plan, found.target, spent) if found.masked else None
        except KeyboardInterrupt:
            return interrupted(card)
        taken = found.measures
        told = taken if helper is None else (*taken, helper.measure)
        attacks = plan.attacks if helper is None else (*plan.attacks, helper.planned)
        card = evaluate_plan(
            replace(
                plan, target=found.target, attacks=attacks, budget=spent, earlier=earlier, suspect=True, anyway=True
            )
        )
        card = card.model_copy(update={"target": plain.target, "adaptation": adaptation_of(plain, told)})
        findings = (*findings, *card.validity)
    return card


def interrupted(card: Scorecard) -> Scorecard:
    """What there is, as after Ctrl-C in an attack."""
    cut = validity.stopped(
        "interrupt", (one.name for one in card.attacks), len(card.attacks), card.robust_accuracy.count
    )
    told = (*card.validity, *cut)
    return card.model_copy(update={"interrupted": "interrupt", "verdict": "INVALID", "validity": told})


class _Helper(NamedTuple):
    """An attack that needs no gradient of the target, against targets whose gradients were masked."""

    measure: Countermeasure
    planned: PlannedAttack


def surrogate_attack(plan: Plan, target: Target, budget: BudgetTracker) -> _Helper | None:
    """Train a surrogate and plan a transfer from it; None where no threat model takes one, or it can't be trained."""
    name = "transfer-surrogate"
    taken = {planned.name for planned in plan.attacks}
    climbs = registry.build("attacks", "apgd", {}).norms
    if name in taken or any(threat.norm not in climbs or threat.goal == "targeted" for threat in plan.suite.threats):
        return None
    try:
        other = surrogate(target, plan.data, plan.suite.threats, seed=plan.seed, size=plan.batch_size, budget=budget)
    except Exception:  # it is a check on the others: they are run without it
        _log.info("no surrogate of %s", target.name, exc_info=True)
        return None
    attack = registry.build("attacks", "transfer", {"surrogate": other})
    why = "adversarial examples of a small network trained on the target's answers, as a check that needs no gradient"
    measure = Countermeasure(name="surrogate", setting="transfer by apgd", reason=why)
    return _Helper(measure, PlannedAttack(name, "transfer", attack))


def witnesses_of(card: Scorecard) -> dict[str, dict[int, NDArray[np.float32]]]:
    """By threat model and sample key, what broke each sample."""
    found: dict[str, dict[int, NDArray[np.float32]]] = {}
    if card.witnesses is not None:
        keys = {row.index: int(np.uint64(int(row.key, 16)).astype(np.int64)) for row in card.outcomes}
        kept = card.witnesses
        for index, threat, x in zip(kept.index.tolist(), kept.threat.tolist(), kept.x, strict=True):
            found.setdefault(threat, {}).setdefault(keys[index], x)
    return found


def adaptation_of(plain: Scorecard, measures: tuple[Countermeasure, ...]) -> Adaptation:
    """What was done, and what was found without."""
    return Adaptation(
        measures=measures,
        clean_accuracy=plain.clean_accuracy,
        robust_accuracy=plain.robust_accuracy,
        verdict=plain.verdict,
        validity=plain.validity,
    )


def advised(card: Scorecard, target: Target) -> Scorecard:
    """Say of each finding that an adaptive evaluation works around that it does."""
    told = tuple(
        one.model_copy(update={"cure": f"{one.cure}; or evaluate it adaptively (--adapt)"})
        if curable(one, target)
        else one
        for one in card.validity
    )
    return card.model_copy(update={"validity": told})
