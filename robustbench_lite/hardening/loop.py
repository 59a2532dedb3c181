"""The one training loop, for one network, from top to bottom.

Epochs, batches, the learning rate, the held-out accuracies that choose the weights, and the checkpoint from which a
killed run goes on as if nothing had happened.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from robustbench_lite.core.allocation import keep_freed_memory
from robustbench_lite.core.errors import UserError, out_of_memory
from robustbench_lite.core.names import plural
from robustbench_lite.core.noise import Noise
from robustbench_lite.data.dataset import Data
from robustbench_lite.hardening.augment import Augment
from robustbench_lite.hardening.checkpoint import Checkpoint, Epoch, Kept
from robustbench_lite.hardening.choice import at_chance, better, collapsed, one_step_alone, tells, why_kept
from robustbench_lite.hardening.cost import counted
from robustbench_lite.hardening.distributed import joint_statistics, team
from robustbench_lite.hardening.held_out import Accuracies, DivergedError, HeldOut
from robustbench_lite.hardening.interface import (
    Batch,
    Defense,
    Learnt,
    Stage,
    TrainingProgress,
)
from robustbench_lite.hardening.mixture import Dealt, Mixture
from robustbench_lite.hardening.modifiers import Average, grown, make_optimizer, perturbed_weights, stay_zero
from robustbench_lite.hardening.schedule import Schedule, learning_rate
from robustbench_lite.hardening.transfer import classes_of, train_mode

_FIRST_EPOCHS = 3  # after which a network that learns at all is above chance


class Loop:
    """The training of each stage: its epochs, and the batches of an epoch."""

    def __init__(
        self,
        defense: Defense,
        schedule: Schedule,
        data: Mixture,
        held_out: Data,
        seed: int,
        place: str,
        checkpoint: Checkpoint,
        on_progress: Callable[[TrainingProgress], None] | None = None,
        learn: Callable[[Stage, int], Learnt] | None = None,
    ) -> None:
        self.defense, self.schedule, self.data, self.held_out = defense, schedule, data, held_out
        self.seed, self.place, self.checkpoint, self.on_progress = seed, place, checkpoint, on_progress
        self.elsewhere, self.steps = learn, data.batches(schedule.batch_size)
        self.augment: Augment | None = None
        self.team, self.share = team(), 1.0  # the share of the batch's samples that are here
        if self.team.size > 1:
            self._check_enough()
            held_out = held_out.take(self.team.part(torch.arange(len(held_out))))
        self.probe = HeldOut(held_out, schedule.batch_size)

    def train(self, stage: Stage) -> None:
        """Train a stage to its end, from its checkpoint or from the given weights."""
        state, schedule, module = self.checkpoint.state, self.schedule, stage.target.module
        self._same_start(module)
        joined = self._joined if self.team.size > 1 else None
        optimizer, deployed, average = make_optimizer(stage.target, schedule, joined), stage.target, None
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
                with seeded(key, stage.target.device):
                    learnt = self.learn(stage, optimizer, key)
                    if average is not None:
                        deployed.module.load_state_dict(average.weights)
                    clean, robust, one_step = self._accuracies(dataclasses.replace(stage, target=deployed))
            except DivergedError as fault:
                state.ended = self._diverged(stage, str(fault))
                self.checkpoint.save()
                break
            state.epoch += 1
            seconds = time.perf_counter() - started
            loss, lr, passes = learnt
            line = Epoch(self.place, stage.name, state.epoch, loss, lr, clean, robust, one_step, seconds, passes=passes)
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
        last = self.schedule.keep == "last" and not state.ended
        self.checkpoint.note(line._replace(note=note, kept=line.epoch if last else state.kept_epoch))

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
        if not tells(self._most_common, len(self.held_out)):
            notes.append(
                f"whether the {stage.name} learnt can't be told from {plural(len(self.held_out), 'held-out sample')}, "
                "nor which epoch is the best: give more samples (--limit-train), or hold out a larger share"
            )
        elif self._at_chance(kept):
            notes.append(
                f"the {stage.name} isn't shown to have learnt: {kept.clean:.1%} of {len(self.held_out)} held-out "
                f"samples are right after {plural(len(epochs), 'epoch')}, as by chance; a learning rate of "
                f"{self.schedule.lr:g} may be too large or too small for it"
            )
        elif not state.ended and one_step_alone(kept, len(self.held_out)):
            notes.append(
                f"the {stage.name} withstands one-step attacks alone: {kept.one_step:.1%} of {len(self.held_out)} "
                f"held-out samples stand after a single step, {kept.robust:.1%} after several; train longer, with "
                "several steps (pgd_training), or against a smaller eps"
            )
        self.checkpoint.close(
            f"{self.place}/{stage.name}", Kept(stage.name, kept.epoch, len(epochs), why), tuple(notes)
        )

    def _epochs(self, stage: Stage) -> list[Epoch]:
        return [one for one in self.checkpoint.log if (one.step, one.stage) == (self.place, stage.name)]

    def _at_chance(self, line: Epoch) -> bool:
        return at_chance(line, self._most_common, len(self.held_out))

    @property
    def _most_common(self) -> int:
        return int(self.held_out.labels.bincount().max())

    def learn(self, stage: Stage, optimizer: torch.optim.Optimizer, key: int) -> Learnt:
        """Go once through the data, here or elsewhere."""
        if self.elsewhere is not None:
            learnt = self.elsewhere(stage, self.checkpoint.state.epoch)
            self._tell(stage, self.steps, learnt.loss)
            return learnt
        if self.augment is None and (self.schedule.augment or self.schedule.label_smoothing):
            classes = classes_of(stage.target, self.data.own)  # asked before the passes are counted
            self.augment = Augment(self.schedule.augment, self.schedule.label_smoothing, classes)
        module = stage.target.module
        with counted(module) as count, joint_statistics(module, self.team, lambda: self.share):
            loss, lr = self._epoch(dataclasses.replace(stage, count=count), optimizer, key)
        return Learnt(loss, lr, sum(self.team.gather(count.total)))

    def _epoch(self, stage: Stage, optimizer: torch.optim.Optimizer, key: int) -> tuple[float, float]:
        keep_freed_memory()
        train_mode(stage.target.module)
        total, seen, lr, epoch = 0.0, 0, self.schedule.lr, self.checkpoint.state.epoch
        # What is done to the samples of a batch draws from one generator, one after the other: so all are there.
        wanted = self.team.part if self.augment is None else lambda rows: rows
        for step, dealt in enumerate(self.data.deal(self.schedule.batch_size, key, wanted)):
            done = (epoch * self.steps + step + 0.5) / (self.schedule.epochs * self.steps)
            lr = learning_rate(self.schedule, done)
            for group in optimizer.param_groups:
                group["lr"] = lr
            ball = grown(stage.threat, self.schedule.eps_ramp, done)
            at = dataclasses.replace(stage, threat=ball, grown=ball.eps / stage.threat.eps)
            loss = self._step(at, optimizer, self._batch(dealt, key, stage.target.device))
            total, seen = total + loss * dealt.total, seen + dealt.total
            self._tell(stage, step + 1, loss)
        return total / seen, lr

    def _step(self, stage: Stage, optimizer: torch.optim.Optimizer, batch: Batch) -> float:
        try:
            with torch.autocast(stage.target.device.type, torch.bfloat16, self.schedule.precision == "bfloat16"):
                loss = self.team.mean(self._update(stage, optimizer, batch), self.share).item()
        except (RuntimeError, MemoryError) as fault:
            if "does not require grad" in str(fault):
                raise UserError(
                    f"the {stage.name} can't be trained: no gradient comes back from its output ({fault}); let its "
                    "forward neither detach, nor run under no_grad, nor leave torch; 'rblite doctor' checks it"
                ) from fault
            if not out_of_memory(fault):
                raise
            raise UserError(
                f"memory runs out on a batch of {len(batch.x)}: give a smaller batch size (it is "
                f"{self.schedule.batch_size})"
            ) from fault
        if not math.isfinite(loss):
            raise DivergedError(f"the loss is {loss}")
        return loss

    def _update(self, stage: Stage, optimizer: torch.optim.Optimizer, batch: Batch) -> Tensor:
        if not self.schedule.awp:
            return self.defense.update(batch, stage, optimizer)
        stage = dataclasses.replace(stage, found={})

        def loss() -> Tensor:
            return self.defense.loss(batch, stage)

        with perturbed_weights(stage.target.module, loss, self.schedule.awp, optimizer, self._joined):
            return self.defense.update(batch, stage, optimizer)

    def _batch(self, dealt: Dealt, key: int, device: torch.device) -> Batch:
        x, y, origin, total = dealt
        targets = None
        if self.augment is not None:
            x, targets = self.augment(x, y)
            x, y, origin = map(self.team.part, (x, y, origin))
            targets = None if targets is None else self.team.part(targets).to(device)
        self.share = len(y) / total
        return Batch(x.to(device), y.to(device), Noise(origin).at(key).keys.to(device), targets)

    def _joined(self, grads: Sequence[Tensor | None], parameters: Sequence[Tensor]) -> Sequence[Tensor | None]:
        return self.team.mean_each(grads, parameters, self.share)

    def _check_enough(self) -> None:
        """Refuse more processes than there are samples to share out."""
        least = min(len(self.data) // self.steps, len(self.held_out))
        if least < self.team.size:
            raise UserError(
                f"{self.team.size} processes have to share batches of {len(self.data) // self.steps} samples and "
                f"{len(self.held_out)} held-out ones: start fewer processes, or give larger batches or more samples"
            )

    def _same_start(self, module: torch.nn.Module) -> None:
        """Let every process begin where the first one does, whatever the steps before made in its arithmetic."""
        if self.team.size > 1:
            module.load_state_dict(self.team.first(lambda: copy.deepcopy(module).cpu().state_dict()))

    def _accuracies(self, stage: Stage) -> tuple[float, float, float | None]:
        """Clean and robust accuracy on the held-out samples, and what a single step leaves."""
        found: Accuracies | str
        try:
            found = self.probe.measure(stage.target, stage.threat, one_step=bool(self.defense.norms))
        except DivergedError as fault:
            found = str(fault)
        clean = robust = total = one_step = 0
        for part in self.team.gather(found):
            if isinstance(part, str):
                raise DivergedError(part)
            clean, robust, total = clean + part.clean, robust + part.robust, total + part.total
            one_step += part.one_step or 0
        return clean / total, robust / total, one_step / total if self.defense.norms else None

    def _tell(self, stage: Stage, step: int, loss: float) -> None:
        if self.on_progress is None:
            return
        epoch, log = self.checkpoint.state.epoch, self.checkpoint.log
        clean, robust = (log[-1].clean, log[-1].robust) if epoch else (None, None)
        self.on_progress(
            TrainingProgress(
                stage.name, epoch + 1, self.schedule.epochs, step, self.steps, loss, clean, robust, len(self.held_out)
            )
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


@contextmanager
def seeded(key: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators, for dropout and the like; leave them as they were."""
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
        torch.default_generator.manual_seed(key)  # not torch.manual_seed: that would seed all other devices as well
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(key)
        yield
