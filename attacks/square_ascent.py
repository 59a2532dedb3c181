"""Random searches over square windows, the best candidate of which climbs the gradient now and then."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar, NamedTuple

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from robustbench_lite.attacking.interface import Attack, ModelOutput, Problem
from robustbench_lite.attacking.query import Query
from robustbench_lite.core.cost import BudgetTracker, Passes
from robustbench_lite.core.losses import LossName
from robustbench_lite.core.norms import GEOMETRIES, per_sample, project
from robustbench_lite.core.parameters import Length, PositiveInt, patience_used_up
from robustbench_lite.core.threat import Access, ThreatModel

from .square import Square
from .square import State as Search

_MOMENTUM = 0.25  # share of the last move that is kept
_NEAR = 0.5  # share of the margin: a search that left less of it is followed by another one


class State(NamedTuple):
    """What Square remembers of a search, and which search it is."""

    x: Tensor
    best: Tensor
    loss: Tensor
    margin: Tensor
    first: Tensor
    search: Tensor
    """Searches before this one, shape (B,)."""
    tried: Tensor
    """Windows that it has tried, shape (B,)."""


@dataclass(frozen=True, kw_only=True)
class SquareAscent(Attack):
    """Square, with its best candidate climbing the margin in short steps after every so many windows.

    A hardened network may be a plain around its inputs, as where thresholds cut small values off: a climb from the
    input, or from a draw of the ball, goes nowhere, and random search is slow. What it finds lies off that plain, and a
    climb from there breaks in tens of passes what hundreds of windows more would.

    A search ends where it has had its share (`parameters.patience_used_up`): ``patience`` windows where a tenth of the
    sample's margin is left, half as many where a fifth is, and so on. A search that left less than half of the
    margin is followed by another one from new stripes, up to ``searches``. A target that shows scores alone is searched
    without climbs.

    References
    ----------
    The windows: Andriushchenko, Croce, Flammarion and Hein, *Square Attack: a query-efficient black-box adversarial
    attack via random search*, ECCV 2020. https://arxiv.org/abs/1912.00049. The climbs, and how the passes are shared
    out, are our own.
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/1912.00049"
    access: ClassVar[Access] = "scores"
    gradients: ClassVar[bool] = False  # of the windows; a climb asks for its own

    searches: PositiveInt = 5
    """Most searches of a sample."""
    windows: PositiveInt = 2000
    """Most windows of a search, one forward pass each; how fast they shrink follows from it."""
    every: PositiveInt = 50
    """Windows between two climbs; a search has had at least as many before its first one."""
    climb: PositiveInt = 12
    """Steps of a climb, a forward and a backward pass each."""
    stride: Length = 1 / 6
    """Length of a climb's first step over eps; they fall to 0 along a cosine."""
    patience: PositiveInt = 300
    """Windows of a search that has left a tenth of the margin."""

    @property
    def loss(self) -> LossName:
        return "margin"

    @property
    def steps(self) -> int:
        return self.searches * self.windows

    @property
    def passes(self) -> Passes:
        climbed = self.searches * (self.windows // self.every) * self.climb
        return Passes(forward=self.steps + 2 + climbed, backward=climbed)

    def unfit(self, shape: tuple[int, ...], threat: ThreatModel) -> str | None:
        return Square().unfit(shape, threat)

    def init(self, problem: Problem) -> State:
        none = torch.zeros_like(problem.target_class)
        return State(*Square(steps=self.windows, patience=self.patience).init(_nth(problem, none)), none, none)

    def step(self, problem: Problem, state: State, output: ModelOutput) -> State:
        square = Square(steps=self.windows)
        within = replace(_nth(problem, state.search), step=state.tried)
        state = State(*square.step(within, Search(*state[:5]), output), state.search, state.tried + 1)
        over = self._over(state)
        # By the sample's windows in all its searches: samples that started together climb together, not one by one.
        climbs = ((problem.step + 1) % self.every == 0) & (state.tried >= self.every) & ~over
        if bool(climbs.any()):
            state = state._replace(x=state.x.index_put((climbs,), self._climb(problem, climbs, state.best[climbs])))
        again = over & (state.margin > _NEAR * state.first) & (state.search + 1 < self.searches)
        if not bool(again.any()):
            return state
        following = state.search + 1
        start = square.init(_nth(problem, following))._replace(margin=state.first, first=state.first)
        fresh = State(*start, following, torch.zeros_like(following))
        return State(*(torch.where(per_sample(again, new), new, old) for new, old in zip(fresh, state, strict=True)))

    def gave_up(self, problem: Problem, state: State) -> Tensor:
        return self._over(state)

    def _over(self, state: State) -> Tensor:
        """Whether a search has had its share, shape (B,)."""
        had = patience_used_up(state.tried, state.margin, state.first, self.patience)
        return had | (state.tried >= self.windows)

    def _climb(self, problem: Problem, climbs: Tensor, x: Tensor) -> Tensor:
        """Climb from the best candidates of some samples, a mask, shape (B,); return where it was highest."""
        origin, target_class, norm, eps = (
            problem.x[climbs],
            problem.target_class[climbs],
            problem.threat.norm,
            problem.threat.eps,
        )
        query = Query(problem.model, self.loss, problem.targeted, BudgetTracker(), len(x))
        before, best, highest = x, x, torch.full_like(x.flatten(1)[:, 0], -torch.inf)
        for place in range(self.climb):
            output = query(x, target_class, gradient=True)
            higher = output.loss > highest
            best, highest = torch.where(per_sample(higher, x), x, best), torch.where(higher, output.loss, highest)
            if bool(output.blind.all()):
                break
            length = self.stride * eps * (1 + math.cos(math.pi * place / self.climb)) / 2
            ahead = project(x + length * GEOMETRIES[norm].steepest(output.grad), origin, norm, eps)
            move = (1 - _MOMENTUM) * (ahead - x) + _MOMENTUM * (x - before)
            # Without a gradient a sample stays, whoever else still climbs: what becomes of it depends on itself alone.
            there = torch.where(per_sample(output.blind, x), x, project(x + move, origin, norm, eps))
            before, x = x, there
        return best


def _nth(problem: Problem, search: Tensor) -> Problem:
    """The same, with the draws of a search, shape (B,)."""
    return replace(problem, noise=problem.noise.at(search))
