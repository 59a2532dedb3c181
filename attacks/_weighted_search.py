"""What Carlini and Wagner's attack and EAD share: the search for the weight of the margin, start after start."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from pydantic import NonNegativeFloat
from pydantic.dataclasses import dataclass
from torch import Tensor

from robustbench_lite.attacking.interface import Attack, ModelOutput, Problem
from robustbench_lite.core.losses import LossName
from robustbench_lite.core.norms import per_sample
from robustbench_lite.core.parameters import PositiveInt

LARGEST_C = 1e12  # beyond, the square of a gradient that wakes up would overflow


class Found(NamedTuple):
    """What a candidate adds to the nearest example."""

    won: Tensor
    """Whether it is adversarial, by the confidence that is wanted, shape (B,)."""
    nearer: Tensor
    """Whether it is nearer than all before, shape (B,)."""
    nearest: Tensor
    """The nearest example so far, shape (B, *shape)."""
    distance: Tensor
    """Its distance, shape (B,); infinite without one."""


@dataclass(frozen=True, kw_only=True)
class WeightedSearch(Attack):
    """Descends on a distance and c times the margin; each start has a c of its own."""

    minimal: ClassVar[bool] = True

    search_steps: PositiveInt = 10
    """Starts, each with a c of its own."""
    iterations: PositiveInt = 50
    """Steps of each start."""
    confidence: NonNegativeFloat = 0.0
    """Margin by which the example is to be wrong, in logits."""

    @property
    def steps(self) -> int:
        return self.search_steps * self.iterations

    @property
    def loss(self) -> LossName:
        return "margin"

    def _place(self, problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
        """Steps done in this start, whether it begins, and whether it ends with this step, each of shape (B,)."""
        done = problem.step % self.iterations
        return done, done == 0, done + 1 == self.iterations

    def _found(self, output: ModelOutput, length: Tensor, nearest: Tensor, distance: Tensor) -> Found:
        """Compare the candidates, perturbed by ``length``, with the nearest examples so far."""
        won = output.loss > self.confidence
        nearer = won & (length < distance)
        return Found(
            won=won,
            nearer=nearer,
            nearest=torch.where(per_sample(nearer, output.x), output.x, nearest),
            distance=torch.where(nearer, length, distance),
        )

    def _gap(self, output: ModelOutput) -> Tensor:
        """What the margin lacks, or has too much, shape (B,)."""
        return (self.confidence - output.loss).abs().clamp_min(1e-12)
