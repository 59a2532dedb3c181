"""Harden: a model, data and a recipe in; a hardened target out, and the scorecards before and after."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robustbench_lite.core.cost import Progress
from robustbench_lite.core.files import write_atomically
from robustbench_lite.core.suite import Suite
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.data.dataset import Data
from robustbench_lite.evaluating.pipeline import apply_gates, evaluate
from robustbench_lite.hardening.checkpoint import CHECKPOINT_FILE, Checkpoint, Epoch
from robustbench_lite.hardening.cost import training_cost
from robustbench_lite.hardening.distributed import team
from robustbench_lite.hardening.folder import (
    AFTER_FILE,
    BEFORE_FILE,
    RECIPE_FILE,
    after_step_file,
    claimed,
    recipe_text,
    task_file,
)
from robustbench_lite.hardening.gain import Gain, weigh
from robustbench_lite.hardening.interface import Artifact, Context, StepRecord, TrainingProgress
from robustbench_lite.hardening.memory import Memory, Score, Task, retention
from robustbench_lite.hardening.preparation import Changes, Plan, PlannedStep, Sampling, prepare
from robustbench_lite.hardening.recipe import Recipe
from robustbench_lite.hardening.training import train_step
from robustbench_lite.model.loading import save_model
from robustbench_lite.model.target import Target
from robustbench_lite.results.gates import Gates
from robustbench_lite.results.scorecard import Measured, Scorecard


@dataclass(frozen=True)
class Sizes:
    """How many samples each purpose had."""

    train: int
    held_out: int
    """Measured after each epoch, to choose the weights; of the first step, where steps differ."""
    test: int
    """Evaluated before and after."""


@dataclass(frozen=True)
class Hardened:
    """What came of hardening."""

    target: Target
    """The model with its hardened weights, in evaluation mode."""
    before: Scorecard
    after: Scorecard
    log: tuple[Epoch, ...]
    """One entry an epoch."""
    folder: Path | None
    """Where it was written; None where nothing was."""
    steps: tuple[StepRecord, ...] = ()
    """What each step of the recipe did."""
    between: tuple[Scorecard, ...] = ()
    """After each step that asks for a scorecard, in order."""
    sizes: Sizes | None = None
    memory: Memory | None = None
    """The tasks so far, this one included, and how well each is known; None where nothing is kept."""

    @cached_property
    def gain(self) -> Gain:
        """Whether hardening has helped: gained, not shown, or lost."""
        return weigh(self.before, self.after)

    @property
    def notes(self) -> tuple[str, ...]:
        """What went wrong in any of the steps."""
        return tuple(note for step in self.steps for note in step.notes)


@dataclass(frozen=True, kw_only=True)
class Listeners:
    """Whom the progress is told."""

    on_progress: Callable[[TrainingProgress], None] | None = None
    on_attack: Callable[[Progress], None] | None = None
    on_epoch: Callable[[Epoch], None] | None = None
    on_stage: Callable[[str], None] | None = None

    def stage(self, text: str) -> None:
        """Tell what is done next."""
        if self.on_stage is not None:
            self.on_stage(text)


_NOBODY = Listeners()


def harden(
    model: nn.Module | Target,
    data: Any,
    recipe: str | Path | Recipe = "pgd_training",
    *,
    threat: str | ThreatModel | None = None,
    out: str | Path | None = None,
    test_data: Any = None,
    epochs: int | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    freeze: Sequence[str] | None = None,
    device: str | torch.device | None = None,
    seed: int = 0,
    suite: str | Path | Suite | None = None,
    limit: int | None = None,
    limit_train: int | None = None,
    earlier: Any = None,
    remember: int | None = None,
    gates: Gates | Mapping[str, float] | None = None,
    resume: bool = False,
    on_progress: Callable[[TrainingProgress], None] | None = None,
    on_attack: Callable[[Progress], None] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    on_stage: Callable[[str], None] | None = None,
) -> Hardened:
    """Train a copy of a model to withstand an adversary, and evaluate it before and after.

    The model's weights are where the training starts: trained ones are fine-tuned, fresh ones trained from scratch.

    Parameters
    ----------
    model
        A module, or a `Target`: inputs in [0, 1], shape (N, C, H, W); logits out, shape (N, K). It is left as it is.
    data
        Samples to train on, as `evaluate` takes them. Of a source by name the train split is trained on and the test
        split evaluated.
    recipe
        Name of a recipe, path of a TOML file, or a `Recipe`.
    threat
        What to withstand, such as ``"Linf 8/255"``; by default the recipe's own. Where its norm is not the recipe's
        and no suite is given, a suite named after the recipe's norm gives way to its counterpart: ``linf_standard`` to
        ``l2_standard``.
    out
        Folder for ``model.safetensors``, ``model.json``, ``recipe.toml``, ``log.jsonl``, ``before.json``,
        ``after.json``, one ``after-STEP.json`` for each step that asks for it and, until the end, the checkpoint. It
        must be new or empty; the hardened model is called as it is. None writes nothing. A run that fails before its
        first checkpoint leaves nothing there.
    test_data
        Samples for the scorecards. By default a fifth of ``data``, stratified, which is then not trained on; so too
        where they are the very samples of ``data``.
    epochs, lr, batch_size
        Instead of the recipe's, in every step that trains.
    freeze
        Patterns of the parameters that stay as they are, likewise; ``backbone`` for all but the last layer.
    device
        Such as ``cpu`` or ``cuda:0``; by default where the model is.
    seed
        Of every random draw.
    suite
        Evaluates before and after; by default the recipe's.
    limit
        Size of a class-stratified sample of the test samples to evaluate.
    limit_train
        Size of a class-stratified sample of ``data`` to learn from; a share of it is held out.
    earlier
        What the model learnt before: the folder of a model that kept a memory, or the data themselves. It is then
        evaluated on those tasks as well, and a step that rehearses does so.
    remember
        Samples to keep with the model, to rehearse this task later, and as many to judge it by; by default as many as
        the recipe says.
    gates
        Demands on the model afterwards, which decide the verdict of ``after``.
    resume
        Go on with the unfinished run in ``out``, with the same final weights as if it had never stopped; where there
        is none yet, start one.
    on_progress, on_attack
        Called after each step of the training, and now and then while the scorecards are made.
    on_epoch, on_stage
        Called after each epoch with its line of the log; and with what is done next.

    Returns
    -------
    Hardened

    Raises
    ------
    ValueError
        For whatever was given wrong, before the first scorecard; and where the training diverges.
    KeyboardInterrupt
        At Ctrl-C; what the last epoch's checkpoint holds can be resumed.
    """
    plan = prepare(
        model,
        data,
        recipe,
        Changes(
            threat=threat,
            suite=suite,
            epochs=epochs,
            lr=lr,
            batch_size=batch_size,
            freeze=None if freeze is None else tuple(freeze),
            remember=remember,
            gates=gates if isinstance(gates, Gates) else Gates.of(gates or {}),
        ),
        Sampling(test_data=test_data, limit=limit, limit_train=limit_train, earlier=earlier, seed=seed),
        device,
    )
    listeners = Listeners(on_progress=on_progress, on_attack=on_attack, on_epoch=on_epoch, on_stage=on_stage)
    return run_plan(plan, out, resume, listeners)


def run_plan(
    plan: Plan, out: str | Path | None, resume: bool, listeners: Listeners, before: Scorecard | None = None
) -> Hardened:
    """Run what was prepared.

    Parameters
    ----------
    out, resume
        As in `harden`.
    before
        The scorecard before the first step, where there is one already.
    """
    team().check_same(plan.fingerprint(), plan.target.device)
    with claimed(out if team().rank == 0 else None, resume) as folder:
        run = _Run(plan, folder, resume, listeners)
        before = run.before(before)
        known = run.known_before()
        artifact = Artifact(target=plan.target, threat=plan.recipe.threat)
        between = []
        for number, planned in enumerate(plan.steps, 1):
            listeners.stage(f"step {number} of {len(plan.steps)}: {planned.spec.name}")
            artifact = run.step(planned, artifact)
            if planned.spec.scorecard:
                listeners.stage(f"evaluation after {planned.spec.name}")
                between.append(run.scorecard(artifact.target, after_step_file(planned.place)))
        if folder is not None:
            artifact.target.name = folder.resolve().name
            save_model(artifact.target, folder)
        log = tuple(line for record in artifact.records for line in record.log)
        listeners.stage("evaluation of the hardened model")
        memory = run.memory(artifact.target, known)
        found = (number for record in artifact.records for number in record.measures)
        numbers = (*training_cost(log), *found, *(retention(memory.tasks) if memory else ()))
        after = run.scorecard(artifact.target, AFTER_FILE, numbers)
        if folder is not None:
            (folder / CHECKPOINT_FILE).unlink(missing_ok=True)
    training, held_out = plan.split(plan.steps[0])
    sizes = Sizes(len(training), len(held_out), after.data.samples)
    return Hardened(artifact.target, before, after, log, folder, artifact.records, tuple(between), sizes, memory)


def run_steps(plan: Plan, listeners: Listeners = _NOBODY) -> Artifact:
    """Run the steps of a recipe alone: nothing is evaluated, and nothing written."""
    return _Run(plan, None, False, listeners).steps(Artifact(target=plan.target, threat=plan.recipe.threat))


def judge(plan: Plan, target: Target, listeners: Listeners, measures: Sequence[str] = ()) -> Scorecard:
    """Evaluate a target as a plan asks.

    Raises
    ------
    KeyboardInterrupt
        At Ctrl-C: a part of a scorecard is of no use here.
    """
    sampling = plan.sampling
    card = evaluate(
        target,
        plan.test,
        plan.suite,
        plan.recipe.threat,
        seed=sampling.seed,
        limit=sampling.limit,
        anyway=True,  # one that is at chance before it learns has its number, too
        measures=(*plan.recipe.measures, *measures),
        on_progress=listeners.on_attack,
    )
    if card.interrupted:
        raise KeyboardInterrupt
    return card


class _Run:
    """A plan under way: its steps and its scorecards, each written as soon as it is there."""

    def __init__(self, plan: Plan, folder: Path | None, resume: bool, listeners: Listeners) -> None:
        self.plan, self.folder, self.listeners = plan, folder, listeners
        found = team().first(lambda: Checkpoint.open(folder, plan.fingerprint(), resume=resume))
        self.checkpoint = dataclasses.replace(found, folder=folder)
        self.checkpoint.on_epoch = listeners.on_epoch
        self.resumed = folder is not None and (folder / CHECKPOINT_FILE).is_file()

    def before(self, known: Scorecard | None) -> Scorecard:
        """The scorecard before the first step, where it isn't known; with it the recipe is written."""
        if known is None:
            self.listeners.stage("evaluation of the model as it is")
        card = known or self.scorecard(self.plan.target, BEFORE_FILE)
        if known is not None and self.folder is not None:
            known.save(self.folder / BEFORE_FILE)
        if self.folder is not None and not self.resumed:
            write_atomically(self.folder / RECIPE_FILE, self.plan.note + recipe_text(self.plan.recipe))
        return card

    def steps(self, artifact: Artifact) -> Artifact:
        """Run all steps, one on what the other made."""
        for planned in self.plan.steps:
            artifact = self.step(planned, artifact)
        return artifact

    def step(self, planned: PlannedStep, artifact: Artifact) -> Artifact:
        """Run a step on what those before it made."""
        data, held_out = self.plan.split(planned)
        context = Context(
            name=planned.spec.name,
            place=planned.place,
            data=data,
            held_out=held_out,
            schedule=planned.spec.schedule or self.plan.recipe.schedule,
            train=train_step,
            extra=planned.extra,
            memory=self.plan.memory,
            seed=planned.seed,
            checkpoint=self.checkpoint,
            on_progress=self.listeners.on_progress,
        )
        return planned.step.run(artifact, context)

    def known_before(self) -> Memory | None:
        """What was learnt before, with how well it is known now where that isn't told yet."""
        memory = self.plan.memory
        if memory is None or all(task.scores for task in memory.tasks):
            return memory
        return memory.with_scores(self._scores(self.plan.target, memory, "before"))

    def memory(self, target: Target, known: Memory | None) -> Memory | None:
        """What was learnt before and what was learnt now, with how well each is known; kept in the folder."""
        plan = self.plan
        size, seed = plan.recipe.remember, plan.sampling.seed
        if not size:
            return None
        learnt = plan.split(plan.steps[0])[0].stratified(size, seed)
        task = Task(name=plan.known.name, threat=plan.recipe.threat, suite=plan.suite)
        made = (known or Memory(tasks=(), rehearsed=(), judged=())).with_task(
            task, learnt, plan.test.stratified(size, seed)
        )
        made = made.with_scores(self._scores(target, made, "task"))
        if self.folder is not None:
            made.save(self.folder)
        return made

    def _scores(self, target: Target, memory: Memory, when: str) -> list[Score]:
        """Evaluate a target on each task of a memory, by the suite and under the threat model of its time."""
        seed, listeners = self.plan.sampling.seed, self.listeners

        def score(number: int, task: Task, data: Data) -> Score:
            def make() -> Scorecard:
                return evaluate(
                    target, data, task.suite, task.threat, seed=seed, anyway=True, on_progress=listeners.on_attack
                )

            return Score.of(self._kept(task_file(number, when), make))

        pairs = zip(memory.tasks, memory.judged, strict=True)
        return [score(number, task, data) for number, (task, data) in enumerate(pairs, 1)]

    def scorecard(self, target: Target, file: str, numbers: tuple[Measured, ...] = ()) -> Scorecard:
        """Evaluate a target; to its scorecard come numbers that are known already and, with them, the gates."""

        def make() -> Scorecard:
            demanded = self.plan.gates if numbers else Gates()
            known = {one.name for one in numbers}
            others = [name for name in demanded.measured if name not in known]
            card = judge(self.plan, target, self.listeners, others)
            if not numbers:
                return card
            return apply_gates(card.model_copy(update={"measures": (*card.measures, *numbers)}), demanded)

        return self._kept(file, make)

    def _kept(self, file: str, make: Callable[[], Scorecard]) -> Scorecard:
        """Make a scorecard and write it, or read it where the run that is resumed had made it: in the first process."""
        return team().first(lambda: self._kept_here(file, make))

    def _kept_here(self, file: str, make: Callable[[], Scorecard]) -> Scorecard:
        path = None if self.folder is None else self.folder / file
        if path is not None and self.resumed and path.is_file():
            return Scorecard.load(path)
        card = make()
        if card.interrupted:
            raise KeyboardInterrupt
        if path is not None:
            card.save(path)
        return card
