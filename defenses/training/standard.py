"""Plain training: no defense, but the baseline that every defense is compared with."""

from __future__ import annotations

from pydantic.dataclasses import dataclass
from torch import Tensor

from robustbench_lite.hardening.interface import Batch, Defense, Stage


@dataclass(frozen=True, kw_only=True)
class Standard(Defense):
    """Cross-entropy on the clean samples."""

    def loss(self, batch: Batch, stage: Stage) -> Tensor:
        return batch.cross_entropy(stage.target(batch.x))
