"""Pruning by learnt scores: which weights are kept is learnt under the adversarial loss."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any, ClassVar

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn.utils import parametrize

from robustbench_lite.defenses.compression.prune import Amount, emptied, largest, refused, weights_of, without_weights
from robustbench_lite.defenses.training.pgd_training import PGDTraining
from robustbench_lite.hardening.interface import Artifact, Context


@dataclass(frozen=True, kw_only=True)
class PruneLearnt(PGDTraining):  # type: ignore[misc]  # the rooms are Any to mypy
    """Learn a score for every weight by adversarial training, with the weights themselves frozen; keep the best.

    In every pass the weights of the largest scores are used and the others are zero; the gradient reaches all scores,
    straight through that choice. Every layer loses the same share. Scores start as the weights' magnitudes, of unit
    size in each layer. Fine-tune what is left adversarially in the next step.

    References
    ----------
    Sehwag, Wang, Mittal and Jana, *HYDRA: pruning adversarially robust neural networks*, NeurIPS 2020.
    https://arxiv.org/abs/2002.10509
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/2002.10509"

    amount: Amount = 0.9
    """Share of each layer's weights that are zero afterwards."""

    def unfit(self, artifact: Artifact) -> str | None:
        reason: str | None = without_weights(artifact) or super().unfit(artifact)
        return reason

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        refused(self.unfit(artifact))
        scored = copy.deepcopy(artifact.target)
        module = scored.module
        trainable = {name: one.requires_grad for name, one in module.named_parameters()}
        weights: dict[str, Tensor] = dict(weights_of(module))
        names = tuple(weights)
        module.requires_grad_(False)
        for name in names:
            layer = module.get_submodule(name.rpartition(".")[0])
            parametrize.register_parametrization(layer, "weight", _Scored(weights[name], self.amount))
        trained = context.train(self, dataclasses.replace(artifact, target=scored), context)
        target, record = trained.target, trained.records[-1]
        for name in names:
            layer = target.module.get_submodule(name.rpartition(".")[0])
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
        for name, one in target.module.named_parameters():
            one.requires_grad_(trainable[name])
        target.sparse = names
        notes = (*record.notes, *emptied(weights_of(target.module)))
        return artifact.after(target, dataclasses.replace(record, notes=notes))


class _Choice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, amount: float) -> Tensor:
        mask: Tensor = largest([scores.abs()], amount)[0]
        return mask

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class _Scored(nn.Module):
    """A weight of which only the part with the largest scores is used."""

    def __init__(self, weight: Tensor, amount: float) -> None:
        super().__init__()
        self.amount = amount
        self.scores = nn.Parameter(weight.detach() / weight.detach().abs().max().clamp_min(1e-12))

    def forward(self, weight: Tensor) -> Tensor:
        mask: Tensor = _Choice.apply(self.scores, self.amount)
        return weight * mask
