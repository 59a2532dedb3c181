"""Purified inputs are attacked along more than one way back: what one gradient misses another may find."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from robustbench_lite.core import registry
from robustbench_lite.core.cost import BudgetTracker
from robustbench_lite.evaluating.adapt.reevaluate import adaptation_of, interrupted, surrogate_attack, witnesses_of
from robustbench_lite.evaluating.plan import Plan, PlannedAttack
from robustbench_lite.model.wrapping import passed_over
from robustbench_lite.results.scorecard import Countermeasure, Scorecard

_SEARCHES = ("square", "square_ascent")
_WHY = (
    "the gradient past all of the purification, which is applied as it is; past its roundings alone went the "
    "evaluation before, whose witnesses count here as well"
)
_NO_GRADIENT = "adversarial windows drawn at random, as a check that needs no gradient"


def along_other_ways(
    plan: Plan, plain: Scorecard, evaluate_plan: Callable[[Plan], Scorecard], budget: Callable[[], BudgetTracker]
) -> Scorecard:
    """Attack a target that purifies its inputs once more, along another gradient and without one.

    What broke a sample before is tried first, so no sample that fell in one of the evaluations stands in the other: the
    number on the card is the lowest of all. Any other target's card is handed back.

    Parameters
    ----------
    plan, plain
        Of the evaluation along the target's own gradient, and what came of it.
    evaluate_plan
        Makes a scorecard of a plan.
    budget
        Makes a fresh budget.

    References
    ----------
    Tramer, Carlini, Brendel and Madry, *On adaptive attacks to adversarial example defenses*, NeurIPS 2020.
    https://arxiv.org/abs/2002.08347
    """
    target = passed_over(plan.target)
    if target is None or plain.interrupted is not None:
        return plain
    spent = budget()
    measures = [Countermeasure(name="bpda", setting="backward pass of the identity", reason=_WHY)]
    attacks = list(plan.attacks)
    try:
        helper = surrogate_attack(plan, target, spent)
    except KeyboardInterrupt:
        return interrupted(plain)
    if helper is not None:
        measures.append(helper.measure)
        attacks.append(helper.planned)
    search = registry.build("attacks", "square_ascent", {})
    if not any(one.algorithm in _SEARCHES for one in attacks) and all(
        threat.norm in search.norms for threat in plan.suite.threats
    ):
        measures.append(Countermeasure(name="search", setting="square_ascent", reason=_NO_GRADIENT))
        attacks.append(PlannedAttack("square_ascent", "square_ascent", search))
    card = evaluate_plan(
        replace(plan, target=target, attacks=tuple(attacks), budget=spent, earlier=witnesses_of(plain), anyway=True)
    )
    return card.model_copy(update={"target": plain.target, "adaptation": adaptation_of(plain, tuple(measures))})
