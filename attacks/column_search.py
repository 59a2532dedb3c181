"""Column search: random search over the columns of a table or the values of a signal, by the scores alone."""

from __future__ import annotations

from typing import Annotated, ClassVar, NamedTuple

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from robustbench_lite.attacking.interface import Attack, ModelOutput, Problem
from robustbench_lite.core.losses import LossName
from robustbench_lite.core.norms import per_sample
from robustbench_lite.core.parameters import PositiveInt
from robustbench_lite.core.threat import Access, ThreatModel


class State(NamedTuple):
    """The candidate, and the best one so far."""

    x: Tensor
    best: Tensor
    loss: Tensor
    """Loss of the best candidate, shape (B,)."""


@dataclass(frozen=True, kw_only=True)
class ColumnSearch(Attack):
    """Sets a random share of the values to an end of the ball, or back, and keeps that where the loss grows.

    It is Square Attack's search (Andriushchenko et al. 2020) without the windows, which only images have: the share
    falls along the way, down to a single value. In norms other than Linf the engine's projection shortens the change.
    """

    norms: ClassVar[tuple[str, ...]] = ("Linf", "L2", "L1", "L0")
    paper: ClassVar[str] = "https://arxiv.org/abs/1912.00049"
    access: ClassVar[Access] = "scores"
    gradients: ClassVar[bool] = False

    steps: PositiveInt = 500
    """Changes that are tried, one forward pass each."""
    p_init: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Share of the values that the first changes set."""
    restarts: PositiveInt = 1
    """Starts for each sample; a further one is made only where the sample still stands."""

    @property
    def loss(self) -> LossName:
        return "margin"

    def unfit(self, shape: tuple[int, ...], threat: ThreatModel) -> str | None:
        return None if len(shape) < 3 else "expected rows of a table, (F,), or signals, (C, L): take square for images"

    def init(self, problem: Problem) -> State:
        x = problem.x
        lowest = torch.full((len(x),), -torch.inf, dtype=x.dtype, device=x.device)
        draws = problem.noise.at(self.steps).uniform(tuple(x.shape[1:]))
        return State(x + self._far(problem) * torch.where(draws < 0.5, -1.0, 1.0), x, lowest)

    def step(self, problem: Problem, state: State, output: ModelOutput) -> State:
        better = output.loss > state.loss
        best = torch.where(per_sample(better, output.x), output.x, state.best)
        loss = torch.where(better, output.loss, state.loss)
        noise, shape = problem.noise.at(problem.step), tuple(best.shape[1:])
        which, where = noise.at(0).uniform(shape), noise.at(1).uniform(shape)
        share = self.p_init * (1 - problem.step / self.steps).clamp_min(0.0) ** 2
        # At least one value: the one with the lowest draw.
        lowest = which.flatten(1).amin(1)
        chosen = which <= per_sample(torch.maximum(share.to(which), lowest), which)
        # To the lower end of the ball, to the upper one, or, one time in four, back to the clean value.
        way = torch.where(where < 0.375, -1.0, torch.where(where < 0.75, 1.0, 0.0))
        return State(torch.where(chosen, problem.x + self._far(problem) * way, best), best, loss)

    def _far(self, problem: Problem) -> float:
        """How far an end of the ball is, along one value."""
        return 1.0 if problem.threat.norm == "L0" else problem.threat.eps
