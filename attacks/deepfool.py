"""DeepFool."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, NamedTuple

import torch
from pydantic import Field, NonNegativeFloat
from pydantic.dataclasses import dataclass
from torch import Tensor

from robustbench_lite.attacking.interface import Attack, ModelOutput, Problem
from robustbench_lite.core.cost import Passes
from robustbench_lite.core.losses import LossName
from robustbench_lite.core.norms import GEOMETRIES, per_sample
from robustbench_lite.core.parameters import PositiveInt
from robustbench_lite.core.threat import Norm, ThreatModel

_FURTHER = 1e-4  # a distance, as in the authors' code: a boundary that bends away is else approached, and not crossed
_TINY = 1e-30  # a flat logit is this steep: far away, and its step of length 0 times that is 0


class State(NamedTuple):
    """The candidate, the perturbation before the overshoot, and whether the candidate is adversarial."""

    x: Tensor
    total: Tensor
    done: Tensor


@dataclass(frozen=True, kw_only=True)
class DeepFool(Attack):
    """Newton-like steps to the nearest boundary: that with the rival whose linearised margin is crossed soonest.

    A sample is given up at its first adversarial candidate. Quick, and a first estimate of the distance: neither the
    box nor what lies between is made good for, so FAB and the Carlini-Wagner attack find nearer examples. Untargeted.

    References
    ----------
    Moosavi-Dezfooli et al., *DeepFool: a simple and accurate method to fool deep neural networks*, CVPR 2016.
    https://arxiv.org/abs/1511.04599
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/1511.04599"
    minimal: ClassVar[bool] = True

    steps: PositiveInt = 50
    """Number of steps, at most."""
    classes: Annotated[int, Field(ge=2)] = 10
    """How many classes with the best logits at a candidate are compared, the label included."""
    overshoot: NonNegativeFloat = 0.02
    """Share by which the perturbation is lengthened to cross the boundary."""

    @property
    def loss(self) -> LossName:
        return "margin"

    @property
    def passes(self) -> Passes:
        own = self.steps * (self.classes > 2)
        return Passes(forward=self.steps + 1 + own, backward=self.steps * (self.classes - 1))

    def unfit(self, shape: tuple[int, ...], threat: ThreatModel) -> str | None:
        return "expected an untargeted goal; FAB has a targeted form" if threat.goal == "targeted" else None

    def init(self, problem: Problem) -> State:
        return State(problem.x, torch.zeros_like(problem.x), torch.zeros_like(problem.target_class, dtype=torch.bool))

    def step(self, problem: Problem, state: State, output: ModelOutput) -> State:
        done = state.done | problem.success(output)
        rows = (~done).nonzero()[:, 0]  # the others would cost as many passes again
        if len(rows) == 0:
            return state._replace(done=done)
        own = ModelOutput(*(part[rows] for part in output))
        target_class, norm = problem.target_class[rows], problem.threat.norm
        # The margin's gradient is there for the best rival.
        nearest, way = _distance(own.loss, own.grad, norm), own.grad
        for margin, grad in self._others(problem, own, target_class):
            distance = _distance(margin, grad, norm)
            nearer = distance < nearest
            nearest = torch.where(nearer, distance, nearest)
            way = torch.where(per_sample(nearer, way), grad, way)
        move = per_sample(nearest + _FURTHER, way) * GEOMETRIES[norm].steepest(way)
        total = state.total.index_add(0, rows, move)
        x = problem.x + (1 + self.overshoot) * total
        return State(torch.where(per_sample(done, x), state.x, x), total, done)

    def gave_up(self, problem: Problem, state: State) -> Tensor | None:
        return state.done

    def _others(self, problem: Problem, output: ModelOutput, target_class: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Margin and gradient of each rival behind the best one, shapes (B,) and (B, *shape)."""
        count = min(self.classes, output.logits.shape[1]) - 1
        if count < 2:
            return
        rivals = output.logits.scatter(1, target_class[:, None], -torch.inf).topk(count, dim=1).indices[:, 1:]
        with torch.enable_grad():
            x = output.x.detach().requires_grad_()
            logits = problem.model(x)
            margins = (logits.gather(1, rivals) - logits.gather(1, target_class[:, None])).unbind(1)
        for margin in margins if logits.requires_grad else ():
            (grad,) = torch.autograd.grad(
                margin, x, torch.ones_like(margin), retain_graph=margin is not margins[-1], materialize_grads=True
            )
            yield margin.detach(), grad.nan_to_num(0.0, 0.0, 0.0)


def _distance(margin: Tensor, grad: Tensor, norm: Norm) -> Tensor:
    """Distance to where the linearised margin is 0, shape (B,)."""
    return margin.abs() / GEOMETRIES[norm].dual(grad).clamp_min(_TINY)
