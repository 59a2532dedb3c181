"""Natural corruptions, the worst of their kinds and severities."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from robustbench_lite.attacking.interface import Attack, ModelOutput, Problem
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.losses import LossName
from robustbench_lite.core.noise import Noise
from robustbench_lite.core.threat import SEVERITIES, Access

from ._corruptions import CORRUPTIONS, Kind

_PLACES = {kind: place for place, kind in enumerate(CORRUPTIONS)}


class State(NamedTuple):
    """The candidate alone."""

    x: Tensor


@dataclass(frozen=True, kw_only=True)
class Corruption(Attack):
    """Tries noise, blur, weather and digital corruptions up to severity eps, one forward pass each, one draw of each.

    The kinds are those of ImageNet-C, with a plain Gaussian blur in place of glass and frost that is drawn rather than
    photographed. Their strengths are our own: those of the paper's CIFAR-10-C or a little more at 32 pixels, and scaled
    to the size of the image so that they near ImageNet-C's at 224. Other than in the paper, which takes the mean over
    them, a sample stands only if it withstands all. Images have 1 or 3 channels.

    References
    ----------
    Hendrycks and Dietterich, *Benchmarking neural network robustness to common corruptions and perturbations*,
    ICLR 2019. https://arxiv.org/abs/1903.12261
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/1903.12261"
    norms: ClassVar[tuple[str, ...]] = ("Corruption",)
    access: ClassVar[Access] = "labels"
    gradients: ClassVar[bool] = False

    kinds: Annotated[tuple[Kind, ...], Field(min_length=1)] = tuple(CORRUPTIONS)
    """Corruptions, in the order they are tried."""
    severities: Literal["largest", "all"] = "largest"
    """Severity eps alone, or after it, for what then still stands, each smaller one as well."""

    def __post_init__(self) -> None:
        if twice := sorted({kind for kind in self.kinds if self.kinds.count(kind) > 1}):
            raise ValueError(f"kinds holds {', '.join(twice)} more than once: the same image would be tried again")

    @property
    def steps(self) -> int:
        return len(self.kinds) * (len(SEVERITIES) if self.severities == "all" else 1) - 1

    @property
    def loss(self) -> LossName:
        return "margin"

    def init(self, problem: Problem) -> State:
        shape = tuple(problem.x.shape[1:])
        if len(shape) != 3 or shape[0] not in (1, 3):
            raise UserError(f"Corruption on inputs of shape {shape}: expected images, (C, H, W), of 1 or 3 channels")
        return State(self._corrupted(problem, problem.step))

    def step(self, problem: Problem, state: State, output: ModelOutput) -> State:
        return State(self._corrupted(problem, problem.step + 1))

    def gave_up(self, problem: Problem, state: State) -> Tensor | None:
        """Where eps is less than 5 it comes to its end early."""
        return problem.step + 1 >= len(self.kinds) * problem.threat.eps

    def _corrupted(self, problem: Problem, number: Tensor) -> Tensor:
        found = problem.x.clone()
        largest = int(problem.threat.eps)
        for one in torch.unique(number).tolist():
            rows = (number == one).nonzero()[:, 0]
            kind = self.kinds[one % len(self.kinds)]
            severity = max(1, largest - one // len(self.kinds))
            found[rows] = corrupt(problem.x[rows], kind, severity, Noise(problem.noise.keys[rows]))
        return found


def corrupt(x: Tensor, kind: Kind, severity: int, noise: Noise) -> Tensor:
    """Corrupt images.

    Parameters
    ----------
    x
        Images in [0, 1], shape (B, C, H, W), C 1 or 3.
    kind
        A name of `_corruptions.CORRUPTIONS`.
    severity
        1 to 5.
    noise
        What is random is drawn from it, shape (B,); the same for every severity.

    Returns
    -------
    Tensor
        In [0, 1], shape (B, C, H, W).
    """
    corruption = CORRUPTIONS[kind]
    return corruption.apply(x, corruption.strengths[severity - 1], noise.at(_PLACES[kind])).clamp(0.0, 1.0)
