"""Parts of a job one after the other, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from robustbench_lite.workers import Part, Result


class LocalExecutor:
    """Runs a part when its result is asked for, and not before."""

    def map(self, function: Callable[[Part], Result], parts: Iterable[Part]) -> Iterator[Result]:
        """Run a function on each part, see `Executor.map`."""
        return map(function, parts)
