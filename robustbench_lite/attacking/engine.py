"""The one attack loop.

An attack (see `interface`) proposes candidates. The engine does everything else, once for all attacks: it brings the
candidates into the box and, of an attack that is `confined`, into the ball; asks the model and counts the passes; lets
broken samples leave the batch and waiting ones take their place; and has success decided by an independent forward pass
(see `confirm`).
"""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Container
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_lite.attacking.active_batch import ActiveBatch, WaitingSamples
from robustbench_lite.attacking.confirm import Confirmation, SuccessCheck
from robustbench_lite.attacking.interface import Attack, Counted, ModelOutput, Problem
from robustbench_lite.attacking.journal import Entry, Journal
from robustbench_lite.attacking.query import Query
from robustbench_lite.attacking.record import RunResult, Samples
from robustbench_lite.core.cost import BudgetTracker, Progress, Stop
from robustbench_lite.core.errors import UserError, out_of_memory
from robustbench_lite.core.losses import margin
from robustbench_lite.core.noise import Noise
from robustbench_lite.core.norms import GEOMETRIES
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.model.float64 import Ask
from robustbench_lite.model.target import Target
from robustbench_lite.results.scorecard import DENIALS, IN_FLOAT64

_TOLD_AFTER = 0.5  # seconds between two words on samples in flight, which cost a look at the device


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How an attack is run."""

    name: str = "attack"
    """What progress and errors call it; two attacks of different names draw differently."""
    seed: int = 0
    """Where the random draws start."""
    batch_size: int = 256
    """Most samples in flight; halved by itself where memory runs out."""
    early_stop: bool = True
    """Whether a sample leaves as soon as it is broken. False: the attack goes on to the nearest example, and one out of
    the ball is confirmed as well, for its distance."""
    keep: Container[int] = ()
    """Positions whose witness is kept."""
    float64_model: Ask | None = None
    """The target in float64 (see `float64`): what it denies is no witness."""
    budget: BudgetTracker = field(default_factory=BudgetTracker)
    """Counts and limits what is spent."""
    journal: Journal | None = None
    """Where entries are written, and read first: a run that was killed goes on from them."""


def run_attack(
    attack: Attack,
    target: Target,
    samples: Samples,
    rows: NDArray[np.int64],
    threat: ThreatModel,
    options: RunOptions | None = None,
) -> RunResult:
    """Run one attack on some samples.

    Parameters
    ----------
    attack, target, threat
        Who attacks what, and how far it may go.
    samples, rows
        The data, and the positions of the samples to attack.
    options
        How it is run.

    Returns
    -------
    RunResult
        Also after Ctrl-C or a spent budget, with what was done until then.

    Raises
    ------
    UserError
        For a threat model, or a shape of inputs, that the attack can't do.
    """
    options = RunOptions() if options is None else options
    if threat.norm not in attack.norms:
        raise UserError(f"{options.name} can't be run under {threat}: it does {', '.join(attack.norms)}")
    shape = tuple(samples.data.shape)
    if expected := attack.misfit(shape, threat, samples.data.columns):
        raise UserError(f"{options.name} can't be run under {threat} on inputs of shape {shape}: {expected}")
    return _Loop(attack, target, samples, threat, options).run(rows)


class _Loop:
    """One run of one attack. Its result is the sum of the entries that its samples are settled in."""

    def __init__(
        self, attack: Attack, target: Target, samples: Samples, threat: ThreatModel, options: RunOptions
    ) -> None:
        self.attack, self.target, self.samples, self.threat, self.options = attack, target, samples, threat, options
        self.budget, self.capacity = options.budget, options.batch_size
        self.stream = Noise(samples.sample_keys).at(options.seed).at(zlib.crc32(f"{options.name}|{threat}".encode()))
        self.model = Counted(target)
        self.query = Query(target, attack.loss, threat.goal == "targeted", self.budget, options.batch_size)
        self.check = SuccessCheck(
            self.query, threat, options.float64_model, options.batch_size, options.name, samples.data.columns
        )
        self.distance = GEOMETRIES[threat.norm].distance
        self.result = RunResult.empty(len(samples), attack.steps)
        self.queue: dict[int, int] = {}  # samples that wait for their next start, and which one it is
        self.batch: ActiveBatch | None = None
        self.finished = WaitingSamples()  # all steps taken: the last candidates wait for the model's answer
        self.unconfirmed = WaitingSamples()  # broken: the examples wait for their confirmation
        self.settled = self.total = 0
        self.last_entry = time.perf_counter()
        self.told = 0.0

    def run(self, rows: NDArray[np.int64]) -> RunResult:
        """Attack the samples at these positions."""
        self.queue = dict.fromkeys(rows.tolist(), 0)
        self.total = len(rows)
        self._read_journal()
        self._tell()
        with self.target.attacking():
            try:
                while self._refill() or self.finished.size or self.unconfirmed.size:
                    self._advance()
                    everything = self.batch is None and not self.queue
                    self._ask_last(everything)
                    self._confirm(everything)
            except (Stop, KeyboardInterrupt) as stop:
                self.result.stopped = str(stop) if isinstance(stop, Stop) else "interrupt"
                self._cut_short()
        self.result.float64_held = self.check.float64_held
        return self.result

    def _read_journal(self) -> None:
        journal = self.options.journal
        for entry in journal.entries() if journal is not None else ():
            # Another process may have run the same samples: a start that is added already doesn't count twice.
            starts = zip(entry.rows.tolist(), entry.restart.tolist(), strict=True)
            if all(self.queue.get(row) == restart for row, restart in starts):
                self.budget.spend(int(entry.forward.sum()), int(entry.backward.sum()), entry.seconds)
                self._add(entry)

    def _refill(self) -> bool:
        """Fill the places that came free; not for every single one, as each refill copies the batch."""
        self.capacity = min(self.capacity, self.query.limit)
        free = self.capacity - (self.batch.size if self.batch else 0)
        if self.queue and (self.batch is None or free >= max(1, self.capacity // 8)):
            taken, fresh = self._take(free)
            if self.attack.steps == 0:
                self.finished.add(fresh)
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
            self.model.take()  # nothing came of those passes
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
        return self._charge(batch)

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
            columns=self.samples.data.columns,
        )

    def _advance(self) -> None:
        """Ask about the candidates in flight, let go of those that broke their sample, and step the others."""
        if self.batch is None:
            return
        before = self.batch.broken_at
        batch, output = self._ask(self.batch, gradient=self.attack.gradients)
        self.batch = batch
        if self.options.early_stop and batch.broken_at is not before and bool((broken := batch.broken_at >= 0).any()):
            self.unconfirmed.add(batch.select(broken))
            self.batch = None if bool(broken.all()) else batch.select(~broken)
            output = ModelOutput(*(part[~broken] for part in output))
        if self.batch is None:
            return
        state = self.attack.step(self._problem(self.batch), self.batch.state, output)
        batch = self._charge(self.batch)._replace(state=state, step=self.batch.step + 1)
        self._tell_steps(batch)
        last = batch.step >= self.attack.steps
        if (gave_up := self.attack.gave_up(self._problem(batch), state)) is not None:
            last = last | gave_up
        if bool(last.any()):
            # They need no gradient any more: they leave the batch, and are asked about with others like them.
            self.finished.add(batch.select(last))
            self.batch = None if bool(last.all()) else batch.select(~last)
        else:
            self.batch = batch

    def _ask(self, batch: ActiveBatch, *, gradient: bool) -> tuple[ActiveBatch, ModelOutput]:
        """Ask the model about the candidates of a batch, and write down what it says."""
        self.budget.check(batch.size * (1 + gradient))
        x = batch.state.x.to(batch.x.dtype)
        if not math.isfinite(x.sum()):  # an attack's slip is not the model's: it gets no NaN to answer to
            x = torch.where(x.isfinite(), x, batch.x)
        problem = self._problem(batch)
        x = problem.project(x) if self.attack.confined else x.clamp(0.0, 1.0)
        rival = self.attack.rival(problem, batch.state)
        output = self.query(problem.allowed(x), batch.target_class, rival, gradient=gradient)
        self.budget.spend(batch.size, batch.size * gradient)
        return self._noted(batch, output, rival, gradient=gradient), problem.straight_through(output, x)

    def _noted(self, batch: ActiveBatch, output: ModelOutput, rival: Tensor | None, *, gradient: bool) -> ActiveBatch:
        """Write down what the model said; most steps break nothing, and then nothing is asked or kept."""
        margins = output.loss
        if self.attack.loss != "margin" or rival is not None or margins.dtype != output.logits.dtype:
            margins = margin(output.logits, batch.target_class, self.threat.goal == "targeted")
        inside = None if self.attack.confined else self.distance(output.x - batch.x) <= self.threat.reach
        hit, doubted, finite = self.check.hits(output, batch.target_class, margins)
        batch.note(output.loss, margins, output.blind if gradient else None, inside)
        # Of what is out of the ball nothing is claimed.
        strange = ~finite if inside is None else ~finite & inside
        backward = batch.backward + 1 if gradient else batch.backward
        batch = batch._replace(forward=batch.forward + 1, backward=backward, non_finite=batch.non_finite | strange)
        if hit is None:
            return batch
        if doubted is not None:
            self.budget.spend(int(doubted.sum()), 0)
            rounded = doubted & ~hit if inside is None else doubted & ~hit & inside
            batch = batch._replace(forward=batch.forward + doubted, rounding_only=batch.rounding_only | rounded)
        return batch.keep_nearest(output.x, hit, self.distance, self.threat.reach)

    def _charge(self, batch: ActiveBatch) -> ActiveBatch:
        """Count the passes of an attack that asked the model itself."""
        spent = self.model.take()
        self.budget.spend(spent.forward, spent.backward)
        return batch.charge(spent)

    def _ask_last(self, everything: bool) -> None:
        """Ask about last candidates: in whole batches, or everything that waits."""
        while self.finished.size and (everything or self.finished.size >= self.capacity):
            batch, _ = self._ask(self.finished.first(self.capacity), gradient=False)
            self.finished.drop(batch.size)
            found = self._found(batch)
            self.unconfirmed.add(batch.select(found))
            self._settle(batch.select(~found))

    def _found(self, batch: ActiveBatch) -> Tensor:
        """Which samples have an example to confirm: one in the ball or, for its distance, any."""
        return batch.broken_at >= 0 if self.options.early_stop else batch.distance.isfinite()

    def _confirm(self, everything: bool, journal: bool = True) -> None:
        """Confirm the examples that were found, in batches of their own: whole ones, or everything that waits."""
        while self.unconfirmed.size and (everything or self.unconfirmed.size >= self.capacity):
            batch = self.unconfirmed.first(self.capacity)
            origin = self.samples.data.fetch(batch.rows.cpu()).to(batch.x.device)
            anywhere = not self.options.early_stop
            confirmed = self.check.confirm(batch.nearest, origin, batch.target_class, anywhere=anywhere)
            self.budget.spend(int(confirmed.forward.sum()), 0)
            self._settle(batch, confirmed, journal=journal)
            self.unconfirmed.drop(batch.size)

    def _settle(self, batch: ActiveBatch, confirmed: Confirmation | None = None, *, journal: bool = True) -> None:
        """Write an entry for samples that stand (``confirmed`` is None), or whose examples were asked about again."""
        if not batch.size:
            return
        if confirmed is None:
            confirmed = Confirmation.of_none(batch.distance)
            reasons = torch.where(batch.rounding_only, DENIALS.index(IN_FLOAT64), -1)
        else:  # of an example that was never in the ball nothing was claimed
            reasons = torch.where(batch.broken_at >= 0, confirmed.denial_reasons, -1)
        rows, restart, broken = (part.cpu().numpy() for part in (batch.rows, batch.restart, confirmed.broken))
        sums, rise = batch.sums(), batch.margin_rise()
        entry = Entry(
            rows=rows,
            restart=restart,
            another_start=(restart + 1 < self.attack.restarts) & ~(broken & self.options.early_stop),
            broken=broken,
            denial_reasons=reasons.cpu().numpy(),
            non_finite=batch.non_finite.cpu().numpy(),
            prediction=confirmed.prediction.cpu().numpy(),
            distance=confirmed.distance.double().cpu().numpy(),
            forward=(batch.forward + confirmed.forward).cpu().numpy(),
            backward=batch.backward.cpu().numpy(),
            never_rose=rise.never,
            late_rise=rise.late,
            samples=sums.samples,
            loss=sums.loss,
            newly_broken=sums.newly_broken,
            zero_gradients=sums.zero_gradients,
            seconds=time.perf_counter() - self.last_entry,
            witnesses={
                int(row): batch.nearest[place].float().cpu().numpy().copy()  # a view would keep its whole batch
                for place, row in enumerate(rows)
                if broken[place] and row in self.options.keep
            },
        )
        self.last_entry = time.perf_counter()
        self._add(entry)
        if self.options.journal is not None and journal:
            self.options.journal.add(entry)
        self._tell()

    def _add(self, entry: Entry) -> None:
        """Add an entry to the result; queue what is to be started again."""
        self.result.add(entry)
        columns = (column.tolist() for column in (entry.rows, entry.restart, entry.another_start))
        for row, restart, again in zip(*columns, strict=True):
            self.queue.pop(row, None)
            if again:
                self.queue[row] = restart + 1
        self.settled += int((~entry.another_start).sum())

    def _cut_short(self) -> None:
        """Keep what was found. The other samples' passes count, but they are not settled for good."""
        if self.batch is not None:
            self.finished.add(self._charge(self.batch))
        try:
            self._confirm(everything=True)
            if self.finished.size:
                batch = self.finished.first(self.finished.size)
                self.finished.drop(batch.size)
                found = self._found(batch)
                self._settle(batch.select(~found), journal=False)
                self.unconfirmed.add(batch.select(found))
                # Where the nearest example is looked for, their search is not over: a resumed run makes it again.
                self._confirm(everything=True, journal=self.options.early_stop)
        except (KeyboardInterrupt, Stop):  # in a hurry, or the target's own limit: what isn't confirmed isn't broken
            for waiting in (self.unconfirmed, self.finished):
                if waiting.size:
                    batch = waiting.first(waiting.size)
                    self._settle(batch._replace(distance=torch.full_like(batch.distance, torch.inf)), journal=False)

    def _tell(self, under_way: float = 0.0) -> None:
        self.told = time.monotonic()
        broken = int(self.result.broken.sum())
        name, threat, cut = self.options.name, str(self.threat), self.result.stopped is not None
        told = Progress(name, threat, self.settled, self.total, broken, self.result.passes, None, cut, under_way)
        self.budget.tell(told)

    def _tell_steps(self, batch: ActiveBatch) -> None:
        """Now and then tell what is behind the samples in flight: hardly broken ones are settled all at the end."""
        if self.budget.heard and time.monotonic() - self.told >= _TOLD_AFTER:
            starts = float((batch.restart + batch.step / self.attack.steps).sum()) + sum(self.queue.values())
            self._tell((starts + self.finished.size + self.unconfirmed.size) / self.attack.restarts)
