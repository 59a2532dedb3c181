"""What an evaluation spends: passes and time, their limits, and progress for whoever shows it."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, Field


class Passes(BaseModel):
    """Passes through the model, counted on samples: the cost that doesn't depend on the machine."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    forward: int = 0
    """Samples that went forward."""
    backward: int = 0
    """Samples whose input gradient was computed."""

    @property
    def total(self) -> int:
        """Forward and backward together."""
        return self.forward + self.backward

    def __add__(self, other: Passes) -> Passes:
        return Passes(forward=self.forward + other.forward, backward=self.backward + other.backward)


class Budget(BaseModel):
    """When to stop early; the result until then is kept."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    seconds: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Wall-clock time."""
    passes: int | None = Field(default=None, gt=0)
    """Forward and backward passes of all samples together."""


class Forecast(NamedTuple):
    """What the attacks of an evaluation may take, told before the first of them."""

    attacks: int
    samples: int
    passes: Passes
    """At most: as if no attack broke a sample."""
    seconds: float | None
    """For so many passes, at the speed that was measured on clean samples; None where nothing was measured."""


class Progress(NamedTuple):
    """Where an attack stands, or other work of an evaluation: that has no threat model, and breaks nothing."""

    name: str
    threat: str
    """Empty where it is no attack."""
    done: int
    total: int
    """0 where it isn't known."""
    broken: int
    passes: Passes
    forecast: Forecast | None = None
    """Of all the attacks of the evaluation."""
    cut_short: bool = False
    """Whether the attack was stopped: what is done then holds what it was not done with."""
    under_way: float = 0.0
    """What is behind those that are not done yet, as if so many more were done; told now and then, else 0."""


OnProgress = Callable[[str, int, int], None]
"""Told what is done, how much of it is done, and how much there is."""


def unheard(*_: object) -> None:
    """Where nobody wants to be told of progress."""


class Speed:
    """Seconds that a pass takes, as the fastest batch so far took them."""

    def __init__(self) -> None:
        self._forward = self._gradient = math.inf

    def measured(self, samples: int, gradients: int, seconds: float) -> None:
        """Learn from a batch that went forward once, and backward so many times."""
        each = seconds / samples
        if gradients:
            self._gradient = min(self._gradient, max(each - self._forward, each / 2) / gradients)
        else:
            self._forward = min(self._forward, each)

    def seconds(self, passes: Passes) -> float | None:
        """What passes take; None where too little is known."""
        if not math.isfinite(self._forward) or (passes.backward and not math.isfinite(self._gradient)):
            return None
        return passes.forward * self._forward + (passes.backward * self._gradient if passes.backward else 0.0)


class Stop(Exception):  # noqa: N818 - not an error: a reason to end
    """A limit of the budget is reached; the text says which."""


class Ledger(Protocol):
    """What processes that spend from one budget know of one another."""

    @property
    def stopped(self) -> bool:
        """Whether all of them are to end."""
        ...

    @property
    def spent_elsewhere(self) -> int:
        """Passes that the others have spent."""
        ...

    def write(self, passes: int) -> None:
        """Write down the passes of this process, with those that were spent before it began."""
        ...


class BudgetTracker:
    """Counts what an evaluation spends, and ends it when the budget is spent.

    A copy of it goes to each worker process, with a ledger in which it sees what the others spend.
    """

    def __init__(self, budget: Budget | None = None, on_progress: Callable[[Progress], None] | None = None) -> None:
        self.budget = budget or Budget()
        self.batch_limit = sys.maxsize  # most samples at once that memory was found to hold
        self.interrupted = False  # by Ctrl-C, outside of an attack
        self.speed = Speed()
        self.forecast: Forecast | None = None
        self.ledger: Ledger | None = None
        self._forward = self._backward = 0
        self._started, self._earlier = time.perf_counter(), 0.0
        self._on_progress = on_progress

    @property
    def passes(self) -> Passes:
        """What was spent so far."""
        return Passes(forward=self._forward, backward=self._backward)

    @property
    def seconds(self) -> float:
        """Wall-clock time since the start, and that of the processes whose work goes on here."""
        return time.perf_counter() - self._started + self._earlier

    def check(self, upcoming: int) -> None:
        """Raise `Stop` where this many further passes, or time, are over the budget, and after Ctrl-C."""
        if self.interrupted or (self.ledger is not None and self.ledger.stopped):
            raise Stop("interrupt")
        if self.budget.seconds is not None and self.seconds >= self.budget.seconds:
            raise Stop("seconds")
        if self.budget.passes is not None:
            elsewhere = 0 if self.ledger is None else self.ledger.spent_elsewhere
            if self._forward + self._backward + elsewhere + upcoming > self.budget.passes:
                raise Stop("passes")

    def spend(self, forward: int, backward: int, seconds: float = 0.0) -> None:
        """Count passes, and time that an earlier process took for them."""
        self._earlier += seconds
        self._forward += forward
        self._backward += backward
        if self.ledger is not None:
            self.ledger.write(self._forward + self._backward)

    def __getstate__(self) -> dict[str, Any]:
        # Progress is shown, and a ledger is open, in one process alone. Another machine has another `perf_counter`.
        return self.__dict__ | {"_on_progress": None, "ledger": None, "_earlier": self.seconds, "_started": time.time()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        on_the_way = max(0.0, time.time() - state["_started"])
        self.__dict__ |= state | {"_started": time.perf_counter() - on_the_way}

    @contextmanager
    def quietly(self) -> Iterator[None]:
        """Tell nothing meanwhile: what the checks run is no attack of the suite."""
        shown, self._on_progress = self._on_progress, None
        try:
            yield
        finally:
            self._on_progress = shown

    @property
    def heard(self) -> bool:
        """Whether anybody looks at the progress."""
        return self._on_progress is not None

    def work(self, name: str, done: int, total: int) -> None:
        """Tell how far work is that is no attack of the suite; ``total`` is 0 where it isn't known."""
        self.tell(Progress(name, "", done, total, 0, self.passes))

    def tell(self, progress: Progress) -> None:
        """Hand progress on to whoever shows it."""
        if self._on_progress is not None:
            self._on_progress(progress._replace(forecast=self.forecast))
