"""Basic iterative method."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from pydantic.dataclasses import dataclass
from torch import Tensor

from robustbench_lite.attacking.interface import Attack, ModelOutput, Problem
from robustbench_lite.core.losses import Objective
from robustbench_lite.core.norms import GEOMETRIES
from robustbench_lite.core.parameters import Length, PositiveInt, step_length


class State(NamedTuple):
    """The candidate alone."""

    x: Tensor


@dataclass(frozen=True, kw_only=True)
class BIM(Attack):
    """Steepest-ascent steps from the input itself, brought back into the ball after each.

    References
    ----------
    Kurakin, Goodfellow and Bengio, *Adversarial examples in the physical world*, 2016. https://arxiv.org/abs/1607.02533
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/1607.02533"

    steps: PositiveInt = 10
    """Number of steps."""
    step_size: Length | None = None
    """Length of a step, in the units of eps; by default ``2.5 * eps / steps``."""
    loss: Objective = "cross_entropy"
    """Objective to climb: ``cross_entropy``, ``margin`` or, in Python, a function (`losses.Loss`)."""

    def init(self, problem: Problem) -> State:
        return State(problem.x)

    def step(self, problem: Problem, state: State, output: ModelOutput) -> State:
        length = step_length(self.step_size, problem.threat.eps, self.steps)
        return State(output.x + length * GEOMETRIES[problem.threat.norm].steepest(output.grad))
