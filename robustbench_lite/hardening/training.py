"""The one training loop.

A defense says which networks it trains and what each is to minimise. Everything else is here, once, from top to bottom:
stages, epochs, batches, the learning rate, the held-out accuracies that choose the weights, and the checkpoint from
which a killed run goes on as if nothing had happened.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from robustbench_lite.attacking.engine import RunOptions, run_attack
from robustbench_lite.attacking.interface import Attack
from robustbench_lite.attacking.record import Samples
from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError, out_of_memory
from robustbench_lite.core.noise import Noise
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.data.dataset import Data
from robustbench_lite.hardening.augment import Augment
from robustbench_lite.hardening.checkpoint import CHECKPOINT_FILE as CHECKPOINT_FILE
from robustbench_lite.hardening.checkpoint import LOG_FILE as LOG_FILE
from robustbench_lite.hardening.checkpoint import Checkpoint, Epoch, Kept, Weights
from robustbench_lite.hardening.choice import at_chance, better, collapsed, why_kept
from robustbench_lite.hardening.cost import counted
from robustbench_lite.hardening.interface import Artifact, Batch, Context, Defense, Stage, StepRecord, TrainingProgress
from robustbench_lite.hardening.mixture import Dealt, Mixture
from robustbench_lite.hardening.modifiers import Average, grown, make_optimizer, perturbed_weights, stay_zero
from robustbench_lite.hardening.schedule import Schedule
from robustbench_lite.hardening.schedule import learning_rate as learning_rate
from robustbench_lite.hardening.transfer import freezing, frozen_names, train_mode
from robustbench_lite.model.target import Target

# The margin, because cross-entropy lets a network that only hides its gradient look robust; and few steps, as it is run
# after every epoch.
_HELD_OUT_ATTACK = ("pgd", {"steps": 10, "loss": "margin"})

_FIRST_EPOCHS = 3  # after which a network that learns at all is above chance


class Trained(NamedTuple):
    """What came out."""

    target: Target
    """The last stage's network, in evaluation mode."""
    log: tuple[Epoch, ...]
    kept: tuple[Kept, ...]
    """Of each stage, the epoch that was kept, and why."""
    notes: tuple[str, ...]
    """What went wrong: a collapse or a divergence that was rolled back, a network that never learnt."""


class _DivergedError(Exception):
    """The loss or the logits are no longer finite."""


def train(
    target: Target,
    defense: Defense,
    schedule: Schedule,
    threat: ThreatModel,
    data: Data | Mixture,
    held_out: Data,
    *,
    seed: int = 0,
    place: str = "1",
    checkpoint: Checkpoint | None = None,
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
        Samples to train on, with others mixed into each batch where it is a `Mixture`; and samples to measure the
        accuracies on after each epoch.
    seed
        Of the order of the samples and of all random draws.
    place
        Of this training among those that share the checkpoint.
    checkpoint
        Where to go on; it is written after each epoch. By default a new one that is kept in memory alone.
    on_progress
        Called after each batch.

    Raises
    ------
    UserError
        For a threat model that the defense isn't made for, a network without trainable parameters, and a loss that is
        no longer finite in the first epoch. Later the training ends with the weights that are kept.
    """
    threat = threat.model_copy(update={"goal": "untargeted"})
    if fault := defense.unfit(Artifact(target=target, threat=threat)):
        raise UserError(f"{type(defense).__name__}: {fault}")
    if fault := unfit_schedule(defense, schedule):
        raise UserError(f"{type(defense).__name__}: {fault}")
    checkpoint = checkpoint or Checkpoint()
    mixture = data if isinstance(data, Mixture) else Mixture(own=data)
    loop = _Loop(defense, schedule, mixture, held_out, seed, place, checkpoint, on_progress)
    trained: dict[str, Target] = {}
    for name in defense.stages:
        stage = Stage(name=name, target=copy.deepcopy(target), trained=dict(trained), threat=threat, given=target)
        if f"{place}/{name}" not in checkpoint.done:
            logits = target.classes or target.probe(loop.data.own.fetch([0]))
            with freezing(stage.target.module, frozen_names(stage.target.module, schedule.freeze, logits)):
                loop.train(stage)
        trained[name] = _deployed(stage.target, checkpoint.done[f"{place}/{name}"].weights)
    log = tuple(line for line in checkpoint.log if line.step == place)
    done = [checkpoint.done[f"{place}/{name}"] for name in defense.stages]
    notes = tuple(note for one in done for note in one.notes)
    return Trained(trained[defense.stages[-1]], log, tuple(one.kept for one in done), notes)


def unfit_schedule(defense: Defense, schedule: Schedule) -> str | None:
    """Say why a defense can't be trained by a schedule; None where it can."""
    if schedule.awp and type(defense).update is not Defense.update:
        return "learns more than once from a batch, so awp doesn't go with it: set awp to 0"
    return None


def train_step(defense: Defense, artifact: Artifact, context: Context) -> Artifact:
    """Train what the steps before have made, as a defense asks; see `train`."""
    trained = train(
        artifact.target,
        defense,
        context.schedule,
        artifact.threat,
        Mixture(own=context.data, extra=context.extra, share=context.schedule.extra_share),
        context.held_out,
        seed=context.seed,
        place=context.place,
        checkpoint=context.checkpoint,
        on_progress=context.on_progress,
    )
    record = StepRecord(
        name=context.name,
        params=dataclasses.asdict(defense),
        log=trained.log,
        kept=trained.kept,
        notes=trained.notes,
    )
    return artifact.after(trained.target, record)


class _Loop:
    """The training of each stage: epochs, and the batches of an epoch."""

    def __init__(
        self,
        defense: Defense,
        schedule: Schedule,
        data: Mixture,
        held_out: Data,
        seed: int,
        place: str,
        checkpoint: Checkpoint,
        on_progress: Callable[[TrainingProgress], None] | None,
    ) -> None:
        self.defense, self.schedule, self.data, self.held_out = defense, schedule, data, held_out
        self.seed, self.place, self.checkpoint, self.on_progress = seed, place, checkpoint, on_progress
        self.steps = data.batches(schedule.batch_size)
        self.augment: Augment | None = None
        name, params = _HELD_OUT_ATTACK
        self.attack: Attack = registry.build("attacks", name, params)
        self.one_step: Attack = registry.build("attacks", "fgsm", {})

    def train(self, stage: Stage) -> None:
        """Train a stage to its end, from its checkpoint or from the given weights."""
        if self.schedule.augment or self.schedule.label_smoothing:
            classes = stage.target.classes or stage.target.probe(self.data.own.fetch([0]))
            self.augment = Augment(self.schedule.augment, self.schedule.label_smoothing, classes)
        state, schedule, module = self.checkpoint.state, self.schedule, stage.target.module
        optimizer, deployed, average = make_optimizer(stage.target, schedule), stage.target, None
        stay_zero(stage.target, optimizer)
        if state.epoch:
            module.load_state_dict(state.weights)
            optimizer.load_state_dict(state.optimizer)
        if schedule.average:
            average, deployed = (
                Average(module, schedule.average, state.average, state.updates),
                copy.deepcopy(stage.target),
            )
            optimizer.register_step_post_hook(lambda *_: average.update())
        while state.epoch < schedule.epochs and not state.ended:
            started = time.perf_counter()
            key = zlib.crc32(f"{self.seed}|{stage.name}|{state.epoch}".encode())
            try:
                with _seeded(key, stage.target.device):
                    with counted(module) as count:
                        loss, lr = self._epoch(stage, optimizer, key)
                    if average is not None:
                        deployed.module.load_state_dict(average.weights)
                    clean, robust, one_step = self._accuracies(dataclasses.replace(stage, target=deployed))
            except _DivergedError as fault:
                state.ended = self._diverged(stage, str(fault))
                self.checkpoint.save()
                break
            state.epoch += 1
            seconds = time.perf_counter() - started
            line = Epoch(
                self.place, stage.name, state.epoch, loss, lr, clean, robust, one_step, seconds, passes=count.total
            )
            state.weights = copy.deepcopy(module.state_dict())
            state.optimizer = optimizer.state_dict()
            if average is not None:
                state.average, state.updates = copy.deepcopy(average.weights), average.updates
            self._take_in(stage, line)
            self.checkpoint.save()
        self._close(stage)

    def _take_in(self, stage: Stage, line: Epoch) -> None:
        """Add an epoch to the log, keep its weights where it is the best so far, and see whether all is well."""
        state, samples = self.checkpoint.state, len(self.held_out)
        before = self._epochs(stage)
        # Who always gives the same answer is right by chance, and withstands everything.
        best = max((one.robust for one in before if not self._at_chance(one)), default=0.0)
        if collapsed(line, best, samples) and collapsed(before[-1], best, samples):  # of one epoch alone it may recover
            state.ended = (
                f"the {stage.name} collapsed in epoch {line.epoch}: {line.one_step:.1%} withstand a single step, "
                f"{line.robust:.1%} several (the best epoch had {best:.1%}); training ended there, and the weights are "
                f"those of epoch {state.kept_epoch}. Train with several steps (pgd_training) or with n_fgsm"
            )
        elif not before or self._better(line, before, best):
            state.kept, state.kept_epoch = state.average or state.weights, line.epoch
        note = state.ended
        if not note and line.epoch == min(_FIRST_EPOCHS, self.schedule.epochs) and self._at_chance(line):
            note = f"at chance after {line.epoch} epochs: {line.clean:.1%} of {samples} held-out samples are right"
        self.checkpoint.note(line._replace(note=note))

    def _better(self, line: Epoch, before: list[Epoch], best: float) -> bool:
        kept = before[self.checkpoint.state.kept_epoch - 1]
        if self._at_chance(kept) != self._at_chance(line):
            return self._at_chance(kept)
        return better(line, kept, max(best, line.robust), len(self.held_out))

    def _close(self, stage: Stage) -> None:
        """End a stage: say which epoch is kept and why, and what went wrong."""
        state, epochs = self.checkpoint.state, self._epochs(stage)
        if self.schedule.keep == "last" and not state.ended:
            state.kept, state.kept_epoch = state.average or state.weights, state.epoch
            why = "the last, as the schedule asks"
        else:
            why = why_kept(epochs[state.kept_epoch - 1], epochs, len(self.held_out))
        kept = epochs[state.kept_epoch - 1]
        notes = [state.ended] if state.ended else []
        if self._at_chance(kept):
            notes.append(
                f"the {stage.name} never learnt: {kept.clean:.1%} of {len(self.held_out)} held-out samples are right "
                f"after {len(epochs)} epochs, no more than by chance; a learning rate of {self.schedule.lr:g} may be "
                "too large or too small for it"
            )
        self.checkpoint.close(
            f"{self.place}/{stage.name}", Kept(stage.name, kept.epoch, len(epochs), why), tuple(notes)
        )

    def _epochs(self, stage: Stage) -> list[Epoch]:
        return [one for one in self.checkpoint.log if (one.step, one.stage) == (self.place, stage.name)]

    def _at_chance(self, line: Epoch) -> bool:
        return at_chance(line, int(self.held_out.labels.bincount().max()), len(self.held_out))

    def _epoch(self, stage: Stage, optimizer: torch.optim.Optimizer, key: int) -> tuple[float, float]:
        """Go once through the data; hand back the mean loss and the last learning rate."""
        train_mode(stage.target.module)
        total, seen, lr, epoch = 0.0, 0, self.schedule.lr, self.checkpoint.state.epoch
        for step, dealt in enumerate(self.data.deal(self.schedule.batch_size, key)):
            done = (epoch * self.steps + step + 0.5) / (self.schedule.epochs * self.steps)
            lr = learning_rate(self.schedule, done)
            for group in optimizer.param_groups:
                group["lr"] = lr
            ball = grown(stage.threat, self.schedule.eps_ramp, done)
            at = dataclasses.replace(stage, threat=ball, grown=ball.eps / stage.threat.eps)
            loss = self._step(at, optimizer, self._batch(dealt, key, stage.target.device))
            total, seen = total + loss * len(dealt.y), seen + len(dealt.y)
            self._tell(stage, step + 1, loss)
        return total / seen, lr

    def _step(self, stage: Stage, optimizer: torch.optim.Optimizer, batch: Batch) -> float:
        try:
            with torch.autocast(stage.target.device.type, torch.bfloat16, self.schedule.precision == "bfloat16"):
                loss = self._update(stage, optimizer, batch).item()
        except (RuntimeError, MemoryError) as fault:
            if not out_of_memory(fault):
                raise
            raise UserError(
                f"memory runs out on a batch of {len(batch.x)}: give a smaller batch size (it is "
                f"{self.schedule.batch_size})"
            ) from fault
        if not math.isfinite(loss):
            raise _DivergedError(f"the loss is {loss}")
        return loss

    def _update(self, stage: Stage, optimizer: torch.optim.Optimizer, batch: Batch) -> Tensor:
        if not self.schedule.awp:
            return self.defense.update(batch, stage, optimizer)
        stage = dataclasses.replace(stage, found={})

        def loss() -> Tensor:
            return self.defense.loss(batch, stage)

        with perturbed_weights(stage.target.module, loss, self.schedule.awp, optimizer):
            return self.defense.update(batch, stage, optimizer)

    def _batch(self, dealt: Dealt, key: int, device: torch.device) -> Batch:
        x, y, targets = dealt.x, dealt.y, None
        if self.augment is not None:
            x, targets = self.augment(x, y)
            targets = None if targets is None else targets.to(device)
        return Batch(x.to(device), y.to(device), Noise(dealt.origin).at(key).keys.to(device), targets)

    def _accuracies(self, stage: Stage) -> tuple[float, float, float | None]:
        """Clean and robust accuracy on the held-out samples, and what a single step leaves.

        The draws are the same in every epoch, so that epochs compare.
        """
        target, data, size = stage.target, self.held_out, self.schedule.batch_size
        with target.attacking(), torch.no_grad():
            rows = torch.arange(len(data))
            logits = torch.cat([target(data.fetch(part).to(target.device)).cpu() for part in torch.split(rows, size)])
        if not logits.isfinite().all():
            raise _DivergedError("the logits are no longer finite")
        right = rows[logits.argmax(1) == data.labels]
        samples = Samples(data, sample_keys=data.index, target_classes=data.labels)
        withstood = []
        for attack in (self.attack, self.one_step) if self.defense.norms else (self.attack,):
            run = run_attack(attack, target, samples, right.numpy(), stage.threat, RunOptions(batch_size=size))
            if run.stopped:  # the engine ends at Ctrl-C with what it has; a part of an accuracy is of no use here
                raise KeyboardInterrupt
            withstood.append((len(right) - int(run.broken.sum())) / len(data))
        return len(right) / len(data), withstood[0], withstood[1] if self.defense.norms else None

    def _tell(self, stage: Stage, step: int, loss: float) -> None:
        if self.on_progress is None:
            return
        epoch, log = self.checkpoint.state.epoch, self.checkpoint.log
        clean, robust = (log[-1].clean, log[-1].robust) if epoch else (None, None)
        self.on_progress(
            TrainingProgress(stage.name, epoch + 1, self.schedule.epochs, step, self.steps, loss, clean, robust)
        )

    def _diverged(self, stage: Stage, what: str) -> str:
        """Say that the training ends here; refuse it where there are no weights to go back to."""
        state, lr = self.checkpoint.state, self.schedule.lr
        told = (
            f"the training of the {stage.name} diverges: {what} in epoch {state.epoch + 1}, with a learning rate of "
            f"{lr:g}; start again with a smaller one, such as {lr / 10:g}"
        )
        if not state.epoch:
            raise UserError(told)
        return f"{told}. Training ended there, and the weights are those of epoch {state.kept_epoch}"


def _deployed(target: Target, weights: Weights) -> Target:
    target.module.load_state_dict(weights)
    target.module.eval()
    return target


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
