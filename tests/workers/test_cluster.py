"""Parts on Ray: the same results as in one process, whatever happens to an actor."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from robustbench_lite.core.cost import Budget, BudgetTracker, Passes, Stop
from robustbench_lite.core.errors import UserError
from robustbench_lite.workers import Executor, Lost, gpus
from robustbench_lite.workers.cluster import RayExecutor
from tests.searching.test_study import STEPS
from tests.searching.test_study import run as search

ray = pytest.importorskip("ray")
PARTS = list(range(6))

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # of Ray's own sockets and processes


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what it will do by default, and warns of until then
        ray.init(
            address="local",
            num_cpus=2,
            num_gpus=1,
            log_to_driver=False,
            configure_logging=False,
            include_dashboard=False,
        )
        yield RayExecutor(workers=2)
        ray.shutdown()


def mapped(executor: Executor, function: Any, budget: BudgetTracker | None = None, until: Any = None) -> list[Any]:
    return list(executor.map(function, PARTS, budget or BudgetTracker(), until or (lambda _: False)))


def test_an_address_where_nobody_listens_is_told_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and doesn't listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(UserError, match=f"Ray can't be reached at {address}"):
            RayExecutor(address)


def test_results_come_in_the_order_of_the_parts_and_from_other_processes(executor: Executor) -> None:
    results = mapped(executor, lambda part: (part * 10, os.getpid()))
    assert [value for value, _ in results] == [0, 10, 20, 30, 40, 50]
    assert os.getpid() not in {process for _, process in results}
    assert executor.workers == 2


def test_an_actor_that_is_killed_takes_nothing_with_it_and_a_part_that_kills_three_is_given_up(
    executor: Executor, tmp_path: Path
) -> None:
    marker = tmp_path / "killed"

    def run(part: int) -> int:
        if part == 4 or (part == 2 and not marker.exists()):
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return part

    *before, lost, last = mapped(executor, run)
    assert (before, last) == ([0, 1, 2, 3], 5)
    assert isinstance(lost, Lost)
    assert lost.reason.startswith("it ended 3 workers")


def test_no_actor_outlives_its_parts(executor: Executor) -> None:
    for process in mapped(executor, lambda _: os.getpid()):
        deadline = time.monotonic() + 10
        while Path(f"/proc/{process}").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not Path(f"/proc/{process}").exists()


def test_an_actor_ends_also_at_a_part_that_nobody_waits_for(executor: Executor, tmp_path: Path) -> None:
    def run(part: int) -> int:
        (tmp_path / f"{part} {os.getpid()}").touch()
        if part == 1:
            time.sleep(60)
        return part

    results = executor.map(run, PARTS[:2], BudgetTracker(), lambda _: False)
    assert next(results) == 0
    deadline = time.monotonic() + 10
    while not (began := list(tmp_path.glob("1 *"))) and time.monotonic() < deadline:
        time.sleep(0.05)
    results.close()  # type: ignore[attr-defined]  # it is a generator
    process = Path("/proc") / began[0].name.split()[1]
    while process.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not process.exists()


def test_workers_have_a_gpu_each_as_far_as_they_go_where_one_is_seen_here(
    executor: Executor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def gpus_of(part: int) -> list[str]:
        (tmp_path / str(part)).touch()
        until = time.monotonic() + 20
        while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < until:  # so that both are at work
            time.sleep(0.05)
        if part == 2 and not (tmp_path / "killed").exists():
            (tmp_path / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return [str(one) for one in ray.get_runtime_context().get_accelerator_ids()["GPU"]]

    assert mapped(executor, gpus_of) == [[]] * 6, "none is seen here: the model is on the CPU"
    for file in tmp_path.iterdir():
        file.unlink()
    monkeypatch.setattr(gpus, "here", lambda: 1)
    found = mapped(executor, gpus_of)
    assert sorted(found[:2]) == [[], ["0"]]
    assert all(one in ([], ["0"]) for one in found)


def test_what_the_function_raises_is_raised_here(executor: Executor) -> None:
    def run(part: int) -> int:
        raise UserError(f"part {part} is wrong")

    with pytest.raises(UserError, match=r"part [01] is wrong"):
        mapped(executor, run)


def test_passes_are_counted_and_a_limit_ends_the_workers(executor: Executor) -> None:
    class Spender:
        def __init__(self, budget: BudgetTracker) -> None:
            self.budget = budget

        def __call__(self, part: int) -> str:
            try:
                for _ in range(10):
                    self.budget.check(1)
                    self.budget.spend(1, 1)
            except Stop as stop:
                return str(stop)
            return "done"

    everything = BudgetTracker()
    assert mapped(executor, Spender(everything), everything) == ["done"] * 6
    assert everything.passes == Passes(forward=60, backward=60)
    limited = BudgetTracker(Budget(passes=5))
    assert mapped(executor, Spender(limited), limited, until=lambda result: result == "passes")[0] == "passes"


def test_more_workers_than_cores_are_refused(executor: Executor) -> None:
    with pytest.raises(UserError, match="workers is 99: expected 1 to 2"):
        RayExecutor(workers=99)


def test_a_search_on_ray_is_that_of_one_process(
    executor: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # which isn't where the workers are
    alone = search(Path("alone"), STEPS, sampler="grid", trials=2)
    found = search(Path("out"), STEPS, sampler="grid", trials=2, jobs=RayExecutor(workers=1))
    assert [(one.name, one.values, one.robust) for one in found.trials] == [
        (one.name, one.values, one.robust) for one in alone.trials
    ]
    assert found.folder == tmp_path / "out"
