"""Training a supernet by the one training loop: weights and choices in turn, both against the adversary."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_lite.hardening.interface import Batch, Defense, Stage
from robustbench_lite.model.architectures.supernet import Choices, Supernet


@dataclass(frozen=True, kw_only=True)
class SupernetTraining(Defense):
    """The bilevel problem of DARTS, to first order, with the loss of a defense in the place of the clean one.

    Of each batch one half moves the choices, and then the other half the weights. The loop deals the halves from two
    sets of samples (`Mixture`), so that no sample is ever in both: the choices are made on samples that the weights
    have not learnt.

    References
    ----------
    Liu, Simonyan and Yang, *DARTS: differentiable architecture search*, ICLR 2019. https://arxiv.org/abs/1806.09055
    Dong and Yang, *Searching for a robust neural architecture in four GPU hours*, CVPR 2019.
    https://arxiv.org/abs/1910.04465
    """

    inner: Defense
    """Whose loss it is: one that learns once from a batch."""
    rate: float
    """Of the choices, by Adam: the most that a logit moves at a step."""
    drawn: bool = False
    """Whether a batch goes through one operation of each edge, drawn by its probability (GDAS), not through all."""
    seed: int = 0
    """Of what is drawn."""

    def loss(self, batch: Batch, stage: Stage) -> Tensor:
        """The defense's own."""
        return self.inner.loss(batch, stage)

    def update(self, batch: Batch, stage: Stage, optimizer: torch.optim.Optimizer) -> Tensor:
        module = stage.target.module
        assert isinstance(module, Supernet)
        own, other = halves(batch)
        with self._chosen(module.choices, "choices"), module.choices.followed() as logits:
            loss = self.loss(other, stage)
            gradients = torch.autograd.grad(loss, logits, allow_unused=True, materialize_grads=True)
        module.choices.descend(gradients, self.rate)
        with self._chosen(module.choices, "weights"):
            return super().update(own, stage, optimizer)

    @contextmanager
    def _chosen(self, choices: Choices, whose: str) -> Iterator[None]:
        """Draw the operations for the batch inside, its attack included, or leave them mixed."""
        if not self.drawn:
            yield
            return
        step = int(choices.get_buffer("steps"))  # kept in a checkpoint, so that a resumed training draws the same
        with choices.drawn(zlib.crc32(f"{whose}|{self.seed}|{step}".encode())):
            yield


def halves(batch: Batch) -> tuple[Batch, Batch]:
    """Samples of the loop's own, and as many of the others that stand behind them."""
    middle = len(batch.x) // 2

    def part(rows: slice) -> Batch:
        targets = None if batch.targets is None else batch.targets[rows]
        return Batch(batch.x[rows], batch.y[rows], batch.draw_keys[rows], targets)

    return part(slice(middle)), part(slice(middle, None))
