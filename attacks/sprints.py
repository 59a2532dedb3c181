"""Many short climbs of the margin, most of them on the samples that promise most."""

from __future__ import annotations

from typing import Annotated, ClassVar, NamedTuple

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from robustbench_lite.attacking.interface import Attack, ModelOutput, Problem
from robustbench_lite.core.cost import Passes
from robustbench_lite.core.losses import ANY, Objective, margin
from robustbench_lite.core.noise import Noise
from robustbench_lite.core.norms import GEOMETRIES, per_sample, project, sparse
from robustbench_lite.core.parameters import PositiveInt, Share, cosine, patience_used_up
from robustbench_lite.core.threat import Norm

from ._rivals import NORMS, Ranking, ranked

_WIDEST: dict[Norm, float] = {"Linf": 3.0, "L2": 10.0, "L1": 20.0}
_SHRINKS = 0.5  # share of a sprint after which the ball has its size
_STRIDE = 2.0  # first step over the ball's radius; it crosses it, and the steps of a sprint fall to 0 along a cosine
_MOMENTUM = 0.25  # share of the last move that is kept


class State(NamedTuple):
    """The candidate and the one before it, what its sprint heads for, and how far each heading has led."""

    x: Tensor
    before: Tensor
    headings: Tensor
    """The rivals, the most promising first, and then `ANY`; shape (B, R + 1)."""
    heading: Tensor
    """Which of them this sprint has, shape (B,)."""
    first: Tensor
    """The margin at the input, shape (B,)."""
    best: Tensor
    """By heading, the margin nearest to the goal that was seen in the ball, shape (B, R + 1)."""


@dataclass(frozen=True, kw_only=True)
class Sprints(Attack):
    """Short climbs of the margin from new starts far out: the less of the margin is left, the more of them.

    A hardened model is flat around the inputs and tells the way farther out. So a sprint starts at a random point of a
    ball several times as large, which shrinks to its size over the first half of the sprint.

    Each of the first sprints heads for one rival class, the nearest one by a linear guess first. Later ones head for
    the rival that led nearest and, every second one, for whichever class is nearest at each step. For sprints towards
    one class mostly end alike, while another class may be in reach where the first one is not.

    A robust sample shows early that it is one: its margin hardly moves. After each of the first sprints but the last
    it is given up unless they took off ``pace`` of the margin each, on average. Later it gets ``patience`` sprints
    where a tenth of the margin is left, twice as many where a twentieth is, and so on, up to ``sprints`` in all. So
    the passes go to the few samples near the boundary, where new starts pay, and what becomes of a sample depends on
    nothing but itself.

    In L1 a step changes as many values as the ball allows to change by 1.

    References
    ----------
    The step, with its momentum: Croce and Hein, *Reliable evaluation of adversarial robustness with an ensemble of
    diverse parameter-free attacks*, ICML 2020, https://arxiv.org/abs/2003.01690. Larger balls first, in L1: the same,
    *Mind the box: l1-APGD for sparse adversarial attacks on image classifiers*, ICML 2021,
    https://arxiv.org/abs/2103.01208. One rival at a time: Gowal et al., *An alternative surrogate loss for PGD-based
    adversarial testing*, 2019, https://arxiv.org/abs/1910.09338. How far out they start, and how they are shared out,
    is our own.
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/1910.09338"
    norms: ClassVar[tuple[str, ...]] = NORMS

    sprints: PositiveInt = 20
    """Most sprints of a sample; more than ``rivals``, for any to follow the first ones."""
    length: Annotated[int, Field(ge=2)] = 20
    """Candidates of a sprint, its start among them."""
    widest: Annotated[float, Field(ge=1, le=1000)] | None = None
    """Radius over eps of the ball in which a sprint starts; 1: it stays in the ball. By default 3 in Linf, 10 in L2 and
    20 in L1."""
    rivals: PositiveInt = 3
    """Classes that the first sprints head for, one each; fewer where there are fewer, and one for a targeted goal."""
    ranking: Ranking = "gap_over_gradient"
    """Which classes are the rivals, and their order: see `APGDTargeted`."""
    pace: Share | None = None
    """Share of the margin that the first sprints must have taken off, each on average; 0: no sample is given up before
    it had all of them. By default 1 / (rivals + 1). With one rival it is asked of none."""
    patience: PositiveInt = 3
    """Sprints after the first ones, of a sample that has a tenth of its margin left."""
    loss: Objective = "margin"
    """Objective to climb."""

    @property
    def steps(self) -> int:
        return self.sprints * self.length

    @property
    def passes(self) -> Passes:
        ranking = 2 * self.rivals * (self.ranking == "gap_over_gradient")
        return Passes(forward=self.steps + 2, backward=self.steps + ranking)

    @property
    def confined(self) -> bool:
        return self.widest == 1

    def init(self, problem: Problem) -> State:
        unknown = torch.zeros(len(problem.x), dtype=problem.x.dtype, device=problem.x.device)
        rivals = problem.target_class[:, None] if problem.targeted else ranked(problem, self.rivals, self.ranking)
        headings = torch.cat([rivals, torch.full_like(rivals[:, :1], ANY)], 1)
        best = torch.full_like(headings, -torch.inf, dtype=problem.x.dtype)
        return State(problem.x, problem.x, headings, torch.full_like(problem.y, rivals.shape[1]), unknown, best)

    def rival(self, problem: Problem, state: State) -> Tensor | None:
        return None if problem.targeted else state.headings.gather(1, state.heading[:, None])[:, 0]

    def step(self, problem: Problem, state: State, output: ModelOutput) -> State:
        state = self._measure(problem, state, output)
        # The first candidate is the input; the sprints follow it.
        sprint, place = problem.step // self.length, problem.step % self.length
        radius = self._radius(problem, place)
        x = self._move(problem, state, output, place, radius)
        starts = place == 0
        if not bool(starts.any()):
            return state._replace(x=x, before=output.x)
        return state._replace(
            x=x.index_put((starts,), self._start(problem, sprint, starts)),
            before=output.x,
            heading=torch.where(starts, self._heading(sprint, state), state.heading),
        )

    def gave_up(self, problem: Problem, state: State) -> Tensor:
        done, place = (problem.step - 1) // self.length, (problem.step - 1) % self.length
        best, rivals = state.best.amax(1), state.best.shape[1] - 1
        pace = 1 / (rivals + 1) if self.pace is None else self.pace
        slow = best < state.first * (1 - pace * done)
        over = patience_used_up(done - rivals, best, state.first, self.patience)
        return (done > 0) & (place == 0) & torch.where(done < rivals, slow, over)

    def _heading(self, sprint: Tensor, state: State) -> Tensor:
        """Which heading a sprint has that starts, shape (B,)."""
        rivals = state.best.shape[1] - 1
        later = torch.where((sprint - rivals) % 2 == 0, state.best[:, :rivals].argmax(1), rivals)
        return torch.where(sprint < rivals, sprint, later)

    def _start(self, problem: Problem, sprint: Tensor, starts: Tensor) -> Tensor:
        """Draw the first candidates of the sprints that start, a mask, shape (B,)."""
        norm, origin, radius = problem.threat.norm, problem.x[starts], problem.threat.eps * self._widest(problem)
        noise = Noise(problem.noise.keys[starts]).at(sprint[starts])
        draw = GEOMETRIES[norm].random(noise, tuple(origin.shape[1:]), radius).to(origin.dtype)
        return project(origin + draw, origin, norm, radius)

    def _widest(self, problem: Problem) -> float:
        return _WIDEST[problem.threat.norm] if self.widest is None else self.widest

    def _radius(self, problem: Problem, place: Tensor) -> Tensor:
        """Radius of the ball at a place of a sprint, float64, shape (B,)."""
        left = (1 - place.double() / (_SHRINKS * self.length)).clamp_min(0.0)
        return problem.threat.eps * self._widest(problem) ** left

    def _measure(self, problem: Problem, state: State, output: ModelOutput) -> State:
        """Take note of the margin."""
        reached = margin(output.logits, problem.target_class, problem.targeted).to(state.best.dtype)
        counts = ~reached.isnan()
        if not self.confined:
            counts &= GEOMETRIES[problem.threat.norm].distance(output.x - problem.x) <= problem.threat.reach
        reached = torch.where(counts, reached, -torch.inf)
        return state._replace(
            first=torch.where(problem.step == 0, reached, state.first),
            best=state.best.scatter_reduce(1, state.heading[:, None], reached[:, None], "amax"),
        )

    def _move(self, problem: Problem, state: State, output: ModelOutput, place: Tensor, radius: Tensor) -> Tensor:
        """From the candidate before to the one at this place of a sprint, within a radius."""
        norm, x = problem.threat.norm, output.x
        length = _STRIDE * radius * cosine(place, self.length)
        ahead = sparse(x, problem.x, output.grad, radius) if norm == "L1" else GEOMETRIES[norm].steepest(output.grad)
        climbed = problem.project(x + per_sample(length.to(x.dtype), x) * ahead, radius)
        move = (1 - _MOMENTUM) * (climbed - x) + _MOMENTUM * (x - state.before)
        return torch.where(per_sample(place > 1, x), problem.project(x + move, radius), climbed)
