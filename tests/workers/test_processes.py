"""Parts in processes: the same results as in one, whatever happens to the workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from robustbench_lite.core.cost import Budget, BudgetTracker, Passes, Stop
from robustbench_lite.core.errors import UserError
from robustbench_lite.workers import Executor, Lost
from robustbench_lite.workers.processes import ProcessExecutor

PARTS = list(range(6))


def never(_: Any) -> bool:
    return False


def mapped(function: Callable[[Any], Any], budget: BudgetTracker | None = None, workers: int = 2) -> list[Any]:
    executor: Executor = ProcessExecutor(workers)
    return list(executor.map(function, PARTS, budget or BudgetTracker(), never))


def once(marker: Path) -> bool:
    """Whether this is the first call with this marker, of all processes."""
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


class Spender:
    """Spends passes, a few at a time."""

    def __init__(self, budget: BudgetTracker) -> None:
        self.budget = budget

    def __call__(self, part: int) -> str:
        try:
            for _ in range(10):
                self.budget.check(1)
                self.budget.spend(1, 0)
                time.sleep(0.01)
        except Stop as stop:
            return str(stop)
        return "done"


def test_results_come_in_the_order_of_the_parts_and_from_other_processes() -> None:
    def run(part: int) -> tuple[int, int]:
        time.sleep(0.1 if part == 0 else 0)
        return part * 10, os.getpid()

    results = mapped(run)
    assert [value for value, _ in results] == [0, 10, 20, 30, 40, 50]
    assert os.getpid() not in {process for _, process in results}


def test_each_worker_finds_another_gpu_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def run(part: int) -> str:
        time.sleep(0.1)
        return os.environ["CUDA_VISIBLE_DEVICES"]

    assert set(mapped(run)) == {"0,1", "1,0"}


def test_what_is_printed_does_not_mix_with_the_answers(capfd: pytest.CaptureFixture[str]) -> None:
    def run(part: int) -> int:
        print(f"part {part} says hello")
        return part

    assert mapped(run) == PARTS
    assert "part 3 says hello" in capfd.readouterr().err


def test_a_worker_that_is_killed_takes_nothing_with_it(tmp_path: Path) -> None:
    def run(part: int) -> int:
        if part == 2 and once(tmp_path / "killed"):
            os.kill(os.getpid(), signal.SIGKILL)
        return part

    assert mapped(run) == PARTS
    assert (tmp_path / "killed").exists()


def test_a_part_that_kills_three_workers_is_given_up_and_the_rest_is_finished(tmp_path: Path) -> None:
    def run(part: int) -> int:
        if part == 2:
            with (tmp_path / "deaths").open("a") as stream:
                stream.write("x")
            os.kill(os.getpid(), signal.SIGKILL)
        return part

    results = mapped(run)
    assert results[2] == Lost("it ended 3 worker processes, the last one by signal SIGKILL")
    assert [result for result in results if not isinstance(result, Lost)] == [0, 1, 3, 4, 5]
    assert (tmp_path / "deaths").read_text() == "xxx"


def test_what_the_function_raises_is_raised_here() -> None:
    def run(part: int) -> int:
        raise UserError(f"part {part} is wrong")

    with pytest.raises(UserError, match=r"part [01] is wrong"):
        mapped(run)


def test_a_result_that_can_not_be_sent_is_told() -> None:
    with pytest.raises(RuntimeError, match="its result can't be sent"):
        mapped(lambda part: (yield part))


def test_a_function_that_can_not_be_sent_is_told_before_a_worker_starts() -> None:
    lock = threading.Lock()

    def run(part: int) -> int:
        with lock:
            return part

    with pytest.raises(UserError, match=r"can't be sent to worker processes .*evaluate with one worker"):
        mapped(run)


def test_passes_are_counted_here_and_the_limit_holds_for_all_workers_together() -> None:
    everything = BudgetTracker()
    assert mapped(Spender(everything), everything) == ["done"] * 6
    assert everything.passes == Passes(forward=60)

    limited = BudgetTracker(Budget(passes=33))
    limited.spend(3, 0)  # before the workers start
    results = mapped(Spender(limited), limited)
    assert "passes" in results
    assert 30 <= limited.passes.total <= 33 + 1  # two that check at the same moment may be one over it


def test_nothing_is_started_after_a_result_that_is_enough() -> None:
    def run(part: int) -> int:
        time.sleep(0.05)
        return part

    results = list(ProcessExecutor(1).map(run, PARTS, BudgetTracker(), until=lambda result: result == 1))
    assert results == [0, 1]


def test_workers_end_when_no_more_results_are_taken() -> None:
    def run(part: int) -> int:
        if part:
            time.sleep(60)
        return os.getpid()

    results = ProcessExecutor(2).map(run, PARTS, BudgetTracker(), never)
    worker = next(results)
    started = time.monotonic()
    results.close()
    assert time.monotonic() - started < 20
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


def test_a_module_that_only_this_process_can_import_goes_along(tmp_path: Path) -> None:
    from robustbench_lite.core.usercode import import_object, users_code

    (tmp_path / "helper.py").write_text("def double(part): return 2 * part\n")
    (tmp_path / "own.py").write_text(
        "import helper\nclass Job:\n    def __call__(self, part): return helper.double(part)\n"
    )
    spec = f"{tmp_path / 'own.py'}:Job"
    with users_code(spec):
        job = import_object(spec)()
    try:
        assert mapped(job) == [0, 2, 4, 6, 8, 10]
    finally:
        del sys.modules["helper"]


@pytest.mark.parametrize(
    ("given", "told"), [({"workers": 0}, "workers is 0"), ({"workers": 2, "threads": 0}, "threads")]
)
def test_numbers_that_are_none_are_refused(given: dict[str, int], told: str) -> None:
    with pytest.raises(UserError, match=told):
        ProcessExecutor(**given)


_PROGRAM = """
import os, signal, sys, time
from robustbench_lite.core.cost import BudgetTracker, Stop
from robustbench_lite.workers.processes import ProcessExecutor

class Job:
    def __init__(self, budget): self.budget = budget
    def __call__(self, part):
        print(os.getpid(), file=sys.stderr, flush=True)
        try:
            while True:
                self.budget.check(1)
                time.sleep(0.02)
        except Stop as stop:
            return f"{part} {stop}"

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    budget = BudgetTracker()
    print(list(ProcessExecutor(2).map(Job(budget), range(6), budget, lambda result: True)))
"""


def _started(tmp_path: Path) -> tuple[subprocess.Popen[str], list[int]]:
    """A program with two workers at work, and their process numbers."""
    (tmp_path / "program.py").write_text(_PROGRAM)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    return process, [int(process.stderr.readline()) for _ in range(2)]


def test_ctrl_c_ends_the_parts_in_flight_and_keeps_what_they_have(tmp_path: Path) -> None:
    process, _ = _started(tmp_path)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert out.strip() == "['0 interrupt', '1 interrupt']", err
    assert process.returncode == 0


def test_workers_end_when_the_program_is_killed(tmp_path: Path) -> None:
    process, workers = _started(tmp_path)
    process.kill()
    process.communicate(timeout=60)
    deadline = time.monotonic() + 30
    while any(map(_alive, workers)):
        assert time.monotonic() < deadline, "a worker outlives the program that started it"
        time.sleep(0.05)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
