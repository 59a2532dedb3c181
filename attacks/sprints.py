"""Many short climbs of the margin, most of them on the samples that promise most."""

from __future__ import annotations

import math
from typing import ClassVar, NamedTuple

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from robustbench_lite.losses import ANY, LossName, margin
from robustbench_lite.norms import GEOMETRIES, per_sample
from robustbench_lite.parameters import PositiveInt, had_its_share
from robustbench_lite.stepper import Attack, Problem, Seen

_STRIDE = 2.0  # first step over eps; it crosses the ball, and the steps of a sprint fall to zero along a cosine
_MOMENTUM = 0.25  # share of the last move that is kept


class State(NamedTuple):
    """The candidate and the one before it, the rivals and the one of this sprint, and what is left of the margin."""

    x: Tensor
    before: Tensor
    order: Tensor
    heading: Tensor
    first: Tensor
    best: Tensor


@dataclass(frozen=True, kw_only=True)
class Sprints(Attack):
    """Short climbs of the margin from new starts: the less of the margin is left, the more of them.

    A robust sample shows early that it is one: its margin hardly moves. After each sprint, what is left of the margin
    (the smallest seen, over that at the input) decides whether another one follows: ``patience`` of them where half of
    it is left, eight times as many where a quarter is, and so on, up to ``sprints``. So the passes go to the few
    samples near the boundary, where new starts pay, and what becomes of a sample depends on nothing but itself.

    The first sprint starts at the input, the others at random points of the ball. Every second one heads for one rival
    class, in the order of their logits at the input; the others for whichever is nearest at each step.

    References
    ----------
    The step, with its momentum: Croce and Hein, *Reliable evaluation of adversarial robustness with an ensemble of
    diverse parameter-free attacks*, ICML 2020, https://arxiv.org/abs/2003.01690. One rival at a time: Gowal et al.,
    *An alternative surrogate loss for PGD-based adversarial testing*, 2019, https://arxiv.org/abs/1910.09338. How the
    sprints are shared out is our own.
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/1910.09338"
    norms: ClassVar[tuple[str, ...]] = ("Linf", "L2")

    sprints: PositiveInt = 40
    """Most sprints of a sample."""
    length: PositiveInt = 10
    """Candidates of a sprint, its start among them."""
    patience: PositiveInt = 5
    """Sprints of a sample of which half the margin is left."""
    rivals: PositiveInt = 3
    """Classes that are headed for one by one."""
    loss: LossName = "margin"
    """Loss to climb."""

    @property
    def steps(self) -> int:
        return self.sprints * self.length

    def init(self, problem: Problem) -> State:
        unknown = torch.zeros(len(problem.x), dtype=problem.x.dtype, device=problem.x.device)
        order = problem.y[:, None].expand(-1, self.rivals)
        return State(problem.x, problem.x, order, torch.full_like(problem.y, ANY), unknown, unknown - torch.inf)

    def rival(self, problem: Problem, state: State) -> Tensor | None:
        return None if problem.targeted else state.heading

    def step(self, problem: Problem, state: State, seen: Seen) -> State:
        state = self._measure(problem, state, seen)
        sprint, place = (problem.step + 1) // self.length, (problem.step + 1) % self.length
        x = self._move(problem, state, seen)
        starts = place == 0
        if not bool(starts.any()):
            return state._replace(x=x, before=seen.x)
        noise = problem.noise.at(sprint)
        fresh = problem.x + GEOMETRIES[problem.threat.norm].random(noise, tuple(x.shape[1:]), problem.threat.eps)
        choice = (sprint // 2 % state.order.shape[1])[:, None]
        chosen = torch.where(sprint % 2 == 1, state.order.gather(1, choice)[:, 0], ANY)
        return state._replace(
            x=torch.where(per_sample(starts, x), problem.project(fresh), x),
            before=seen.x,
            heading=torch.where(starts, chosen, state.heading),
        )

    def hopeless(self, problem: Problem, state: State) -> Tensor:
        done, place = problem.step // self.length, problem.step % self.length
        return (place == 0) & had_its_share(done, state.best, state.first, self.patience)

    def _measure(self, problem: Problem, state: State, seen: Seen) -> State:
        """Take note of the margin and, at the input itself, of the classes that are nearest."""
        reached = margin(seen.logits, problem.aim, problem.targeted).to(state.best.dtype)
        best = torch.maximum(state.best, reached)
        first = problem.step == 0
        if not bool(first.any()):
            return state._replace(best=best)
        others = seen.logits.scatter(1, problem.aim[:, None], -torch.inf)
        nearest = others.topk(min(self.rivals, others.shape[1] - 1), dim=1).indices
        ranked = nearest.gather(
            1, torch.arange(self.rivals, device=nearest.device).expand(len(nearest), -1) % nearest.shape[1]
        )
        return state._replace(
            order=torch.where(first[:, None], ranked, state.order),
            first=torch.where(first, reached, state.first),
            best=best,
        )

    def _move(self, problem: Problem, state: State, seen: Seen) -> Tensor:
        place = problem.step % self.length
        length = _STRIDE * problem.threat.eps * (1 + torch.cos(math.pi * place / self.length)) / 2
        climbed = problem.project(
            seen.x + per_sample(length, seen.x) * GEOMETRIES[problem.threat.norm].steepest(seen.grad)
        )
        move = (1 - _MOMENTUM) * (climbed - seen.x) + _MOMENTUM * (seen.x - state.before)
        return torch.where(per_sample(place > 0, move), seen.x + move, climbed)
