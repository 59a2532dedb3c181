"""Fast gradient sign method."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

from pydantic.dataclasses import dataclass
from torch import Tensor

from robustbench_lite.attacking.interface import Attack, ModelOutput, Problem
from robustbench_lite.core.losses import Objective
from robustbench_lite.core.norms import GEOMETRIES


class State(NamedTuple):
    """The candidate alone."""

    x: Tensor


@dataclass(frozen=True, kw_only=True)
class FGSM(Attack):
    """One step of length eps along the steepest ascent of the loss: exact for a linear model.

    In Linf the sign of the gradient; in L2 the normalised gradient (the fast gradient method).

    References
    ----------
    Goodfellow, Shlens and Szegedy, *Explaining and harnessing adversarial examples*, ICLR 2015.
    https://arxiv.org/abs/1412.6572
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/1412.6572"

    loss: Objective = "cross_entropy"
    """Objective to climb: ``cross_entropy``, ``margin`` or, in Python, a function (`losses.Loss`)."""

    @property
    def steps(self) -> int:
        return 1

    def init(self, problem: Problem) -> State:
        return State(problem.x)

    def step(self, problem: Problem, state: State, output: ModelOutput) -> State:
        return State(output.x + problem.threat.eps * GEOMETRIES[problem.threat.norm].steepest(output.grad))
