"""Carlini and Wagner's attack: the L2 form, and its margin objective over an Linf ball."""

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

_FIRST_C = 2.0  # first c over the least one that pays, were the margin linear
_LARGEST_C = 1e12  # beyond, the square of a gradient that wakes up would overflow
_FIRST_MOVE = 1.5  # length of the first step over the distance, were the margin linear
_WALL = 0.05  # how near the walls it starts, in steps: on them the change of variable is infinite and its slope zero
_PAPER = "https://arxiv.org/abs/1608.04644"


class Adam(NamedTuple):
    """The variable and Adam's two moments."""

    w: Tensor
    mean: Tensor
    square: Tensor

    @classmethod
    def at(cls, w: Tensor) -> Adam:
        """Start from a point."""
        return cls(w, torch.zeros_like(w), torch.zeros_like(w))

    def step(self, grad: Tensor, lr: Tensor, count: Tensor) -> Adam:
        """Descend by ``lr``, shape (B, *shape), in the step of number ``count``, from 1, shape (B,)."""
        mean = self.mean.lerp(grad, 0.1)
        square = self.square.lerp(grad * grad, 0.001)
        unbiased = (square / per_sample(1 - 0.999**count, grad)).sqrt() + 1e-8
        w = self.w - lr / per_sample(1 - 0.9**count, grad) * mean / unbiased
        return Adam(w, mean, square)


class State(NamedTuple):
    """The candidate, Adam's memory, and the search for c."""

    x: Tensor
    w: Tensor
    mean: Tensor
    square: Tensor
    c: Tensor
    move: Tensor
    too_small: Tensor
    too_large: Tensor
    won: Tensor


@dataclass(frozen=True, kw_only=True)
class CarliniWagner(Attack):
    """Smallest L2 perturbation across the margin: Adam on ``|x' - x|^2 + c * margin``, with a binary search over c.

    The change of variable ``x' = (tanh(w) + 1) / 2`` keeps every candidate in the box. Other than in the paper, the
    first c and the step size follow from the margin and its gradient at the input, so that neither the scale of the
    logits nor of the distance matters, and the step size falls linearly to zero for each c: a tenth of the paper's
    steps reach its distance.

    References
    ----------
    Carlini and Wagner, *Towards evaluating the robustness of neural networks*, S&P 2017.
    https://arxiv.org/abs/1608.04644
    """

    paper: ClassVar[str] = _PAPER
    norms: ClassVar[tuple[str, ...]] = ("L2",)
    minimal: ClassVar[bool] = True

    search_steps: PositiveInt = 5
    """Values of c that are tried."""
    iterations: PositiveInt = 100
    """Adam steps for each value of c."""
    lr: Length = 0.1
    """Largest first step size of Adam, in the units of w; smaller for a sample that is near the boundary."""
    confidence: NonNegativeFloat = 0.0
    """Margin by which the example is to be wrong, in logits."""

    @property
    def steps(self) -> int:
        return self.search_steps * self.iterations

    @property
    def loss(self) -> LossName:
        return "margin"

    def init(self, problem: Problem) -> State:
        x = problem.x
        unknown = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        return State(x, *Adam.at(x), unknown, unknown, unknown, unknown + torch.inf, unknown > 0)

    def step(self, problem: Problem, state: State, seen: Seen) -> State:
        first = problem.step == 0
        if bool(first.any()):
            state = self._measure(problem, state, seen, first)
        won = state.won | (seen.loss >= self.confidence)
        grad = 2 * (seen.x - problem.x) - per_sample(state.c * (seen.loss < self.confidence), seen.x) * seen.grad
        done = problem.step % self.iterations
        x = _squash(state.w)
        slope = 2 * x * (1 - x)
        lr = (per_sample(state.move, x) / slope).clamp_max(self.lr) * per_sample(1 - done / self.iterations, x)
        adam = Adam(state.w, state.mean, state.square).step(grad * slope, lr, done + 1)

        following = State(_squash(adam.w), *adam, state.c, state.move, state.too_small, state.too_large, won)
        ends = done + 1 == self.iterations
        return self._search(problem, following, ends) if bool(ends.any()) else following

    def _search(self, problem: Problem, state: State, ends: Tensor) -> State:
        """Where a value of c had its steps, choose the next one and start again."""
        too_large = torch.where(ends & state.won, state.c, state.too_large)
        too_small = torch.where(ends & ~state.won, state.c, state.too_small)
        fresh = Adam.at(_unsquash(problem.x, _WALL * state.move))
        w, mean, square = (
            torch.where(per_sample(ends, new), new, old)
            for new, old in zip(fresh, (state.w, state.mean, state.square), strict=True)
        )
        return State(
            x=torch.where(per_sample(ends, w), _squash(w), state.x),
            w=w,
            mean=mean,
            square=square,
            c=torch.where(ends, next_weight(too_small, too_large, _LARGEST_C), state.c),
            move=state.move,
            too_small=too_small,
            too_large=too_large,
            won=state.won & ~ends,
        )

    def _measure(self, problem: Problem, state: State, seen: Seen, first: Tensor) -> State:
        """Take the scales of c and of a step from the margin and its gradient at the input itself.

        For a linear margin ``gap / steepness`` is the distance, and ``2 * gap / steepness ** 2`` the least c that pays.
        """
        gap = (self.confidence - seen.loss).clamp_min(1e-12)
        widest = seen.x[0].numel() ** 0.5  # no boundary is farther than the box is wide, however flat the margin here
        steepness = torch.linalg.vector_norm(seen.grad.flatten(1), dim=1).maximum(gap / widest)
        move = _FIRST_MOVE * gap / steepness / widest
        start = _unsquash(problem.x, _WALL * move)
        return state._replace(
            w=torch.where(per_sample(first, start), start, state.w),
            c=torch.where(first, (_FIRST_C * 2 * gap / steepness**2).clamp_max(_LARGEST_C), state.c),
            move=torch.where(first, move, state.move),
        )


class BallState(NamedTuple):
    """The candidate and Adam's memory."""

    x: Tensor
    w: Tensor
    mean: Tensor
    square: Tensor


@dataclass(frozen=True, kw_only=True)
class CarliniWagnerLinf(Attack):
    """The margin objective over the Linf ball: Adam under a change of variable that spans the ball within the box.

    The paper shrinks the ball until nothing is found; where eps is given there is no distance to trade off, and the
    margin alone is climbed.

    References
    ----------
    Carlini and Wagner, *Towards evaluating the robustness of neural networks*, S&P 2017, sections V and VI.
    https://arxiv.org/abs/1608.04644
    """

    paper: ClassVar[str] = _PAPER
    norms: ClassVar[tuple[str, ...]] = ("Linf",)

    iterations: PositiveInt = 100
    """Adam steps."""
    lr: Length = 0.1
    """Adam's first step size, in the units of w; it falls linearly to zero."""

    @property
    def steps(self) -> int:
        return self.iterations

    @property
    def loss(self) -> LossName:
        return "margin"

    def init(self, problem: Problem) -> BallState:
        low, high = _walls(problem)
        adam = Adam.at(_unsquash((problem.x - low) / (high - low), torch.full_like(low.flatten(1)[:, 0], 0.05)))
        return BallState(low + (high - low) * _squash(adam.w), *adam)

    def step(self, problem: Problem, state: BallState, seen: Seen) -> BallState:
        low, high = _walls(problem)
        share = _squash(state.w)
        slope = (high - low) * 2 * share * (1 - share)
        lr = self.lr * per_sample(1 - problem.step / self.iterations, share)
        adam = Adam(state.w, state.mean, state.square).step(-seen.grad * slope, lr, problem.step + 1)
        return BallState(low + (high - low) * _squash(adam.w), *adam)


def _walls(problem: Problem) -> tuple[Tensor, Tensor]:
    eps = problem.threat.eps
    return (problem.x - eps).clamp_min(0.0), (problem.x + eps).clamp_max(1.0)


def _squash(w: Tensor) -> Tensor:
    return (w.tanh() + 1) / 2


def _unsquash(x: Tensor, wall: Tensor) -> Tensor:
    """The inverse, of a point brought at least ``wall`` away from 0 and 1, shape (B,)."""
    wall = per_sample(wall.clamp(1e-6, 0.05), x)
    return (2 * x.clamp(min=wall, max=1 - wall) - 1).atanh()
