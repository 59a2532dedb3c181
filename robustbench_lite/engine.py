"""The one attack loop.

An attack is a stepper, like an optimiser: `Attack.init` proposes a first candidate for each sample, `Attack.step` the
next, from what the model said to the last. Everything else is here, once: candidates are brought into ball and box, the
model is asked, passes are counted, broken samples leave the batch and waiting ones take their place, and success is
decided by an independent forward pass, whoever wrote the attack.
"""

from __future__ import annotations

import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Container
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robustbench_lite.data import Data
from robustbench_lite.errors import UserError
from robustbench_lite.losses import LOSSES, LossName
from robustbench_lite.noise import Noise
from robustbench_lite.norms import GEOMETRIES, project
from robustbench_lite.scorecard import Passes, Trace
from robustbench_lite.suite import Budget
from robustbench_lite.target import Target
from robustbench_lite.threat import NORMS, ThreatModel

TOLERANCE = 1e-6
"""By how much a witness may leave the ball: float32 rounding of values in [0, 1], and no more."""

_LARGEST = 1e30  # a loss of infinity is told as this, so that every number of a scorecard is finite


class State(Protocol):
    """What an attack remembers of each sample: a NamedTuple of tensors, the batch dimension first in every one."""

    @property
    def x(self) -> Tensor:
        """The candidate to look at next, shape (B, *shape)."""


class Seen(NamedTuple):
    """What the model said to the candidates."""

    x: Tensor
    """The candidates, brought into the ball and the box, shape (B, *shape)."""
    logits: Tensor
    """Shape (B, K)."""
    loss: Tensor
    """The attack's loss, larger is nearer to the goal, shape (B,)."""
    grad: Tensor
    """Gradient of the loss with respect to the candidates, shape (B, *shape); zeros where none was asked for."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What an attack may know about its batch."""

    x: Tensor
    """The originals, in [0, 1], shape (B, *shape)."""
    y: Tensor
    """True labels, shape (B,)."""
    aim: Tensor
    """The class that the goal is about: the label to leave, or the class to reach, shape (B,)."""
    step: Tensor
    """Steps already taken for each sample, shape (B,); after a refill they differ."""
    noise: Noise
    """Random draws of each sample and restart; ``noise.at(problem.step)`` for those of a step."""
    threat: ThreatModel
    model: Counted
    """The target, for an attack that runs a loop of its own: every pass through it is counted."""

    @property
    def targeted(self) -> bool:
        """Whether ``aim`` is to be reached, rather than left."""
        return self.threat.goal == "targeted"

    def project(self, x: Tensor) -> Tensor:
        """Bring candidates into the ball and the box."""
        return project(x, self.x, self.threat.norm, self.threat.eps)


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """One algorithm with its parameters: two pure functions over a batch.

    Subclass it as a frozen (pydantic) dataclass, one field a parameter. The engine brings every candidate into the ball
    and the box before the model sees it, so an attack doesn't.
    """

    norms: ClassVar[tuple[str, ...]] = NORMS
    """Norms it can be run under."""
    paper: ClassVar[str] = ""
    """URL of its source."""
    gradients: ClassVar[bool] = True
    """Whether it needs gradients to the input."""
    minimal: ClassVar[bool] = False
    """Whether it looks for the smallest perturbation: its candidates are kept in the box, but not in the ball."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """How often `step` is called for a sample; the model sees ``steps + 1`` candidates."""

    @property
    def loss(self) -> LossName:
        """The loss it climbs, a name of `losses.LOSSES`; a field where it is a parameter."""
        return "cross_entropy"

    @property
    def restarts(self) -> int:
        """How often it is started on a sample that still stands; a field where it is a parameter."""
        return 1

    @abstractmethod
    def init(self, problem: Problem) -> State:
        """Propose the first candidates."""

    @abstractmethod
    def step(self, problem: Problem, state: Any, seen: Seen) -> State:
        """Propose the next candidates from what the model said to the last ones."""

    def params(self) -> dict[str, Any]:
        """Parameters by name, defaults included."""
        return {item.name: getattr(self, item.name) for item in fields(self)}


class Progress(NamedTuple):
    """Where an attack stands, for whoever shows it."""

    name: str
    threat: str
    done: int
    total: int
    broken: int
    passes: Passes


class Stop(Exception):  # noqa: N818 - not an error: a reason to end
    """A limit of the budget is reached; the text says which."""


class Meter:
    """Counts what an evaluation spends, and ends it when the budget is spent."""

    def __init__(self, budget: Budget | None = None, on_progress: Callable[[Progress], None] | None = None) -> None:
        self.budget = budget or Budget()
        self.passes = Passes()
        self.started = time.perf_counter()
        self._on_progress = on_progress

    @property
    def seconds(self) -> float:
        """Wall-clock time since the start."""
        return time.perf_counter() - self.started

    def check(self, upcoming: int) -> None:
        """Raise `Stop` where this many further passes, or time, are over the budget."""
        if self.budget.seconds is not None and self.seconds >= self.budget.seconds:
            raise Stop("seconds")
        if self.budget.passes is not None and self.passes.total + upcoming > self.budget.passes:
            raise Stop("passes")

    def spend(self, forward: int, backward: int) -> None:
        """Count passes."""
        self.passes += Passes(forward=forward, backward=backward)

    def tell(self, progress: Progress) -> None:
        """Hand progress on to whoever shows it."""
        if self._on_progress is not None:
            self._on_progress(progress)


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
    """What the model says to the witness."""
    distance: NDArray[np.float64]
    """Distance of the nearest adversarial example seen, in the ball or, of a minimal attack, out of it; or inf."""
    forward: NDArray[np.int64]
    backward: NDArray[np.int64]
    trace: Trace
    witnesses: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    """Adversarial inputs of the positions that were to be kept."""
    unconfirmed: int = 0
    stopped: str | None = None
    """``interrupt``, ``seconds`` or ``passes`` where it didn't come to its end."""
    seconds: float = 0.0

    @property
    def passes(self) -> Passes:
        """All samples' passes together."""
        return Passes(forward=int(self.forward.sum()), backward=int(self.backward.sum()))


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
    meter: Meter | None = None,
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
        Whether a sample leaves as soon as it is broken. False: a minimal attack goes on to the nearest example.
    keep
        Positions whose witness is kept.
    meter
        Counts and limits what is spent.

    Returns
    -------
    Run
        Also after Ctrl-C or a spent budget, with what was done until then.
    """
    if threat.norm not in attack.norms:
        raise UserError(f"{name} can't be run under {threat}: it does {', '.join(attack.norms)}")
    return _Loop(attack, target, samples, threat, name, seed, batch_size, early_stop, keep, meter or Meter()).run(rows)


def perturb(attack: Attack, target: Target, x: Tensor, y: Tensor, threat: ThreatModel, keys: Tensor) -> Tensor:
    """Take every sample through all steps of an attack, and hand back its last candidates.

    What adversarial training needs: no success is decided, no sample leaves.

    Parameters
    ----------
    x, y
        Inputs in [0, 1] and labels on the target's device, shapes (B, *shape) and (B,).
    keys
        One int64 a sample, for its random draws, shape (B,).
    """
    look = _Look(target, attack, threat, len(x))
    problem = Problem(
        x=x, y=y, aim=y, step=torch.zeros_like(y), noise=Noise(keys), threat=threat, model=Counted(target)
    )
    state = attack.init(problem)
    for _ in range(attack.steps):
        seen = look(problem.project(state.x), problem.aim, gradient=attack.gradients)
        state = attack.step(problem, state, seen)
        problem = replace(problem, step=problem.step + 1)
    return problem.project(state.x).detach()


class Counted(nn.Module):
    """The target, counting every sample that goes through it, forward and backward."""

    def __init__(self, target: Target) -> None:
        super().__init__()
        self._target = target
        self.spent = Passes()

    def forward(self, x: Tensor) -> Tensor:
        self.count(forward=len(x))
        return self._target(_CountBackward.apply(x, self) if x.requires_grad else x)

    def count(self, forward: int = 0, backward: int = 0) -> None:
        """Add passes."""
        self.spent += Passes(forward=forward, backward=backward)

    def take(self) -> Passes:
        """Passes since the last call."""
        spent, self.spent = self.spent, Passes()
        return spent


class _CountBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, counted: Counted) -> Tensor:
        ctx.counted = counted
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        ctx.counted.count(backward=len(grad))
        return grad, None


class _Look:
    """Asks the model, in parts as large as memory allows."""

    def __init__(self, target: Target, attack: Attack, threat: ThreatModel, limit: int) -> None:
        self._target = target
        self._loss = LOSSES[attack.loss]
        self._targeted = threat.goal == "targeted"
        self.limit = limit

    def __call__(self, x: Tensor, aim: Tensor, *, gradient: bool) -> Seen:
        while True:
            try:
                parts = [
                    self._ask(x[at : at + self.limit], aim[at : at + self.limit], gradient)
                    for at in range(0, len(x), self.limit)
                ]
            except (RuntimeError, MemoryError) as fault:
                if not out_of_memory(fault) or self.limit == 1:
                    raise
                self.limit = max(1, min(self.limit, len(x)) // 2)
                continue
            return parts[0] if len(parts) == 1 else Seen(*map(torch.cat, zip(*parts, strict=True)))

    def _ask(self, x: Tensor, aim: Tensor, gradient: bool) -> Seen:
        x = x.detach()
        if not gradient:
            with torch.no_grad():
                logits = self._target(x)
                return Seen(x, logits, self._loss(logits, aim, self._targeted), torch.zeros_like(x))
        with torch.enable_grad():
            x.requires_grad_()
            logits = self._target(x)
            loss = self._loss(logits, aim, self._targeted)
            # A model that cuts the graph has no gradient: zeros, which the validity checks tell of.
            grad = torch.autograd.grad(loss.sum(), x, allow_unused=True)[0] if loss.requires_grad else None
        x = x.detach()
        return Seen(x, logits.detach(), loss.detach(), torch.zeros_like(x) if grad is None else grad)


def out_of_memory(fault: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the CPU."""
    text = str(fault).lower()
    return (
        isinstance(fault, torch.OutOfMemoryError | MemoryError)
        or "out of memory" in text
        or "can't allocate memory" in text
    )


@dataclass(frozen=True)
class _Lanes:
    """The samples in flight, one a row in every field."""

    rows: Tensor  # position in the data, on the CPU
    restart: Tensor  # on the CPU
    problem: Problem
    state: State
    best: Tensor  # distance of the nearest adversarial candidate so far
    best_x: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, keep: Tensor) -> _Lanes:
        here = keep.to(self.rows.device)
        return _Lanes(
            self.rows[here],
            self.restart[here],
            _map_problem(lambda part: part[keep], self.problem),
            _map_state(lambda part: part[keep], self.state),
            self.best[keep],
            self.best_x[keep],
        )

    def join(self, other: _Lanes) -> _Lanes:
        return _Lanes(
            torch.cat([self.rows, other.rows]),
            torch.cat([self.restart, other.restart]),
            _map_problem(_cat, self.problem, other.problem),
            _map_state(_cat, self.state, other.state),
            torch.cat([self.best, other.best]),
            torch.cat([self.best_x, other.best_x]),
        )


def _cat(*parts: Tensor) -> Tensor:
    return torch.cat(parts)


def _map_problem(function: Callable[..., Tensor], first: Problem, *others: Problem) -> Problem:
    def part(name: str) -> Tensor:
        return function(*(getattr(one, name) for one in (first, *others)))

    keys = function(*(one.noise.keys for one in (first, *others)))
    return replace(first, x=part("x"), y=part("y"), aim=part("aim"), step=part("step"), noise=Noise(keys))


def _map_state(function: Callable[..., Tensor], first: State, *others: State) -> State:
    columns = zip(first, *others, strict=True)  # type: ignore[call-overload]  # a State is a NamedTuple of tensors
    mapped: State = type(first)(*(function(*column) for column in columns))
    return mapped


class _Loop:
    """One run of one attack."""

    def __init__(
        self,
        attack: Attack,
        target: Target,
        samples: Samples,
        threat: ThreatModel,
        name: str,
        seed: int,
        batch_size: int,
        early_stop: bool,
        keep: Container[int],
        meter: Meter,
    ) -> None:
        self.attack, self.target, self.samples, self.threat = attack, target, samples, threat
        self.name, self.early_stop, self.keep, self.meter = name, early_stop, keep, meter
        self.capacity = batch_size
        self.stream = Noise(samples.keys).at(seed).at(zlib.crc32(f"{name}|{threat}".encode()))
        self.look = _Look(target, attack, threat, batch_size)
        self.model = Counted(target)
        self.distance = GEOMETRIES[threat.norm].distance
        self.reach = threat.eps + TOLERANCE
        size = len(samples)
        self.forward, self.backward = np.zeros(size, np.int64), np.zeros(size, np.int64)
        self.trace = _Tracer(attack.steps + 1)
        self.result = Run(
            broken=np.zeros(size, np.bool_),
            prediction=np.full(size, -1, np.int64),
            distance=np.full(size, np.inf),
            forward=self.forward,
            backward=self.backward,
            trace=self.trace.told(),
        )
        self.unchecked: list[tuple[Tensor, Tensor]] = []  # rows and adversarial candidates that wait for confirmation
        self.finished = 0

    def run(self, rows: NDArray[np.int64]) -> Run:
        started = time.perf_counter()
        self.queue = [(int(row), 0) for row in rows]
        self.total = len(rows)
        try:
            with self.target.attacking():
                try:
                    lanes = self._refill(None)
                    while lanes is not None:
                        lanes = self._refill(self._advance(lanes))
                except Stop as stop:
                    self.result.stopped = str(stop)
                except KeyboardInterrupt:
                    self.result.stopped = "interrupt"
                self._confirm(everything=True)
        finally:
            self.result.trace = self.trace.told()
            self.result.seconds = time.perf_counter() - started
        return self.result

    def _advance(self, lanes: _Lanes) -> _Lanes | None:
        """Look at the candidates of all lanes, let go of those that are done, and step the others."""
        last = lanes.problem.step >= self.attack.steps
        gradient = self.attack.gradients and not bool(last.all())
        self.meter.check(len(lanes) * (1 + gradient))
        seen = self.look(self._confine(lanes.problem, lanes.state.x), lanes.problem.aim, gradient=gradient)
        self._count(lanes.rows, forward=1, backward=int(gradient))
        standing = lanes.best > self.reach
        self._judge(lanes, seen)
        broken = lanes.best <= self.reach
        self.trace.add(lanes.problem.step, seen, broken & standing, gradient)
        done = last | broken if self.early_stop else last
        if bool(done.any()):
            self._let_go(lanes.select(done))
            going = ~done
            if not bool(going.any()):
                return None
            lanes, seen = lanes.select(going), Seen(*(part[going] for part in seen))
        state = self.attack.step(lanes.problem, lanes.state, seen)
        if self.model.spent.total:
            self._spread(lanes.rows, self.model.take())
        return replace(lanes, state=state, problem=replace(lanes.problem, step=lanes.problem.step + 1))

    def _confine(self, problem: Problem, x: Tensor) -> Tensor:
        return x.clamp(0.0, 1.0) if self.attack.minimal else problem.project(x)

    def _judge(self, lanes: _Lanes, seen: Seen) -> None:
        """Keep the nearest adversarial candidate of each lane."""
        hit = self._reached(seen.logits, lanes.problem.aim).nonzero()[:, 0]
        if len(hit) == 0:
            return
        distance = self.distance(seen.x[hit] - lanes.problem.x[hit])
        nearer = distance < lanes.best[hit]
        lanes.best[hit[nearer]] = distance[nearer]
        lanes.best_x[hit[nearer]] = seen.x[hit[nearer]]

    def _reached(self, logits: Tensor, aim: Tensor) -> Tensor:
        """Whether a prediction is what the adversary wants; one that is not a number never is."""
        same = logits.argmax(1) == aim
        return (same if self.threat.goal == "targeted" else ~same) & logits.isfinite().all(1)

    def _let_go(self, lanes: _Lanes) -> None:
        """Take leave of lanes that are done: to confirmation, to another restart, or as standing."""
        broken = (lanes.best <= self.reach).cpu()
        nearest = lanes.best.double().cpu().numpy()
        rows = lanes.rows.numpy()
        self.result.distance[rows] = np.minimum(self.result.distance[rows], nearest)
        if bool(broken.any()):
            self.unchecked.append((lanes.rows[broken], lanes.best_x[broken.to(lanes.best_x.device)]))
        again = [
            (row, restart + 1)
            for row, restart in zip(lanes.rows[~broken].tolist(), lanes.restart[~broken].tolist(), strict=True)
            if restart + 1 < self.attack.restarts
        ]
        self.queue += again
        self.finished += len(lanes) - len(again)
        self._confirm()
        self.meter.tell(
            Progress(
                self.name,
                str(self.threat),
                self.finished,
                self.total,
                int(self.result.broken.sum()) + sum(len(rows) for rows, _ in self.unchecked),
                self.result.passes,
            )
        )

    def _refill(self, lanes: _Lanes | None) -> _Lanes | None:
        """Fill the places that came free; not for every single one, as each refill copies the batch."""
        self.capacity = min(self.capacity, self.look.limit)
        free = self.capacity - (len(lanes) if lanes else 0)
        if not self.queue or (lanes is not None and free < max(1, self.capacity // 8)):
            return lanes
        taken, self.queue = self.queue[:free], self.queue[free:]
        rows, restart = torch.tensor(taken).unbind(1)
        device = self.target.device
        x, y = self.samples.data.fetch(rows).to(device), self.samples.data.labels[rows].to(device)
        problem = Problem(
            x=x,
            y=y,
            aim=self.samples.aims[rows].to(device),
            step=torch.zeros_like(y),
            noise=replace(self.stream, keys=self.stream.keys[rows]).at(restart).to(device),
            threat=self.threat,
            model=self.model,
        )
        best = torch.full((len(rows),), torch.inf, device=device)
        fresh = _Lanes(rows, restart, problem, self.attack.init(problem), best, x.clone())
        return fresh if lanes is None else lanes.join(fresh)

    def _confirm(self, everything: bool = False) -> None:
        """Ask the model again about the candidates that broke a sample, in batches of their own."""
        waiting = sum(len(rows) for rows, _ in self.unchecked)
        if not waiting or (waiting < self.capacity and not everything):
            return
        rows = torch.cat([rows for rows, _ in self.unchecked])
        candidates = torch.cat([x for _, x in self.unchecked])
        self.unchecked = []
        for at in range(0, len(rows), self.capacity):
            self._confirm_batch(rows[at : at + self.capacity], candidates[at : at + self.capacity])

    def _confirm_batch(self, rows: Tensor, candidates: Tensor) -> None:
        origin = self.samples.data.fetch(rows).to(candidates.device)
        aim = self.samples.aims[rows].to(candidates.device)
        logits = self.look(candidates, aim, gradient=False).logits
        self._count(rows, forward=1)
        prediction = logits.argmax(1)
        distance = self.distance(candidates.double() - origin.double())
        in_box = (candidates.flatten(1).amin(1) >= 0) & (candidates.flatten(1).amax(1) <= 1)
        good = (self._reached(logits, aim) & in_box & (distance <= self.reach)).cpu().numpy()
        positions = rows.numpy()
        confirmed = positions[good]
        self.result.broken[confirmed] = True
        self.result.prediction[confirmed] = prediction.cpu().numpy()[good]
        self.result.distance[confirmed] = distance.cpu().numpy()[good]
        self.result.distance[positions[~good]] = np.inf
        self.result.unconfirmed += int((~good).sum())
        for place, row in enumerate(positions.tolist()):
            if good[place] and row in self.keep:
                self.result.witnesses[row] = candidates[place].float().cpu().numpy()

    def _count(self, rows: Tensor, forward: int = 0, backward: int = 0) -> None:
        positions = rows.numpy()
        self.forward[positions] += forward
        self.backward[positions] += backward
        self.meter.spend(forward * len(positions), backward * len(positions))

    def _spread(self, rows: Tensor, spent: Passes) -> None:
        """Share the passes of an attack that runs its own loop evenly among its samples."""
        positions = rows.numpy()
        for counts, total in ((self.forward, spent.forward), (self.backward, spent.backward)):
            each, rest = divmod(total, len(positions))
            counts[positions] += each
            counts[positions[:rest]] += 1
        self.meter.spend(spent.forward, spent.backward)


class _Tracer:
    """Sums by step of what was seen."""

    def __init__(self, length: int) -> None:
        self.samples, self.broken, self.zero = (np.zeros(length, np.int64) for _ in range(3))
        self.loss = np.zeros(length)

    def add(self, step: Tensor, seen: Seen, broken: Tensor, gradient: bool) -> None:
        at = step.cpu().numpy()
        loss = seen.loss.double().clamp(-_LARGEST, _LARGEST).nan_to_num(0.0).cpu().numpy()
        length = len(self.samples)
        self.samples += np.bincount(at, minlength=length)
        self.loss += np.bincount(at, loss, minlength=length)
        self.broken += np.bincount(at[broken.cpu().numpy()], minlength=length)
        if gradient:
            zero = ~seen.grad.flatten(1).any(1)
            self.zero += np.bincount(at[zero.cpu().numpy()], minlength=length)

    def told(self) -> Trace:
        reached = int(np.count_nonzero(self.samples))
        mean = self.loss[:reached] / np.maximum(self.samples[:reached], 1)
        return Trace(
            samples=tuple(self.samples[:reached].tolist()),
            loss=tuple(mean.tolist()),
            broken=tuple(self.broken[:reached].tolist()),
            zero_gradient=tuple(self.zero[:reached].tolist()),
        )
