"""The decoupled direction and norm attack."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from robustbench_lite.attacking.interface import Attack, ModelOutput, Problem
from robustbench_lite.core.losses import Objective
from robustbench_lite.core.norms import GEOMETRIES, per_sample
from robustbench_lite.core.parameters import Length, PositiveInt, Share, cosine


class State(NamedTuple):
    """The candidate and the length of its perturbation, before the box cut it."""

    x: Tensor
    length: Tensor


@dataclass(frozen=True, kw_only=True)
class DDN(Attack):
    """Steps along the gradient turn the perturbation; its length shrinks while it is adversarial and grows while not.

    By default it differs from the paper. ``gamma`` starts larger and falls with a cosine as the step does, so that the
    search sweeps a wide range of lengths before it settles on the boundary: a fifth of the paper's steps suffice. The
    gradient is the margin's, which points to the nearest class also where the logits are all alike or the softmax
    saturates. Values aren't rounded to 256 levels. The paper's own algorithm is
    ``gamma = 0.05, last_gamma = 0.05, loss = "cross_entropy", levels = 256``, with up to 1000 steps.

    References
    ----------
    Rony et al., *Decoupling direction and norm for efficient gradient-based L2 adversarial attacks and defenses*,
    CVPR 2019. https://arxiv.org/abs/1811.09600
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/1811.09600"
    norms: ClassVar[tuple[str, ...]] = ("L2",)
    minimal: ClassVar[bool] = True
    published: ClassVar[Mapping[str, Any]] = {
        "steps": 1000,
        "gamma": 0.05,
        "last_gamma": 0.05,
        "loss": "cross_entropy",
        "levels": 256,
    }

    steps: PositiveInt = 200
    """Number of steps."""
    first_length: Length = 1.0
    """Length of the first perturbation."""
    step_size: Length = 1.0
    """Length of the first step; it falls with a cosine to a hundredth."""
    gamma: Share = 0.2
    """Share by which the length of the perturbation changes in the first step; the paper's is 0.05."""
    last_gamma: Share = 0.001
    """Share by which it changes in the last one; the paper's is 0.05, as in every step."""
    loss: Objective = "margin"
    """Objective whose gradient turns the perturbation; the paper's is ``cross_entropy``."""
    levels: Annotated[int, Field(ge=2)] | None = None
    """Number of equally spaced values that candidates are rounded to; the paper's is 256. By default they aren't."""

    def init(self, problem: Problem) -> State:
        return State(problem.x, torch.full_like(problem.x.flatten(1)[:, 0], self.first_length))

    def step(self, problem: Problem, state: State, output: ModelOutput) -> State:
        x = problem.x
        falling = cosine(problem.step, self.steps)
        gamma = self.last_gamma + (self.gamma - self.last_gamma) * falling
        won = problem.success(output)
        farthest = torch.linalg.vector_norm(torch.maximum(x, 1 - x).flatten(1), dim=1)
        length = (state.length * (1 + torch.where(won, -gamma, gamma))).minimum(farthest)
        move = per_sample(self.step_size * (0.01 + 0.99 * falling), x) * GEOMETRIES["L2"].steepest(output.grad)
        direction = GEOMETRIES["L2"].steepest(output.x - x + move)
        following = x + per_sample(length, x) * direction
        if self.levels is not None:
            following = (following * (self.levels - 1)).round() / (self.levels - 1)
        return State(following, length)
