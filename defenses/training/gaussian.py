"""Training under Gaussian noise, for a network that is to be smoothed."""

from __future__ import annotations

from typing import ClassVar

from pydantic.dataclasses import dataclass
from torch import Tensor

from robustbench_lite.core.noise import Noise
from robustbench_lite.core.parameters import Length
from robustbench_lite.hardening.interface import Batch, Defense, Stage


@dataclass(frozen=True, kw_only=True)
class Gaussian(Defense):
    """Cross-entropy on samples with Gaussian noise added; they are not clipped to [0, 1].

    A network that is right under the noise of `smoothing` is what randomized smoothing needs. By itself it is no
    defense.

    References
    ----------
    Cohen, Rosenfeld and Kolter, *Certified adversarial robustness via randomized smoothing*, ICML 2019.
    https://arxiv.org/abs/1902.02918
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/1902.02918"

    sigma: Length = 0.25
    """Standard deviation of the noise in every value of the input; that of the smoothing to come."""

    def loss(self, batch: Batch, stage: Stage) -> Tensor:
        noise = Noise(batch.draw_keys).normal(tuple(batch.x.shape[1:])).to(batch.x)
        return batch.cross_entropy(stage.target(batch.x + self.sigma * noise))
