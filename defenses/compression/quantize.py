"""Quantisation: weights as integers and activations of 8 bits, after training or learnt in it."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from robustbench_lite.core.errors import UserError
from robustbench_lite.core.parameters import PositiveInt
from robustbench_lite.defenses.compression.prune import refused
from robustbench_lite.defenses.training.pgd_training import PGDTraining
from robustbench_lite.hardening.interface import Artifact, Context, Step, StepRecord
from robustbench_lite.model.changes import InIntegers, replace
from robustbench_lite.model.quantized import Quantizing, quantizable, quantized
from robustbench_lite.model.target import Target
from robustbench_lite.model.wrapping import WrappedTarget

Ranges = dict[str, tuple[float, float]]
_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Quantize(Step):
    """Make the weights of linear layers and convolutions integers, by channel, and round what goes into them.

    The ranges of the activations are the smallest and the largest value on samples of the training data. The network
    keeps a gradient, straight through the rounding, so white-box attacks are run on the quantised network itself. A
    batch norm behind a layer is not folded into it: with a scale for each channel, that gives the same integers.

    References
    ----------
    Jacob et al., *Quantization and training of neural networks for efficient integer-arithmetic-only inference*, CVPR
    2018. https://arxiv.org/abs/1712.05877
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/1712.05877"

    bits: Literal[8, 4] = 8
    """Of a weight."""
    activations: bool = True
    """Whether what goes into a layer is rounded to 8 bits, too."""
    samples: PositiveInt = 512
    """Training samples for the ranges."""

    def unfit(self, artifact: Artifact) -> str | None:
        return not_quantizable(artifact) or super().unfit(artifact)

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        refused(self.unfit(artifact))
        target = copy.deepcopy(artifact.target)
        ranges = ranges_of(target, context, self.samples)
        in_integers(target, self.bits, ranges if self.activations else None)
        return artifact.after(target, StepRecord(name=context.name, params=dataclasses.asdict(self)))


@dataclass(frozen=True, kw_only=True)
class QuantizeTraining(PGDTraining):  # type: ignore[misc]  # the rooms are Any to mypy
    """Train adversarially with weights and activations that are rounded as they will be; then make them integers.

    The gradient passes the rounding. The ranges of the activations are taken before, as in `quantize`, and stay.

    References
    ----------
    Jacob et al., CVPR 2018. https://arxiv.org/abs/1712.05877
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/1712.05877"

    bits: Literal[8, 4] = 8
    """Of a weight."""
    activations: bool = True
    """Whether what goes into a layer is rounded to 8 bits, too."""
    samples: PositiveInt = 512
    """Training samples for the ranges."""

    def unfit(self, artifact: Artifact) -> str | None:
        return not_quantizable(artifact) or super().unfit(artifact)

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        refused(self.unfit(artifact))
        learning = copy.deepcopy(artifact.target)
        ranges = ranges_of(learning, context, self.samples)
        for name, layer in list(quantizable(learning.module)):
            replace(learning.module, name, Quantizing(layer, self.bits, ranges[name] if self.activations else None))
        trained = context.train(self, dataclasses.replace(artifact, target=learning), context)
        target = trained.target
        for name in ranges:
            layer = target.module.get_submodule(name)
            assert isinstance(layer, Quantizing)
            replace(target.module, name, layer.layer)
        in_integers(target, self.bits, ranges if self.activations else None)
        return artifact.after(target, trained.records[-1])


def in_integers(target: Target, bits: int, ranges: Ranges | None) -> None:
    """Put layers of integers in the place of those of floats, and note it for the saved folder."""
    names = []
    for name, layer in list(quantizable(target.module)):
        replace(target.module, name, quantized(layer, bits, None if ranges is None else ranges[name]))
        names.append(name)
    target.module.eval()
    target.sparse = ()
    target.changes = (
        *target.changes,
        InIntegers(layers=tuple(names), bits=bits, activations=ranges is not None),
    )


def ranges_of(target: Target, context: Context, samples: int) -> Ranges:
    """Smallest and largest value that goes into each layer, on samples of the training data."""
    few = context.data.stratified(min(samples, len(context.data)), context.seed)
    found: Ranges = {}
    with target.attacking(), torch.no_grad(), _watched(target.module, found):
        for rows in torch.split(torch.arange(len(few)), _BATCH):
            target(few.fetch(rows))
    if missing := [name for name, _ in quantizable(target.module) if name not in found]:
        raise UserError(f"{target.name}: its layers {', '.join(missing)} aren't used in a forward pass; take them out")
    return found


@contextmanager
def _watched(module: nn.Module, found: Ranges) -> Iterator[None]:
    def watch(name: str) -> object:
        def see(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            low, high = float(given[0].min()), float(given[0].max())
            before = found.get(name, (low, high))
            found[name] = min(low, before[0]), max(high, before[1])

        return see

    hooks = [layer.register_forward_pre_hook(watch(name)) for name, layer in quantizable(module)]  # type: ignore[arg-type]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def not_quantizable(artifact: Artifact) -> str | None:
    """Say why a target can't be quantised; None where it can."""
    target = artifact.target
    if target.access != "gradients" or target.predictor.opaque:
        return f"{target.name} is no PyTorch module and can't be quantised"
    if isinstance(target, WrappedTarget):
        return f"{target.name} is wrapped: put this step before those that wrap"
    if any(isinstance(change, InIntegers) for change in target.changes) or any(
        record.name in ("quantize", "quantize_training") for record in artifact.records
    ):
        return f"{target.name} is quantised already"
    if not any(True for _ in quantizable(target.module)):
        return f"{target.name} has neither linear layers nor convolutions of images within it: nothing to quantise"
    return None
