"""Auto-PGD: projected gradient ascent that chooses its step size itself, towards any class or one class at a time."""

from __future__ import annotations

from functools import cache
from typing import ClassVar, Literal, NamedTuple

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from robustbench_lite.losses import LossName, margin
from robustbench_lite.noise import Noise
from robustbench_lite.norms import GEOMETRIES, per_sample
from robustbench_lite.parameters import PositiveInt, Share, had_its_share
from robustbench_lite.scorecard import Passes
from robustbench_lite.stepper import Attack, Problem, Seen
from robustbench_lite.threat import Norm, ThreatModel

_PAPER = "https://arxiv.org/abs/2003.01690"
_MOMENTUM = 0.75  # share of the new step; the rest repeats the last move
_LOOK = 25  # candidates after which a sample may be given up, and again after as many
_FIRST_WIDTH = 0.2  # in L1: share of the values that the first steps change
_DUAL: dict[Norm, Norm] = {"Linf": "L1", "L2": "L2", "L1": "Linf"}


class State(NamedTuple):
    """The candidate, the best one so far, and what the step size is decided by."""

    x: Tensor
    previous: Tensor
    """The candidate before, shape (B, *shape)."""
    best: Tensor
    best_grad: Tensor
    best_loss: Tensor
    loss: Tensor
    """Loss of the candidate before, shape (B,)."""
    rises: Tensor
    """How often the loss rose since the last checkpoint, shape (B,)."""
    size: Tensor
    """Length of a step, shape (B,)."""
    halved: Tensor
    """Whether the step size was halved at the last checkpoint, shape (B,)."""
    checked: Tensor
    """Best loss at the last checkpoint, shape (B,)."""
    support: Tensor
    """In L1: how many values the best candidate changed at the last checkpoint, shape (B,)."""
    width: Tensor
    """In L1: how many values a step changes, shape (B,)."""
    ranking: Tensor
    """Classes to attack one after another, shape (B, T); T is 0 where the loss chooses."""
    first: Tensor
    """Where the classes are attacked one by one: the margin at the input, shape (B,)."""
    nearest: Tensor
    """The best margin since, shape (B,)."""


@dataclass(frozen=True, kw_only=True)
class APGD(Attack):
    """Gradient ascent with momentum that halves its step at checkpoints where the loss has not grown as it should.

    The checkpoints come sooner and sooner. Where the step is halved, the climb goes on from the best point so far.

    In L1 a step changes the values with the largest gradients alone, and fewer of them as the best perturbation gets
    sparser. Other than in the paper, values that can't move are left out, what rounding left of a change is not
    counted, and the number of values is rounded down, so that it comes to one: on linear models it is within 2 % of the
    optimum, of which the paper's form falls short by up to 20 %.

    References
    ----------
    Croce and Hein, *Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks*,
    ICML 2020. https://arxiv.org/abs/2003.01690. In L1: Croce and Hein, *Mind the box: l1-APGD for sparse adversarial
    attacks on image classifiers*, ICML 2021, https://arxiv.org/abs/2103.01208
    """

    paper: ClassVar[str] = _PAPER
    norms: ClassVar[tuple[str, ...]] = tuple(_DUAL)

    steps: PositiveInt = 100
    """Number of steps; the checkpoints follow from it."""
    restarts: PositiveInt = 1
    """Starts for each sample; a further one is made only where the sample still stands."""
    loss: LossName = "cross_entropy"
    """Loss to climb: ``cross_entropy``, ``dlr``, ``margin`` or ``probability_margin``."""
    random_start: bool = True
    """Start from a uniform draw of the ball rather than from the input."""
    rho: Share = 0.75
    """Share of the steps since the last checkpoint that must have raised the loss, or the step size is halved."""

    def __post_init__(self) -> None:
        _refuse_repeats(self.restarts, self.random_start)

    def init(self, problem: Problem) -> State:
        return _start(problem, problem.noise if self.random_start else None, problem.aim.new_empty(len(problem.x), 0))

    def step(self, problem: Problem, state: State, seen: Seen) -> State:
        return _climb(problem, state, seen, problem.step, self.steps, self.rho)


@dataclass(frozen=True, kw_only=True)
class APGDTargeted(Attack):
    """Auto-PGD towards one rival class after another, the most promising first, to leave the label for it.

    A model with fewer other classes than ``targets`` is attacked through each of them once.

    References
    ----------
    Croce and Hein, *Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks*,
    ICML 2020. https://arxiv.org/abs/2003.01690
    """

    paper: ClassVar[str] = _PAPER
    norms: ClassVar[tuple[str, ...]] = tuple(_DUAL)

    targets: PositiveInt = 9
    """Most classes that are attacked, one after another."""
    iterations: PositiveInt = 100
    """Candidates for each class, the start among them; the checkpoints follow from it."""
    ranking: Literal["gap", "gap_over_gradient"] = "gap"
    """What promises most: the smallest difference of logits at the input; or the smallest one over the dual norm of its
    gradient, how far the class would be were the model linear, at the cost of one backward pass for each of the
    ``2 * targets`` classes with the smallest differences."""
    restarts: PositiveInt = 1
    """Starts for each sample; a further one is made only where the sample still stands."""
    loss: Literal["dlr", "margin"] = "dlr"
    """Loss to climb for each class: ``dlr`` or ``margin``."""
    random_start: bool = True
    """Start for each class from a uniform draw of the ball rather than from the input."""
    rho: Share = 0.75
    """Share of the steps since the last checkpoint that must have raised the loss, or the step size is halved."""
    patience: PositiveInt | None = None
    """Candidates of a sample of which half the margin is left; one with a quarter left gets eight times as many, and so
    on (`parameters.had_its_share`). By default every sample gets all of them."""

    def __post_init__(self) -> None:
        _refuse_repeats(self.restarts, self.random_start)

    def unfit(self, shape: tuple[int, ...], threat: ThreatModel) -> str | None:
        if threat.goal == "targeted":
            return "it chooses its classes itself; expected an untargeted threat model, or APGD for a targeted one"
        return None

    @property
    def steps(self) -> int:
        return self.targets * self.iterations

    @property
    def passes(self) -> Passes:
        backward = self.steps + 2 * self.targets * (self.ranking == "gap_over_gradient")
        return Passes(forward=self.restarts * (self.steps + 2), backward=self.restarts * backward)

    def init(self, problem: Problem) -> State:
        ranking, first = _ranked(problem, self.targets, weighted=self.ranking == "gap_over_gradient")
        return _start(problem, problem.noise.at(0) if self.random_start else None, ranking)._replace(first=first)

    def step(self, problem: Problem, state: State, seen: Seen) -> State:
        stage = self._stage(problem, state)
        done = problem.step - stage * self.iterations
        following = _climb(problem, state, seen, done, self.iterations, self.rho)
        if self.patience is not None:
            reached = margin(seen.logits, problem.aim, False).to(state.nearest.dtype)
            following = following._replace(nearest=torch.maximum(state.nearest, reached))
        over = (done + 1 == self.iterations) & (stage + 1 < state.ranking.shape[1])
        if not bool(over.any()):
            return following
        fresh = _start(problem, problem.noise.at(stage + 1) if self.random_start else None, state.ranking)
        fresh = fresh._replace(first=following.first, nearest=following.nearest)
        return State(
            *(torch.where(per_sample(over, new), new, old) for new, old in zip(fresh, following, strict=True)),
        )

    def rival(self, problem: Problem, state: State) -> Tensor:
        return state.ranking.gather(1, self._stage(problem, state)[:, None])[:, 0]

    def hopeless(self, problem: Problem, state: State) -> Tensor | None:
        over = problem.step >= state.ranking.shape[1] * self.iterations
        if self.patience is None:
            return over
        tried = (problem.step % _LOOK == 0) & had_its_share(problem.step, state.nearest, state.first, self.patience)
        return over | tried

    def _stage(self, problem: Problem, state: State) -> Tensor:
        """Place in the ranking of the class that is attacked, shape (B,); a run's last candidate is of the last one."""
        return (problem.step // self.iterations).clamp_max(state.ranking.shape[1] - 1)


def _refuse_repeats(restarts: int, random_start: bool) -> None:
    if restarts > 1 and not random_start:
        raise ValueError(f"restarts is {restarts} without a random start: each would repeat the first")


def _start(problem: Problem, noise: Noise | None, ranking: Tensor) -> State:
    """Begin a climb at a draw of the ball, or at the input itself."""
    x, threat = problem.x, problem.threat
    start = x if noise is None else x + GEOMETRIES[threat.norm].random(noise, tuple(x.shape[1:]), threat.eps)
    lowest = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
    values = x[0].numel() if len(x) else 0
    return State(
        x=start,
        previous=start,
        best=start,
        best_grad=torch.zeros_like(x),
        best_loss=lowest,
        loss=-lowest,
        rises=torch.zeros_like(problem.aim),
        size=torch.full_like(lowest, threat.eps if threat.norm == "L1" else 2 * threat.eps),
        halved=torch.zeros_like(problem.aim, dtype=torch.bool),
        checked=lowest,
        support=torch.full_like(lowest, values),
        width=torch.full_like(lowest, _FIRST_WIDTH * values),
        ranking=ranking,
        first=lowest,
        nearest=lowest,
    )


def _climb(problem: Problem, state: State, seen: Seen, done: Tensor, steps: int, rho: float) -> State:
    """Take a step in a climb of ``steps``, of which ``done`` were taken, shape (B,)."""
    norm = problem.threat.norm
    better = seen.loss > state.best_loss
    state = state._replace(
        best=torch.where(per_sample(better, seen.x), seen.x, state.best),
        best_grad=torch.where(per_sample(better, seen.x), seen.grad, state.best_grad),
        best_loss=torch.where(better, seen.loss, state.best_loss),
        rises=state.rises + (seen.loss > state.loss),
        loss=seen.loss,
    )
    x, grad = seen.x, seen.grad
    span = _spans(steps, norm == "L1", done.device)[done.clamp_max(steps)]
    if bool((span > 0).any()):
        state, back = _sparser(problem, state, span > 0) if norm == "L1" else _shorter(state, span, rho)
        x = torch.where(per_sample(back, x), state.best, x)
        grad = torch.where(per_sample(back, x), state.best_grad, grad)
    size = per_sample(state.size, x)
    if norm == "L1":
        return state._replace(x=x + size * _sparse(x, problem.x, grad, state.width), previous=x)
    ahead = problem.project(x + size * GEOMETRIES[norm].steepest(grad))
    share = per_sample(torch.where(done == 0, 1.0, _MOMENTUM), x)
    return state._replace(x=x + share * (ahead - x) + (1 - share) * (x - state.previous), previous=x)


def _shorter(state: State, span: Tensor, rho: float) -> tuple[State, Tensor]:
    """At a checkpoint, ``span`` steps after the last one, halve the step size where the climb has stalled.

    It has where too few steps raised the loss, or where neither the step size nor the best loss changed.
    """
    due = span > 0
    stalled = (state.rises < rho * span) | (~state.halved & (state.best_loss <= state.checked))
    halve = due & stalled
    return state._replace(
        size=torch.where(halve, state.size / 2, state.size),
        halved=torch.where(due, halve, state.halved),
        checked=torch.where(due, state.best_loss, state.checked),
        rises=torch.where(due, 0, state.rises),
    ), halve


def _sparser(problem: Problem, state: State, due: Tensor) -> tuple[State, Tensor]:
    """At a checkpoint in L1, set how many values a step changes by how many the best candidate changed.

    Where those got fewer the step is as long as the radius again, else it is shortened, down to a tenth of that.
    """
    eps = problem.threat.eps
    change = (state.best - problem.x).flatten(1).abs()
    # Not what a projection's rounding left above 0: it would hold the width where it is for good.
    support = (change > 1e-3 * change.amax(1, keepdim=True)).sum(1).to(state.support.dtype)
    fewer = support < 0.95 * state.support
    size = torch.where(fewer, eps, (state.size / 1.5).clamp_min(eps / 10))
    return state._replace(
        size=torch.where(due, size, state.size),
        support=torch.where(due, support, state.support),
        width=torch.where(due, support / 1.5, state.width),
    ), due & fewer


def _sparse(x: Tensor, origin: Tensor, grad: Tensor, width: Tensor) -> Tensor:
    """Change of L1 norm 1, by equal parts of the ``width`` values, shape (B,), with the largest gradients."""
    # A value that reached its wall is pushed on, for the projection would take back one that is let go.
    free = torch.where(grad > 0, x.minimum(origin) < 1, x.maximum(origin) > 0)
    slopes = (grad * free).flatten(1)
    steepness = slopes.abs()
    place = (width.long() - 1).clamp(0, slopes.shape[1] - 1)
    least = steepness.sort(1, descending=True).values.gather(1, place[:, None])
    signs = slopes.sign() * (steepness >= least)
    return (signs / signs.abs().sum(1, keepdim=True).clamp_min(1.0)).reshape(x.shape)


@cache
def _spans(steps: int, even: bool, device: torch.device) -> Tensor:
    """At each checkpoint the steps since the last one, 0 elsewhere; shape (steps + 1,).

    By the paper the shares of the steps between them fall by 0.03 from 0.22 to 0.06; in L1 each is 0.04.
    """
    spans = torch.zeros(steps + 1, dtype=torch.int64)
    at, percent, gap = 0, 0, 4 if even else 22
    while (percent := percent + gap) < 100:
        # In whole numbers: a float's rounding would move the checkpoints.
        following = -(-percent * steps // 100)
        spans[following] += following - at
        at, gap = following, gap if even else max(gap - 3, 6)
    spans[-1] = 0
    return spans.to(device)


def _ranked(problem: Problem, count: int, weighted: bool) -> tuple[Tensor, Tensor]:
    """The ``count`` most promising classes, (B, count), or all others where there are fewer; and the margins."""
    own = problem.aim[:, None]
    with torch.set_grad_enabled(weighted):
        x = problem.x.detach().requires_grad_(weighted)
        logits = problem.model(x)
    others = logits.detach().scatter(1, own, -torch.inf)
    pool = min(2 * count if weighted else count, logits.shape[1] - 1)
    near: Tensor = others.topk(pool, dim=1).indices
    first = margin(logits.detach(), problem.aim, False).to(problem.x.dtype)
    if not logits.requires_grad:
        return near[:, :count], first
    gaps = (logits.gather(1, own) - logits.gather(1, near)).unbind(1)
    length = GEOMETRIES[_DUAL[problem.threat.norm]].distance
    slopes = [length(torch.autograd.grad(gap.sum(), x, retain_graph=True, materialize_grads=True)[0]) for gap in gaps]
    distances = torch.stack(gaps, 1).detach() / torch.stack(slopes, 1).clamp_min(1e-12)
    return near.gather(1, distances.argsort(dim=1, stable=True)[:, :count]), first
