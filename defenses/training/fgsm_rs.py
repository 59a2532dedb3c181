"""Adversarial training with a single step from a random start."""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar

from pydantic.dataclasses import dataclass
from torch import Tensor

from robustbench_lite.attacking.interface import Attack
from robustbench_lite.core import registry
from robustbench_lite.core.parameters import Length
from robustbench_lite.core.threat import Norm
from robustbench_lite.hardening.interface import Batch, Defense, Stage


@dataclass(frozen=True, kw_only=True)
class FGSMRS(Defense):
    """Cross-entropy at the end of one long step from a uniform draw of the ball: as PGD training, for two passes.

    At a large eps it can overfit to one-step attacks from one epoch to the next, and then withstands no other. The loop
    notices and goes back to the best epoch.

    References
    ----------
    Wong, Rice and Kolter, *Fast is better than free: revisiting adversarial training*, ICLR 2020.
    https://arxiv.org/abs/2001.03994
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/2001.03994"
    norms: ClassVar[tuple[Norm, ...]] = ("Linf", "L2")

    step: Length = 1.25
    """Length of the step, as a share of eps."""

    def loss(self, batch: Batch, stage: Stage) -> Tensor:
        worst = stage.perturbed(_one_step(self.step * stage.threat.eps), batch)
        return batch.cross_entropy(stage.target(worst))


@lru_cache(maxsize=16)
def _one_step(length: float) -> Attack:
    attack: Attack = registry.build("attacks", "pgd", {"steps": 1, "step_size": length})
    return attack
