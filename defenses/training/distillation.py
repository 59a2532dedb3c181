"""Defensive distillation: a defense that looks robust and isn't; kept as a warning, and as a test of attacks."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import Tensor

from robustbench_lite.core.parameters import Length
from robustbench_lite.hardening.interface import Batch, Defense, Stage


@dataclass(frozen=True, kw_only=True)
class Distillation(Defense):
    """A student learns a teacher's soft labels, both at temperature T, and is deployed at T = 1.

    There its logits are about T times larger than they would be: the softmax saturates, the gradient of the
    cross-entropy vanishes, and attacks that follow it fail. Attacks that don't, such as Carlini and Wagner's
    (https://arxiv.org/abs/1608.04644), break it as easily as an undefended network.

    References
    ----------
    Papernot et al., *Distillation as a defense to adversarial perturbations against deep neural networks*, S&P 2016.
    https://arxiv.org/abs/1511.04508
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/1511.04508"

    temperature: Length = 100.0
    """T, by which the logits are divided while training; the gradients of the weights shrink with it."""

    @property
    def stages(self) -> tuple[str, ...]:
        return ("teacher", "student")

    def loss(self, batch: Batch, stage: Stage) -> Tensor:
        logits = stage.target(batch.x) / self.temperature
        if stage.name == "teacher":
            return batch.cross_entropy(logits)
        with torch.no_grad():
            soft_labels = (stage.trained["teacher"](batch.x) / self.temperature).softmax(1)
        return F.cross_entropy(logits, soft_labels)
