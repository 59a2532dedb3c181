"""What the attacks of an evaluation may take, before the first of them runs."""

from __future__ import annotations

from robustbench_lite.core.cost import Forecast, Passes
from robustbench_lite.evaluating.plan import Plan

_CONFIRMED = 3  # passes in which an adversarial example is asked about again, in another batch and in float64


def forecast(plan: Plan, samples: int) -> Forecast:
    """Say how many passes the attacks take at most, and how long that is at the speed of the clean pass.

    Parameters
    ----------
    plan
        Of the evaluation; its budget has measured the speed.
    samples
        Those that are right when clean, and so are attacked.

    Returns
    -------
    Forecast
        A limit, not a guess: what is broken early takes less. A budget lowers it. The replay of a corpus and the
        evidence come on top.
    """
    left_out = {(one.attack, one.threat) for one in plan.skipped}
    runs = [
        planned.attack
        for threat in plan.suite.threats
        for planned in plan.attacks
        if (planned.name, str(threat)) not in left_out
    ]
    passes = Passes(
        forward=samples * sum(attack.passes.forward + _CONFIRMED for attack in runs),
        backward=samples * sum(attack.passes.backward for attack in runs),
    )
    seconds, most = plan.budget.speed.seconds(passes), plan.budget.budget.seconds
    if seconds is not None and most is not None:
        seconds = min(seconds, max(0.0, most - plan.budget.seconds))
    return Forecast(len(runs), samples, passes, seconds)
