"""Carlini and Wagner's attack: the L2 form, and its margin objective over an Linf ball."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from pydantic import NonNegativeFloat
from pydantic.dataclasses import dataclass
from torch import Tensor

from robustbench_lite.engine import Attack, Problem, Seen
from robustbench_lite.losses import LossName
from robustbench_lite.parameters import Length, PositiveInt

_START = 0.99  # how near the walls, where its slope is zero, the change of variable may start
_FIRST_C = 2.0  # first c over the least one that pays, were the margin linear
_FIRST_MOVE = 1.5  # length of the first step over the distance, were the margin linear
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
        """Descend; ``lr`` and ``count`` (steps made, this one included) hold one value a sample."""
        mean = self.mean.lerp(grad, 0.1)
        square = self.square.lerp(grad * grad, 0.001)
        unbiased = (square / _like(1 - 0.999**count, grad)).sqrt() + 1e-8
        w = self.w - _like(lr / (1 - 0.9**count), grad) * mean / unbiased
        return Adam(w, mean, square)


class State(NamedTuple):
    """The candidate, Adam's memory, and the search for c."""

    x: Tensor
    w: Tensor
    mean: Tensor
    square: Tensor
    c: Tensor
    lr: Tensor
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
        adam = Adam.at(_unsquash(problem.x))
        unknown = torch.zeros(len(problem.x), device=problem.x.device)
        return State(
            _squash(adam.w), *adam, unknown, unknown, torch.zeros_like(unknown), unknown + torch.inf, unknown > 0
        )

    def step(self, problem: Problem, state: State, seen: Seen) -> State:
        c, lr = state.c, state.lr
        first = problem.step == 0
        if bool(first.any()):
            # For a linear margin, 2 * gap / slope^2 is the least c at which crossing it pays, gap / slope the distance.
            gap = (self.confidence - seen.loss).clamp_min(1e-12)
            slope = seen.grad.flatten(1).norm(dim=1).clamp_min(1e-12)
            c = torch.where(first, _FIRST_C * 2 * gap / slope**2, c)
            lr = torch.where(first, (_FIRST_MOVE * gap / slope / seen.x[0].numel() ** 0.5).clamp_max(self.lr), lr)

        won = state.won | (seen.loss >= self.confidence)
        grad = 2 * (seen.x - problem.x) - _like(c * (seen.loss < self.confidence), seen.x) * seen.grad
        done = problem.step % self.iterations
        adam = Adam(state.w, state.mean, state.square).step(
            grad * 2 * seen.x * (1 - seen.x), lr * (1 - done / self.iterations), done + 1
        )

        ends = done + 1 == self.iterations
        too_large = torch.where(ends & won, c, state.too_large)
        too_small = torch.where(ends & ~won, c, state.too_small)
        c = torch.where(ends, _between(too_small, too_large), c)
        fresh = Adam.at(_unsquash(problem.x))
        w, mean, square = (torch.where(_like(ends, new), new, old) for new, old in zip(fresh, adam, strict=True))
        return State(_squash(w), w, mean, square, c, lr, too_small, too_large, won & ~ends)


def _between(too_small: Tensor, too_large: Tensor) -> Tensor:
    """Next c to try: the geometric mean of the bounds, or a leap where one of them is not known yet."""
    middle = (too_small * too_large).sqrt()
    middle = torch.where(too_large.isinf(), too_small * 10, middle)
    return torch.where(too_small == 0, too_large / 10, middle)


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
        adam = Adam.at(_unsquash(((problem.x - low) / (high - low)).clamp(0.05, 0.95)))
        return BallState(low + (high - low) * _squash(adam.w), *adam)

    def step(self, problem: Problem, state: BallState, seen: Seen) -> BallState:
        low, high = _walls(problem)
        share = _squash(state.w)
        slope = (high - low) * 2 * share * (1 - share)
        lr = self.lr * (1 - problem.step / self.iterations)
        adam = Adam(state.w, state.mean, state.square).step(-seen.grad * slope, lr, problem.step + 1)
        return BallState(low + (high - low) * _squash(adam.w), *adam)


def _walls(problem: Problem) -> tuple[Tensor, Tensor]:
    eps = problem.threat.eps
    return (problem.x - eps).clamp_min(0.0), (problem.x + eps).clamp_max(1.0)


def _squash(w: Tensor) -> Tensor:
    return (w.tanh() + 1) / 2


def _unsquash(x: Tensor) -> Tensor:
    return (2 * x - 1).clamp(-_START, _START).atanh()


def _like(values: Tensor, batch: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (batch.ndim - 1))
