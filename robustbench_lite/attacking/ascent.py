"""An attack's steps alone, without the engine's loop: what adversarial training needs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from robustbench_lite.attacking.interface import Attack, Counted, Problem
from robustbench_lite.attacking.query import Query
from robustbench_lite.core.columns import Columns
from robustbench_lite.core.cost import BudgetTracker
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.noise import Noise
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.model.target import Target


def perturb(
    attack: Attack,
    target: Target,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    draw_keys: Tensor,
    start: Tensor | None = None,
    columns: Columns | None = None,
) -> Tensor:
    """Take every sample through all steps of an attack, and return its last candidates.

    No success is decided, and no sample leaves.

    Parameters
    ----------
    x, y
        Inputs in [0, 1] and labels on the target's device, shapes (B, *shape) and (B,). In place of labels: whatever
        the attack's own objective compares the logits with, one row a sample.
    draw_keys
        One int64 a sample, for its random draws, shape (B,).
    start
        First candidates, shape (B, *shape), in place of the attack's own.
    columns
        Of a table: what may be done to them.

    Raises
    ------
    UserError
        For a targeted threat model, and for an attack that is not `confined`.
    """
    if threat.goal == "targeted":
        raise UserError(f"the threat model is {threat}: expected an untargeted one")
    if not attack.confined:
        raise UserError(f"the attack is {type(attack).__name__}, which leaves the ball: expected one such as PGD")
    query = Query(target, attack.loss, False, BudgetTracker(), len(x))
    problem = Problem(
        x=x,
        y=y,
        target_class=y,
        sample_keys=draw_keys,
        step=torch.zeros_like(draw_keys),
        noise=Noise(draw_keys),
        threat=threat,
        model=Counted(target),
        columns=columns,
    )
    state: Any = attack.init(problem)
    state = state if start is None else state._replace(x=start)
    for _ in range(attack.steps):
        rival = attack.rival(problem, state)
        x = problem.project(state.x)
        output = query(problem.allowed(x), problem.target_class, rival, gradient=attack.gradients)
        state = attack.step(problem, state, problem.straight_through(output, x))
        problem = replace(problem, step=problem.step + 1)
    return problem.allowed(problem.project(state.x)).detach()
