"""The fast minimum-norm attack, under the four norms."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from robustbench_lite.attacking.interface import Attack, ModelOutput, Problem
from robustbench_lite.core.losses import LossName
from robustbench_lite.core.norms import GEOMETRIES, per_sample
from robustbench_lite.core.parameters import Length, PositiveInt, Share, cosine

_TINY = 1e-12


class State(NamedTuple):
    """The candidate, the radius of its ball and the smallest one that held an example; infinite without one."""

    x: Tensor
    eps: Tensor
    best: Tensor


@dataclass(frozen=True, kw_only=True)
class FMN(Attack):
    """Steps along the gradient of the margin within a ball that shrinks where an example is found and grows where not.

    Until a sample's first example the radius is where the margin's linearisation has its boundary, and a little more;
    from then on it changes by ``gamma``, which falls with a cosine as the step does, so that the candidates settle on
    the boundary. Other than in the paper:

    - a perturbation always fills its ball (in L0: its values go to the wall), as one that is left to the gradient alone
      gets stuck where a hardened model is flat;
    - it is brought into the box before the ball, so that little of the radius is lost at the walls;
    - in Linf the step is one of signs and in proportion to the radius;
    - ``gamma`` starts larger, so that the search sweeps a wide range of radii first.

    In L0 a value at its wall is hard to replace: `SigmaZero` finds fewer changes.

    References
    ----------
    Pintor et al., *Fast minimum-norm adversarial attacks through adaptive norm constraints*, NeurIPS 2021.
    https://arxiv.org/abs/2102.12827
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/2102.12827"
    norms: ClassVar[tuple[str, ...]] = ("Linf", "L2", "L1", "L0")
    minimal: ClassVar[bool] = True

    steps: PositiveInt = 200
    """Number of steps."""
    step_size: Length = 1.0
    """L2 length of the first step, or in Linf its length over half the radius; the last one's is a hundredth of it."""
    gamma: Share = 0.2
    """Share by which the radius changes in the first step."""
    last_gamma: Share = 0.001
    """Share by which it changes in the last one."""

    @property
    def loss(self) -> LossName:
        return "margin"

    def init(self, problem: Problem) -> State:
        nothing = problem.x.flatten(1)[:, 0] * 0
        return State(problem.x, nothing, nothing + torch.inf)

    def step(self, problem: Problem, state: State, output: ModelOutput) -> State:
        norm, x = problem.threat.norm, problem.x
        falling = cosine(problem.step, self.steps)
        gamma = self.last_gamma + (self.gamma - self.last_gamma) * falling
        length = self.step_size * (0.01 + 0.99 * falling)

        away = GEOMETRIES[norm].distance(output.x - x).to(x.dtype)
        won = output.loss > 0
        best = torch.where(won, away.minimum(state.best), state.best)
        if norm == "L0":
            grown, shrunk = ((state.eps * (1 + by)).floor() for by in (gamma, -gamma))
            eps = torch.where(won, shrunk.minimum(state.eps - 1).minimum(best), grown.maximum(state.eps + 1))
        else:
            slope = GEOMETRIES[norm].dual(output.grad)
            nearest = torch.where(best.isfinite(), state.eps, away - output.loss / slope.clamp_min(_TINY))
            eps = torch.where(won, (state.eps * (1 - gamma)).minimum(best), nearest * (1 + gamma))
        eps = eps.minimum(GEOMETRIES[norm].distance(torch.maximum(x, 1 - x)).to(x.dtype))

        if norm == "Linf":
            length = length * eps / 2
        moved = output.x + per_sample(length, x) * GEOMETRIES["Linf" if norm == "Linf" else "L2"].steepest(output.grad)
        return State(x + GEOMETRIES[norm].fill(moved.clamp(0.0, 1.0) - x, eps), eps, best)
