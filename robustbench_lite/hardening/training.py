"""Training: a defense says which networks it trains and what each is to minimise; all else is done here, once."""

from __future__ import annotations

import copy
import dataclasses
import zlib
from collections.abc import Callable
from typing import NamedTuple

import torch

from robustbench_lite.core.errors import UserError
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.data.dataset import Data
from robustbench_lite.hardening.checkpoint import CHECKPOINT_FILE as CHECKPOINT_FILE
from robustbench_lite.hardening.checkpoint import LOG_FILE as LOG_FILE
from robustbench_lite.hardening.checkpoint import Checkpoint, Epoch, Kept, Weights
from robustbench_lite.hardening.interface import (
    Artifact,
    Context,
    Defense,
    Learnt,
    Stage,
    StepRecord,
    TrainingProgress,
)
from robustbench_lite.hardening.loop import Loop, seeded
from robustbench_lite.hardening.mixture import Mixture
from robustbench_lite.hardening.modifiers import make_optimizer, stay_zero
from robustbench_lite.hardening.schedule import Schedule
from robustbench_lite.hardening.schedule import learning_rate as learning_rate
from robustbench_lite.hardening.transfer import classes_of, freezing, frozen_names
from robustbench_lite.model.target import Target


class Trained(NamedTuple):
    """What came out."""

    target: Target
    """The last stage's network, in evaluation mode."""
    log: tuple[Epoch, ...]
    kept: tuple[Kept, ...]
    """Of each stage, the epoch that was kept, and why."""
    notes: tuple[str, ...]
    """What went wrong: a collapse or a divergence that was rolled back, a network that never learnt."""


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
    learn: Callable[[Stage, int], Learnt] | None = None,
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
    learn
        Goes through the data in the loop's place; see `Context.learn`.

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
    loop = Loop(defense, schedule, mixture, held_out, seed, place, checkpoint, on_progress, learn)
    trained: dict[str, Target] = {}
    for name in defense.stages:
        stage = Stage(
            name=name,
            target=copy.deepcopy(target),
            trained=dict(trained),
            threat=threat,
            given=target,
            columns=mixture.own.columns,
        )
        if f"{place}/{name}" not in checkpoint.done:
            frozen = frozen_names(stage.target.module, schedule.freeze, classes_of(target, loop.data.own))
            with freezing(stage.target.module, frozen):
                loop.train(stage)
        trained[name] = _deployed(stage.target, checkpoint.done[f"{place}/{name}"].weights)
    log = tuple(line for line in checkpoint.log if line.step == place)
    done = [checkpoint.done[f"{place}/{name}"] for name in defense.stages]
    notes = tuple(note for one in done for note in one.notes)
    return Trained(trained[defense.stages[-1]], log, tuple(one.kept for one in done), notes)


def learn_alone(
    target: Target,
    defense: Defense,
    schedule: Schedule,
    threat: ThreatModel,
    data: Data,
    epochs: range,
    *,
    seed: int = 0,
    pull: Callable[[torch.optim.Optimizer], None] | None = None,
) -> Learnt:
    """Train a target in place for some epochs of a schedule, with nothing measured: the part of a client.

    Parameters
    ----------
    epochs
        Which of the schedule's, counted from 0: they decide the learning rate and the draws.
    pull
        Told the optimizer before each of its steps, with the gradients there: it may change them.

    Raises
    ------
    DivergedError
        For a loss that is no longer finite.
    """
    loop = Loop(defense, schedule, Mixture(own=data), data, seed, "", Checkpoint())
    stage = Stage(name=defense.stages[-1], target=target, trained={}, threat=threat, columns=data.columns)
    optimizer = make_optimizer(target, schedule)
    stay_zero(target, optimizer)
    if pull is not None:
        optimizer.register_step_pre_hook(lambda *_: pull(optimizer))
    done = []
    with freezing(target.module, frozen_names(target.module, schedule.freeze, classes_of(target, data))):
        for epoch in epochs:
            loop.checkpoint.state.epoch = epoch
            key = zlib.crc32(f"{seed}|{stage.name}|{epoch}".encode())
            with seeded(key, target.device):
                done.append(loop.learn(stage, optimizer, key))
    return Learnt(sum(one.loss for one in done) / len(done), done[-1].lr, sum(one.passes for one in done))


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
        learn=context.learn,
    )
    record = StepRecord(
        name=context.name,
        params=dataclasses.asdict(defense),
        log=trained.log,
        kept=trained.kept,
        notes=trained.notes,
    )
    return artifact.after(trained.target, record)


def _deployed(target: Target, weights: Weights) -> Target:
    target.module.load_state_dict(weights)
    target.module.eval()
    return target
