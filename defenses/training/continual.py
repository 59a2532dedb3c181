"""Adversarial training on something new, without forgetting what was learnt before."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic.dataclasses import dataclass
from torch import Tensor

from robustbench_lite.attacking.interface import Attack
from robustbench_lite.core import registry
from robustbench_lite.core.parameters import Length, PositiveInt
from robustbench_lite.core.threat import Norm, ThreatModel
from robustbench_lite.hardening.interface import Artifact, Batch, Context, Defense, Stage
from robustbench_lite.hardening.rehearsal import rehearsal


@dataclass(frozen=True, kw_only=True)
class Continual(Defense):
    """PGD training on new data or under a new threat model, with rehearsal and distillation.

    A share of each batch (the schedule's ``extra_share``) is rehearsed: samples that the model's memory kept of earlier
    tasks, and what once broke them. Every batch is attacked under the new threat model and under those of the earlier
    tasks that it doesn't cover (their mean is learnt, after Tramèr and Boneh 2019). And what the model said before of
    the classes that it knew, it is to say again, under attack as well.

    References
    ----------
    Li and Hoiem, *Learning without forgetting*, ECCV 2016. https://arxiv.org/abs/1606.09282. Robust distillation:
    Goldblum et al., AAAI 2020. https://arxiv.org/abs/1905.09747. Several threat models: Tramèr and Boneh, NeurIPS 2019.
    https://arxiv.org/abs/1904.13000
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/1606.09282"
    norms: ClassVar[tuple[Norm, ...]] = ("Linf", "L2")
    rehearses: ClassVar[bool] = True

    steps: PositiveInt = 10
    """Steps of the attack on each batch."""
    step_size: Length | None = None
    """Length of a step, in the units of eps; by default ``2.5 * eps / steps``."""
    distill: Length = 1.0
    """Weight of the distillation."""
    temperature: Length = 2.0
    """By which the logits are divided for it."""
    corpus: str = ""
    """Folder of witnesses: those of the samples in the memory are rehearsed, too. Empty: none are."""
    known: tuple[int, ...] = ()
    """Classes that the model knew, found in its memory."""
    threats: tuple[str, ...] = ()
    """Threat models of the earlier tasks, found in its memory."""

    @cached_property
    def _attack(self) -> Attack:
        attack: Attack = registry.build("attacks", "pgd", {"steps": self.steps, "step_size": self.step_size})
        return attack

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        memory = context.memory
        assert memory is not None  # it was asked for, as the step rehearses
        threats = tuple(dict.fromkeys(str(task.threat) for task in memory.tasks))
        found = dataclasses.replace(self, known=memory.classes, threats=threats)
        return context.train(found, artifact, dataclasses.replace(context, extra=rehearsal(memory, self.corpus)))

    def loss(self, batch: Batch, stage: Stage) -> Tensor:
        threats = self._all(stage.threat)
        losses = [self._under(dataclasses.replace(stage, threat=threat), batch) for threat in threats]
        return torch.stack(losses).mean()

    def _under(self, stage: Stage, batch: Batch) -> Tensor:
        logits = stage.target(stage.perturbed(self._attack, batch))
        loss = batch.cross_entropy(logits)
        if self.distill and len(self.known) > 1 and stage.given is not None:
            loss = loss + self.distill * self._kept(logits, batch, stage)
        return loss

    def _kept(self, logits: Tensor, batch: Batch, stage: Stage) -> Tensor:
        """How far the predictions among the known classes are from what they were before, on clean samples."""
        assert stage.given is not None
        with stage.given.attacking(), torch.no_grad():
            before = stage.given(batch.x)
        known = torch.tensor(self.known, device=logits.device)
        now, then = (one[:, known] / self.temperature for one in (logits, before))
        divergence = F.kl_div(now.log_softmax(1), then.log_softmax(1), reduction="batchmean", log_target=True)
        return self.temperature**2 * divergence

    def _all(self, threat: ThreatModel) -> list[ThreatModel]:
        """The threat model, and those of the earlier tasks that it doesn't cover."""
        largest = {threat.norm: threat}
        for text in self.threats:
            other = ThreatModel.parse(text)
            if other.norm in self.norms and other.eps > getattr(largest.get(other.norm), "eps", 0.0):
                largest[other.norm] = other.model_copy(update={"goal": "untargeted"})
        return list(largest.values())
