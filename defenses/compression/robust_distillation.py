"""Robust distillation: a student, of another architecture where one is named, learns from a robust teacher."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from robustbench_lite.attacking.interface import Attack
from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.noise import Noise
from robustbench_lite.core.parameters import Length, PositiveInt, Share
from robustbench_lite.core.threat import Norm
from robustbench_lite.hardening.interface import Artifact, Batch, Context, Defense, Stage
from robustbench_lite.model.loading import load_target
from robustbench_lite.model.target import Target

_START = 0.001  # of the input's range, as in TRADES: at the input itself the divergence may have no slope


@dataclass(frozen=True, kw_only=True, config=ConfigDict(arbitrary_types_allowed=True))
class RobustDistillation(Defense):
    """Bring the student's predictions in the ball to those that the teacher makes at its centre.

    ``ard`` takes the student's worst point by cross-entropy with the label, and adds the student's clean
    cross-entropy. ``rslad`` knows no label: it takes the point where the student is farthest from the teacher, and the
    student's own distance from the teacher at the clean sample.

    References
    ----------
    Goldblum, Fowl, Feizi and Goldstein, *Adversarially robust distillation*, AAAI 2020.
    https://arxiv.org/abs/1905.09747. Zi, Zhao, Ma and Jiang, *Revisiting adversarial robustness distillation: robust
    soft labels make student better*, ICCV 2021. https://arxiv.org/abs/2108.07969
    """

    paper: ClassVar[str] = "https://arxiv.org/abs/2108.07969"
    norms: ClassVar[tuple[Norm, ...]] = ("Linf", "L2")

    teacher: str | Target = ""
    """A robust model, named as MODEL is, such as a folder that ``rblite harden`` wrote (in Python a `Target` as well);
    empty for the model that comes into the step, which then needs a student."""
    student: str = ""
    """The student, named as MODEL is; empty for the model that comes into the step."""
    method: Literal["rslad", "ard"] = "rslad"
    """Which of the two papers."""
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """By which the logits are divided in the distance from the teacher; of ``ard`` the paper's is 30 on CIFAR-10."""
    weight: Share = 5 / 6
    """Of the distance in the ball; the clean part has the rest. ``rslad``: 5/6, ``ard``: up to 1."""
    steps: PositiveInt = 10
    """Steps of the ascent on each batch."""
    step_size: Length | None = None
    """Length of a step, in the units of eps; by default ``2.5 * eps / steps``."""

    def unfit(self, artifact: Artifact) -> str | None:
        if not self.teacher and not self.student:
            return "has neither a teacher nor a student: name the robust teacher, the smaller student, or both"
        return super().unfit(artifact)

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        incoming = artifact.target
        student = self._named(self.student, incoming, context) if self.student else incoming
        teacher = self._named(self.teacher, incoming, context) if isinstance(self.teacher, str) else self.teacher
        first = context.data.fetch(range(min(2, len(context.data))))
        _sized(student, first, context.seed)
        if (ours := student.probe(first)) != (theirs := teacher.probe(first)):
            raise UserError(
                f"the teacher {teacher.name} tells {theirs} classes apart, the student {student.name} {ours}"
            )
        learning = dataclasses.replace(self, teacher=teacher)
        trained = context.train(learning, dataclasses.replace(artifact, target=student), context)
        told = {**dataclasses.asdict(dataclasses.replace(self, teacher="")), "teacher": teacher.name}
        return artifact.after(trained.target, dataclasses.replace(trained.records[-1], params=told))

    def _named(self, spec: str, incoming: Target, context: Context) -> Target:
        if not spec:
            return incoming
        return load_target(spec, classes=incoming.classes, device=str(incoming.device), seed=context.seed)

    def loss(self, batch: Batch, stage: Stage) -> Tensor:
        assert isinstance(self.teacher, Target)
        with self.teacher.attacking(), torch.no_grad():
            soft = self.teacher(batch.x)
        if self.method == "ard":
            clean = batch.cross_entropy(stage.target(batch.x))
            moved = stage.perturbed(self._attack, batch)
        else:
            clean = self._distance(stage.target(batch.x), soft)
            moved = self._farthest(batch, stage, soft)
        return self.weight * self._distance(stage.target(moved), soft) + (1 - self.weight) * clean

    def _distance(self, logits: Tensor, soft: Tensor) -> Tensor:
        """Kullback-Leibler divergence of the teacher's predictions from the student's, a scalar."""
        # Times T^2, so that the gradient keeps its size (Hinton, Vinyals and Dean 2015).
        return self.temperature**2 * _divergence(logits / self.temperature, soft / self.temperature).mean()

    @cached_property
    def _attack(self) -> Attack:
        """PGD: up the cross-entropy with the label, or up the divergence from the teacher."""
        own: dict[str, Any] = {} if self.method == "ard" else {"random_start": False, "loss": _away}
        found: Attack = registry.build("attacks", "pgd", {"steps": self.steps, "step_size": self.step_size, **own})
        return found

    def _farthest(self, batch: Batch, stage: Stage, soft: Tensor) -> Tensor:
        start = batch.x + _START * Noise(batch.draw_keys).normal(tuple(batch.x.shape[1:]))
        with stage.target.attacking():
            return stage.perturb(self._attack, batch, soft, start)


def _sized(student: Target, x: Tensor, seed: int) -> None:
    """Let layers that take their sizes from the first batch have one; their weights are drawn by the seed."""
    if any(map(nn.parameter.is_lazy, student.module.parameters())):
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            student.module(student.normalised(x.to(student.device)))


def _away(logits: Tensor, soft: Tensor, targeted: bool, rival: Tensor | None) -> Tensor:
    return _divergence(logits, soft)


def _divergence(logits: Tensor, soft: Tensor) -> Tensor:
    """Sum over the classes of ``p * (log p - log q)``, p the teacher's and q the student's, shape (B,)."""
    return F.kl_div(logits.log_softmax(1), soft.log_softmax(1), reduction="none", log_target=True).sum(1)
