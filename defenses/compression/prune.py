"""Pruning by magnitude: the weights that are nearest to zero become zero."""

from __future__ import annotations

import copy
import dataclasses
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from robustbench_lite.core.errors import UserError
from robustbench_lite.hardening.interface import Artifact, Context, Step, StepRecord
from robustbench_lite.model.wrapping import WrappedTarget

Amount = Annotated[float, Field(gt=0, lt=1)]
"""A share that is neither nothing nor all."""


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """Weights of the linear layers and the convolutions, by name."""
    return {
        f"{name}.weight" if name else "weight": layer.weight
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd)
    }


@dataclass(frozen=True, kw_only=True)
class Prune(Step):
    """Set a share of the weights of linear layers and convolutions to zero: those of the smallest magnitude.

    What is zero stays so in the steps that follow: fine-tune it adversarially in the next one. Several of them in turn,
    with growing shares, make a gradual schedule. The file doesn't become smaller: that takes a format of sparse
    tensors, or `prune_channels`.

    References
    ----------
    Han, Pool, Tran and Dally, *Learning both weights and connections for efficient neural networks*, NeurIPS 2015.
    https://arxiv.org/abs/1506.02626
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/1506.02626"

    amount: Amount = 0.9
    """Share of the weights that are zero afterwards, those that were so before included."""
    across: Literal["network", "layer"] = "network"
    """Whether magnitudes are compared across the network, or every layer loses the same share."""

    def unfit(self, artifact: Artifact) -> str | None:
        return without_weights(artifact) or super().unfit(artifact)

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        refused(self.unfit(artifact))
        target = copy.deepcopy(artifact.target)
        weights = weights_of(target.module)
        if self.across == "network":
            masks = largest([weight.abs() for weight in weights.values()], self.amount)
        else:
            masks = [largest([weight.abs()], self.amount)[0] for weight in weights.values()]
        with torch.no_grad():
            for weight, mask in zip(weights.values(), masks, strict=True):
                weight.mul_(mask)
        target.sparse = tuple(weights)
        record = StepRecord(name=context.name, params=dataclasses.asdict(self), notes=emptied(weights))
        return artifact.after(target, record)


def largest(values: list[Tensor], amount: float) -> list[Tensor]:
    """Masks, 1 and 0, of all but a share of the values, those that are smallest; in each the shape of its values."""
    flat = torch.cat([one.detach().flatten() for one in values])
    mask = torch.ones_like(flat)
    mask[flat.argsort()[: round(amount * len(flat))]] = 0
    parts = torch.split(mask, [one.numel() for one in values])
    return [part.view_as(like) for part, like in zip(parts, values, strict=True)]


def emptied(weights: dict[str, Tensor]) -> tuple[str, ...]:
    """What must be told: layers of which nothing is left."""
    gone = [name for name, weight in weights.items() if not bool(weight.any())]
    return (f"all weights of {', '.join(gone)} were pruned: nothing passes; prune less, or by layer",) if gone else ()


def refused(why: str | None) -> None:
    """Refuse what can't be compressed: a step before may have made it so."""
    if why:
        raise UserError(why)


def without_weights(artifact: Artifact) -> str | None:
    """Say why a target can't be pruned; None where it can."""
    if artifact.target.access != "gradients" or artifact.target.predictor.opaque:
        return f"{artifact.target.name} is no PyTorch module and can't be pruned"
    if isinstance(artifact.target, WrappedTarget):
        return f"{artifact.target.name} is wrapped: put this step before those that wrap"
    if not weights_of(artifact.target.module):
        return f"{artifact.target.name} has neither linear layers nor convolutions: there is nothing to prune"
    return None
