"""What a step of a recipe is: a target in, a target out; and a defense, which is a step that trains."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_lite.attacking.ascent import perturb
from robustbench_lite.attacking.interface import Attack
from robustbench_lite.core.columns import Columns
from robustbench_lite.core.threat import Norm, ThreatModel
from robustbench_lite.data.dataset import Data
from robustbench_lite.hardening.checkpoint import Checkpoint, Epoch, Kept
from robustbench_lite.hardening.cost import Count
from robustbench_lite.hardening.memory import Memory
from robustbench_lite.hardening.schedule import Schedule
from robustbench_lite.model.target import Target
from robustbench_lite.model.weights import WrapperFile
from robustbench_lite.model.wrapping import WrappedTarget, Wrapper
from robustbench_lite.results.scorecard import Measured


class Batch(NamedTuple):
    """Samples to train on."""

    x: Tensor
    """Inputs in [0, 1], shape (B, *shape)."""
    y: Tensor
    """Labels, shape (B,)."""
    draw_keys: Tensor
    """One int64 a sample, for its random draws in this epoch, shape (B,)."""
    targets: Tensor | None = None
    """Class probabilities to learn, shape (B, K), where the labels were smoothed or mixed; None: the labels."""

    def cross_entropy(self, logits: Tensor) -> Tensor:
        """Mean cross-entropy of logits, shape (B, K), with what is to be learnt, a scalar."""
        return F.cross_entropy(logits, self.y if self.targets is None else self.targets)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One of the networks that a defense trains, and what it may look at."""

    name: str
    """One of `Defense.stages`."""
    target: Target
    """The network, in training mode."""
    trained: Mapping[str, Target]
    """Those of the earlier stages, in evaluation mode."""
    threat: ThreatModel
    """The ball that the adversary may use."""
    grown: float = 1.0
    """Share of its eps that the ball has, in (0, 1], where it grows (`Schedule.eps_ramp`)."""
    given: Target | None = None
    """The network as the step got it, for those who look back; not to be changed."""
    found: dict[Hashable, Tensor] | None = None
    """What `once` found for the batch of the moment, where the loop asks for its loss more than once."""
    count: Count | None = None
    """The passes so far."""
    columns: Columns | None = None
    """Of a table: what the adversary may do to them."""

    def spend(self, samples: int) -> None:
        """Count samples that go through the layers, there and back, past the network's own forward, as bounds do."""
        if self.count is not None:
            self.count.forward += samples
            self.count.backward += samples

    def perturbed(self, attack: Attack, batch: Batch) -> Tensor:
        """Take every sample of a batch through all steps of an attack, with the network in evaluation mode.

        Batch statistics don't move while the attack is on its way, and its parameters get no gradient.

        Returns
        -------
        Tensor
            The last candidates, in ball and box, shape (B, *shape).
        """
        return self.once(attack, lambda: self.perturb(attack, batch, batch.y))

    def perturb(self, attack: Attack, batch: Batch, y: Tensor, start: Tensor | None = None) -> Tensor:
        """The same with the network in the mode that it is in; ``y`` and ``start`` are as in `perturb`."""
        x, keys = batch.x, batch.draw_keys
        return perturb(attack, self.target, x, y, self.threat, keys, start, self.columns)

    def once(self, key: Hashable, find: Callable[[], Tensor]) -> Tensor:
        """Find something with the network in evaluation mode, its parameters frozen: once a batch.

        Parameters
        ----------
        key
            What is found, among all that the step's loss looks for.
        find
            Finds it. Where the loop asks for the loss of a batch again, as with ``awp``, it isn't called again.
        """
        if self.found is not None and key in self.found:
            return self.found[key]
        with self.target.attacking():
            found = find()
        if self.found is not None:
            self.found[key] = found
        return found


class TrainingProgress(NamedTuple):
    """Where the training stands, after each batch."""

    stage: str
    epoch: int
    """Counted from 1, as is ``step``."""
    epochs: int
    step: int
    """Batches done in this epoch."""
    steps: int
    """Batches of an epoch."""
    loss: float
    """Of this batch."""
    clean: float | None
    """Held-out accuracies after the stage's last epoch; None in its first."""
    robust: float | None
    held_out: int | None = None
    """Samples that they are of."""


class Learnt(NamedTuple):
    """What going once through the data gave."""

    loss: float
    """Mean over the samples."""
    lr: float
    """Learning rate at the last batch."""
    passes: int
    """Samples that went forward and backward."""


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """What a step did, for those who read of it later."""

    name: str
    """Its name in the catalogue."""
    params: Mapping[str, Any] = field(default_factory=dict)
    log: tuple[Epoch, ...] = ()
    """One entry an epoch, where it trains."""
    kept: tuple[Kept, ...] = ()
    """Of each network that it trained, the epoch that was kept, and why."""
    notes: tuple[str, ...] = ()
    """What went wrong and was mended or must be known."""
    measures: tuple[Measured, ...] = ()
    """Numbers that it found on its way, for the scorecard afterwards."""


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """What goes from step to step: the target as it is now, and how it came to be."""

    target: Target
    threat: ThreatModel
    """What the target is to withstand."""
    records: tuple[StepRecord, ...] = ()
    """The steps so far, in order."""

    def after(self, target: Target, record: StepRecord) -> Artifact:
        """What a step hands on: its target, with its record added."""
        return dataclasses.replace(self, target=target, records=(*self.records, record))


@dataclass(frozen=True, kw_only=True)
class Context:
    """What a step may use beside the artifact."""

    name: str
    """The step's name in the catalogue."""
    place: str
    """The step's own place in the checkpoint: its position in the recipe and its name."""
    data: Data
    """Samples to train on."""
    held_out: Data
    """Samples to measure on; none of them is trained on."""
    schedule: Schedule
    """Of a step that trains."""
    train: Callable[[Defense, Artifact, Context], Artifact]
    """The one training loop."""
    extra: Data | None = None
    """Samples that fill a share of each batch, as the schedule has it."""
    memory: Memory | None = None
    """What the model keeps of earlier tasks; there is one where the step `rehearses`."""
    seed: int = 0
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    on_progress: Callable[[TrainingProgress], None] | None = None
    learn: Callable[[Stage, int], Learnt] | None = None
    """Goes once through the data in the loop's place, given the epochs done: as the clients of a federation do. It
    moves the stage's weights; the loop measures, keeps and resumes."""


@dataclass(frozen=True, kw_only=True)
class Step(ABC):
    """Something that is done to a model, with its parameters: a target in, a target out.

    Subclass it as a frozen (pydantic) dataclass, one field a parameter. A killed run is resumed by running its steps
    again: so the same arguments must give the same target, and what takes long keeps its state in the checkpoint, as
    every defense does.
    """

    paper: ClassVar[str] = ""
    """URL of its source."""
    norms: ClassVar[tuple[Norm, ...]] = ()
    """Norms of the balls that it can work with; empty where it uses no ball, so that any will do."""
    trains: ClassVar[bool] = False
    """Whether it goes by a schedule."""
    rehearses: ClassVar[bool] = False
    """Whether it needs the model's memory of earlier tasks, and fills a share of each batch from it."""

    def unfit(self, artifact: Artifact) -> str | None:
        """Say why it can't be run on an artifact; None where it can.

        Every step of a recipe is asked before any is run. So the target is the one that the recipe starts from, and
        the records tell no more than the names and the parameters of the steps before.
        """
        if self.norms and artifact.threat.norm not in self.norms:
            return f"can't be run under {artifact.threat}: it does {', '.join(self.norms)}"
        return None

    @abstractmethod
    def run(self, artifact: Artifact, context: Context) -> Artifact:
        """Do it to a copy, and hand back ``artifact.after(target, record)``."""


@dataclass(frozen=True, kw_only=True)
class Defense(Step):
    """A step that trains: it says what the weights are to minimise, and the one loop does the rest.

    It keeps nothing between batches.
    """

    trains: ClassVar[bool] = True

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the networks it trains, one after the other, each from the given weights; the last is deployed."""
        return ("model",)

    @abstractmethod
    def loss(self, batch: Batch, stage: Stage) -> Tensor:
        """Mean loss over the batch, a scalar that can be differentiated with respect to ``stage.target``'s weights."""

    def update(self, batch: Batch, stage: Stage, optimizer: torch.optim.Optimizer) -> Tensor:
        """Learn from a batch: by default one step of the optimizer down the gradient of `loss`.

        Returns
        -------
        Tensor
            The loss, a scalar. Where it isn't finite, the loop ends the training.
        """
        loss = self.loss(batch, stage)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.detach()

    def unfit(self, artifact: Artifact) -> str | None:
        if artifact.target.access != "gradients":
            return f"{artifact.target.name} is a function of arrays and can't be trained: give a torch.nn.Module"
        return super().unfit(artifact)

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        return context.train(self, artifact, context)


@dataclass(frozen=True, kw_only=True)
class WrappingStep(Step):
    """A step that changes what happens at inference: it says what is put around the target.

    The saved folder keeps its name and its parameters, by which it is made again.
    """

    @abstractmethod
    def wrapper(self, inner: Target) -> Wrapper:
        """The module that answers in the target's place."""

    def wrap(self, target: Target, name: str) -> WrappedTarget:
        """Put it around a target; ``name`` is the step's own in the catalogue."""
        return WrappedTarget(self.wrapper(target), WrapperFile(name=name, params=dataclasses.asdict(self)))

    def unfit(self, artifact: Artifact) -> str | None:
        if artifact.target.access != "gradients":
            return f"{artifact.target.name} is a function of arrays and can't be wrapped: give a torch.nn.Module"
        return super().unfit(artifact)

    def run(self, artifact: Artifact, context: Context) -> Artifact:
        record = StepRecord(name=context.name, params=dataclasses.asdict(self))
        return artifact.after(self.wrap(artifact.target, context.name), record)
