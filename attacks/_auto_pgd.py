"""The climb of Auto-PGD: where it starts, and steps of a size that follows from how the loss has grown."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_lite.attacking.interface import ModelOutput, Problem
from robustbench_lite.core.noise import Noise
from robustbench_lite.core.norms import GEOMETRIES, per_sample, sparse

_MOMENTUM = 0.75  # share of the new step; the rest repeats the last move
_FIRST_WIDTH = 0.2  # in L1: share of the values that the first steps change


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


def refuse_repeats(restarts: int, random_start: bool) -> None:
    """Refuse restarts that all begin at the input."""
    if restarts > 1 and not random_start:
        raise ValueError(f"restarts is {restarts} without a random start: each would repeat the first")


def begin(problem: Problem, noise: Noise | None, ranking: Tensor) -> State:
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
        rises=torch.zeros_like(problem.target_class),
        size=torch.full_like(lowest, threat.eps if threat.norm == "L1" else 2 * threat.eps),
        halved=torch.zeros_like(problem.target_class, dtype=torch.bool),
        checked=lowest,
        support=torch.full_like(lowest, values),
        width=torch.full_like(lowest, _FIRST_WIDTH * values),
        ranking=ranking,
    )


def climb(
    problem: Problem,
    state: State,
    output: ModelOutput,
    done: Tensor,
    steps: int,
    rho: float,
    published: bool = False,
) -> State:
    """Take a step in a climb of ``steps``, of which ``done`` were taken, shape (B,); in L1 perhaps as published."""
    norm = problem.threat.norm
    better = output.loss > state.best_loss
    state = state._replace(
        best=torch.where(per_sample(better, output.x), output.x, state.best),
        best_grad=torch.where(per_sample(better, output.x), output.grad, state.best_grad),
        best_loss=torch.where(better, output.loss, state.best_loss),
        rises=state.rises + (output.loss > state.loss),
        loss=output.loss,
    )
    x, grad = output.x, output.grad
    span = _spans(steps, norm == "L1", done.device)[done.clamp_max(steps)]
    if bool((span > 0).any()):
        state, back = _sparser(problem, state, span > 0, published) if norm == "L1" else _shorter(state, span, rho)
        x = torch.where(per_sample(back, x), state.best, x)
        grad = torch.where(per_sample(back, x), state.best_grad, grad)
    size = per_sample(state.size, x)
    if norm == "L1":
        step = _steepest(grad, state.width) if published else sparse(x, problem.x, grad, state.width)
        return state._replace(x=x + size * step, previous=x)
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


def _steepest(grad: Tensor, width: Tensor) -> Tensor:
    """The paper's step in L1, of length 1: the signs of the largest gradients, their number rounded up."""
    slopes = grad.flatten(1)
    place = width.ceil().long().clamp(1, slopes.shape[1]) - 1
    least = slopes.abs().topk(int(place.amax()) + 1, dim=1).values.gather(1, place[:, None])
    signs = slopes.sign() * (slopes.abs() >= least)
    return (signs / (signs.abs().sum(1, keepdim=True) + 1e-10)).reshape(grad.shape)


def _sparser(problem: Problem, state: State, due: Tensor, published: bool) -> tuple[State, Tensor]:
    """At a checkpoint in L1, set how many values a step changes by how many the best candidate changed.

    Where those got fewer the step is as long as the radius again, else it is shortened, down to a tenth of that.
    """
    eps = problem.threat.eps
    change = (state.best - problem.x).flatten(1).abs()
    # Not what a projection's rounding left above 0: it would hold the width where it is for good.
    least = 0.0 if published else 1e-3
    support = (change > least * change.amax(1, keepdim=True)).sum(1).to(state.support.dtype)
    fewer = support < 0.95 * state.support
    size = torch.where(fewer, eps, (state.size / 1.5).clamp_min(eps / 10))
    return state._replace(
        size=torch.where(due, size, state.size),
        support=torch.where(due, support, state.support),
        width=torch.where(due, support / 1.5, state.width),
    ), due & fewer


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
