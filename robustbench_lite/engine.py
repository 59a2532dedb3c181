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

from robustbench_lite.data import Data
from robustbench_lite.errors import UserError
from robustbench_lite.exact import Ask, alike, doubtful
from robustbench_lite.journal import Entry, Journal
from robustbench_lite.lanes import Lanes
from robustbench_lite.losses import LOSSES, LossName, margin
from robustbench_lite.meter import Meter, Progress, Stop
from robustbench_lite.noise import Noise
from robustbench_lite.norms import GEOMETRIES
from robustbench_lite.scorecard import CHANGED, DENIALS, IN_FLOAT64, OUTSIDE, Passes, Trace
from robustbench_lite.stepper import Attack, Counted, Problem, Seen
from robustbench_lite.target import Target
from robustbench_lite.threat import ThreatModel

_log = logging.getLogger(__name__)

_SUMS = (
    *("forward", "backward", "samples", "loss", "fell", "zero"),
    *("stood", "flat", "late", "again", "again_broke", "strange", "seconds"),
)
"""Fields of a run that add up over samples."""


@dataclass(frozen=True)
class Samples:
    """The data of an evaluation, with what the clean pass found out about each sample."""

    data: Data
    keys: Tensor
    """Hash of each sample's content, int64, shape (N,): what its random draws depend on."""
    aims: Tensor
    """The class that the goal is about, shape (N,)."""

    def __len__(self) -> int:
        return len(self.data)


@dataclass
class Run:
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
    again: int = 0
    """Starts after the first."""
    again_broke: int = 0
    """How many of these broke their sample."""
    denied: dict[int, str] = field(default_factory=dict)
    """By position, why an adversarial example that was seen is none, of `DENIALS`; another one may be."""
    exact: bool = True
    """False where the model, which could be asked in float64 at first, no longer could."""
    strange: int = 0
    """Samples for which the model gave logits that are no finite numbers."""
    stopped: str | None = None
    """``interrupt``, ``seconds`` or ``passes`` where it didn't come to its end."""
    fault: str | None = None
    """What it tripped over, where it failed."""
    seconds: float = 0.0

    @classmethod
    def empty(cls, size: int, steps: int) -> Run:
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
        self.again += int((entry.restart > 0).sum())
        self.again_broke += int((broken & (entry.restart > 0)).sum())
        for row, why in zip(rows.tolist(), entry.denied.tolist(), strict=True):
            if why >= 0:
                self.denied[row] = DENIALS[why]
        self.strange += int(entry.strange.sum())
        self.seconds += entry.seconds

    def merge(self, other: Run) -> Run:
        """Add a run of the same attack on other samples of the same data."""
        return Run(
            broken=self.broken | other.broken,
            prediction=np.maximum(self.prediction, other.prediction),
            distance=np.minimum(self.distance, other.distance),
            witnesses=self.witnesses | other.witnesses,
            denied=self.denied | other.denied,
            exact=self.exact and other.exact,
            **{name: getattr(self, name) + getattr(other, name) for name in _SUMS},
            stopped=other.stopped,
            fault=self.fault or other.fault,
        )

    def take(self, rows: NDArray[np.int64]) -> Run:
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
            restarted=self.again,
            restarts_broke=self.again_broke,
        )


def run(
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
    exact: Ask | None = None,
    meter: Meter | None = None,
    journal: Journal | None = None,
) -> Run:
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
    exact
        The target in float64 (see `exact`): what it denies is no witness.
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
        exact=exact,
        meter=meter or Meter(),
        journal=journal,
    )
    return loop.run(rows)


def perturb(attack: Attack, target: Target, x: Tensor, y: Tensor, threat: ThreatModel, keys: Tensor) -> Tensor:
    """Take every sample through all steps of an attack, and hand back its last candidates.

    What adversarial training needs: no success is decided, no sample leaves.

    Parameters
    ----------
    x, y
        Inputs in [0, 1] and labels on the target's device, shapes (B, *shape) and (B,).
    keys
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
    look = Look(target, attack.loss, False, Meter(), len(x))
    problem = Problem(
        x=x,
        y=y,
        aim=y,
        samples=keys,
        step=torch.zeros_like(y),
        noise=Noise(keys),
        threat=threat,
        model=Counted(target),
    )
    state = attack.init(problem)
    for _ in range(attack.steps):
        rival = attack.rival(problem, state)
        seen = look(problem.project(state.x), problem.aim, rival, gradient=attack.gradients)
        state = attack.step(problem, state, seen)
        problem = replace(problem, step=problem.step + 1)
    return problem.project(state.x).detach()


class Look:
    """Asks the model, in parts as large as memory allows."""

    def __init__(self, target: Ask, loss: LossName, targeted: bool, meter: Meter, limit: int) -> None:
        self._target, self._loss, self._targeted, self._meter = target, LOSSES[loss], targeted, meter
        meter.batch_limit = min(meter.batch_limit, limit)

    @property
    def limit(self) -> int:
        """Most samples at once; what was found out in one attack holds for the next."""
        return self._meter.batch_limit

    def __call__(self, x: Tensor, aim: Tensor, rival: Tensor | None = None, *, gradient: bool) -> Seen:
        while True:
            try:
                parts = [
                    self._ask(x[part], aim[part], None if rival is None else rival[part], gradient)
                    for part in (slice(at, at + self.limit) for at in range(0, len(x), self.limit))
                ]
            except (RuntimeError, MemoryError) as fault:
                if not out_of_memory(fault) or self.limit == 1:
                    raise
                self._meter.batch_limit = max(1, min(self.limit, len(x)) // 2)
                continue
            return parts[0] if len(parts) == 1 else Seen(*map(torch.cat, zip(*parts, strict=True)))

    def _ask(self, x: Tensor, aim: Tensor, rival: Tensor | None, gradient: bool) -> Seen:
        x = x.detach()
        if not gradient:
            with torch.no_grad():
                logits = self._target(x)
                loss = self._loss(logits, aim, self._targeted, rival).to(x.dtype)
            return Seen(x, logits, loss, torch.zeros_like(x), torch.zeros_like(aim, dtype=torch.bool))
        with torch.enable_grad():
            x.requires_grad_()
            logits = self._target(x)
            loss = self._loss(logits, aim, self._targeted, rival)
            # A model that cuts the graph has no gradient.
            grad = torch.autograd.grad(loss.sum(), x, allow_unused=True)[0] if loss.requires_grad else None
        x = x.detach()
        grad = torch.zeros_like(x) if grad is None else grad
        steepest = grad.flatten(1).abs().amax(1)
        if not bool(steepest.isfinite().all()):
            grad = grad.nan_to_num(0.0, 0.0, 0.0)  # one value that is no number would spoil a whole L2 step
        blind = ~((steepest > 0) & steepest.isfinite())
        return Seen(x, logits.detach(), loss.detach().to(x.dtype), grad, blind)


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
        self._parts: list[Lanes] = []

    @property
    def size(self) -> int:
        return sum(part.size for part in self._parts)

    def add(self, lanes: Lanes) -> None:
        if lanes.size:
            self._parts.append(lanes)

    def first(self, most: int) -> Lanes:
        self._parts = [reduce(Lanes.join, self._parts)]
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
        exact: Ask | None,
        meter: Meter,
        journal: Journal | None,
    ) -> None:
        self.attack, self.target, self.samples, self.threat = attack, target, samples, threat
        self.name, self.early_stop, self.keep, self.meter, self.journal = name, early_stop, keep, meter, journal
        self.capacity = batch_size
        self.stream = Noise(samples.keys).at(seed).at(zlib.crc32(f"{name}|{threat}".encode()))
        self.look = Look(target, attack.loss, threat.goal == "targeted", meter, batch_size)
        # Of its own memory: what float64 takes says nothing of what the attacks take.
        self.exact = None if exact is None else Look(exact, "margin", False, Meter(), batch_size)
        self.model = Counted(target)
        self.distance = GEOMETRIES[threat.norm].distance
        self.reach = threat.reach
        self.result = Run.empty(len(samples), attack.steps)
        self.queue: dict[int, int] = {}  # samples that wait, and which start it will be
        self.lanes: Lanes | None = None
        self.last = _Pile()  # all steps taken: the last candidates wait for a look
        self.unchecked = _Pile()  # broken: the witnesses wait for confirmation
        self.settled = self.total = 0
        self.last_entry = time.perf_counter()

    def run(self, rows: NDArray[np.int64]) -> Run:
        self.queue = dict.fromkeys(rows.tolist(), 0)
        self.total = len(rows)
        self._read_journal()
        self._tell()
        with self.target.attacking():
            try:
                while self._refill() or self.last.size or self.unchecked.size:
                    self._advance()
                    self._drain(everything=self.lanes is None and not self.queue)
            except (Stop, KeyboardInterrupt) as stop:
                self.result.stopped = str(stop) if isinstance(stop, Stop) else "interrupt"
                self._cut_short()
        return self.result

    def _cut_short(self) -> None:
        """Keep what was found. The others' passes count, but they are not settled for good."""
        if self.lanes is not None:
            self.last.add(self._charge(self.lanes, self.model.take()))
        try:
            self._confirm(everything=True)
            if self.last.size:
                lanes = self.last.first(self.last.size)
                self.last.drop(lanes.size)
                found = self._found(lanes)
                self._settle(lanes.select(~found), journal=False)
                self.unchecked.add(lanes.select(found))
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
                self.meter.spend(int(entry.forward.sum()), int(entry.backward.sum()), entry.seconds)
                self._add(entry)

    def _refill(self) -> bool:
        """Fill the places that came free; not for every single one, as each refill copies the batch."""
        self.capacity = min(self.capacity, self.look.limit)
        free = self.capacity - (self.lanes.size if self.lanes else 0)
        if self.queue and (self.lanes is None or free >= max(1, self.capacity // 8)):
            taken, fresh = self._take(free)
            if self.attack.steps == 0:
                self.last.add(fresh)
            else:
                self.lanes = fresh if self.lanes is None else self.lanes.join(fresh)
            for row, _ in taken:
                del self.queue[row]
        return self.lanes is not None

    def _take(self, most: int) -> tuple[list[tuple[int, int]], Lanes]:
        """Start waiting samples, as many as memory allows: an attack may ask the model before its first step."""
        self.meter.check(0)
        while True:
            taken = list(islice(self.queue.items(), most))
            try:
                return taken, self._start(*torch.tensor(taken).unbind(1))
            except (RuntimeError, MemoryError) as fault:
                if not out_of_memory(fault) or len(taken) == 1:
                    raise
            self.model.take()  # nothing came of those
            most = self.meter.batch_limit = len(taken) // 2

    def _start(self, rows: Tensor, restart: Tensor) -> Lanes:
        device = self.target.device
        x, y, aim, samples, keys = (
            part.to(device)
            for part in (
                self.samples.data.fetch(rows),
                self.samples.data.labels[rows],
                self.samples.aims[rows],
                self.samples.keys[rows],
                Noise(self.stream.keys[rows]).at(restart).keys,
            )
        )
        lanes = Lanes.start(rows, restart, x, y, aim, samples, keys, self.attack.steps)
        lanes = lanes._replace(state=self.attack.init(self._problem(lanes)))
        return self._charge(lanes, self.model.take())

    def _problem(self, lanes: Lanes) -> Problem:
        return Problem(
            x=lanes.x,
            y=lanes.y,
            aim=lanes.aim,
            samples=lanes.samples,
            step=lanes.step,
            noise=Noise(lanes.keys),
            threat=self.threat,
            model=self.model,
        )

    def _advance(self) -> None:
        """Look at the candidates in flight, let go of those that broke their sample, and step the others."""
        if self.lanes is None:
            return
        lanes, seen = self._see(self.lanes, gradient=self.attack.gradients)
        self.lanes = lanes
        broken = lanes.fell >= 0
        if self.early_stop and bool(broken.any()):
            self.unchecked.add(lanes.select(broken))
            self.lanes = None if bool(broken.all()) else lanes.select(~broken)
            seen = Seen(*(part[~broken] for part in seen))
        if self.lanes is None:
            return
        state = self.attack.step(self._problem(self.lanes), self.lanes.state, seen)
        lanes = self._charge(self.lanes, self.model.take())._replace(state=state, step=self.lanes.step + 1)
        last = lanes.step >= self.attack.steps
        if (hopeless := self.attack.hopeless(self._problem(lanes), state)) is not None:
            last = last | hopeless
        if bool(last.any()):
            # They need no gradient any more, so they leave the batch, and are looked at with others like them.
            self.last.add(lanes.select(last))
            self.lanes = None if bool(last.all()) else lanes.select(~last)
        else:
            self.lanes = lanes

    def _see(self, lanes: Lanes, *, gradient: bool) -> tuple[Lanes, Seen]:
        """Ask the model about the lanes' candidates, and write down what it says."""
        self.meter.check(lanes.size * (1 + gradient))
        x = lanes.state.x.to(lanes.x.dtype)
        if not bool(x.sum().isfinite()):  # an attack's slip is not the model's: it gets no NaN to answer to
            x = torch.where(x.isfinite(), x, lanes.x)
        problem = self._problem(lanes)
        x = problem.project(x) if self.attack.confined else x.clamp(0.0, 1.0)
        seen = self.look(x, lanes.aim, self.attack.rival(problem, lanes.state), gradient=gradient)
        margins = margin(seen.logits, lanes.aim, problem.targeted)
        inside = self._inside(lanes, seen.x)
        reached, doubted = self._hits(lanes, seen, margins)
        self.meter.spend(lanes.size + int(doubted.sum()), lanes.size * gradient)
        lanes.note(seen.loss, margins, seen.blind, inside)
        return self._judge(lanes, seen.x, reached)._replace(
            forward=lanes.forward + 1 + doubted,
            backward=lanes.backward + int(gradient),
            # Of what is out of the ball nothing is claimed.
            strange=lanes.strange | (inside & ~seen.logits.isfinite().all(1)),
            rounded=lanes.rounded | (inside & doubted & ~reached),
        ), seen

    def _inside(self, lanes: Lanes, x: Tensor) -> Tensor:
        """Which candidates are in the ball, shape (B,)."""
        if self.attack.confined:
            return torch.ones_like(lanes.strange)
        return self.distance(x - lanes.x) <= self.reach

    def _drain(self, everything: bool) -> None:
        """Look at last candidates and confirm witnesses: in whole batches, or everything that waits."""
        while self.last.size and (everything or self.last.size >= self.capacity):
            lanes, _ = self._see(self.last.first(self.capacity), gradient=False)
            self.last.drop(lanes.size)
            found = self._found(lanes)
            self.unchecked.add(lanes.select(found))
            self._settle(lanes.select(~found))
        self._confirm(everything)

    def _found(self, lanes: Lanes) -> Tensor:
        """Which lanes hold an example that is to be confirmed: one in the ball or, for its distance, any."""
        return lanes.fell >= 0 if self.early_stop else lanes.best.isfinite()

    def _hits(self, lanes: Lanes, seen: Seen, margins: Tensor) -> tuple[Tensor, Tensor]:
        """Which candidates are adversarial, and which of them were asked about in float64 to know it.

        What rounding made doesn't end a search: the lane goes on to an example that is one.
        """
        reached = self._reached(seen.logits, lanes.aim)
        doubted = reached & doubtful(seen.logits, margins) if self.exact is not None else torch.zeros_like(reached)
        if bool(doubted.any()):
            aim, logits = lanes.aim[doubted], seen.logits[doubted]
            precise = self._asked_again(seen.x[doubted], aim, self.exact)
            reached[doubted] = self._reached(precise, aim) | ~alike(logits, precise)
        return reached, doubted

    def _judge(self, lanes: Lanes, x: Tensor, reached: Tensor) -> Lanes:
        """Keep the nearest adversarial candidate of each lane, and the step at which it first was in the ball."""
        hit = reached.nonzero()[:, 0]
        if len(hit) == 0:
            return lanes
        distance = self.distance(x[hit] - lanes.x[hit]).double()
        nearer = distance < lanes.best[hit]
        lanes.best[hit[nearer]] = distance[nearer]
        lanes.best_x[hit[nearer]] = x[hit[nearer]]
        falls = (lanes.fell < 0) & (lanes.best <= self.reach)
        return lanes._replace(fell=torch.where(falls, lanes.step, lanes.fell))

    def _reached(self, logits: Tensor, aim: Tensor) -> Tensor:
        """Whether a prediction is what the adversary wants; one that is not a number never is."""
        same = logits.argmax(1) == aim
        return (same if self.threat.goal == "targeted" else ~same) & logits.isfinite().all(1)

    def _charge(self, lanes: Lanes, spent: Passes) -> Lanes:
        """Share the passes of an attack that runs its own loop evenly among its samples."""
        if not spent.total:
            return lanes
        self.meter.spend(spent.forward, spent.backward)
        place = torch.arange(lanes.size, device=lanes.rows.device)
        forward, backward = (
            total // lanes.size + (place < total % lanes.size) for total in (spent.forward, spent.backward)
        )
        return lanes._replace(forward=lanes.forward + forward, backward=lanes.backward + backward)

    def _confirm(self, everything: bool, journal: bool = True) -> None:
        """Ask the model again about the candidates that broke a sample, in batches of their own."""
        while self.unchecked.size and (everything or self.unchecked.size >= self.capacity):
            lanes = self.unchecked.first(self.capacity)
            self._confirm_batch(lanes, journal)
            self.unchecked.drop(lanes.size)

    def _confirm_batch(self, lanes: Lanes, journal: bool) -> None:
        origin = self.samples.data.fetch(lanes.rows.cpu()).to(lanes.x.device)
        distance = self.distance(lanes.best_x.double() - origin.double())
        inside = distance <= self.reach
        allowed = ((lanes.best_x >= 0) & (lanes.best_x <= 1)).flatten(1).all(1) & (inside | (not self.early_stop))
        logits = self._asked_again(lanes.best_x, lanes.aim, self.exact)
        self.meter.spend(lanes.size, 0)
        lanes = lanes._replace(forward=lanes.forward + 1)
        good = self._reached(logits, lanes.aim)
        why = torch.where(allowed, torch.where(good, -1, DENIALS.index(CHANGED)), DENIALS.index(OUTSIDE))
        good &= allowed
        if self.exact is not None and bool((allowed & ~good).any()):
            doubted = (allowed & ~good).nonzero()[:, 0]
            said = self._asked_again(lanes.best_x[doubted], lanes.aim[doubted], None)
            self.meter.spend(len(doubted), 0)
            lanes.forward[doubted] += 1
            stays = self._reached(said, lanes.aim[doubted])
            # Where a hard cut lies between the two it is another model in float64, which tells nothing of this one.
            other = stays & ~alike(said, logits[doubted])
            logits[doubted[other]] = said[other].to(logits.dtype)
            good[doubted[other]] = True
            why[doubted[stays]] = DENIALS.index(IN_FLOAT64)
            why[doubted[other]] = -1
        broken = good & inside
        self._settle(
            lanes._replace(best=torch.where(good, distance, torch.inf)),
            # Of an example that was never in the ball nothing was claimed.
            denied=torch.where(lanes.fell >= 0, why, -1).cpu().numpy(),
            broken=broken.cpu().numpy(),
            prediction=torch.where(broken, logits.argmax(1), -1).cpu().numpy(),
            journal=journal,
        )

    def _asked_again(self, x: Tensor, aim: Tensor, exact: Look | None) -> Tensor:
        """Ask about witnesses: in float64, half as many at once, which take the same memory, or as the loop does."""
        if exact is not None:
            half = max(1, len(x) // 2)
            try:
                parts = zip(torch.split(x, half), torch.split(aim, half), strict=True)
                return torch.cat([exact(part, of, gradient=False).logits for part, of in parts])
            except Exception:  # it went well on the first samples; a check costs no result
                _log.info("%s: can't be asked in float64 any more", self.name, exc_info=True)
                self.exact, self.result.exact = None, False
        return self.look(x, aim, gradient=False).logits

    def _settle(
        self,
        lanes: Lanes,
        denied: NDArray[np.int64] | None = None,
        broken: NDArray[np.bool_] | None = None,
        prediction: NDArray[np.int64] | None = None,
        journal: bool = True,
    ) -> None:
        """Write an entry for lanes that stand (``denied`` is None), or whose candidates were asked about again."""
        if not lanes.size:
            return
        rows = lanes.rows.cpu().numpy()
        restart = lanes.restart.cpu().numpy()
        broken = np.zeros(lanes.size, np.bool_) if broken is None else broken
        if denied is None:
            denied = torch.where(lanes.rounded, DENIALS.index(IN_FLOAT64), -1).cpu().numpy()
        sums, climb = lanes.sums(), lanes.climb()
        entry = Entry(
            rows=rows,
            restart=restart,
            again=(restart + 1 < self.attack.restarts) & ~(broken & self.early_stop),
            broken=broken,
            denied=denied,
            strange=lanes.strange.cpu().numpy(),
            prediction=np.full(lanes.size, -1, np.int64) if prediction is None else prediction,
            distance=lanes.best.double().cpu().numpy(),
            forward=lanes.forward.cpu().numpy(),
            backward=lanes.backward.cpu().numpy(),
            flat=climb.flat,
            late=climb.late,
            samples=sums.samples,
            loss=sums.loss,
            fell=sums.fell,
            zero=sums.zero,
            seconds=time.perf_counter() - self.last_entry,
            witnesses={
                int(row): lanes.best_x[place].float().cpu().numpy().copy()  # a view would keep its whole batch
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
        self.meter.tell(progress)

    def _add(self, entry: Entry) -> None:
        """Add an entry to the result; queue what is to be started again."""
        self.result.add(entry)
        for row, restart, again in zip(entry.rows.tolist(), entry.restart.tolist(), entry.again.tolist(), strict=True):
            self.queue.pop(row, None)
            if again:
                self.queue[row] = restart + 1
        self.settled += int((~entry.again).sum())
