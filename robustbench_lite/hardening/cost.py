"""What a training costs: passes through the network that learns, and the measures that tell of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from robustbench_lite.hardening.checkpoint import Epoch
from robustbench_lite.results.ranking import TRAINING_PASSES, TRAINING_SECONDS
from robustbench_lite.results.scorecard import Measured


@dataclass
class Count:
    """Passes so far."""

    forward: int = 0
    """Samples that went forward."""
    backward: int = 0
    """Samples that went forward so that a gradient could be taken."""

    @property
    def total(self) -> int:
        """Forward and backward together."""
        return self.forward + self.backward


@contextmanager
def counted(module: nn.Module) -> Iterator[Count]:
    """Count the samples that go through a module inside the block, whoever asks it."""
    count = Count()

    def note(_: nn.Module, given: tuple[Any, ...]) -> None:
        samples = len(given[0])
        count.forward += samples
        count.backward += samples * torch.is_grad_enabled()

    hook = module.register_forward_pre_hook(note)
    try:
        yield count
    finally:
        hook.remove()


def training_cost(log: Sequence[Epoch]) -> tuple[Measured, ...]:
    """Passes and time of all epochs, as measures for a scorecard."""
    return (
        Measured(
            name=TRAINING_PASSES,
            value=float(sum(line.passes for line in log)),
            unit="passes",
            better="lower",
            definition="samples that went forward and backward to learn",
        ),
        Measured(
            name=TRAINING_SECONDS,
            value=sum(line.seconds for line in log),
            unit="s",
            better="lower",
            definition="wall-clock time of the epochs, with what is measured after each",
        ),
    )
