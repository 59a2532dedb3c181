"""Parts in this process: in order, and none before its result is asked for."""

from __future__ import annotations

from itertools import islice

from robustbench_lite.core.cost import BudgetTracker
from robustbench_lite.workers import Executor
from robustbench_lite.workers.local import LocalExecutor


def never(_: int) -> bool:
    return False


def test_results_come_in_the_order_of_the_parts() -> None:
    executor: Executor = LocalExecutor()
    assert list(executor.map(lambda part: part * 10, [3, 1, 2], BudgetTracker(), never)) == [30, 10, 20]


def test_a_part_whose_result_is_not_taken_does_not_run() -> None:
    started: list[int] = []

    def run(part: int) -> int:
        started.append(part)
        return part

    assert list(islice(LocalExecutor().map(run, [1, 2, 3], BudgetTracker(), never), 2)) == [1, 2]
    assert started == [1, 2]


def test_no_part_is_started_after_the_result_that_is_enough() -> None:
    results = LocalExecutor().map(lambda part: part, [1, 2, 3], BudgetTracker(), until=lambda result: result == 2)
    assert list(results) == [1, 2]
