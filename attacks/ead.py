"""EAD: the elastic-net attack, for sparse perturbations of a small L1 length."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from pydantic import NonNegativeFloat
from pydantic.dataclasses import dataclass
from torch import Tensor

from robustbench_lite.losses import LossName
from robustbench_lite.norms import per_sample
from robustbench_lite.parameters import Length, PositiveInt, next_weight
from robustbench_lite.stepper import Attack, Problem, Seen

_FIRST_C = 10.0  # first c over the least one that pays, were the margin linear; less leaves flat models unbroken
_LARGEST_C = 1e12


class State(NamedTuple):
    """The candidate, which is ahead of the last iterate by FISTA's momentum; that iterate; and the search for c."""

    x: Tensor
    iterate: Tensor
    shrinkage: Tensor
    c: Tensor
    too_small: Tensor
    too_large: Tensor
    won: Tensor


@dataclass(frozen=True, kw_only=True)
class EAD(Attack):
    """Shrinking steps (FISTA) on ``c * margin + |x' - x|_2^2 + beta * |x' - x|_1``, with a binary search over c.

    Every change is shortened by the same amount in each step, and one that is shorter is undone. Other than in the
    paper, that amount and the first c follow from the margin and its gradient at the input, so that neither the scale
    of the logits nor of the distance matters, and the candidate is FISTA's point with momentum, which has its gradient
    taken anyway: an iterate costs one look at the model instead of two.

    References
    ----------
    Chen et al., *EAD: elastic-net attacks to deep neural networks via adversarial examples*, AAAI 2018.
    https://arxiv.org/abs/1709.04114
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/1709.04114"
    norms: ClassVar[tuple[str, ...]] = ("L1",)
    minimal: ClassVar[bool] = True

    search_steps: PositiveInt = 5
    """Values of c that are tried."""
    iterations: PositiveInt = 100
    """Shrinking steps for each value of c."""
    lr: Length = 0.01
    """First step size; it falls to zero with the root of the steps left."""
    beta: Length = 0.05
    """By how much a change is shortened in each step, as a share of the one that would be enough for a single value."""
    confidence: NonNegativeFloat = 0.0
    """Margin by which the example is to be wrong, in logits."""

    @property
    def steps(self) -> int:
        return self.search_steps * self.iterations

    @property
    def loss(self) -> LossName:
        return "margin"

    def init(self, problem: Problem) -> State:
        unknown = problem.x.flatten(1)[:, 0] * 0
        return State(problem.x, problem.x, unknown, unknown, unknown, unknown + torch.inf, unknown > 0)

    def step(self, problem: Problem, state: State, seen: Seen) -> State:
        first = problem.step == 0
        if bool(first.any()):
            state = self._measure(state, seen, first)
        won = state.won | (seen.loss > self.confidence)
        done = problem.step % self.iterations
        lr = self.lr * (1 - done / self.iterations).sqrt()
        change = seen.x - problem.x
        slope = 2 * change - per_sample(state.c * (seen.loss <= self.confidence), change) * seen.grad
        moved = change - per_sample(lr, change) * slope
        shrunk = moved.sign() * (moved.abs() - per_sample(state.shrinkage, moved)).clamp_min(0.0)
        iterate = (problem.x + shrunk).clamp(0.0, 1.0)
        ahead = iterate + per_sample(done / (done + 3), iterate) * (iterate - state.iterate)

        following = state._replace(x=ahead, iterate=iterate, won=won)
        ends = done + 1 == self.iterations
        return self._search(problem, following, ends) if bool(ends.any()) else following

    def _search(self, problem: Problem, state: State, ends: Tensor) -> State:
        """Where a value of c had its steps, choose the next one and start again."""
        too_large = torch.where(ends & state.won, state.c, state.too_large)
        too_small = torch.where(ends & ~state.won, state.c, state.too_small)
        c = next_weight(too_small, too_large, _LARGEST_C)
        return State(
            x=torch.where(per_sample(ends, state.x), problem.x, state.x),
            iterate=torch.where(per_sample(ends, state.x), problem.x, state.iterate),
            shrinkage=state.shrinkage,
            c=torch.where(ends, c, state.c),
            too_small=too_small,
            too_large=too_large,
            won=state.won & ~ends,
        )

    def _measure(self, state: State, seen: Seen, first: Tensor) -> State:
        """Take the scales of the shrinkage and of c from the margin and its gradient at the input itself."""
        gap = (self.confidence - seen.loss).clamp_min(1e-12)
        steepest = seen.grad.flatten(1).abs().amax(1).maximum(gap)  # a single value can't change by more than 1
        shrinkage = self.beta * gap / steepest
        c = (_FIRST_C * shrinkage / self.lr / steepest).clamp_max(_LARGEST_C)
        return state._replace(
            shrinkage=torch.where(first, shrinkage, state.shrinkage), c=torch.where(first, c, state.c)
        )
