"""Parts in this process: in order, and none before its result is asked for."""

from __future__ import annotations

from itertools import islice

from robustbench_lite.workers import Executor
from robustbench_lite.workers.local import LocalExecutor


def test_results_come_in_the_order_of_the_parts() -> None:
    executor: Executor = LocalExecutor()
    assert list(executor.map(lambda part: part * 10, [3, 1, 2])) == [30, 10, 20]


def test_a_part_whose_result_is_not_taken_does_not_run() -> None:
    started: list[int] = []

    def run(part: int) -> int:
        started.append(part)
        return part

    assert list(islice(LocalExecutor().map(run, [1, 2, 3]), 2)) == [1, 2]
    assert started == [1, 2]
