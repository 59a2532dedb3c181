"""Projected gradient descent."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from robustbench_lite.attacking.interface import Attack, ModelOutput, Problem
from robustbench_lite.core.losses import Objective
from robustbench_lite.core.norms import GEOMETRIES
from robustbench_lite.core.parameters import Length, PositiveInt, Share, step_length


class State(NamedTuple):
    """The candidate and the running direction."""

    x: Tensor
    velocity: Tensor


@dataclass(frozen=True, kw_only=True)
class PGD(Attack):
    """Steepest-ascent steps from a random point of the ball, brought back into it after each; restarted on survivors.

    With ``momentum`` the steps follow the running mean of the gradients, each scaled to mean absolute value 1
    (MI-FGSM).

    References
    ----------
    Madry et al., *Towards deep learning models resistant to adversarial attacks*, ICLR 2018.
    https://arxiv.org/abs/1706.06083. Momentum: Dong et al., CVPR 2018, https://arxiv.org/abs/1710.06081
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/1706.06083"

    steps: PositiveInt = 40
    """Number of steps."""
    step_size: Length | None = None
    """Length of a step, in the units of eps; by default ``2.5 * eps / steps``."""
    random_start: bool = True
    """Start from a uniform draw of the ball rather than from the input."""
    restarts: PositiveInt = 1
    """Starts for each sample; a further one is made only where the sample still stands."""
    momentum: Share = 0.0
    """Share of the last direction that is kept, in [0, 1]."""
    loss: Objective = "cross_entropy"
    """Objective to climb: ``cross_entropy``, ``margin`` or, in Python, a function (`losses.Loss`)."""

    def __post_init__(self) -> None:
        if self.restarts > 1 and not self.random_start:
            raise ValueError(f"restarts is {self.restarts} without a random start: each would repeat the first")

    def init(self, problem: Problem) -> State:
        x = problem.x
        if self.random_start:
            geometry = GEOMETRIES[problem.threat.norm]
            x = x + geometry.random(problem.noise, tuple(x.shape[1:]), problem.threat.eps)
        return State(x, torch.zeros_like(x))

    def step(self, problem: Problem, state: State, output: ModelOutput) -> State:
        direction = output.grad
        if self.momentum:
            mean = direction.flatten(1).abs().mean(1).clamp_min(1e-30).reshape(-1, *[1] * (direction.ndim - 1))
            direction = self.momentum * state.velocity + direction / mean
        length = step_length(self.step_size, problem.threat.eps, self.steps)
        return State(output.x + length * GEOMETRIES[problem.threat.norm].steepest(direction), direction)
