"""The one training loop.

A defense says which networks it trains and what each is to minimise. Everything else is here, once, from top to bottom:
stages, epochs, steps, the learning rate, the held-out accuracies that choose the weights, the checkpoint from which a
killed run goes on as if nothing had happened, the log.
"""

from __future__ import annotations

import copy
import json
import math
import os
import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from robustbench_lite.attacking import engine
from robustbench_lite.attacking import interface as stepper
from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.files import write_atomically
from robustbench_lite.core.noise import Noise
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.data.dataset import Data, check_inputs
from robustbench_lite.hardening.recipe import Schedule
from robustbench_lite.model.target import Target

CHECKPOINT_FILE = "checkpoint.pt"
LOG_FILE = "log.jsonl"

# The margin, because cross-entropy lets a network that only hides its gradient look robust; and few steps, as it is run
# after every epoch.
_HELD_OUT_ATTACK = ("pgd", {"steps": 10, "loss": "margin"})

_WARM_UP = 0.4  # share of the training in which `one_cycle` rises

Weights = dict[str, Any]


class Batch(NamedTuple):
    """Samples to train on."""

    x: Tensor
    """Inputs in [0, 1], shape (B, *shape)."""
    y: Tensor
    """Labels, shape (B,)."""
    draw_keys: Tensor
    """One int64 a sample, for its random draws in this epoch, shape (B,)."""


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


@dataclass(frozen=True, kw_only=True)
class Defense(ABC):
    """One way to harden, with its parameters: what the weights are to minimise.

    Subclass it as a frozen (pydantic) dataclass, one field a parameter. It keeps nothing between batches.
    """

    paper: ClassVar[str] = ""
    """URL of its source."""

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the networks it trains, one after the other, each from the given weights; the last is deployed."""
        return ("model",)

    @abstractmethod
    def loss(self, batch: Batch, stage: Stage) -> Tensor:
        """Mean loss over the batch, a scalar that can be differentiated with respect to ``stage.target``'s weights."""


class Epoch(NamedTuple):
    """A line of the log."""

    stage: str
    epoch: int
    """Counted from 1."""
    loss: float
    """Mean over the epoch's samples."""
    lr: float
    """Learning rate at the epoch's last step."""
    clean: float
    """Accuracy on the held-out samples."""
    robust: float
    """Share of the held-out samples that are right and withstand a short attack."""
    seconds: float


class TrainingProgress(NamedTuple):
    """Where the training stands, after each step."""

    stage: str
    epoch: int
    """Counted from 1, as is ``step``."""
    epochs: int
    step: int
    steps: int
    """Steps of an epoch."""
    loss: float
    """Of this step."""
    clean: float | None
    """Held-out accuracies after the stage's last epoch; None in its first."""
    robust: float | None


class Trained(NamedTuple):
    """What came out."""

    target: Target
    """The last stage's network, in evaluation mode."""
    log: tuple[Epoch, ...]


def train(
    target: Target,
    defense: Defense,
    schedule: Schedule,
    threat: ThreatModel,
    data: Data,
    held_out: Data,
    *,
    seed: int = 0,
    folder: Path | None = None,
    fingerprint: Mapping[str, str] | None = None,
    resume: bool = False,
    on_progress: Callable[[TrainingProgress], None] | None = None,
) -> Trained:
    """Train copies of a target as a defense asks.

    The same arguments give the same weights (to the bit, on the same CPU and number of threads), however often the run
    was killed and resumed. The state of torch's random generators is left as it was.

    Parameters
    ----------
    target
        Gives architecture, first weights and device; left as it is.
    defense, schedule
        What to minimise, for how long and how fast.
    threat
        The ball to withstand. A targeted threat model counts as untargeted: who withstands any wrong class withstands
        a given one.
    data, held_out
        Samples to train on, and others to measure the accuracies on after each epoch.
    seed
        Of the order of the samples and of all random draws.
    folder
        Where checkpoint and log are written after each epoch; None writes nothing.
    fingerprint
        What a resumed run must have in common with the one that wrote the checkpoint, by name.
    resume
        Go on from the checkpoint, where the folder holds one.
    on_progress
        Called after each step.

    Raises
    ------
    UserError
        For a checkpoint of another run, a network without trainable parameters, and a loss that is no longer finite
        (the last epoch's checkpoint stays).
    """
    threat = threat.model_copy(update={"goal": "untargeted"})
    state = _State(dict(fingerprint or {}))
    if folder is not None and resume and (folder / CHECKPOINT_FILE).is_file():
        state = _State.load(folder, state.fingerprint)
    loop = _Loop(defense, schedule, data, held_out, seed, folder, on_progress, state)
    trained: dict[str, Target] = {}
    for name in defense.stages:
        stage = Stage(name=name, target=copy.deepcopy(target), trained=dict(trained), threat=threat)
        if name not in state.trained:
            loop.train(stage)
        trained[name] = _deployed(stage.target, state.trained[name])
    return Trained(trained[defense.stages[-1]], tuple(state.log))


def learning_rate(schedule: Schedule, done: float) -> float:
    """Learning rate where a share ``done``, in [0, 1], of the training is behind.

    ``cosine`` falls from the peak to 0 along half a cosine; ``one_cycle`` rises from 0 to the peak in the first 40 %
    and falls back to 0, both linearly.
    """
    if schedule.decay == "cosine":
        return schedule.lr * (1 + math.cos(math.pi * done)) / 2
    if schedule.decay == "one_cycle":
        return schedule.lr * min(done / _WARM_UP, (1 - done) / (1 - _WARM_UP))
    return schedule.lr


@dataclass
class _State:
    """Where a training stands: what a checkpoint holds."""

    fingerprint: dict[str, str]
    trained: dict[str, Weights] = field(default_factory=dict)
    """Weights of the stages that are done."""
    log: list[Epoch] = field(default_factory=list)
    epoch: int = 0
    """Epochs done of the stage under way; the rest is about it too."""
    weights: Weights = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    kept: Weights = field(default_factory=dict)
    """Those of the epoch that would be deployed now."""
    score: tuple[float, float] = (-1.0, -1.0)
    """Robust and clean accuracy of that epoch."""

    def save(self, folder: Path) -> None:
        """Write log and checkpoint; a kill at any moment leaves a whole checkpoint, the old one or the new."""
        write_atomically(folder / LOG_FILE, "".join(json.dumps(line._asdict()) + "\n" for line in self.log))
        part = folder / f"{CHECKPOINT_FILE}.part"
        with part.open("wb") as stream:
            torch.save(vars(self) | {"log": [line._asdict() for line in self.log]}, stream)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(folder / CHECKPOINT_FILE)

    @classmethod
    def load(cls, folder: Path, fingerprint: dict[str, str]) -> _State:
        """Read a checkpoint of the same run; nothing in the file is executed."""
        path = folder / CHECKPOINT_FILE
        try:
            stored = torch.load(path, weights_only=True, map_location="cpu")
            state = cls(**stored | {"log": [Epoch(**line) for line in stored["log"]]})
        except Exception as fault:  # a damaged pickle can raise nearly anything
            raise UserError(f"{path}: can't be read as a checkpoint ({fault}); start again in another folder") from None
        names = sorted(state.fingerprint.keys() | fingerprint.keys())
        was, now = ([one.get(name, "not given") for name in names] for one in (state.fingerprint, fingerprint))
        if was != now:
            differ = [f"  {name}: was {a}, is {b}" for name, a, b in zip(names, was, now, strict=True) if a != b]
            raise UserError(
                "\n".join(
                    [f"{path}: belongs to a run with other settings; resume it with its own, or start another", *differ]
                )
            )
        return state

    def close(self, stage: str) -> None:
        """Take leave of a stage, and be ready for the next."""
        self.trained[stage] = self.kept
        self.epoch, self.score = 0, (-1.0, -1.0)
        self.weights, self.optimizer, self.kept = {}, {}, {}


class _Loop:
    """The training of each stage: epochs, and the steps of an epoch."""

    def __init__(
        self,
        defense: Defense,
        schedule: Schedule,
        data: Data,
        held_out: Data,
        seed: int,
        folder: Path | None,
        on_progress: Callable[[TrainingProgress], None] | None,
        state: _State,
    ) -> None:
        self.defense, self.schedule, self.data, self.held_out = defense, schedule, data, held_out
        self.seed, self.folder, self.on_progress, self.state = seed, folder, on_progress, state
        self.steps = math.ceil(len(data) / schedule.batch_size)
        name, params = _HELD_OUT_ATTACK
        self.attack: stepper.Attack = registry.build("attacks", name, params)

    def train(self, stage: Stage) -> None:
        """Train a stage to its end, from its checkpoint or from the given weights."""
        state, schedule, module = self.state, self.schedule, stage.target.module
        optimizer = _optimizer(stage.target, schedule)
        if state.epoch:
            module.load_state_dict(state.weights)
            optimizer.load_state_dict(state.optimizer)
        while state.epoch < schedule.epochs:
            started = time.perf_counter()
            key = zlib.crc32(f"{self.seed}|{stage.name}|{state.epoch}".encode())
            with _seeded(key, stage.target.device):
                loss, lr = self._epoch(stage, optimizer, key)
                clean, robust = self._accuracies(stage)
            state.epoch += 1
            state.log.append(Epoch(stage.name, state.epoch, loss, lr, clean, robust, time.perf_counter() - started))
            state.weights = copy.deepcopy(module.state_dict())
            state.optimizer = optimizer.state_dict()
            if schedule.keep == "last" or (robust, clean) >= state.score:
                state.kept, state.score = state.weights, (robust, clean)
            if self.folder is not None:
                state.save(self.folder)
        state.close(stage.name)

    def _epoch(self, stage: Stage, optimizer: torch.optim.Optimizer, key: int) -> tuple[float, float]:
        """Go once through the data; hand back the mean loss and the last learning rate."""
        stage.target.module.train()
        total, lr = 0.0, self.schedule.lr
        # Parts that differ by one sample at most: no last batch too small for batch statistics, and no sample left out.
        order = torch.randperm(len(self.data), generator=torch.Generator().manual_seed(key))
        for step, rows in enumerate(order.tensor_split(self.steps)):
            done = (self.state.epoch * self.steps + step + 0.5) / (self.schedule.epochs * self.steps)
            lr = learning_rate(self.schedule, done)
            for group in optimizer.param_groups:
                group["lr"] = lr
            loss = self._step(stage, optimizer, self._batch(rows, key, stage.target.device))
            total += loss * len(rows)
            self._tell(stage, step + 1, loss)
        return total / len(self.data), lr

    def _step(self, stage: Stage, optimizer: torch.optim.Optimizer, batch: Batch) -> float:
        try:
            loss = self.defense.loss(batch, stage)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
        except (RuntimeError, MemoryError) as fault:
            if not engine.out_of_memory(fault):
                raise
            raise UserError(
                f"memory runs out on a batch of {len(batch.x)}: give a smaller batch size (it is "
                f"{self.schedule.batch_size})"
            ) from fault
        value = loss.item()
        if not math.isfinite(value):
            raise self._diverged(stage, f"the loss is {value}")
        optimizer.step()
        return value

    def _batch(self, rows: Tensor, key: int, device: torch.device) -> Batch:
        x = self.data.fetch(rows)
        check_inputs(x, self.data.name)
        keys = Noise(self.data.index[rows]).at(key).keys
        return Batch(x.to(device), self.data.labels[rows].to(device), keys.to(device))

    def _accuracies(self, stage: Stage) -> tuple[float, float]:
        """Clean and robust accuracy on the held-out samples; the same draws in every epoch, so that epochs compare."""
        target, data, size = stage.target, self.held_out, self.schedule.batch_size
        with target.attacking(), torch.no_grad():
            rows = torch.arange(len(data))
            logits = torch.cat([target(data.fetch(part).to(target.device)).cpu() for part in torch.split(rows, size)])
        if not logits.isfinite().all():
            raise self._diverged(stage, "the logits are no longer finite")
        right = rows[logits.argmax(1) == data.labels]
        samples = engine.Samples(data, sample_keys=data.index, target_classes=data.labels)
        run = engine.run_attack(self.attack, target, samples, right.numpy(), stage.threat, batch_size=size)
        if run.stopped:  # the engine ends at Ctrl-C with what it has; a part of an accuracy is of no use here
            raise KeyboardInterrupt
        return len(right) / len(data), (len(right) - int(run.broken.sum())) / len(data)

    def _tell(self, stage: Stage, step: int, loss: float) -> None:
        if self.on_progress is None:
            return
        epoch = self.state.epoch
        clean, robust = (self.state.log[-1].clean, self.state.log[-1].robust) if epoch else (None, None)
        self.on_progress(
            TrainingProgress(stage.name, epoch + 1, self.schedule.epochs, step, self.steps, loss, clean, robust)
        )

    def _diverged(self, stage: Stage, what: str) -> UserError:
        lr, last = self.schedule.lr, self.state.log[-1:]
        kept = "".join(f" (the checkpoint of {one.stage} epoch {one.epoch} is kept)" for one in last if self.folder)
        return UserError(
            f"the training of the {stage.name} diverges: {what} in epoch {self.state.epoch + 1}, with a learning rate "
            f"of {lr:g}; start again with a smaller one, such as {lr / 10:g}{kept}"
        )


def _deployed(target: Target, weights: Weights) -> Target:
    target.module.load_state_dict(weights)
    target.module.eval()
    return target


def _optimizer(target: Target, schedule: Schedule) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in target.module.parameters() if parameter.requires_grad]
    if not parameters:
        raise UserError(f"{target.name}: has no parameter that requires a gradient, so there is nothing to train")
    if schedule.optimizer == "adam":
        return torch.optim.AdamW(parameters, lr=schedule.lr, weight_decay=schedule.weight_decay)
    return torch.optim.SGD(
        parameters,
        lr=schedule.lr,
        momentum=schedule.momentum,
        weight_decay=schedule.weight_decay,
        nesterov=schedule.momentum > 0,
    )


@contextmanager
def _seeded(key: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators, for dropout and the like; leave them as they were."""
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
        torch.default_generator.manual_seed(key)  # not torch.manual_seed: that would seed all other devices as well
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(key)
        yield
