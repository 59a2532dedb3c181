"""What is measured while a model is trained: clean and robust accuracy on samples that it doesn't learn from."""

from __future__ import annotations

from typing import NamedTuple

import torch

from robustbench_lite.attacking.engine import RunOptions, run_attack
from robustbench_lite.attacking.interface import Attack
from robustbench_lite.attacking.record import Samples
from robustbench_lite.core import registry
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.data.dataset import Data
from robustbench_lite.model.target import Target

# The margin, because cross-entropy lets a network that only hides its gradient look robust; and few steps, as it is run
# after every epoch.
_ATTACK = ("pgd", {"steps": 10, "loss": "margin"})


class DivergedError(Exception):
    """The loss or the logits are no longer finite."""


class Accuracies(NamedTuple):
    """Counts of samples."""

    clean: int
    """Right."""
    robust: int
    """Right, and they withstand a short attack."""
    one_step: int | None
    """Right, and they withstand a single step; None where that wasn't asked."""
    total: int


class HeldOut:
    """Samples to measure on, with the attacks that do it."""

    def __init__(self, data: Data, batch_size: int) -> None:
        self.data, self.batch_size = data, batch_size
        name, params = _ATTACK
        self._several: Attack = registry.build("attacks", name, params)
        self._one: Attack = registry.build("attacks", "fgsm", {})

    def __len__(self) -> int:
        return len(self.data)

    def measure(self, target: Target, threat: ThreatModel, *, one_step: bool) -> Accuracies:
        """Ask a target. The draws are the same each time, so that epochs compare.

        Raises
        ------
        DivergedError
            For logits that aren't finite.
        KeyboardInterrupt
            At Ctrl-C: a part of an accuracy is of no use here.
        """
        data, size = self.data, self.batch_size
        with target.attacking(), torch.no_grad():
            rows = torch.arange(len(data))
            logits = torch.cat([target(data.fetch(part).to(target.device)).cpu() for part in torch.split(rows, size)])
        if not logits.isfinite().all():
            raise DivergedError("the logits are no longer finite")
        right = rows[logits.argmax(1) == data.labels]
        samples = Samples(data, sample_keys=data.index, target_classes=data.labels)
        withstood = []
        for attack in (self._several, self._one) if one_step else (self._several,):
            run = run_attack(attack, target, samples, right.numpy(), threat, RunOptions(batch_size=size))
            if run.stopped:  # the engine ends at Ctrl-C with what it has
                raise KeyboardInterrupt
            withstood.append(len(right) - int(run.broken.sum()))
        return Accuracies(len(right), withstood[0], withstood[1] if one_step else None, len(data))
