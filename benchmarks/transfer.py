"""What a pretrained start saves: epochs until a network withstands as much, from scratch and from what learnt others.

    python benchmarks/transfer.py

The small network learns the digits 0 to 4 of MNIST, with an adversary and without. Its last layer is then replaced by a
fresh one, and all of it learns 5 to 9 by PGD training; so does a network from scratch. After each epoch the accuracies
are measured on held-out samples, as `rblite harden` does.
"""

from __future__ import annotations

import copy
import statistics
from pathlib import Path
from typing import Any

import click
import torch
from common import write
from nets import SHARED
from torch import nn

from robustbench_lite.core import registry
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.data.dataset import Data
from robustbench_lite.data.load import as_data, load_data
from robustbench_lite.evaluating.calibration import wk17a
from robustbench_lite.hardening.checkpoint import Epoch
from robustbench_lite.hardening.schedule import Schedule
from robustbench_lite.hardening.training import train
from robustbench_lite.model.target import Target

THREAT = ThreatModel.parse("Linf 0.1")
LEARNT_BEFORE, EPOCHS_BEFORE, BATCH, HELD_OUT, LR = 4000, 3, 64, 300, 0.002
STARTS = {"from scratch": "", "pretrained, clean": "standard", "pretrained, PGD": "pgd_training"}


def half(images: Data, digits: range, samples: int) -> Data:
    """The first samples of some of the digits, with classes from 0."""
    rows = torch.isin(images.labels, torch.tensor(list(digits))).nonzero()[:samples, 0]
    return as_data((images.fetch(rows), images.labels[rows] - digits.start))


def learnt(net: nn.Module, defense: str, data: Data, held_out: Data, epochs: int, seed: int) -> tuple[Target, Any]:
    """Train a copy; return it, and the log."""
    params = {"steps": 3} if defense == "pgd_training" else {}
    plan = Schedule(epochs=epochs, batch_size=BATCH, lr=LR, optimizer="adam", decay="constant", keep="last")
    made = train(Target(net), registry.build("defenses", defense, params), plan, THREAT, data, held_out, seed=seed)
    return made.target, made.log


def fresh(seed: int) -> nn.Module:
    """The small network, untrained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return wk17a()


def reached(log: tuple[Epoch, ...], robust: float) -> int | None:
    """First epoch whose robust accuracy is at least that."""
    return next((line.epoch for line in log if line.robust >= robust), None)


@click.command()
@click.option("--data", default=SHARED / "data", type=Path, help="Folder that holds MNIST.")
@click.option("--samples", default=1000, show_default=True, help="Of the digits 5 to 9 that are learnt from.")
@click.option("--epochs", default=8, show_default=True)
@click.option("--seeds", default=2, show_default=True)
def main(data: Path, samples: int, epochs: int, seeds: int) -> None:
    """Train from each start and write the table."""
    torch.set_num_threads(1)
    images = load_data("mnist", split="train", root=data)
    before = half(images, range(5), LEARNT_BEFORE + HELD_OUT).split(HELD_OUT / (LEARNT_BEFORE + HELD_OUT), 0)
    now = half(images, range(5, 10), samples + HELD_OUT).split(HELD_OUT / (samples + HELD_OUT), 0)
    logs: dict[str, list[tuple[Epoch, ...]]] = {name: [] for name in STARTS}
    for seed in range(seeds):
        for name, defense in STARTS.items():
            net = fresh(seed)
            if defense:
                head = copy.deepcopy(net[-1])  # type: ignore[index]
                net = learnt(net, defense, *before, EPOCHS_BEFORE, seed)[0].module
                net[-1] = head  # type: ignore[operator]
            logs[name].append(learnt(net, "pgd_training", *now, epochs, seed)[1])
            click.echo(f"{name}, seed {seed}: {[round(100 * line.robust, 1) for line in logs[name][-1]]}")
    marks = [statistics.mean(log[at - 1].robust for log in logs["from scratch"]) for at in (epochs // 2, epochs)]
    rows = []
    for name, found in logs.items():
        row: dict[str, Any] = {"start": name}
        for at in (1, 2, epochs // 2, epochs):
            row[f"robust % after {at}"] = 100 * statistics.mean(log[at - 1].robust for log in found)
        row[f"clean % after {epochs}"] = 100 * statistics.mean(log[-1].clean for log in found)
        for mark in marks:
            at_each = [reached(log, mark) for log in found]
            told = [f"more than {epochs}" if at is None else str(at) for at in at_each]
            row[f"epochs to {100 * mark:.1f} %"] = ", ".join(told)
        rows.append(row)
    write(
        "transfer",
        "What a pretrained start saves",
        f"MNIST, the small network, Linf {THREAT.eps:g}. Before: the first {LEARNT_BEFORE} training images of the "
        f"digits 0 to 4, {EPOCHS_BEFORE} epochs, clean or PGD training (3 steps). Now: {samples} images of 5 to 9, PGD "
        "training (3 steps), a fresh last layer, the same schedule for every start. Accuracies on "
        f"{HELD_OUT} held-out images under PGD of 10 steps on the margin, means of {seeds} seeds; epochs of each seed "
        f"until what from scratch has after {epochs // 2} and after {epochs}. Repeat it with "
        "`python benchmarks/transfer.py`.",
        rows,
    )


if __name__ == "__main__":
    main()
