"""The Fast Adaptive Boundary attack, in its targeted form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from robustbench_lite.attacking.interface import Attack, ModelOutput, Problem
from robustbench_lite.core.losses import ANY, LossName
from robustbench_lite.core.norms import GEOMETRIES
from robustbench_lite.core.parameters import PositiveInt, Share
from robustbench_lite.core.threat import Norm

_NEARER = 0.999  # of an adversarial candidate's distance: a step that doesn't come below it is the step back alone
_TINY = 1e-30


class State(NamedTuple):
    """The candidate, the classes to go to, and the distance of the nearest adversarial candidate so far."""

    x: Tensor
    rivals: Tensor
    best: Tensor


@dataclass(frozen=True, kw_only=True)
class FAB(Attack):
    """Smallest perturbation: steps onto the decision boundary as it looks from here, biased towards the original.

    Each step replaces the margin by its tangent, projects both the candidate and the original onto that hyperplane
    within the box, and goes a little beyond a mean of the two. The rivals, in the order of their logits at the input,
    are attacked one after another (FAB-T), as one backward pass then does for a step, however many classes there are.
    Other than in the paper, the step back by ``beta`` from an adversarial candidate keeps the tangent that was taken
    there, for the next step to start from, and stands alone only where that would lead no nearer: half of the forward
    passes, and nearer examples. With ``form = "published"`` each step back is a candidate of its own, where the next
    tangent is taken: the algorithm of FAB-T, of which an iteration that steps back counts as two here.

    References
    ----------
    Croce and Hein, *Minimally distorted adversarial examples with a fast adaptive boundary attack*, ICML 2020.
    https://arxiv.org/abs/1907.02044
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/1907.02044"
    norms: ClassVar[tuple[str, ...]] = ("Linf", "L2", "L1")
    minimal: ClassVar[bool] = True
    published: ClassVar[Mapping[str, Any]] = {"form": "published", "iterations": 200}

    targets: PositiveInt = 9
    """How many of the other classes are tried, at most; a targeted goal has one."""
    iterations: Annotated[int, Field(ge=2)] = 100
    """Candidates for each of them; the first is its start."""
    starts: PositiveInt = 1
    """Starts towards each of them: the first at the input, further ones at a random point within half of eps, or of the
    distance of the nearest example so far where that is less."""
    alpha_max: Share = 0.1
    """Largest weight of the original's projection, in [0, 1]."""
    eta: Annotated[float, Field(ge=1, le=2)] = 1.05
    """Length of a step, in distances to the tangent."""
    beta: Annotated[float, Field(gt=0, lt=1)] = 0.9
    """Where between the original and an adversarial candidate the next step starts, in (0, 1)."""
    form: Literal["merged", "published"] = "merged"
    """``merged``: a step back is part of the next step where that leads nearer. ``published``: it is one of its own."""

    @property
    def steps(self) -> int:
        return self.starts * self.targets * self.iterations

    @property
    def loss(self) -> LossName:
        return "margin"

    def init(self, problem: Problem) -> State:
        unknown = problem.target_class[:, None].expand(-1, self.targets)
        return State(problem.x, torch.full_like(unknown, ANY), torch.full_like(problem.x.flatten(1)[:, 0], torch.inf))

    def rival(self, problem: Problem, state: State) -> Tensor:
        return state.rivals.gather(1, self._turn(problem)[:, None])[:, 0]

    def gave_up(self, problem: Problem, state: State) -> Tensor | None:
        return (self._turn(problem) > 0) & (self.rival(problem, state) == ANY)  # no classes are left

    def step(self, problem: Problem, state: State, output: ModelOutput) -> State:
        rivals = state.rivals
        if not problem.targeted and bool((first := problem.step == 0).any()):
            rivals = torch.where(first[:, None], _ranked(output.logits, problem.target_class, self.targets), rivals)
        norm = problem.threat.norm
        x, at, w = (part.flatten(1) for part in (problem.x, output.x, output.grad))
        hit = problem.success(output)
        distance = GEOMETRIES[norm].distance
        reached = distance(at - x)
        best = torch.where(hit, state.best.minimum(reached.to(x.dtype)), state.best)

        gap = (w * (at - x)).sum(1) - output.loss  # what the tangent's margin lacks at the original
        at = torch.where(hit[:, None], x + self.beta * (at - x), at)
        change, bias = to_hyperplane(
            torch.cat([at, x]), w.repeat(2, 1), torch.cat([gap - (w * (at - x)).sum(1), gap]), norm
        ).chunk(2)
        near, far = (distance(part).to(x.dtype) for part in (change, bias))
        alpha = (near / (near + far).clamp_min(_TINY)).clamp_max(self.alpha_max)[:, None]
        moved = ((1 - alpha) * (at + self.eta * change) + alpha * (x + self.eta * bias)).clamp(0.0, 1.0)
        back = hit if self.form == "published" else hit & (distance(moved - x) > _NEARER * reached)
        moved = torch.where(back[:, None], at, moved)

        x_next = moved.reshape(problem.x.shape)
        ends = ((problem.step + 1) % self.iterations == 0) & (problem.step + 1 < self.steps)
        if bool(ends.any()):
            x_next = torch.where(ends.reshape(-1, *[1] * (x_next.ndim - 1)), self._start(problem, best), x_next)
        return State(x_next, rivals, best)

    def _turn(self, problem: Problem) -> Tensor:
        """Place in the ranking of the rival whose turn it is, shape (B,)."""
        return (problem.step // (self.starts * self.iterations)).clamp_max(self.targets - 1)

    def _start(self, problem: Problem, best: Tensor) -> Tensor:
        """Where the next start is: at the input, or at a random point near it, shape (B, *shape)."""
        if self.starts == 1:
            return problem.x
        number = (problem.step + 1) // self.iterations
        radius = best.clamp_max(problem.threat.eps) / 2 * (number % self.starts != 0)
        draw = GEOMETRIES[problem.threat.norm].random(problem.noise.at(number), tuple(problem.x.shape[1:]), 1.0)
        return problem.x + radius.reshape(-1, *[1] * (draw.ndim - 1)) * draw


def _ranked(logits: Tensor, target_class: Tensor, count: int) -> Tensor:
    """The other classes from the best logit down, and `ANY` where there are fewer, shape (B, count)."""
    order = logits.scatter(1, target_class[:, None], -torch.inf).argsort(dim=1, descending=True, stable=True)[:, :-1]
    return F.pad(order[:, :count], (0, max(0, count - order.shape[1])), value=ANY)


def to_hyperplane(x: Tensor, w: Tensor, gap: Tensor, norm: Norm) -> Tensor:
    """Smallest change that takes points onto a hyperplane without leaving the box [0, 1].

    A value can move as far as its wall. In Linf all move alike and in L2 in proportion to their weight until they are
    at it, so what is gained rises with the length of the move in straight pieces that end where a wall is met: sort the
    ends, and the length is found in its piece. In L1 the values of the largest weights move, each as far as it can.

    Parameters
    ----------
    x, w
        Points in [0, 1], and the hyperplane's weights, shape (B, D).
    gap
        What ``w * change`` is to come to in sum, shape (B,).
    norm
        ``Linf``, ``L2`` or ``L1``.

    Returns
    -------
    Tensor
        The change, shape (B, D); where the box doesn't reach the hyperplane, the one that gets nearest to it.
    """
    w = w * gap.sign()[:, None]
    steepest = w.abs().amax(1, keepdim=True).clamp_min(_TINY)  # squares of small weights vanish in float32
    weight, need = w.abs() / steepest, gap.abs()[:, None] / steepest
    room = torch.where(w > 0, 1 - x, x) * (w != 0)
    if norm == "L1":
        order = weight.argsort(1, descending=True)
        gains = (weight * room).gather(1, order)
        before = gains.cumsum(1) - gains
        share = ((need - before) / gains.clamp_min(_TINY)).clamp(0.0, 1.0)
        return w.sign() * room * torch.zeros_like(share).scatter(1, order, share)
    pace = weight if norm == "L2" else torch.ones_like(weight)
    ends, order = (room / pace.clamp_min(_TINY)).sort(1)
    walled = (weight * room).gather(1, order)
    slope = (weight * pace).gather(1, order).flip(1).cumsum(1).flip(1)
    before = walled.cumsum(1) - walled
    piece = (before + ends * slope < need).sum(1, keepdim=True).clamp_max(ends.shape[1] - 1)
    length = (need - before.gather(1, piece)) / slope.gather(1, piece).clamp_min(_TINY)
    length = length.clamp_min(0.0).minimum(ends[:, -1:])  # beyond it nothing moves any more
    return w.sign() * torch.minimum(length * pace, room)
