"""MART: samples that are wrong without an adversary count for more."""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import Tensor

from robustbench_lite.attacking.interface import Attack
from robustbench_lite.core import registry
from robustbench_lite.core.parameters import Length, PositiveInt
from robustbench_lite.core.threat import Norm
from robustbench_lite.hardening.interface import Batch, Defense, Stage

_MARGIN = 1e-4  # keeps a logarithm finite where the prediction is certain, as the authors' code does


@dataclass(frozen=True, kw_only=True)
class MART(Defense):
    """A boosted cross-entropy at PGD's points, and how far they move the predictions, most where those are wrong.

    Boosted: the largest wrong probability is pushed down as well as the right one up. The Kullback-Leibler divergence
    of the clean from the moved predictions is weighed by one minus the clean probability of the label.

    References
    ----------
    Wang et al., *Improving adversarial robustness requires revisiting misclassified examples*, ICLR 2020.
    https://openreview.net/forum?id=rklOg6EFwS
    """

    paper: ClassVar[str] = "https://openreview.net/forum?id=rklOg6EFwS"
    norms: ClassVar[tuple[Norm, ...]] = ("Linf", "L2")

    beta: Length = 5.0
    """Weight of the divergence; the paper's lambda."""
    steps: PositiveInt = 10
    """Steps of the attack on each batch; an epoch costs ``steps + 2`` times a plain one."""
    step_size: Length | None = None
    """Length of a step, in the units of eps; by default ``2.5 * eps / steps``."""

    @cached_property
    def _attack(self) -> Attack:
        attack: Attack = registry.build("attacks", "pgd", {"steps": self.steps, "step_size": self.step_size})
        return attack

    def loss(self, batch: Batch, stage: Stage) -> Tensor:
        moved = stage.target(stage.perturbed(self._attack, batch))
        clean = stage.target(batch.x)
        label = batch.y[:, None]
        wrong = moved.softmax(1).scatter(1, label, 0.0).amax(1)
        boosted = batch.cross_entropy(moved) - (1 + _MARGIN - wrong).log().mean()
        divergence = F.kl_div(moved.log_softmax(1), clean.log_softmax(1), reduction="none", log_target=True).sum(1)
        unsure = 1 - clean.softmax(1).gather(1, label)[:, 0]
        return boosted + self.beta * (divergence * unsure).mean()
