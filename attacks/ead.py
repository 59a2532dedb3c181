"""EAD: the elastic-net attack, for sparse perturbations of a small L1 length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from robustbench_lite.attacking.interface import ModelOutput, Problem
from robustbench_lite.core.norms import GEOMETRIES, per_sample
from robustbench_lite.core.parameters import Length, PositiveInt

from ._bisection import Bisection
from ._weighted_search import LARGEST_C, WeightedSearch

_C = 10.0  # over the least c that pays, were the margin linear; less leaves flat models unbroken
_LEAP = 100.0  # by which c grows until there is an example
_NEAR = 0.5  # shrinkage of a start from an example, over that of one from the input


class State(NamedTuple):
    """The candidate, ahead of the last iterate by FISTA's momentum; the weights of this start; the nearest example."""

    x: Tensor
    iterate: Tensor
    shrinkage: Tensor
    c: Tensor
    nearest: Tensor
    distance: Tensor
    """Of the nearest example; infinite without one."""


class PublishedState(NamedTuple):
    """Of the paper's own algorithm: the candidate, iterate and momentum's point, and the bisection of c."""

    x: Tensor
    """The point whose gradient is asked for, and the iterate that may be an example, in turn."""
    iterate: Tensor
    ahead: Tensor
    c: Tensor
    low: Tensor
    high: Tensor
    found: Tensor


@dataclass(frozen=True, kw_only=True)
class EAD(WeightedSearch):
    """Shrinking steps (FISTA) on ``c * margin + |x' - x|_2^2 + beta * |x' - x|_1``, started again with another c.

    Every change is shortened by the same amount in each step, and one that is shorter is undone. With
    ``form = "published"`` it is the paper's own algorithm, with the numbers of its authors' code: a bisection of c,
    each start from the input, and both FISTA's point, which stays in the box, and its iterate asked about. By default,
    other than in the paper:

    - a start is made from the nearest example so far, and c and the amount follow from the gradient there: on a
      hardened model, flat around the input, the c that crosses the plateau spreads the change over many values;
    - until there is an example c grows by a hundred, and from then on the amount halves from start to start;
    - neither the scale of the logits nor of the distance matters;
    - the candidate is FISTA's point with momentum, which has its gradient taken anyway: an iterate costs one
      question to the model instead of two.

    References
    ----------
    Chen et al., *EAD: elastic-net attacks to deep neural networks via adversarial examples*, AAAI 2018.
    https://arxiv.org/abs/1709.04114
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/1709.04114"
    norms: ClassVar[tuple[str, ...]] = ("L1",)
    published: ClassVar[Mapping[str, Any]] = {
        "form": "published",
        "search_steps": 9,
        "iterations": 1000,
        "beta": 0.001,
    }

    search_steps: PositiveInt = 5
    """Starts, each with a c of its own."""
    iterations: PositiveInt = 100
    """Shrinking steps of each start."""
    lr: Length = 0.01
    """First step size; it falls to zero with the root of the steps left."""
    beta: Length = 0.1
    """By how much a change is shortened in each step, as a share of the one that would be enough for a single value; in
    the published form the amount itself."""
    form: Literal["restarted", "published"] = "restarted"
    """``restarted``: each start goes on from the nearest example. ``published``: the paper's bisection of c."""
    first_c: Length = 1e-3
    """In the published form: c of the first start."""

    @property
    def steps(self) -> int:
        return self.search_steps * self.iterations * (2 if self.form == "published" else 1)

    def init(self, problem: Problem) -> State | PublishedState:
        x = problem.x
        if self.form == "published":
            return PublishedState(x, x, x, *Bisection.at(self.first_c, x))
        unknown = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        return State(x, x, unknown, unknown, x, unknown + torch.inf)

    def step(self, problem: Problem, state: State | PublishedState, output: ModelOutput) -> State | PublishedState:
        if isinstance(state, PublishedState):
            return self._published_step(problem, state, output)
        done, starts, ends = self._place(problem)
        if bool(starts.any()):
            state = self._weigh(problem, state, output, starts)
        change = output.x - problem.x
        found = self._found(output, change.abs().flatten(1).sum(1), state.nearest, state.distance)

        lr = self.lr * (1 - done / self.iterations).sqrt()
        slope = 2 * change - per_sample(state.c * ~found.won, change) * output.grad
        moved = change - per_sample(lr, change) * slope
        shrunk = moved.sign() * (moved.abs() - per_sample(state.shrinkage, moved)).clamp_min(0.0)
        iterate = (problem.x + shrunk).clamp(0.0, 1.0)
        ahead = iterate + per_sample(done / (done + 3), iterate) * (iterate - state.iterate)
        again = per_sample(ends, change)
        return State(
            x=torch.where(again, found.nearest, ahead),
            iterate=torch.where(again, found.nearest, iterate),
            shrinkage=state.shrinkage,
            c=state.c,
            nearest=found.nearest,
            distance=found.distance,
        )

    def _published_step(self, problem: Problem, state: PublishedState, output: ModelOutput) -> PublishedState:
        """From FISTA's point to the next iterate, or from an iterate, once it was looked at, to FISTA's point."""
        iterate_asked = problem.step % 2 == 1
        done = (problem.step // 2) % self.iterations
        won, change = output.loss > self.confidence, output.x - problem.x
        slope = 2 * change - per_sample(state.c * ~won, change) * output.grad
        lr = self.lr * (1 - done / self.iterations).sqrt()
        moved = change - per_sample(lr, change) * slope
        shrunk = moved.sign() * (moved.abs() - self.beta).clamp_min(0.0)
        iterate = (problem.x + shrunk).clamp(0.0, 1.0)
        ahead = iterate + per_sample(done / (done + 3), iterate) * (iterate - state.iterate)

        ends = iterate_asked & (done + 1 == self.iterations)
        bisection = Bisection(state.c, state.low, state.high, state.found).after(won & iterate_asked, ends)
        asked, again = per_sample(iterate_asked, change), per_sample(ends, change)
        kept = torch.where(asked, state.iterate, iterate)
        point = torch.where(asked, state.ahead, ahead)
        return PublishedState(
            torch.where(again, problem.x, torch.where(asked, state.ahead, iterate)),
            torch.where(again, problem.x, kept),
            torch.where(again, problem.x, point),
            *bisection,
        )

    def _weigh(self, problem: Problem, state: State, output: ModelOutput, starts: Tensor) -> State:
        """Choose the shrinkage and c of a start from the distance, and from the gradient where it starts.

        Without an example the distance is that of the linearised margin along the steepest value.
        """
        gap = self._gap(output)
        steepest = GEOMETRIES["L1"].dual(output.grad).maximum(gap)  # a single value can't change by more than 1
        found = state.distance.isfinite()
        near = (self.beta * _NEAR * state.distance.clamp_max(1.0)).minimum(state.shrinkage / 2)
        shrinkage = torch.where(found, near, self.beta * gap / steepest)
        c = torch.where(found | (problem.step == 0), _C * shrinkage / self.lr / steepest, _LEAP * state.c)
        return state._replace(
            shrinkage=torch.where(starts, shrinkage, state.shrinkage),
            c=torch.where(starts, c.clamp_max(LARGEST_C), state.c),
        )
