"""What an evaluation costs as the data grow: time and passes, memory; and as a second one runs beside it.

    python benchmarks/scaling.py

Three tables: cost against samples (WK17a on MNIST, linear is 1), peak memory against the size of a data set whose
samples are made when they are read (held at once they would take the last column), and two evaluations at a time in
processes of one thread against one. Peak memory is Linux's ``VmHWM`` of a fresh process.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from threading import Barrier
from typing import Any, NamedTuple

import click
import torch
from common import write
from nets import NETS
from torch import Tensor, nn
from torch.utils.data import Dataset

from robustbench_lite import Suite, evaluate
from robustbench_lite.core.suite import AttackSpec
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.model.target import Target

NET = "wk17a"
SHAPE = (3, 32, 32)
PGD = (
    AttackSpec(attack="fgsm"),
    AttackSpec(attack="pgd", params={"steps": 10}),
    AttackSpec(attack="pgd", name="pgd-margin", params={"steps": 20, "loss": "margin"}),
)
_BAND = 3  # rows of an image that tell its class, of ten


def suite(threat: ThreatModel | str) -> Suite:
    """Three attacks, of 64 passes a sample that withstands them."""
    return Suite(name="small", threats=(ThreatModel.parse(threat),), attacks=PGD)


class Bands(Dataset[tuple[Tensor, int]]):
    """Noise with a brighter band of rows, whose place tells the class; each image is made when it is read."""

    def __init__(self, samples: int) -> None:
        self.targets = torch.arange(samples) % 10

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        dice = torch.Generator().manual_seed(index)
        label = int(self.targets[index])
        x = torch.rand(SHAPE, generator=dice) / 2
        x[:, _BAND * label : _BAND * (label + 1)] += torch.rand((), generator=dice) / 2
        return x, label


def reader() -> nn.Module:
    """A linear model that tells the brightest band."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(int(torch.Size(SHAPE).numel()), 10, bias=False))
    weight = torch.zeros(10, *SHAPE)
    for label in range(10):
        weight[label, :, _BAND * label : _BAND * (label + 1)] = 1
    network[1].weight.data = weight.flatten(1)
    return network.eval()


class Memory(NamedTuple):
    """Of a process, in MiB."""

    before: float
    """When the evaluation began."""
    attacking: float
    """Peak until the last attack was done."""
    peak: float
    """Peak until the scorecard was there."""
    broken: int


def memory(samples: int) -> Memory:
    """Evaluate so many images in this process, which has done nothing else."""
    network, data = reader(), Bands(samples)
    threat = "Linf 1/8"  # breaks about half
    # A first one loads what is loaded once, and fills the batches: that is not the data's.
    evaluate(network, Bands(512), suite(threat))
    before = _mebibytes("VmRSS")
    peaks: list[float] = []
    card = evaluate(network, data, suite(threat), on_progress=lambda _: peaks.append(_mebibytes("VmHWM")))
    return Memory(before, peaks[-1], _mebibytes("VmHWM"), card.clean_accuracy.count - card.robust_accuracy.count)


def _mebibytes(entry: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{entry}:")) / 1024


class Told(NamedTuple):
    """One evaluation among others at a time."""

    start: float
    end: float
    robust: int
    passes: int
    threads: frozenset[int]
    """What ``torch.get_num_threads()`` said in the model's passes and after them."""


class _Watched(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.threads: set[int] = set()

    def forward(self, x: Tensor) -> Tensor:
        self.threads.add(torch.get_num_threads())
        logits: Tensor = self.network(x)
        return logits


def beside_others(samples: int) -> Told:
    """Evaluate as soon as the other processes are ready as well."""
    net = NETS[NET]
    watched, data = _Watched(net.load()), net.test(samples)
    evaluate(watched, data.take(range(8)), suite(net.threat))
    watched.threads.clear()
    _barrier.wait()
    start = time.perf_counter()  # of one clock for all processes
    card = evaluate(watched, data, suite(net.threat))
    end = time.perf_counter()
    threads = frozenset(watched.threads | {torch.get_num_threads()})
    return Told(start, end, card.robust_accuracy.count, card.passes.total, threads)


_barrier: Barrier


def _ready(barrier: Barrier, threads: int) -> None:
    global _barrier
    _barrier = barrier
    torch.set_num_threads(threads)


def in_fresh_processes(job: Callable[[int], Any], argument: int, processes: int = 1, threads: int = 1) -> list[Any]:
    """Run a job in processes of its own, all at a time."""
    context = get_context("spawn")
    barrier = context.Barrier(processes)
    with ProcessPoolExecutor(processes, context, _ready, (barrier, threads)) as pool:
        return [promise.result() for promise in [pool.submit(job, argument) for _ in range(processes)]]


def cost_table(sizes: list[int]) -> list[dict[str, Any]]:
    """Processor time and passes of the first samples, and how many times linear that is."""
    net = NETS[NET]
    model = Target(net.load())
    evaluate(model, net.test(8), suite(net.threat))
    table: list[dict[str, Any]] = []
    for size in sizes:
        data = net.test(size)
        started = time.process_time()
        card = evaluate(model, data, suite(net.threat))
        seconds = time.process_time() - started
        row = {
            "samples": size,
            "robust": card.robust_accuracy.value,
            "seconds": seconds,
            "passes": card.passes.total,
        }
        first = table[0] if table else row
        share = first["samples"] / size
        ratios = {f"{what}, times linear": row[what] / first[what] * share for what in ("seconds", "passes")}
        table.append(row | ratios)
    return table


def memory_table(sizes: list[int]) -> list[dict[str, Any]]:
    """Peak memory of an evaluation by size of the data."""
    table: list[dict[str, Any]] = []
    for size in sizes:
        [told] = in_fresh_processes(memory, size)
        row = {"samples": size, "broken": told.broken, "MiB before": told.before}
        row |= {"peak MiB, attacks": told.attacking, "peak MiB": told.peak}
        first = table[0] if table else row
        more = max(1, size - first["samples"])
        for peak in ("peak MiB, attacks", "peak MiB"):
            row[f"{peak}: KiB for each sample more"] = 1024 * (row[peak] - first[peak]) / more
        table.append(row | {"all samples, MiB": size * torch.Size(SHAPE).numel() * 4 / 2**20})
    return table


def processes_table(samples: int, count: int) -> list[dict[str, Any]]:
    """Wall-clock time of evaluations at a time, the best of some rounds, and the threads that they ran on."""
    table: list[dict[str, Any]] = []
    for processes, threads in ((1, 1), (2, 1), (1, 2)):
        runs = [in_fresh_processes(beside_others, samples, processes, threads) for _ in range(count)]
        seconds = min(max(told.end for told in run) - min(told.start for told in run) for run in runs)
        everything = [told for run in runs for told in run]
        table.append(
            {
                "processes": processes,
                "threads set": threads,
                "threads in passes and after": ", ".join(
                    map(str, sorted({one for told in everything for one in told.threads}))
                ),
                "seconds": seconds,
                "times one process": seconds / table[0]["seconds"] if table else 1.0,
                "robust": ", ".join(map(str, sorted({told.robust for told in everything}))),
                "passes of one": ", ".join(map(str, sorted({told.passes for told in everything}))),
            }
        )
    return table


@click.command()
@click.option("--sizes", default="1000,2000,5000,10000", show_default=True, help="First MNIST test images.")
@click.option("--memory-sizes", default="1000,10000,50000", show_default=True, help="Images made as they are read.")
@click.option("--samples", default=5000, show_default=True, help="First MNIST test images in each process.")
@click.option("--count", default=3, show_default=True, help="Rounds of the processes; the best counts.")
@click.option("--threads", default=1, show_default=True, help="Of the first table.")
def main(sizes: str, memory_sizes: str, samples: int, count: int, threads: int) -> None:
    """Measure and write the tables."""
    torch.set_num_threads(threads)
    options = f"--sizes {sizes} --memory-sizes {memory_sizes} --samples {samples} --count {count}"
    net, ran = NETS[NET], f"`python benchmarks/scaling.py {options}`"
    write(
        "scaling_samples",
        "Cost against samples",
        f"Evaluation of {NET} under {net.threat} with FGSM, PGD of 10 steps, PGD of 20 on the margin; processor "
        f"seconds from the clean predictions to the scorecard. {ran}",
        cost_table([int(size) for size in sizes.split(",")]),
    )
    write(
        "scaling_memory",
        "Memory against samples",
        "Peak resident memory of a fresh process that evaluates a linear model of 3x32x32 images, made as they are "
        f"read, with the same suite; one thread. Before: with everything loaded, and 512 images evaluated. {ran}",
        memory_table([int(size) for size in memory_sizes.split(",")]),
    )
    write(
        "scaling_processes",
        "Two processes against one",
        f"Wall-clock seconds until all of so many evaluations are done that start at a time, {NET} on {samples} MNIST "
        f"test images, same suite; best of {count}. `times one process`: with a core for each process it stays at 1. "
        f"The last row has two threads, to show that what is set is left alone. {ran}",
        processes_table(samples, count),
    )


if __name__ == "__main__":
    main()
