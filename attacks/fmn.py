"""The fast minimum-norm attack, under the four norms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from robustbench_lite.attacking.interface import Attack, ModelOutput, Problem
from robustbench_lite.core.losses import LossName
from robustbench_lite.core.norms import GEOMETRIES, per_sample
from robustbench_lite.core.parameters import Length, PositiveInt, Share, cosine
from robustbench_lite.core.threat import Norm

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
    the boundary. With ``form = "published"`` it is the paper's own algorithm. By default, other than in the paper:

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
    published: ClassVar[Mapping[str, Any]] = {
        "form": "published",
        "steps": 1000,
        "gamma": 0.05,
        "last_gamma": 0.001,
    }

    steps: PositiveInt = 200
    """Number of steps."""
    step_size: Length = 1.0
    """L2 length of the first step, or in Linf its length over half the radius; the last one's is a hundredth of it."""
    gamma: Share = 0.2
    """Share by which the radius changes in the first step; the paper's is 0.05."""
    last_gamma: Share = 0.001
    """Share by which it changes in the last one; as in the authors' code."""
    form: Literal["filled", "published"] = "filled"
    """``filled``: perturbations fill their balls, with the other differences from the paper named above. ``published``:
    the paper's steps and projections."""

    @property
    def loss(self) -> LossName:
        return "margin"

    def init(self, problem: Problem) -> State:
        nothing = problem.x.flatten(1)[:, 0] * 0
        first = 1.0 if self.form == "published" and problem.threat.norm == "L0" else 0.0
        return State(problem.x, nothing + first, nothing + torch.inf)

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
            eps = eps.clamp_min(1) if self.form == "published" else eps
        else:
            slope = GEOMETRIES[norm].dual(output.grad)
            nearest = torch.where(best.isfinite(), state.eps, away - output.loss / slope.clamp_min(_TINY))
            grown = nearest * (1 + gamma)
            if self.form == "published":
                grown = torch.where(best.isfinite(), grown, nearest)
            eps = torch.where(won, (state.eps * (1 - gamma)).minimum(best), grown)
        eps = eps.minimum(GEOMETRIES[norm].distance(torch.maximum(x, 1 - x)).to(x.dtype))

        if self.form == "published":
            moved = output.x - x + per_sample(length, x) * GEOMETRIES["L2"].steepest(output.grad)
            return State(x + _in_ball(moved, eps, norm), eps, best)
        if norm == "Linf":
            length = length * eps / 2
        moved = output.x + per_sample(length, x) * GEOMETRIES["Linf" if norm == "Linf" else "L2"].steepest(output.grad)
        return State(x + GEOMETRIES[norm].fill(moved.clamp(0.0, 1.0) - x, eps), eps, best)


def _in_ball(delta: Tensor, eps: Tensor, norm: Norm) -> Tensor:
    """The nearest perturbation in the ball, whatever the box; what is out of the ball ends on its surface."""
    filled = GEOMETRIES[norm].fill(delta, eps)
    if norm == "L0":
        return torch.where(filled != 0, delta, 0.0)
    return torch.where(per_sample(GEOMETRIES[norm].distance(delta) > eps, delta), filled, delta)
