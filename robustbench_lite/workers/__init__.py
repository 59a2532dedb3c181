"""Where the parts of a job run: each part of the samples is one call of a function, whose results come back in order.

In come a function and the parts; out come the results, one a part. `local.LocalExecutor` runs them here, in this
process. Another executor (processes, a cluster) is another class with the same `map`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

Part = TypeVar("Part")
Result = TypeVar("Result")


class Executor(Protocol):
    """Runs a function on parts of the samples."""

    def map(self, function: Callable[[Part], Result], parts: Iterable[Part]) -> Iterator[Result]:
        """Run a function on each part, and hand out what it returns, in the order of the parts.

        The caller may stop taking results: parts that were not started by then need not run.

        Parameters
        ----------
        function
            Takes one part. What it finds out is in what it returns, and nowhere else.
        parts
            Such as arrays of positions in the data.
        """
        ...
