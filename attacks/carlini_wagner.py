"""Carlini and Wagner's attack: the L2 form, and its margin objective over an Linf ball."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from robustbench_lite.attacking.interface import Attack, ModelOutput, Problem
from robustbench_lite.core.losses import LossName
from robustbench_lite.core.norms import GEOMETRIES, per_sample
from robustbench_lite.core.parameters import Length, PositiveInt

from ._bisection import Bisection
from ._weighted_search import LARGEST_C, WeightedSearch

_C = 1.5  # over the least c that holds the boundary
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
    """The candidate, Adam's memory, the weight and the step size of this start, and the nearest example so far."""

    x: Tensor
    mean: Tensor
    square: Tensor
    c: Tensor
    move: Tensor
    nearest: Tensor
    distance: Tensor
    """Of the nearest example; infinite without one."""
    gained: Tensor
    """Whether this start found a nearer one."""


class PublishedState(NamedTuple):
    """Of the paper's own algorithm: the candidate, Adam under the change of variable, and the bisection of c."""

    x: Tensor
    w: Tensor
    mean: Tensor
    square: Tensor
    c: Tensor
    low: Tensor
    high: Tensor
    found: Tensor


@dataclass(frozen=True, kw_only=True)
class CarliniWagner(WeightedSearch):
    """Smallest L2 perturbation across the margin: Adam on ``|x' - x|^2 + c * margin``, started again with another c.

    With ``form = "published"`` it is the paper's own algorithm, with the numbers of its authors' code: a bisection of
    c, each start from the input, under the change of variable ``x' = (tanh(w) + 1) / 2``. By default, other than in the
    paper:

    - a start is made from the nearest example so far, and c follows from the gradient there: on a hardened model, flat
      around the input, the c that crosses the plateau is a thousand times the one that holds the boundary, and no
      bisection from the input finds a near example;
    - until there is an example c grows by ten, as in the paper, and from then on the step size halves where a start
      gained nothing; it falls linearly to zero within each start;
    - both follow from the distance, so neither its scale nor that of the logits matters;
    - values are clipped to the box: the paper's change of variable is flat at 0 and 1, where most of a digit's are.

    References
    ----------
    Carlini and Wagner, *Towards evaluating the robustness of neural networks*, S&P 2017.
    https://arxiv.org/abs/1608.04644
    """

    paper: ClassVar[str] = _PAPER
    norms: ClassVar[tuple[str, ...]] = ("L2",)
    published: ClassVar[Mapping[str, Any]] = {"form": "published", "search_steps": 9, "iterations": 10_000, "lr": 0.01}

    lr: Length = 3.0
    """Adam's first step size, over the change of a value were the distance spread evenly over all of them; in the
    published form its step size, in the units of w."""
    form: Literal["restarted", "published"] = "restarted"
    """``restarted``: each start goes on from the nearest example. ``published``: the paper's bisection of c."""
    first_c: Length = 1e-3
    """In the published form: c of the first start."""

    def init(self, problem: Problem) -> State | PublishedState:
        if self.form == "published":
            w = _published_w(problem.x)
            return PublishedState(_squash(w), *Adam.at(w), *Bisection.at(self.first_c, problem.x))
        x = problem.x
        nothing, unknown = torch.zeros_like(x), torch.zeros(len(x), dtype=x.dtype, device=x.device)
        return State(x, nothing, nothing, unknown, unknown, x, unknown + torch.inf, unknown == 0)

    def step(self, problem: Problem, state: State | PublishedState, output: ModelOutput) -> State | PublishedState:
        done, starts, ends = self._place(problem)
        if isinstance(state, PublishedState):
            return self._published_step(problem, state, output, done, ends)
        if bool(starts.any()):
            state = self._weigh(state, output, starts)
        change = output.x - problem.x
        found = self._found(output, GEOMETRIES["L2"].dual(change), state.nearest, state.distance)

        grad = 2 * change - per_sample(state.c * ~found.won, change) * output.grad
        lr = per_sample(state.move * (1 - done / self.iterations), change)
        adam = Adam(output.x, state.mean, state.square).step(grad, lr, done + 1)
        again = per_sample(ends, change)
        return State(
            x=torch.where(again, found.nearest, adam.w),
            mean=adam.mean.masked_fill(again, 0.0),
            square=adam.square.masked_fill(again, 0.0),
            c=state.c,
            move=state.move,
            nearest=found.nearest,
            distance=found.distance,
            gained=state.gained | found.nearer,
        )

    def _published_step(
        self, problem: Problem, state: PublishedState, output: ModelOutput, done: Tensor, ends: Tensor
    ) -> PublishedState:
        won = output.loss > self.confidence
        pull = 2 * (output.x - problem.x) - per_sample(state.c * ~won, output.x) * output.grad
        slope = (1 - state.w.tanh() ** 2) / 2
        lr = torch.full_like(slope, self.lr)
        adam = Adam(state.w, state.mean, state.square).step(pull * slope, lr, done + 1)
        first, again = Adam.at(_published_w(problem.x)), per_sample(ends, output.x)
        adam = Adam(*(torch.where(again, new, old) for new, old in zip(first, adam, strict=True)))
        bisection = Bisection(state.c, state.low, state.high, state.found).after(won, ends)
        return PublishedState(_squash(adam.w), *adam, *bisection)

    def _weigh(self, state: State, output: ModelOutput, starts: Tensor) -> State:
        """Choose c and the step size of a start from the distance, and from the gradient where it starts.

        Without an example the distance is that of the linearised margin. ``2 * distance / steepness`` is the c that
        holds a candidate at the boundary against the pull of the input.
        """
        gap = self._gap(output)
        widest = output.x[0].numel() ** 0.5  # no boundary is farther than the box is wide, however flat the margin here
        steepness = GEOMETRIES["L2"].dual(output.grad).maximum(gap / widest)
        found = state.distance.isfinite()
        distance = torch.where(found, state.distance, gap / steepness)
        c = torch.where(state.gained, _C * 2 * distance / steepness, torch.where(found, state.c, 10 * state.c))
        halved = torch.where(found, state.move / 2, state.move)
        move = torch.where(state.gained, self.lr * distance / widest, halved)
        return state._replace(
            c=torch.where(starts, c.clamp_max(LARGEST_C), state.c),
            move=torch.where(starts, move, state.move),
            gained=state.gained & ~starts,
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

    def step(self, problem: Problem, state: BallState, output: ModelOutput) -> BallState:
        low, high = _walls(problem)
        share = _squash(state.w)
        slope = (high - low) * 2 * share * (1 - share)
        lr = self.lr * per_sample(1 - problem.step / self.iterations, share)
        adam = Adam(state.w, state.mean, state.square).step(-output.grad * slope, lr, problem.step + 1)
        return BallState(low + (high - low) * _squash(adam.w), *adam)


def _walls(problem: Problem) -> tuple[Tensor, Tensor]:
    eps = problem.threat.eps
    return (problem.x - eps).clamp_min(0.0), (problem.x + eps).clamp_max(1.0)


def _published_w(x: Tensor) -> Tensor:
    """The paper's variable, with its authors' way to keep 0 and 1 finite."""
    return ((2 * x - 1) * 0.999999).atanh()


def _squash(w: Tensor) -> Tensor:
    return (w.tanh() + 1) / 2


def _unsquash(x: Tensor, wall: Tensor) -> Tensor:
    """The inverse, of a point brought at least ``wall`` away from 0 and 1, shape (B,)."""
    wall = per_sample(wall.clamp(1e-6, 0.05), x)
    return (2 * x.clamp(min=wall, max=1 - wall) - 1).atanh()
