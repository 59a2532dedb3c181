"""Where the parts of a job run: each part of the samples is one call of a function, whose results come back in order.

In come a function and the parts; out come the results, one a part. `local.LocalExecutor` runs them in this process,
`processes.ProcessExecutor` in several on this machine, `cluster.RayExecutor` on the machines of a Ray cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol, TypeVar

from robustbench_lite.core.cost import BudgetTracker

Part = TypeVar("Part")
Result = TypeVar("Result")


TRIES = 3
"""Workers that a part may end before it is given up."""


class Lost(NamedTuple):
    """In the place of a result: a part that could not be run."""

    reason: str
    """Such as ``it ended 3 worker processes (signal 9)``."""


class Executor(Protocol):
    """Runs a function on parts of the samples."""

    @property
    def workers(self) -> int:
        """Parts that run at the same time."""
        ...

    def map(
        self,
        function: Callable[[Part], Result],
        parts: Iterable[Part],
        budget: BudgetTracker,
        until: Callable[[Result], bool],
    ) -> Iterator[Result | Lost]:
        """Run a function on each part, and hand out what it returns, in the order of the parts.

        The caller may stop taking results: parts that were not started by then need not run.

        Parameters
        ----------
        function
            Takes one part. What it finds out is in what it returns, and what it spends is in ``budget``: nothing else
            comes back from it.
        parts
            Such as arrays of positions in the data.
        budget
            What the function spends from: one for all parts, wherever they run.
        until
            Told each result; once it says True no further part is started, and the results end with those that were.
        """
        ...


def in_order(arrivals: Iterable[tuple[int, Result]]) -> Iterator[Result]:
    """Hand out results in the order of their numbers, from 0, as soon as none before is missing."""
    found: dict[int, Result] = {}
    following = 0
    for number, result in arrivals:
        found[number] = result
        while following in found:
            yield found.pop(following)
            following += 1
