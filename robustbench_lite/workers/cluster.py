"""Parts of a job on the machines of a Ray cluster, or on this one where there is no cluster.

Each worker is an actor that holds the function, sent to every machine once. An actor that dies, or whose machine does,
takes only the part in flight with it.
"""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from robustbench_lite.core.cost import BudgetTracker, Passes
from robustbench_lite.core.errors import UserError
from robustbench_lite.workers import TRIES, Lost, Part, Result, gpus, in_order
from robustbench_lite.workers.packing import all_users_modules, packed

LOCAL = "local"
_ASKED_EVERY = 0.5  # seconds, in which workers may overspend together
_PATIENCE = 5.0  # seconds until somebody answers at an address


class RayExecutor:
    """Runs parts in actors of Ray.

    Parameters
    ----------
    address
        Of the cluster, as `ray.init` takes it, such as ``auto`` or ``ray://head:10001``; ``local`` starts Ray here.
    workers
        How many actors, of one processor core each; by default as many as the cluster has cores. Where this process
        sees a GPU, each has a GPU of the cluster as well, as far as they are free, and by default there are as many.

    Raises
    ------
    UserError
        Where Ray isn't installed, can't be reached, or has fewer cores.
    """

    def __init__(self, address: str = LOCAL, workers: int | None = None) -> None:
        self._address = address
        if address == LOCAL and workers is not None and not _ray().is_initialized():
            cores, free = os.cpu_count() or 1, 0  # Ray takes seconds to start: not only to be asked
        else:
            with self._connected() as ray:
                cores, free = int(ray.cluster_resources().get("CPU", 1)), _free_gpus(ray)
        if workers is not None and not 1 <= workers <= cores:
            raise UserError(f"workers is {workers}: expected 1 to {cores}, the cores that Ray has at {address}")
        self.workers = workers or min(cores, free or cores)

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        """Reach the cluster; a connection that was there before stays."""
        ray = _ray()
        ours = not ray.is_initialized()
        if ours:
            try:
                _knock(self._address)
                ray.init(address=self._address, log_to_driver=False, configure_logging=False)
            except Exception as fault:  # of many kinds
                told = str(fault).strip().partition("\n")[0]
                raise UserError(
                    f"Ray can't be reached at {self._address} ({type(fault).__name__}: {told}); start it with "
                    "'ray start --head', or leave the address out to run it here"
                ) from None
        try:
            yield ray
        finally:
            if ours:
                ray.shutdown()

    def map(
        self,
        function: Callable[[Part], Result],
        parts: Iterable[Part],
        budget: BudgetTracker,
        until: Callable[[Result], bool],
    ) -> Iterator[Result | Lost]:
        """Run a function on each part, see `Executor.map`.

        Raises
        ------
        UserError
            For a function that can't be sent to an actor.
        Exception
            What the function raised.
        """
        parts = list(parts)
        content = packed((function, budget), all_users_modules())
        with self._connected() as ray:
            yield from in_order(self._arrivals(ray, content, parts, budget, until))

    def _arrivals(
        self, ray: Any, content: bytes, parts: list[Any], budget: BudgetTracker, until: Callable[[Any], bool]
    ) -> Iterator[tuple[int, Any]]:
        """Results as they come, until every part that was started has come in."""
        ledger = ray.remote(num_cpus=0)(_Ledger).remote()
        kind = ray.remote(num_cpus=1, max_concurrency=1)(_Worker)
        sent, places = ray.put(content), itertools.count()
        waiting, deaths = deque(range(len(parts))), dict.fromkeys(range(len(parts)), 0)

        def begun(need: int) -> _Actor:
            return _Actor(kind.options(num_gpus=need).remote(sent, ledger, next(places)), need)

        # An actor that asks for a core or a GPU when none is left would never start.
        cores, free_gpus = int(ray.cluster_resources().get("CPU", 1)), _free_gpus(ray)
        free = deque(begun(int(place < free_gpus)) for place in range(min(self.workers, len(parts), cores)))
        at_work: dict[Any, tuple[int, _Actor]] = {}
        try:
            while waiting or at_work:
                while waiting and free:
                    number, actor = waiting.popleft(), free.popleft()
                    at_work[actor.handle.run.remote(parts[number])] = number, actor
                try:
                    [done], _ = ray.wait(list(at_work), num_returns=1)
                except KeyboardInterrupt:
                    if budget.interrupted:  # a second time: nobody waits for the rest
                        return
                    budget.interrupted = True
                    waiting.clear()
                    ray.get(ledger.stop.remote())
                    continue
                number, actor = at_work.pop(done)
                try:
                    result, spent = ray.get(done)
                except ray.exceptions.RayActorError as fault:
                    deaths[number] += 1
                    free.append(begun(actor.gpus))
                    if deaths[number] < TRIES:
                        waiting.appendleft(number)
                    else:
                        why = str(fault).strip().rpartition("\n")[2]
                        yield number, Lost(f"it ended {TRIES} workers, the last one so: {why}")
                    continue
                except ray.exceptions.RayTaskError as fault:
                    raise fault.cause from None
                free.append(actor)
                budget.spend(spent.forward, spent.backward)
                if until(result):
                    waiting.clear()
                yield number, result
        finally:  # whatever they are at: where one has raised, or nobody waits, others still run
            for handle in (ledger, *(one.handle for one in (*free, *(actor for _, actor in at_work.values())))):
                ray.kill(handle)


class _Actor(NamedTuple):
    """A worker as its owner sees it."""

    handle: Any
    gpus: int
    """How many it has to itself."""


class _Worker:
    """An actor: it holds the function."""

    def __init__(self, content: bytes, ledger: Any, place: int) -> None:
        import pickle

        gpus.or_memory()
        self.function, self.budget = pickle.loads(content)
        self.budget.ledger = RayLedger(ledger, place, self.budget.passes.total)

    def run(self, part: Any) -> tuple[Any, Passes]:
        """Run a part; hand back its result, and the passes that it took."""
        before = self.budget.passes
        result = self.function(part)
        after = self.budget.passes
        return result, Passes(forward=after.forward - before.forward, backward=after.backward - before.backward)


class _Ledger:
    """An actor: it knows what every worker has spent."""

    def __init__(self) -> None:
        self._passes: dict[int, int] = {}
        self._stopped = False

    def stop(self) -> None:
        """Have all workers end."""
        self._stopped = True

    def exchange(self, place: int, passes: int) -> tuple[bool, int]:
        """Write down what one has spent; tell whether it is to end, and what the others have spent."""
        self._passes[place] = passes
        return self._stopped, sum(self._passes.values()) - passes


class RayLedger:
    """A worker's view of the ledger, at most half a second old."""

    def __init__(self, ledger: Any, place: int, before: int) -> None:
        self._ledger, self._place, self._before = ledger, place, before
        self._own = self._elsewhere = 0
        self._stopped = False
        self._asked = 0.0

    @property
    def stopped(self) -> bool:
        """Whether all are to end."""
        self._exchange()
        return self._stopped

    @property
    def spent_elsewhere(self) -> int:
        """Passes that the others have spent."""
        self._exchange()
        return self._elsewhere

    def write(self, passes: int) -> None:
        """Write down the passes of this worker, with those before it."""
        self._own = passes - self._before

    def _exchange(self) -> None:
        if time.monotonic() - self._asked >= _ASKED_EVERY:
            self._stopped, self._elsewhere = _ray().get(self._ledger.exchange.remote(self._place, self._own))
            self._asked = time.monotonic()


def _free_gpus(ray: Any) -> int:
    """GPUs of the cluster that nobody has; 0 where this process sees none, for then its model is on none."""
    return int(ray.available_resources().get("GPU", 0)) if gpus.here() else 0


def _knock(address: str) -> None:
    """Raise an `OSError` where nobody listens: Ray itself tries again for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()


def _ray() -> Any:
    try:
        import ray
    except ImportError as fault:
        raise UserError(f"Ray is needed, and can't be imported ({fault}); install robustbench_lite[scale]") from None
    return ray
