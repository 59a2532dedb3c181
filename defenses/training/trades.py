"""TRADES: a trade between accuracy and the change of the predictions within the ball."""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import Tensor

from robustbench_lite.attacking.interface import Attack
from robustbench_lite.core import registry
from robustbench_lite.core.noise import Noise
from robustbench_lite.core.parameters import Length, PositiveInt
from robustbench_lite.core.threat import Norm
from robustbench_lite.hardening.interface import Batch, Defense, Stage

_START = 0.001  # of the input's range: the paper's; at the input itself the divergence has no slope


@dataclass(frozen=True, kw_only=True)
class TRADES(Defense):
    """Cross-entropy at the clean samples, and how far the predictions can be moved within the ball.

    How far is the Kullback-Leibler divergence of the clean predictions from those at the point of the ball where it is
    largest. That point is looked for in evaluation mode, by steepest ascent from close to the input; the labels have no
    part in it. The loss is taken in training mode, and its gradient runs through both predictions.

    References
    ----------
    Zhang et al., *Theoretically principled trade-off between robustness and accuracy*, ICML 2019.
    https://arxiv.org/abs/1901.08573
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/1901.08573"
    # In L1 and L0 a steepest step moves a single value: far too few for a batch's ascent.
    norms: ClassVar[tuple[Norm, ...]] = ("Linf", "L2")

    beta: Length = 6.0
    """Weight of the divergence: more of it gives up clean for robust accuracy. The paper's 1 / lambda."""
    steps: PositiveInt = 10
    """Steps of the ascent on each batch; an epoch costs ``steps + 2`` times a plain one."""
    step_size: Length | None = None
    """Length of a step, in the units of eps; by default ``2.5 * eps / steps``."""

    def loss(self, batch: Batch, stage: Stage) -> Tensor:
        moved = stage.once(self._attack, lambda: self._farthest(batch, stage))
        clean = stage.target(batch.x)
        return batch.cross_entropy(clean) + self.beta * divergence(clean, stage.target(moved)).mean()

    @cached_property
    def _attack(self) -> Attack:
        """PGD that climbs the divergence from the clean logits."""
        params = {"steps": self.steps, "step_size": self.step_size, "random_start": False, "loss": _divergence}
        attack: Attack = registry.build("attacks", "pgd", params)
        return attack

    def _farthest(self, batch: Batch, stage: Stage) -> Tensor:
        """Find the points of the ball where the predictions are farthest from the clean ones."""
        with torch.no_grad():
            clean = stage.target(batch.x)
        start = batch.x + _START * Noise(batch.draw_keys).normal(tuple(batch.x.shape[1:]))
        return stage.perturb(self._attack, batch, clean, start)


def _divergence(logits: Tensor, clean: Tensor, targeted: bool, rival: Tensor | None) -> Tensor:
    return divergence(clean, logits)


def divergence(clean: Tensor, moved: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the clean predictions from the moved ones.

    Parameters
    ----------
    clean, moved
        Logits, shape (B, K).

    Returns
    -------
    Tensor
        Sum over the classes of ``p * (log p - log q)``, with p clean and q moved, 0 or more, shape (B,).
    """
    return F.kl_div(moved.log_softmax(1), clean.log_softmax(1), reduction="none", log_target=True).sum(1)
