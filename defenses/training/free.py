"""Free adversarial training: the gradient that moves the weights moves the samples, too."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from robustbench_lite.core.noise import Noise
from robustbench_lite.core.norms import GEOMETRIES, project
from robustbench_lite.core.parameters import Length, PositiveInt
from robustbench_lite.core.threat import Norm
from robustbench_lite.hardening.interface import Batch, Defense, Stage


@dataclass(frozen=True, kw_only=True)
class Free(Defense):
    """Every batch is learnt several times in a row; each pass back gives the next step of the weights and the samples.

    So an epoch costs ``replays`` plain ones, and as many epochs fewer are needed. Each batch starts from a uniform draw
    of the ball. (In the paper it starts from the changes of the batch before; a run that is resumed would have lost
    them.)

    References
    ----------
    Shafahi et al., *Adversarial training for free!*, NeurIPS 2019. https://arxiv.org/abs/1904.12843
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/1904.12843"
    norms: ClassVar[tuple[Norm, ...]] = ("Linf", "L2")

    replays: PositiveInt = 4
    """How often each batch is learnt in a row; the paper's m."""
    step: Length = 1.0
    """Length of a sample's step, as a share of eps."""

    def loss(self, batch: Batch, stage: Stage) -> Tensor:
        """Cross-entropy at the start of the replays."""
        return batch.cross_entropy(stage.target(self._start(batch, stage)))

    def update(self, batch: Batch, stage: Stage, optimizer: torch.optim.Optimizer) -> Tensor:
        norm, eps = stage.threat.norm, stage.threat.eps
        x, total = self._start(batch, stage), torch.zeros((), device=batch.x.device)
        for _ in range(self.replays):
            x.requires_grad_()
            loss = batch.cross_entropy(stage.target(x))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.detach()
            assert x.grad is not None
            x = project(x.detach() + self.step * eps * GEOMETRIES[norm].steepest(x.grad), batch.x, norm, eps)
        return total / self.replays

    def _start(self, batch: Batch, stage: Stage) -> Tensor:
        norm, eps = stage.threat.norm, stage.threat.eps
        noise = GEOMETRIES[norm].random(Noise(batch.draw_keys), tuple(batch.x.shape[1:]), eps)
        return project(batch.x + noise, batch.x, norm, eps)
