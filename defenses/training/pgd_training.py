"""Adversarial training with projected gradient descent."""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

from pydantic.dataclasses import dataclass
from torch import Tensor

from robustbench_lite.attacking.interface import Attack
from robustbench_lite.core import registry
from robustbench_lite.core.losses import Objective
from robustbench_lite.core.parameters import Length, PositiveInt, Share
from robustbench_lite.core.threat import Norm
from robustbench_lite.hardening.interface import Batch, Defense, Stage


@dataclass(frozen=True, kw_only=True)
class PGDTraining(Defense):
    """Cross-entropy at the worst point of the ball that PGD finds for the weights of the moment.

    The attack sees the network in evaluation mode, the loss in training mode, so that batch statistics don't move while
    the attack is on its way.

    References
    ----------
    Madry et al., *Towards deep learning models resistant to adversarial attacks*, ICLR 2018.
    https://arxiv.org/abs/1706.06083
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/1706.06083"
    norms: ClassVar[tuple[Norm, ...]] = ("Linf", "L2")

    steps: PositiveInt = 10
    """Steps of the attack on each batch; an epoch costs ``steps + 1`` times a plain one."""
    step_size: Length | None = None
    """Length of a step, in the units of eps; by default ``2.5 * eps / steps``."""
    attack_loss: Objective = "cross_entropy"
    """What the attack climbs: ``cross_entropy`` or ``margin``."""
    clean_share: Share = 0.0
    """Weight of the clean samples' loss, in [0, 1]; 0 trains on adversarial examples alone, as the paper does."""

    @cached_property
    def _attack(self) -> Attack:
        params = {"steps": self.steps, "step_size": self.step_size, "loss": self.attack_loss}
        attack: Attack = registry.build("attacks", "pgd", params)
        return attack

    def loss(self, batch: Batch, stage: Stage) -> Tensor:
        loss = batch.cross_entropy(stage.target(stage.perturbed(self._attack, batch)))
        if self.clean_share:
            loss = loss.lerp(batch.cross_entropy(stage.target(batch.x)), self.clean_share)
        return loss
