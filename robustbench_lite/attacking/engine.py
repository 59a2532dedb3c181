"""The one attack loop.

An attack (see `stepper`) proposes candidates. Everything else is here, once: candidates are brought into the box and,
of an attack that is `confined`, into the ball, the model is asked, passes are counted, broken samples leave the batch
and waiting ones take their place, and success is decided by an independent forward pass, in float64 where the model has
one, whoever wrote the attack.
"""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Container
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_lite.attacking.active_batch import ActiveBatch
from robustbench_lite.attacking.interface import Attack, Counted, ModelOutput, Problem
from robustbench_lite.attacking.journal import Entry, Journal
from robustbench_lite.core.cost import BudgetTracker, Passes, Progress, Stop
from robustbench_lite.core.errors import UserError
from robustbench_lite.core.losses import LOSSES, LossName, margin
from robustbench_lite.core.noise import Noise
from robustbench_lite.core.norms import GEOMETRIES
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.data.dataset import Data
from robustbench_lite.model.float64 import Ask, alike, doubtful
from robustbench_lite.model.target import Target
from robustbench_lite.results.scorecard import CHANGED, DENIALS, IN_FLOAT64, OUTSIDE, Trace

_log = logging.getLogger(__name__)

_SUMS = (
    *("forward", "backward", "samples", "loss", "fell", "zero"),
    *("stood", "flat", "late", "restarted", "restarts_broke", "strange", "seconds"),
)
"""Fields of a run that add up over samples."""


@dataclass(frozen=True)
class Samples:
    """The data of an evaluation, with what the clean pass found out about each sample."""

    data: Data
    sample_keys: Tensor
    """Hash of each sample's content, int64, shape (N,): what its random draws depend on."""
    target_classes: Tensor
    """The class that the goal is about, shape (N,)."""

    def __len__(self) -> int:
        return len(self.data)


@dataclass
class RunResult:
    """What came of one attack, by position in the data."""

    broken: NDArray[np.bool_]
    """Whether a confirmed witness was found."""
    prediction: NDArray[np.int64]
    """What the model says to the witness; -1 without one."""
    distance: NDArray[np.float64]
    """Distance of the nearest adversarial example: confirmed where it is broken or the nearest of all was searched."""
    forward: NDArray[np.int64]
    backward: NDArray[np.int64]
    samples: NDArray[np.int64]
    """By step: how many samples reached it (a restart counts again)."""
    loss: NDArray[np.float64]
    """By step: sum of their losses."""
    fell: NDArray[np.int64]
    """By step: how many were broken there."""
    zero: NDArray[np.int64]
    """By step: how many had a gradient of zero."""
    witnesses: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    """Adversarial inputs of the positions that were to be kept."""
    stood: int = 0
    """Starts that broke nothing."""
    flat: int = 0
    """How many of these never saw their margin rise in the ball."""
    late: float = 0.0
    """Sum over these of the share of the rise that came in the last fifth of the steps."""
    restarted: int = 0
    """Starts after the first."""
    restarts_broke: int = 0
    """How many of these broke their sample."""
    denied: dict[int, str] = field(default_factory=dict)
    """By position, why an adversarial example that was seen is none, of `DENIALS`; another one may be."""
    float64_held: bool = True
    """False where the model, which could be asked in float64 at first, no longer could."""
    strange: int = 0
    """Samples for which the model gave logits that are no finite numbers."""
    stopped: str | None = None
    """``interrupt``, ``seconds`` or ``passes`` where it didn't come to its end."""
    fault: str | None = None
    """What it tripped over, where it failed."""
    seconds: float = 0.0

    @classmethod
    def empty(cls, size: int, steps: int) -> RunResult:
        """Before the first entry, of ``size`` samples and an attack of ``steps`` steps."""
        return cls(
            broken=np.zeros(size, np.bool_),
            prediction=np.full(size, -1, np.int64),
            distance=np.full(size, np.inf),
            forward=np.zeros(size, np.int64),
            backward=np.zeros(size, np.int64),
            samples=np.zeros(steps + 1, np.int64),
            loss=np.zeros(steps + 1),
            fell=np.zeros(steps + 1, np.int64),
            zero=np.zeros(steps + 1, np.int64),
        )

    def add(self, entry: Entry) -> None:
        """Add what became of some samples."""
        rows, broken = entry.rows, entry.broken
        nearer = broken & (entry.distance < self.distance[rows])  # a start after the first may find a farther one
        self.prediction[rows] = np.where(nearer, entry.prediction, self.prediction[rows])
        self.distance[rows] = np.minimum(self.distance[rows], entry.distance)
        self.broken[rows] |= broken
        self.forward[rows] += entry.forward
        self.backward[rows] += entry.backward
        for name in ("samples", "loss", "fell", "zero"):
            getattr(self, name)[:] += getattr(entry, name)
        self.witnesses.update({row: entry.witnesses[row] for row in rows[nearer].tolist() if row in entry.witnesses})
        self.stood += int((~broken).sum())
        self.flat += int((entry.flat & ~broken).sum())
        self.late += float(entry.late[~broken].sum())
        self.restarted += int((entry.restart > 0).sum())
        self.restarts_broke += int((broken & (entry.restart > 0)).sum())
        for row, why in zip(rows.tolist(), entry.denied.tolist(), strict=True):
            if why >= 0:
                self.denied[row] = DENIALS[why]
        self.strange += int(entry.strange.sum())
        self.seconds += entry.seconds

    def merge(self, other: RunResult) -> RunResult:
        """Add a run of the same attack on other samples of the same data."""
        return RunResult(
            broken=self.broken | other.broken,
            prediction=np.maximum(self.prediction, other.prediction),
            distance=np.minimum(self.distance, other.distance),
            witnesses=self.witnesses | other.witnesses,
            denied=self.denied | other.denied,
            float64_held=self.float64_held and other.float64_held,
            **{name: getattr(self, name) + getattr(other, name) for name in _SUMS},
            stopped=other.stopped,
            fault=self.fault or other.fault,
        )

    def take(self, rows: NDArray[np.int64]) -> RunResult:
        """The same, of data that hold only these samples, in this order."""
        place = {int(row): at for at, row in enumerate(rows)}
        return replace(
            self,
            broken=self.broken[rows],
            prediction=self.prediction[rows],
            distance=self.distance[rows],
            forward=self.forward[rows],
            backward=self.backward[rows],
            witnesses={place[row]: x for row, x in self.witnesses.items()},
            denied={place[row]: why for row, why in self.denied.items()},
        )

    @property
    def unconfirmed(self) -> int:
        """Samples of which an example was denied that stood in the loop, and not because of rounding."""
        return sum(why != IN_FLOAT64 for why in self.denied.values())

    @property
    def passes(self) -> Passes:
        """All samples' passes together."""
        return Passes(forward=int(self.forward.sum()), backward=int(self.backward.sum()))

    @property
    def trace(self) -> Trace:
        """What was seen by step."""
        reached = int(np.count_nonzero(self.samples))
        return Trace(
            samples=tuple(self.samples[:reached].tolist()),
            loss=tuple((self.loss[:reached] / np.maximum(self.samples[:reached], 1)).tolist()),
            broken=tuple(self.fell[:reached].tolist()),
            zero_gradient=tuple(self.zero[:reached].tolist()),
            stood=self.stood,
            flat=self.flat,
            late=self.late / max(self.stood, 1),
            restarted=self.restarted,
            restarts_broke=self.restarts_broke,
        )


def run_attack(
    attack: Attack,
    target: Target,
    samples: Samples,
    rows: NDArray[np.int64],
    threat: ThreatModel,
    *,
    name: str = "attack",
    seed: int = 0,
    batch_size: int = 256,
    early_stop: bool = True,
    keep: Container[int] = (),
    float64_model: Ask | None = None,
    budget: BudgetTracker | None = None,
    journal: Journal | None = None,
) -> RunResult:
    """Run one attack on some samples.

    Parameters
    ----------
    attack, target, threat
        Who attacks what, and how far it may go.
    samples, rows
        The data, and the positions of the samples to attack.
    name, seed
        Two attacks of different names draw differently.
    batch_size
        Most samples in flight; halved by itself where memory runs out.
    early_stop
        Whether a sample leaves as soon as it is broken. False: an attack goes on to the nearest example, and one that
        is out of the ball is confirmed as well, for its distance.
    keep
        Positions whose witness is kept.
    float64_model
        The target in float64 (see `float64`): what it denies is no witness.
    meter
        Counts and limits what is spent.
    journal
        Where entries are written, and read first: a run that was killed goes on from them.

    Returns
    -------
    Run
        Also after Ctrl-C or a spent budget, with what was done until then.
    """
    if threat.norm not in attack.norms:
        raise UserError(f"{name} can't be run under {threat}: it does {', '.join(attack.norms)}")
    shape = tuple(samples.data.shape)
    if expected := attack.unfit(shape, threat):
        raise UserError(f"{name} can't be run under {threat} on inputs of shape {shape}: {expected}")
    loop = _Loop(
        attack,
        target,
        samples,
        threat,
        name=name,
        seed=seed,
        batch_size=batch_size,
        early_stop=early_stop,
        keep=keep,
        float64_model=float64_model,
        budget=budget or BudgetTracker(),
        journal=journal,
    )
    return loop.run(rows)


def perturb(attack: Attack, target: Target, x: Tensor, y: Tensor, threat: ThreatModel, draw_keys: Tensor) -> Tensor:
    """Take every sample through all steps of an attack, and hand back its last candidates.

    What adversarial training needs: no success is decided, no sample leaves.

    Parameters
    ----------
    x, y
        Inputs in [0, 1] and labels on the target's device, shapes (B, *shape) and (B,).
    draw_keys
        One int64 a sample, for its random draws, shape (B,).

    Raises
    ------
    ValueError
        For a targeted threat model, and for an attack that is not `confined`.
    """
    if threat.goal == "targeted":
        raise UserError(f"the threat model is {threat}: expected an untargeted one")
    if not attack.confined:
        raise UserError(f"the attack is {type(attack).__name__}, which leaves the ball: expected one such as PGD")
    query = Query(target, attack.loss, False, BudgetTracker(), len(x))
    problem = Problem(
        x=x,
        y=y,
        target_class=y,
        sample_keys=draw_keys,
        step=torch.zeros_like(y),
        noise=Noise(draw_keys),
        threat=threat,
        model=Counted(target),
    )
    state = attack.init(problem)
    for _ in range(attack.steps):
        rival = attack.rival(problem, state)
        output = query(problem.project(state.x), problem.target_class, rival, gradient=attack.gradients)
        state = attack.step(problem, state, output)
        problem = replace(problem, step=problem.step + 1)
    return problem.project(state.x).detach()


class Query:
    """Asks the model, in parts as large as memory allows."""

    def __init__(self, target: Ask, loss: LossName, targeted: bool, budget: BudgetTracker, limit: int) -> None:
        self._target, self._loss, self._targeted, self._budget = target, LOSSES[loss], targeted, budget
        budget.batch_limit = min(budget.batch_limit, limit)

    @property
    def limit(self) -> int:
        """Most samples at once; what was found out in one attack holds for the next."""
        return self._budget.batch_limit

    def __call__(self, x: Tensor, target_class: Tensor, rival: Tensor | None = None, *, gradient: bool) -> ModelOutput:
        while True:
            try:
                parts = [
                    self._ask(x[part], target_class[part], None if rival is None else rival[part], gradient)
                    for part in (slice(at, at + self.limit) for at in range(0, len(x), self.limit))
                ]
            except (RuntimeError, MemoryError) as fault:
                if not out_of_memory(fault) or self.limit == 1:
                    raise
                self._budget.batch_limit = max(1, min(self.limit, len(x)) // 2)
                continue
            return parts[0] if len(parts) == 1 else ModelOutput(*map(torch.cat, zip(*parts, strict=True)))

    def _ask(self, x: Tensor, target_class: Tensor, rival: Tensor | None, gradient: bool) -> ModelOutput:
        x = x.detach()
        if not gradient:
            with torch.no_grad():
                logits = self._target(x)
                loss = self._loss(logits, target_class, self._targeted, rival).to(x.dtype)
            return ModelOutput(x, logits, loss, torch.zeros_like(x), torch.zeros_like(target_class, dtype=torch.bool))
        with torch.enable_grad():
            x.requires_grad_()
            logits = self._target(x)
            loss = self._loss(logits, target_class, self._targeted, rival)
            # A model that cuts the graph has no gradient.
            grad = torch.autograd.grad(loss.sum(), x, allow_unused=True)[0] if loss.requires_grad else None
        x = x.detach()
        grad = torch.zeros_like(x) if grad is None else grad
        steepest = grad.flatten(1).abs().amax(1)
        if not bool(steepest.isfinite().all()):
            grad = grad.nan_to_num(0.0, 0.0, 0.0)  # one value that is no number would spoil a whole L2 step
        blind = ~((steepest > 0) & steepest.isfinite())
        return ModelOutput(x, logits.detach(), loss.detach().to(x.dtype), grad, blind)


def out_of_memory(fault: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the CPU."""
    text = str(fault).lower()
    return (
        isinstance(fault, torch.OutOfMemoryError | MemoryError)
        or "out of memory" in text
        or "can't allocate memory" in text
    )


class _Pile:
    """Lanes that wait to be asked about together; they leave it only when they are settled."""

    def __init__(self) -> None:
        self._parts: list[ActiveBatch] = []

    @property
    def size(self) -> int:
        return sum(part.size for part in self._parts)

    def add(self, batch: ActiveBatch) -> None:
        if batch.size:
            self._parts.append(batch)

    def first(self, most: int) -> ActiveBatch:
        self._parts = [reduce(ActiveBatch.join, self._parts)]
        return self._parts[0].select(slice(None, most))

    def drop(self, count: int) -> None:
        rest = self._parts[0].select(slice(count, None))
        self._parts = [rest, *self._parts[1:]] if rest.size else self._parts[1:]


class _Loop:
    """One run of one attack: its result is the sum of the entries that its samples settle in."""

    def __init__(
        self,
        attack: Attack,
        target: Target,
        samples: Samples,
        threat: ThreatModel,
        *,
        name: str,
        seed: int,
        batch_size: int,
        early_stop: bool,
        keep: Container[int],
        float64_model: Ask | None,
        budget: BudgetTracker,
        journal: Journal | None,
    ) -> None:
        self.attack, self.target, self.samples, self.threat = attack, target, samples, threat
        self.name, self.early_stop, self.keep, self.budget, self.journal = name, early_stop, keep, budget, journal
        self.capacity = batch_size
        self.stream = Noise(samples.sample_keys).at(seed).at(zlib.crc32(f"{name}|{threat}".encode()))
        self.query = Query(target, attack.loss, threat.goal == "targeted", budget, batch_size)
        # Of its own memory: what float64 takes says nothing of what the attacks take.
        self.float64_query = (
            None if float64_model is None else Query(float64_model, "margin", False, BudgetTracker(), batch_size)
        )
        self.model = Counted(target)
        self.distance = GEOMETRIES[threat.norm].distance
        self.reach = threat.reach
        self.result = RunResult.empty(len(samples), attack.steps)
        self.queue: dict[int, int] = {}  # samples that wait, and which start it will be
        self.batch: ActiveBatch | None = None
        self.last = _Pile()  # all steps taken: the last candidates wait for a look
        self.unchecked = _Pile()  # broken: the witnesses wait for confirmation
        self.settled = self.total = 0
        self.last_entry = time.perf_counter()

    def run(self, rows: NDArray[np.int64]) -> RunResult:
        self.queue = dict.fromkeys(rows.tolist(), 0)
        self.total = len(rows)
        self._read_journal()
        self._tell()
        with self.target.attacking():
            try:
                while self._refill() or self.last.size or self.unchecked.size:
                    self._advance()
                    self._drain(everything=self.batch is None and not self.queue)
            except (Stop, KeyboardInterrupt) as stop:
                self.result.stopped = str(stop) if isinstance(stop, Stop) else "interrupt"
                self._cut_short()
        return self.result

    def _cut_short(self) -> None:
        """Keep what was found. The others' passes count, but they are not settled for good."""
        if self.batch is not None:
            self.last.add(self._charge(self.batch, self.model.take()))
        try:
            self._confirm(everything=True)
            if self.last.size:
                batch = self.last.first(self.last.size)
                self.last.drop(batch.size)
                found = self._found(batch)
                self._settle(batch.select(~found), journal=False)
                self.unchecked.add(batch.select(found))
                # Where the nearest example is looked for, their search is not over: a resumed run makes it again.
                self._confirm(everything=True, journal=self.early_stop)
        except KeyboardInterrupt:  # in a hurry: what is not confirmed is not broken
            for pile in (self.unchecked, self.last):
                if pile.size:
                    waiting = pile.first(pile.size)
                    self._settle(waiting._replace(best=torch.full_like(waiting.best, torch.inf)), journal=False)

    def _read_journal(self) -> None:
        for entry in self.journal.entries() if self.journal is not None else ():
            if all(row in self.queue for row in entry.rows.tolist()):
                self.budget.spend(int(entry.forward.sum()), int(entry.backward.sum()), entry.seconds)
                self._add(entry)

    def _refill(self) -> bool:
        """Fill the places that came free; not for every single one, as each refill copies the batch."""
        self.capacity = min(self.capacity, self.query.limit)
        free = self.capacity - (self.batch.size if self.batch else 0)
        if self.queue and (self.batch is None or free >= max(1, self.capacity // 8)):
            taken, fresh = self._take(free)
            if self.attack.steps == 0:
                self.last.add(fresh)
            else:
                self.batch = fresh if self.batch is None else self.batch.join(fresh)
            for row, _ in taken:
                del self.queue[row]
        return self.batch is not None

    def _take(self, most: int) -> tuple[list[tuple[int, int]], ActiveBatch]:
        """Start waiting samples, as many as memory allows: an attack may ask the model before its first step."""
        self.budget.check(0)
        while True:
            taken = list(islice(self.queue.items(), most))
            try:
                return taken, self._start(*torch.tensor(taken).unbind(1))
            except (RuntimeError, MemoryError) as fault:
                if not out_of_memory(fault) or len(taken) == 1:
                    raise
            self.model.take()  # nothing came of those
            most = self.budget.batch_limit = len(taken) // 2

    def _start(self, rows: Tensor, restart: Tensor) -> ActiveBatch:
        device = self.target.device
        x, y, target_class, sample_keys, draw_keys = (
            part.to(device)
            for part in (
                self.samples.data.fetch(rows),
                self.samples.data.labels[rows],
                self.samples.target_classes[rows],
                self.samples.sample_keys[rows],
                Noise(self.stream.keys[rows]).at(restart).keys,
            )
        )
        batch = ActiveBatch.start(rows, restart, x, y, target_class, sample_keys, draw_keys, self.attack.steps)
        batch = batch._replace(state=self.attack.init(self._problem(batch)))
        return self._charge(batch, self.model.take())

    def _problem(self, batch: ActiveBatch) -> Problem:
        return Problem(
            x=batch.x,
            y=batch.y,
            target_class=batch.target_class,
            sample_keys=batch.sample_keys,
            step=batch.step,
            noise=Noise(batch.draw_keys),
            threat=self.threat,
            model=self.model,
        )

    def _advance(self) -> None:
        """Look at the candidates in flight, let go of those that broke their sample, and step the others."""
        if self.batch is None:
            return
        batch, output = self._see(self.batch, gradient=self.attack.gradients)
        self.batch = batch
        broken = batch.fell >= 0
        if self.early_stop and bool(broken.any()):
            self.unchecked.add(batch.select(broken))
            self.batch = None if bool(broken.all()) else batch.select(~broken)
            output = ModelOutput(*(part[~broken] for part in output))
        if self.batch is None:
            return
        state = self.attack.step(self._problem(self.batch), self.batch.state, output)
        batch = self._charge(self.batch, self.model.take())._replace(state=state, step=self.batch.step + 1)
        last = batch.step >= self.attack.steps
        if (gave_up := self.attack.gave_up(self._problem(batch), state)) is not None:
            last = last | gave_up
        if bool(last.any()):
            # They need no gradient any more, so they leave the batch, and are looked at with others like them.
            self.last.add(batch.select(last))
            self.batch = None if bool(last.all()) else batch.select(~last)
        else:
            self.batch = batch

    def _see(self, batch: ActiveBatch, *, gradient: bool) -> tuple[ActiveBatch, ModelOutput]:
        """Ask the model about the lanes' candidates, and write down what it says."""
        self.budget.check(batch.size * (1 + gradient))
        x = batch.state.x.to(batch.x.dtype)
        if not bool(x.sum().isfinite()):  # an attack's slip is not the model's: it gets no NaN to answer to
            x = torch.where(x.isfinite(), x, batch.x)
        problem = self._problem(batch)
        x = problem.project(x) if self.attack.confined else x.clamp(0.0, 1.0)
        output = self.query(x, batch.target_class, self.attack.rival(problem, batch.state), gradient=gradient)
        margins = margin(output.logits, batch.target_class, problem.targeted)
        inside = self._inside(batch, output.x)
        reached, doubted = self._hits(batch, output, margins)
        self.budget.spend(batch.size + int(doubted.sum()), batch.size * gradient)
        batch.note(output.loss, margins, output.blind, inside)
        return self._keep_nearest(batch, output.x, reached)._replace(
            forward=batch.forward + 1 + doubted,
            backward=batch.backward + int(gradient),
            # Of what is out of the ball nothing is claimed.
            strange=batch.strange | (inside & ~output.logits.isfinite().all(1)),
            rounded=batch.rounded | (inside & doubted & ~reached),
        ), output

    def _inside(self, batch: ActiveBatch, x: Tensor) -> Tensor:
        """Which candidates are in the ball, shape (B,)."""
        if self.attack.confined:
            return torch.ones_like(batch.strange)
        return self.distance(x - batch.x) <= self.reach

    def _drain(self, everything: bool) -> None:
        """Look at last candidates and confirm witnesses: in whole batches, or everything that waits."""
        while self.last.size and (everything or self.last.size >= self.capacity):
            batch, _ = self._see(self.last.first(self.capacity), gradient=False)
            self.last.drop(batch.size)
            found = self._found(batch)
            self.unchecked.add(batch.select(found))
            self._settle(batch.select(~found))
        self._confirm(everything)

    def _found(self, batch: ActiveBatch) -> Tensor:
        """Which lanes hold an example that is to be confirmed: one in the ball or, for its distance, any."""
        return batch.fell >= 0 if self.early_stop else batch.best.isfinite()

    def _hits(self, batch: ActiveBatch, output: ModelOutput, margins: Tensor) -> tuple[Tensor, Tensor]:
        """Which candidates are adversarial, and which of them were asked about in float64 to know it.

        What rounding made doesn't end a search: the lane goes on to an example that is one.
        """
        reached = self._reached(output.logits, batch.target_class)
        doubted = (
            reached & doubtful(output.logits, margins) if self.float64_query is not None else torch.zeros_like(reached)
        )
        if bool(doubted.any()):
            target_class, logits = batch.target_class[doubted], output.logits[doubted]
            precise = self._asked_again(output.x[doubted], target_class, self.float64_query)
            reached[doubted] = self._reached(precise, target_class) | ~alike(logits, precise)
        return reached, doubted

    def _keep_nearest(self, batch: ActiveBatch, x: Tensor, reached: Tensor) -> ActiveBatch:
        """Keep the nearest adversarial candidate of each lane, and the step at which it first was in the ball."""
        hit = reached.nonzero()[:, 0]
        if len(hit) == 0:
            return batch
        distance = self.distance(x[hit] - batch.x[hit]).double()
        nearer = distance < batch.best[hit]
        batch.best[hit[nearer]] = distance[nearer]
        batch.best_x[hit[nearer]] = x[hit[nearer]]
        falls = (batch.fell < 0) & (batch.best <= self.reach)
        return batch._replace(fell=torch.where(falls, batch.step, batch.fell))

    def _reached(self, logits: Tensor, target_class: Tensor) -> Tensor:
        """Whether a prediction is what the adversary wants; one that is not a number never is."""
        same = logits.argmax(1) == target_class
        return (same if self.threat.goal == "targeted" else ~same) & logits.isfinite().all(1)

    def _charge(self, batch: ActiveBatch, spent: Passes) -> ActiveBatch:
        """Share the passes of an attack that runs its own loop evenly among its samples."""
        if not spent.total:
            return batch
        self.budget.spend(spent.forward, spent.backward)
        place = torch.arange(batch.size, device=batch.rows.device)
        forward, backward = (
            total // batch.size + (place < total % batch.size) for total in (spent.forward, spent.backward)
        )
        return batch._replace(forward=batch.forward + forward, backward=batch.backward + backward)

    def _confirm(self, everything: bool, journal: bool = True) -> None:
        """Ask the model again about the candidates that broke a sample, in batches of their own."""
        while self.unchecked.size and (everything or self.unchecked.size >= self.capacity):
            batch = self.unchecked.first(self.capacity)
            self._confirm_batch(batch, journal)
            self.unchecked.drop(batch.size)

    def _confirm_batch(self, batch: ActiveBatch, journal: bool) -> None:
        origin = self.samples.data.fetch(batch.rows.cpu()).to(batch.x.device)
        distance = self.distance(batch.best_x.double() - origin.double())
        inside = distance <= self.reach
        allowed = ((batch.best_x >= 0) & (batch.best_x <= 1)).flatten(1).all(1) & (inside | (not self.early_stop))
        logits = self._asked_again(batch.best_x, batch.target_class, self.float64_query)
        self.budget.spend(batch.size, 0)
        batch = batch._replace(forward=batch.forward + 1)
        good = self._reached(logits, batch.target_class)
        why = torch.where(allowed, torch.where(good, -1, DENIALS.index(CHANGED)), DENIALS.index(OUTSIDE))
        good &= allowed
        if self.float64_query is not None and bool((allowed & ~good).any()):
            doubted = (allowed & ~good).nonzero()[:, 0]
            said = self._asked_again(batch.best_x[doubted], batch.target_class[doubted], None)
            self.budget.spend(len(doubted), 0)
            batch.forward[doubted] += 1
            stays = self._reached(said, batch.target_class[doubted])
            # Where a hard cut lies between the two it is another model in float64, which tells nothing of this one.
            other = stays & ~alike(said, logits[doubted])
            logits[doubted[other]] = said[other].to(logits.dtype)
            good[doubted[other]] = True
            why[doubted[stays]] = DENIALS.index(IN_FLOAT64)
            why[doubted[other]] = -1
        broken = good & inside
        self._settle(
            batch._replace(best=torch.where(good, distance, torch.inf)),
            # Of an example that was never in the ball nothing was claimed.
            denied=torch.where(batch.fell >= 0, why, -1).cpu().numpy(),
            broken=broken.cpu().numpy(),
            prediction=torch.where(broken, logits.argmax(1), -1).cpu().numpy(),
            journal=journal,
        )

    def _asked_again(self, x: Tensor, target_class: Tensor, float64_query: Query | None) -> Tensor:
        """Ask about witnesses: in float64, half as many at once, which take the same memory, or as the loop does."""
        if float64_query is not None:
            half = max(1, len(x) // 2)
            try:
                parts = zip(torch.split(x, half), torch.split(target_class, half), strict=True)
                return torch.cat([float64_query(part, of, gradient=False).logits for part, of in parts])
            except Exception:  # it went well on the first samples; a check costs no result
                _log.info("%s: can't be asked in float64 any more", self.name, exc_info=True)
                self.float64_query, self.result.float64_held = None, False
        return self.query(x, target_class, gradient=False).logits

    def _settle(
        self,
        batch: ActiveBatch,
        denied: NDArray[np.int64] | None = None,
        broken: NDArray[np.bool_] | None = None,
        prediction: NDArray[np.int64] | None = None,
        journal: bool = True,
    ) -> None:
        """Write an entry for lanes that stand (``denied`` is None), or whose candidates were asked about again."""
        if not batch.size:
            return
        rows = batch.rows.cpu().numpy()
        restart = batch.restart.cpu().numpy()
        broken = np.zeros(batch.size, np.bool_) if broken is None else broken
        if denied is None:
            denied = torch.where(batch.rounded, DENIALS.index(IN_FLOAT64), -1).cpu().numpy()
        sums, climb = batch.sums(), batch.climb()
        entry = Entry(
            rows=rows,
            restart=restart,
            another_start=(restart + 1 < self.attack.restarts) & ~(broken & self.early_stop),
            broken=broken,
            denied=denied,
            strange=batch.strange.cpu().numpy(),
            prediction=np.full(batch.size, -1, np.int64) if prediction is None else prediction,
            distance=batch.best.double().cpu().numpy(),
            forward=batch.forward.cpu().numpy(),
            backward=batch.backward.cpu().numpy(),
            flat=climb.flat,
            late=climb.late,
            samples=sums.samples,
            loss=sums.loss,
            fell=sums.fell,
            zero=sums.zero,
            seconds=time.perf_counter() - self.last_entry,
            witnesses={
                int(row): batch.best_x[place].float().cpu().numpy().copy()  # a view would keep its whole batch
                for place, row in enumerate(rows)
                if broken[place] and row in self.keep
            },
        )
        self.last_entry = time.perf_counter()
        self._add(entry)
        if self.journal is not None and journal:
            self.journal.add(entry)
        self._tell()

    def _tell(self) -> None:
        broken = int(self.result.broken.sum())
        progress = Progress(self.name, str(self.threat), self.settled, self.total, broken, self.result.passes)
        self.budget.tell(progress)

    def _add(self, entry: Entry) -> None:
        """Add an entry to the result; queue what is to be started again."""
        self.result.add(entry)
        for row, restart, again in zip(
            entry.rows.tolist(), entry.restart.tolist(), entry.another_start.tolist(), strict=True
        ):
            self.queue.pop(row, None)
            if again:
                self.queue[row] = restart + 1
        self.settled += int((~entry.another_start).sum())
