"""Parts of a job in several processes on this machine.

Each worker is sent the function once and then one part after the other. A worker that dies takes only the part in
flight with it: a new worker takes that up. A part that ends several workers is given up, and told.
"""

from __future__ import annotations

import json
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from robustbench_lite.core.cost import BudgetTracker, Passes
from robustbench_lite.core.errors import UserError
from robustbench_lite.workers import TRIES, Lost, Part, Result, gpus, in_order
from robustbench_lite.workers.ledger import FileLedger
from robustbench_lite.workers.packing import packed, users_modules
from robustbench_lite.workers.worker import RAISED

PROGRAM = "import sys; sys.path[:] = sys.argv[3:]; from robustbench_lite.workers.worker import main; main()"
"""Code of a worker; its arguments are the job's folder, the worker's place, and where modules are found."""

_PATIENCE = 10.0  # seconds that an idle worker is given to end


class ProcessExecutor:
    """Runs parts in worker processes.

    Parameters
    ----------
    workers
        How many, 1 or more.
    threads
        Of each worker; by default the processor's cores, shared out.

    Raises
    ------
    UserError
        For fewer than one worker or thread.
    """

    def __init__(self, workers: int, threads: int | None = None) -> None:
        if workers < 1:
            raise UserError(f"workers is {workers}: expected the number of processes, 1 or more")
        if threads is not None and threads < 1:
            raise UserError(f"threads is {threads}: expected those of each worker, 1 or more")
        self.workers = workers
        self.threads = threads or max(1, (os.cpu_count() or 1) // workers)

    def map(
        self,
        function: Callable[[Part], Result],
        parts: Iterable[Part],
        budget: BudgetTracker,
        until: Callable[[Result], bool],
    ) -> Iterator[Result | Lost]:
        """Run a function on each part, see `Executor.map`.

        After Ctrl-C the workers end their parts early, with what they have, and the results end with those.

        Raises
        ------
        UserError
            For a function that can't be sent to a process, and where no worker can start.
        Exception
            What the function raised.
        """
        parts = list(parts)
        if not parts:
            return
        with tempfile.TemporaryDirectory(prefix="rblite-workers-", ignore_cleanup_errors=True) as folder:
            crew = _Crew(Path(folder), parts, min(self.workers, len(parts)), self.threads, until)
            crew.send((function, budget))
            with crew.at_work():
                yield from in_order(_arrivals(crew, budget))


def _arrivals(crew: _Crew, budget: BudgetTracker) -> Iterator[tuple[int, Any]]:
    """Results as they come, until every part that was started has come in."""
    received = 0
    while received < crew.expected:
        try:
            number, result, spent = crew.results.get()
        except KeyboardInterrupt:
            if budget.interrupted:  # a second time: nobody waits for the rest
                return
            budget.interrupted = True
            crew.start_no_more()
            crew.ledger.stop()
            continue
        received += 1
        budget.spend(spent.forward, spent.backward)
        if isinstance(result, BaseException):
            raise result
        yield number, result


class _Crew:
    """The workers of one job: a thread of this process looks after each."""

    def __init__(
        self, folder: Path, parts: list[Any], workers: int, threads: int, until: Callable[[Any], bool]
    ) -> None:
        self.folder, self.parts, self.threads, self.until = folder, parts, threads, until
        self.ledger = FileLedger.create(folder / "ledger", workers)
        self.results: queue.Queue[tuple[int, Any, Passes]] = queue.Queue()
        self._waiting = deque(range(len(parts)))
        self._started: set[int] = set()
        self._deaths = dict.fromkeys(self._waiting, 0)
        self._lock = threading.Lock()
        self._over = False
        self._paths: list[str] = []
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._keepers = [threading.Thread(target=self._look_after, args=(place,)) for place in range(workers)]

    @property
    def expected(self) -> int:
        """Parts whose result has come or is to come."""
        with self._lock:
            return len(self._started.union(self._waiting))

    def send(self, content: Any) -> None:
        """Write down, once for all workers, what they run.

        Raises
        ------
        UserError
            For what can't be pickled.
        """
        self._paths, files = users_modules()
        (self.folder / "modules").write_text(json.dumps(files), encoding="utf-8")
        (self.folder / "function").write_bytes(packed(content))

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Have the workers start; afterwards they end, whatever they are at."""
        for keeper in self._keepers:
            keeper.start()
        try:
            yield
        finally:
            self.start_no_more()
            self._over = True
            while any(keeper.is_alive() for keeper in self._keepers):
                for process in list(self._processes.values()):
                    process.kill()
                for keeper in self._keepers:
                    keeper.join(0.05)

    def start_no_more(self) -> None:
        """Hand out no further part."""
        with self._lock:
            self._waiting.clear()

    def _take(self) -> int | None:
        """The number of a part to run; None where no part waits."""
        with self._lock:
            number = self._waiting.popleft() if self._waiting else None
            if number is not None:
                self._started.add(number)
            return number

    def _look_after(self, place: int) -> None:
        """Keep one worker busy; start another in its place where it dies."""
        process = None
        while not self._over and (number := self._take()) is not None:
            try:
                process = process or self._start(place)
                pickle.dump(self.parts[number], process.stdin)
                process.stdin.flush()
                _, result, spent = pickle.load(process.stdout)
            except UserError as fault:
                self.results.put((number, fault, Passes()))
            except (EOFError, OSError, pickle.UnpicklingError):
                self._died(number, _ended(self._processes[place]))
                process = None
            else:
                if not isinstance(result, BaseException) and self.until(result):
                    self.start_no_more()
                self.results.put((number, result, spent))
        if process is not None:
            _ended(process)

    def _died(self, number: int, code: int) -> None:
        """Have another worker take up the part, or give it up."""
        with self._lock:
            self._deaths[number] += 1
            if self._deaths[number] < TRIES:
                self._waiting.appendleft(number)
                return
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        self.results.put((number, Lost(f"it ended {TRIES} worker processes, the last one by {how}"), Passes()))

    def _start(self, place: int) -> Any:
        """Start a worker, and wait until it has read what it runs.

        Raises
        ------
        UserError
            Where it can't read it.
        EOFError
            Where it dies before.
        """
        threads = str(self.threads)
        process = self._processes[place] = _interpreter(
            [str(self.folder), str(place), *self._paths],
            os.environ
            | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
            | gpus.one_for(place, os.environ, gpus.here()),
        )
        kind, fault, _ = pickle.load(process.stdout)  # type: ignore[arg-type]
        if kind == RAISED:
            raise fault
        return process


def _interpreter(arguments: list[str], variables: dict[str, str]) -> subprocess.Popen[bytes]:
    """A new Python that runs `worker.main`."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=variables,
        start_new_session=True,  # Ctrl-C in a terminal goes to this process alone
    )


def _ended(process: subprocess.Popen[bytes]) -> int:
    """Have a worker end, and return its exit code. It ends by itself where it reads no more."""
    for stream in (process.stdin, process.stdout):
        with suppress(OSError):  # what was not written yet can't be any more
            stream.close()  # type: ignore[union-attr]
    with suppress(subprocess.TimeoutExpired):
        return process.wait(_PATIENCE)
    process.kill()
    return process.wait()
