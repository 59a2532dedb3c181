"""Parts of a job one after the other, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from robustbench_lite.core.cost import BudgetTracker
from robustbench_lite.workers import Lost, Part, Result


class LocalExecutor:
    """Runs a part when its result is asked for, and not before."""

    workers = 1

    def map(
        self,
        function: Callable[[Part], Result],
        parts: Iterable[Part],
        budget: BudgetTracker,
        until: Callable[[Result], bool],
    ) -> Iterator[Result | Lost]:
        """Run a function on each part, see `Executor.map`."""
        for part in parts:
            result = function(part)
            yield result
            if until(result):
                return
