"""Training on interval bounds: the worst that can be proven about a ball is what is learnt from."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import Tensor

from robustbench_lite.core.parameters import Share
from robustbench_lite.core.threat import Norm
from robustbench_lite.hardening.interface import Artifact, Batch, Defense, Stage
from robustbench_lite.model import linear_bounds
from robustbench_lite.model.bounds import margin_bounds, unsupported


@dataclass(frozen=True, kw_only=True)
class IBP(Defense):
    """Cross-entropy of the clean samples, and of the least margins that interval bounds leave within the ball.

    The clean samples count for ``1`` at first and for ``clean`` in the end; the ball grows meanwhile, over the share
    ``eps_ramp`` of the schedule, without which the bounds of a fresh network are too wide to learn from. For small
    networks of plain layers; batch norm counts in the bounds with its running statistics.

    References
    ----------
    Gowal et al., *On the effectiveness of interval bound propagation for training verifiably robust models*, 2018.
    https://arxiv.org/abs/1810.12715. Courses of eps and of the weights, and ``crown``, as in Zhang et al., *Towards
    stable and efficient training of verifiably robust neural networks*, ICLR 2020. https://arxiv.org/abs/1906.06316
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/1810.12715"
    norms: ClassVar[tuple[Norm, ...]] = ("Linf",)

    clean: Share = 0.5
    """Share of the clean samples in the loss once the ball is whole; the paper's kappa."""
    crown: bool = False
    """Whether linear bounds, which are tighter at first, count in the beginning, and interval bounds for more and more
    as the ball grows (CROWN-IBP): for chains of layers; without ``eps_ramp`` it changes nothing."""

    def unfit(self, artifact: Artifact) -> str | None:
        bounded = linear_bounds.unsupported if self.crown else unsupported
        return super().unfit(artifact) or bounded(artifact.target)

    def loss(self, batch: Batch, stage: Stage) -> Tensor:
        kappa = 1 - (1 - self.clean) * stage.grown
        eps = stage.threat.eps
        low, high = (batch.x - eps).clamp(0, 1), (batch.x + eps).clamp(0, 1)
        # The worst logits, less the label's: 0 there, and as much above as each other class can get.
        worst = -margin_bounds(stage.target, low, high, batch.y)
        stage.spend(2 * len(batch.y))  # both ends
        if self.crown and stage.grown < 1:
            stage.spend(worst.numel())  # a line for each class
            worst = worst.lerp(-linear_bounds.margin_bounds(stage.target, low, high, batch.y), 1 - stage.grown)
        return kappa * batch.cross_entropy(stage.target(batch.x)) + (1 - kappa) * F.cross_entropy(worst, batch.y)
