"""What worker processes gain, what they take, and that they find the same: also where one of them is killed.

    python benchmarks/workers.py

Two tables: wall-clock time and memory of one evaluation by the number of workers, of one thread each, ``ray:2`` on Ray;
and evaluations in which one of two workers is killed at a random moment. The outcomes of every run are compared sample
by sample with those of one process.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import click
import torch
from common import write
from nets import NETS

from robustbench_lite import Scorecard, evaluate
from robustbench_lite.data.dataset import Data
from robustbench_lite.model.target import Target
from robustbench_lite.workers.cluster import RayExecutor

SUITE = "linf_standard"


def running_workers() -> list[int]:
    """Worker processes that run: those that this one has started, and the actors of Ray."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(OSError):
            lines = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines())
            ours = int(lines["PPid"]) == os.getpid() or lines["Name"].strip().startswith("ray::_Worker")
            if ours and "Z" not in lines["State"]:
                found.append(int(lines["Pid"]))
    return found


class Watch:
    """Looks at the workers while an evaluation runs: their largest memory, and kills one of them after some seconds."""

    def __init__(self, kill_after: float | None = None) -> None:
        self.kill_after, self.killed, self.peak = kill_after, False, 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        started = time.monotonic()
        while not self._over.wait(0.05):
            workers = running_workers()
            for worker in workers:
                with contextlib.suppress(OSError):
                    self.peak = max(self.peak, _peak(worker))
            if self.kill_after is not None and workers and time.monotonic() - started >= self.kill_after:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(random.choice(workers), signal.SIGKILL)
                    self.killed = True
                self.kill_after = None


def _peak(process: int) -> float:
    lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    return max((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), default=0) / 1024  # 0: just ended


def same(one: Scorecard, other: Scorecard) -> str:
    """How many samples are predicted or broken otherwise; ``all`` where none is.

    Passes are compared by their sum alone: where memory lies moves the last bit of a float, and with it a step more or
    less until an attack gives up.
    """
    pairs = zip(one.outcomes, other.outcomes, strict=True)
    differ = sum((a.key, a.prediction, a.breaks) != (b.key, b.prediction, b.breaks) for a, b in pairs)
    return "all" if not differ else f"{differ} differ"


def run(net: str, data: Data, workers: str, kill_after: float | None = None) -> tuple[Scorecard, float, Watch]:
    """Evaluate, and say how long it took."""
    target = Target(NETS[net].load(), name=net)
    with Watch(kill_after) as watch:
        started = time.perf_counter()
        kind, _, count = workers.rpartition(":")
        executor = RayExecutor(workers=int(count)) if kind else int(count)
        card = evaluate(target, data, SUITE, NETS[net].threat, workers=executor)
        seconds = time.perf_counter() - started
    return card, seconds, watch


def gain_table(net: str, data: Data, counts: list[str], rounds: int) -> list[dict[str, Any]]:
    """Time and memory by the number of workers, in alternating rounds; the best of each counts."""
    best: dict[str, float] = {}
    peak: dict[str, float] = {}
    cards: dict[str, Scorecard] = {}
    for _ in range(rounds):
        for workers in counts:
            cards[workers], seconds, watch = run(net, data, workers)
            best[workers] = min(best.get(workers, seconds), seconds)
            peak[workers] = max(peak.get(workers, 0.0), watch.peak)
    return [
        {
            "workers": workers,
            "seconds": best[workers],
            "times one process": best[workers] / best[counts[0]],
            "robust": cards[workers].robust_accuracy.count,
            "passes": cards[workers].passes.total,
            "same outcomes": same(cards[counts[0]], cards[workers]),
            "peak MiB of a worker": peak[workers] or None,
        }
        for workers in counts
    ]


def killed_table(net: str, data: Data, times: int, seed: int) -> list[dict[str, Any]]:
    """Evaluations in which a worker is killed at a random moment of the time that one takes."""
    random.seed(seed)
    alone, _, _ = run(net, data, "1")
    _, seconds, _ = run(net, data, "2")
    table = []
    for number in range(1, times + 1):
        moment = random.uniform(0.0, seconds)
        card, took, watch = run(net, data, "2", kill_after=moment)
        table.append(
            {
                "run": number,
                "killed after s": moment,
                "was killed": "yes" if watch.killed else "no: the workers were done",
                "seconds": took,
                "same outcomes": same(alone, card),
                "verdict": card.verdict,
            }
        )
    return table


@click.command()
@click.option("--net", default="lenet5_adv", show_default=True)
@click.option("--samples", default=600, show_default=True, help="First test images of the first table.")
@click.option("--few", default=100, show_default=True, help="And of the second.")
@click.option("--workers", default="1,2,4,ray:2", show_default=True)
@click.option("--rounds", default=1, show_default=True, help="Of the first table; the best counts.")
@click.option("--times", default=10, show_default=True, help="Runs with a worker that is killed.")
@click.option("--seed", default=0, show_default=True, help="Of the moments.")
def main(net: str, samples: int, few: int, workers: str, rounds: int, times: int, seed: int) -> None:
    """Measure and write the tables."""
    torch.set_num_threads(1)
    options = f"--net {net} --samples {samples} --few {few} --workers {workers} --rounds {rounds} --times {times}"
    ran = f"`python benchmarks/workers.py {options}`"
    counts = workers.split(",")
    write(
        "workers",
        "Workers against one process",
        f"{SUITE} on the first {samples} test images of {net}, each worker and the one process with one thread, "
        "`ray:2` on Ray; "
        f"wall-clock seconds of the whole evaluation, the workers' start with it; best of {rounds}. {ran}",
        gain_table(net, NETS[net].test(samples), counts, rounds),
    )
    write(
        "workers_killed",
        "A worker killed at a random moment",
        f"The same on {few} images with two workers, one of which is killed. {ran}",
        killed_table(net, NETS[net].test(few), times, seed),
    )


if __name__ == "__main__":
    main()
