"""Adversarial training with a single step from noise that leaves the ball."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import Tensor

from robustbench_lite.core.noise import Noise
from robustbench_lite.core.norms import GEOMETRIES
from robustbench_lite.core.parameters import Length
from robustbench_lite.core.threat import Norm
from robustbench_lite.hardening.interface import Batch, Defense, Stage


@dataclass(frozen=True, kw_only=True)
class NFGSM(Defense):
    """Cross-entropy one step away from noisy samples, with no projection onto the ball afterwards.

    The noise is larger than the ball, and what is learnt may be, too. That keeps the one step from being overfitted to
    at radii where FGSM-RS collapses, for the same two passes. Samples stay in [0, 1].

    References
    ----------
    de Jorge et al., *Make some noise: reliable and efficient single-step adversarial training*, NeurIPS 2022.
    https://arxiv.org/abs/2202.01181
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/2202.01181"
    norms: ClassVar[tuple[Norm, ...]] = ("Linf",)

    noise: Length = 2.0
    """Largest value of the noise, as a multiple of eps; the paper's k."""
    step: Length = 1.0
    """Length of the step, as a share of eps; the paper's alpha."""

    def loss(self, batch: Batch, stage: Stage) -> Tensor:
        moved = stage.once("n_fgsm", lambda: self._moved(batch, stage))
        return batch.cross_entropy(stage.target(moved))

    def _moved(self, batch: Batch, stage: Stage) -> Tensor:
        geometry, eps = GEOMETRIES[stage.threat.norm], stage.threat.eps
        noise = geometry.random(Noise(batch.draw_keys), tuple(batch.x.shape[1:]), self.noise * eps)
        x = (batch.x + noise).requires_grad_()
        (grad,) = torch.autograd.grad(F.cross_entropy(stage.target(x), batch.y, reduction="sum"), x)
        return (x.detach() + self.step * eps * geometry.steepest(grad)).clamp(0, 1)
