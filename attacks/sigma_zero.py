"""Sigma-zero: few changed values, by a smooth count of them and a threshold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from robustbench_lite.attacking.interface import Attack, ModelOutput, Problem
from robustbench_lite.core.losses import LossName
from robustbench_lite.core.norms import per_sample
from robustbench_lite.core.parameters import Length, PositiveInt, Share, cosine

_TINY = 1e-30


class State(NamedTuple):
    """The candidate, Adam's two moments, and the change below which a value is put back."""

    x: Tensor
    mean: Tensor
    square: Tensor
    threshold: Tensor


@dataclass(frozen=True, kw_only=True)
class SigmaZero(Attack):
    """Adam on the margin and a smooth count of the changed values; changes below a threshold are undone in each step.

    The count is ``mean(d^2 / (d^2 + sigma))`` over the changes ``d``. The threshold rises while the candidate is
    adversarial and falls while it is not. By default, other than in the paper, the margin's gradient is scaled to a
    largest value of 1 before the count's is added, so that the scale of the logits doesn't matter: ``scaled = false``
    is the paper's own algorithm.

    References
    ----------
    Cinà et al., *Sigma-zero: gradient-based optimization of L0-norm adversarial examples*, ICLR 2025.
    https://arxiv.org/abs/2402.01879
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/2402.01879"
    norms: ClassVar[tuple[str, ...]] = ("L0",)
    minimal: ClassVar[bool] = True
    published: ClassVar[Mapping[str, Any]] = {"scaled": False, "steps": 1000}

    steps: PositiveInt = 200
    """Number of steps."""
    lr: Length = 1.0
    """Adam's first step size; it falls with a cosine to a tenth."""
    sigma: Length = 1e-3
    """Square of the change that counts as half a changed value."""
    threshold: Share = 0.3
    """First threshold."""
    threshold_rate: Length = 0.01
    """By how much the threshold changes in a step, as a share of the step size."""
    scaled: bool = True
    """Whether the margin's gradient is scaled before the count's is added; the paper's is not."""

    @property
    def loss(self) -> LossName:
        return "margin"

    def init(self, problem: Problem) -> State:
        nothing = torch.zeros_like(problem.x)
        return State(problem.x, nothing, nothing, torch.full_like(problem.x.flatten(1)[:, 0], self.threshold))

    def step(self, problem: Problem, state: State, output: ModelOutput) -> State:
        change, won = output.x - problem.x, output.loss > 0
        count = change * (2 * self.sigma / change[0].numel()) / (change * change + self.sigma) ** 2
        climb = _unit(output.grad) if self.scaled else output.grad
        grad = _unit(count - torch.where(per_sample(won, count), 0.0, climb))

        lr = self.lr * (0.1 + 0.9 * cosine(problem.step, self.steps))
        done = problem.step + 1
        mean, square = state.mean.lerp(grad, 0.1), state.square.lerp(grad * grad, 0.001)
        unbiased = (square / per_sample(1 - 0.999**done, grad)).sqrt() + 1e-8
        moved = (output.x - per_sample(lr / (1 - 0.9**done), grad) * mean / unbiased).clamp(0.0, 1.0)

        threshold = (state.threshold + torch.where(won, lr, -lr) * self.threshold_rate).clamp(0.0, 1.0)
        kept = (moved - problem.x).abs() >= per_sample(threshold, moved)
        return State(torch.where(kept, moved, problem.x), mean, square, threshold)


def _unit(grad: Tensor) -> Tensor:
    return grad / per_sample(grad.flatten(1).abs().amax(1).clamp_min(_TINY), grad)
