"""Structured pruning: whole channels are removed, so that the network is smaller and faster."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from robustbench_lite.attacking.ascent import perturb
from robustbench_lite.core import registry
from robustbench_lite.core.columns import Columns
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.extras import library
from robustbench_lite.core.parameters import PositiveInt
from robustbench_lite.core.threat import Norm
from robustbench_lite.defenses.compression.prune import Amount, refused, without_weights
from robustbench_lite.hardening.interface import Artifact, Context, Step, StepRecord
from robustbench_lite.model.changes import Resized, shape_of
from robustbench_lite.model.target import Target

_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class PruneChannels(Step):
    """Remove a share of the channels, with all that hangs on them, across the network; by torch-pruning.

    The layers that give the logits keep theirs. Fine-tune what is left adversarially in the next step.

    References
    ----------
    Fang et al., *DepGraph: towards any structural pruning*, CVPR 2023. https://arxiv.org/abs/2301.12900. The
    importance by a loss: Molchanov et al., CVPR 2019. https://arxiv.org/abs/1906.10771
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/2301.12900"
    norms: ClassVar[tuple[Norm, ...]] = ("Linf", "L2")

    amount: Amount = 0.5
    """Share of the channels that are removed."""
    by: Literal["loss", "magnitude"] = "loss"
    """Importance of a channel: how much the adversarial loss would change without it, by its gradient; or its norm."""
    samples: PositiveInt = 512
    """Training samples for the loss."""
    steps: PositiveInt = 10
    """Steps of the attack on them."""

    def unfit(self, artifact: Artifact) -> str | None:
        return without_weights(artifact) or super().unfit(artifact)

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        refused(self.unfit(artifact))
        tp = _torch_pruning()
        target = copy.deepcopy(artifact.target)
        module = target.module.eval()
        few = context.data.stratified(min(self.samples, len(context.data)), context.seed)
        x = few.fetch(range(len(few))).to(target.device, target.dtype)
        before = {name: shape for name, one in module.named_modules() if (shape := shape_of(one)) is not None}
        if self.by == "loss":
            self._backward(artifact, target, x, few.labels.to(target.device), few.columns)
        kind = tp.importance.GroupTaylorImportance if self.by == "loss" else tp.importance.GroupMagnitudeImportance
        try:
            tp.pruner.BasePruner(
                module,
                target.normalised(x[:2]),
                kind(),
                pruning_ratio=self.amount,
                global_pruning=True,
                max_pruning_ratio=max(self.amount, 0.95),  # of a layer: something must pass
                ignored_layers=[_last(module, target.normalised(x[:2]))],
            ).step()
            target.probe(x[:2])
        except UserError:
            raise
        except Exception as fault:  # whatever torch-pruning meets in the module
            raise UserError(
                f"{target.name}: torch-pruning can't remove its channels ({type(fault).__name__}: {fault}); sizes that "
                "are written in the forward pass, as in x.view(-1, 512), must be x.flatten(1)"
            ) from None
        module.zero_grad(set_to_none=True)
        after = {name: shape_of(module.get_submodule(name)) for name in before}
        shapes = {name: shape for name, shape in after.items() if shape is not None and shape != before[name]}
        if not shapes:
            raise UserError(
                f"{target.name}: torch-pruning found no channel to remove; raise amount (it is {self.amount:g}), or "
                "use prune, which removes single weights"
            )
        target.changes = (*target.changes, Resized(shapes=shapes))
        return artifact.after(target, StepRecord(name=context.name, params=dataclasses.asdict(self)))

    def _backward(self, artifact: Artifact, target: Target, x: Tensor, y: Tensor, columns: Columns | None) -> None:
        """Leave the gradient of the adversarial loss in the parameters."""
        attack = registry.build("attacks", "pgd", {"steps": self.steps})
        threat = artifact.threat.model_copy(update={"goal": "untargeted"})
        target.module.zero_grad(set_to_none=True)
        for rows in torch.split(torch.arange(len(x), device=x.device), _BATCH):
            with target.attacking():
                worst = perturb(attack, target, x[rows], y[rows], threat, rows, columns=columns)
            loss = F.cross_entropy(target(worst), y[rows], reduction="sum") / len(x)
            loss.backward()  # type: ignore[no-untyped-call]


def _last(module: nn.Module, x: Tensor) -> nn.Module:
    """The layer with weights that computes last."""
    seen: list[nn.Module] = []
    layers = [one for one in module.modules() if isinstance(one, nn.Linear | nn.modules.conv._ConvNd)]
    hooks = [layer.register_forward_hook(lambda one, *_: seen.append(one)) for layer in layers]
    with torch.no_grad():
        module(x)
    for hook in hooks:
        hook.remove()
    return seen[-1]


def _torch_pruning() -> Any:
    cure = "install robustbench_lite[compression]"
    return library("torch_pruning", "prune_channels", cure, name="torch-pruning")
