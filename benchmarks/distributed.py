"""What a second process gains a training: the same epoch in one process and in several, of one thread each.

    python benchmarks/distributed.py

Each run is started by torchrun, also that of one process, and times the training alone, in alternating rounds; the best
of each counts. The weights that come out are compared with those of one process.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import click
import torch
from common import write
from nets import cifar10, small_cnn

from robustbench_lite.core import registry
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.hardening.distributed import together
from robustbench_lite.hardening.schedule import Schedule
from robustbench_lite.hardening.training import train
from robustbench_lite.model.target import Target

RECIPES = ("pgd_training", "fgsm_rs")
HELD_OUT = 256


class Run(NamedTuple):
    """A training."""

    seconds: float
    weights: torch.Tensor


def trained(recipe: str, samples: int) -> Run:
    """Train for one epoch, in as many processes as there are."""
    data, held_out = cifar10("train", samples), cifar10("test", HELD_OUT)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        target = Target(small_cnn())
    schedule = Schedule(epochs=1, batch_size=128, lr=0.05, keep="last")
    with together():
        started = time.perf_counter()
        made = train(
            target, registry.build("defenses", recipe, {}), schedule, ThreatModel.parse("Linf 8/255"), data, held_out
        )
        seconds = time.perf_counter() - started
    return Run(seconds, torch.cat([one.detach().flatten() for one in made.target.module.parameters()]))


def started(recipe: str, samples: int, processes: int) -> Run:
    """Have torchrun start this program in so many processes."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run.pt"
        asked = ["--samples", str(samples), "--worker", recipe, "--into", str(file)]
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        subprocess.run([*command, __file__, *asked], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        return Run(*torch.load(file))


@click.command()
@click.option("--samples", default=4096, show_default=True, type=click.IntRange(min=1), help="Training images.")
@click.option("--rounds", default=3, show_default=True, type=click.IntRange(min=1))
@click.option("--worker", type=click.Choice(RECIPES), hidden=True)
@click.option("--into", type=click.Path(path_type=Path), hidden=True)
def main(samples: int, rounds: int, worker: str | None, into: Path) -> None:
    """Train with 1 and 2 processes, and write the table."""
    if worker is not None:
        torch.set_num_threads(1)
        run = trained(worker, samples)
        if os.environ["RANK"] == "0":
            torch.save(tuple(run), into)
        return
    rows: list[dict[str, Any]] = []
    for recipe in RECIPES:
        runs: dict[int, list[Run]] = {1: [], 2: []}
        for _ in range(rounds):
            for processes, found in runs.items():
                found.append(started(recipe, samples, processes))
        alone = min(run.seconds for run in runs[1])
        for processes, found in runs.items():
            seconds = min(run.seconds for run in found)
            rows.append(
                {
                    "recipe": recipe,
                    "processes": processes,
                    "seconds": seconds,
                    "times one process": seconds / alone,
                    "largest difference of a weight": float((found[0].weights - runs[1][0].weights).abs().max()),
                }
            )
            click.echo(str(rows[-1]))
    write(
        "distributed",
        "Training in several processes",
        f"One epoch of a small network on the first {samples:,} CIFAR-10 training images, batches of 128, processes of "
        f"one thread over gloo on one machine; the best of {rounds} alternating rounds, without the processes' start. "
        "Repeat it with `python benchmarks/distributed.py`.",
        rows,
    )


if __name__ == "__main__":
    main()
