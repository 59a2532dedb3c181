"""What federated training makes of a small network on MNIST, with clients that differ and clients that lie.

    python benchmarks/federated.py [ROW ...]        # in an environment with the extra `federated`

Every network is trained from scratch at ten simulated clients and judged by PGD. What is found is kept in
``CACHE/federated``, one folder a row, and read the next time; a federation that was killed goes on at its round.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import click
import torch
from common import mnist, write
from nets import CACHE, SHARED
from small_nets import mnist as small_net

from robustbench_lite.core.files import write_atomically
from robustbench_lite.core.suite import Suite
from robustbench_lite.data.dataset import Data
from robustbench_lite.data.load import load_data
from robustbench_lite.hardening.pipeline import Hardened, harden
from robustbench_lite.hardening.recipe import Recipe
from robustbench_lite.model.target import Target

SEED, CLIENTS = 0, 10
JUDGE = Suite.model_validate(
    {"name": "pgd_40", "threats": ["Linf 0.3"], "attacks": [{"attack": "pgd", "params": {"steps": 40}}]}
)
PLAIN = {"defense": "standard", "params": {}}
PGD = {"defense": "pgd_training", "params": {"steps": 2, "step_size": 0.2}}
LABELS = {"liars": 2, "lie": "label_flip", "alpha": 100.0}
SIGNS = {"liars": 2, "lie": "sign_flip", "lie_scale": 10.0, "alpha": 100.0}
STRATEGIES = {
    "FedAvg": {},
    "trimmed mean": {"strategy": "trimmed_mean", "strategy_params": {"beta": 0.2}},
    "Krum": {"strategy": "krum", "strategy_params": {"num_malicious_nodes": 2}},
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A federation."""

    name: str
    step: dict[str, Any] = field(default_factory=dict)
    """Parameters of the step ``federated``."""
    learn: int | None = None
    """Training images, where they are others than the table's."""


ROWS = (
    Row(name="plain, alpha 1, 60,000 images", step={**PLAIN, "alpha": 1.0}, learn=60_000),
    Row(name="plain, alpha 1", step={**PLAIN, "alpha": 1.0}),
    *(Row(name=f"PGD, alpha {alpha:g}", step={**PGD, "alpha": alpha}) for alpha in (100.0, 1.0, 0.1)),
    Row(name="plain, 2 of 10 flip labels, FedAvg", step={**PLAIN, **LABELS}),
    *(
        Row(name=f"{training}, 2 of 10 turn signs, {strategy}", step={**learnt, **SIGNS, **put_together})
        for training, learnt in (("plain", PLAIN), ("PGD", PGD))
        for strategy, put_together in STRATEGIES.items()
    ),
)


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is learnt from and judged by."""

    learn: int
    rounds: int
    judge: int

    def recipe(self, row: Row) -> Recipe:
        """The recipe of a row: a ball that grows for 40 % of the rounds, since a small network learns nothing else."""
        schedule = {
            "epochs": self.rounds, "batch_size": 50, "optimizer": "adam", "lr": 0.004, "weight_decay": 0.0,
            "decay": "one_cycle", "eps_ramp": 0.4, "held_out": 0.05, "keep": "last",
        }  # fmt: skip
        step = {"name": "federated", "params": {**row.step, "clients": CLIENTS}, "schedule": schedule}
        return Recipe.model_validate({"name": row.name, "threat": "Linf 0.3", "steps": [step]})

    def folder(self, row: Row) -> Path:
        """Where a row is kept, by all that it depends on; beside it, with the suffix ``.json``, what was found."""
        asked = f"{self.recipe(row).model_dump_json()} {self}"
        return CACHE / "federated" / f"{zlib.crc32(asked.encode()):08x}"

    def found(self, row: Row, train: Data, test: Data) -> dict[str, Any]:
        """What became of a row: kept, or found now."""
        recipe, folder = self.recipe(row), self.folder(row)
        kept = folder.with_suffix(".json")
        if not kept.is_file():
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(SEED)
                net = Target(small_net(), name="small")
            folder.parent.mkdir(parents=True, exist_ok=True)
            started = time.perf_counter()
            made = harden(net, train, recipe, out=folder, test_data=test, suite=JUDGE, seed=SEED, resume=True)
            write_atomically(kept, json.dumps({**told(row, made), "seconds": time.perf_counter() - started}) + "\n")
        row_found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
        return row_found


def told(row: Row, made: Hardened) -> dict[str, Any]:
    """The table's line, and what was noted."""
    numbers = {one.name: one.value for one in made.after.measures}
    clean, robust = made.after.clean_accuracy, made.after.robust_accuracy
    return {
        "federation": row.name,
        "clean %": 100 * clean.value,
        "PGD-40 %": f"{100 * robust.value:.1f} ({100 * robust.low:.1f} to {100 * robust.high:.1f})",
        "worst client, clean %": 100 * numbers["worst_client_clean"],
        "worst client, PGD-10 %": 100 * numbers["worst_client_robust"],
        "heterogeneity": numbers["heterogeneity"],
        "MB down": numbers["bytes_down"] / 1e6,
        "MB up": numbers["bytes_up"] / 1e6,
        "notes": list(made.notes),
    }


@click.command()
@click.argument("names", nargs=-1)
@click.option("--data", default=SHARED / "data", type=Path, help="Folder that holds MNIST.")
@click.option("--learn", default=20_000, show_default=True, help="Training images, of all clients together.")
@click.option("--rounds", default=15, show_default=True)
@click.option("--samples", default=1000, show_default=True, help="Of the test images, the first.")
@click.option("--kept", is_flag=True, help="Write the table of the rows that are done, and train none.")
def main(names: Sequence[str], data: Path, learn: int, rounds: int, samples: int, kept: bool) -> None:
    """Train and judge each row, or the rows of these names alone, and write the table."""
    torch.set_num_threads(1)
    size = Size(learn=learn, rounds=rounds, judge=samples)
    train, test = load_data("mnist", split="train", root=data), mnist(data, samples)
    rows, left_out = [], []
    for row in ROWS:
        if names and row.name not in names:
            continue
        its_size = replace(size, learn=row.learn or learn)
        if kept and not its_size.folder(row).with_suffix(".json").is_file():
            left_out.append(row.name)
            continue
        rows.append(its_size.found(row, train.stratified(its_size.learn, SEED), test))
        click.echo(json.dumps(rows[-1]))
    if names:
        return
    table = [{name: value for name, value in found.items() if name not in ("notes", "seconds")} for found in rows]
    note = NOTE.format(learn=learn, rounds=rounds, n=samples)
    if left_out:
        note += f" Not run yet: {'; '.join(left_out)}."
    write("federated", "Federated training on MNIST, Linf 0.3", note, table)


NOTE = (
    "The small network of `benchmarks/small_nets.py` (166,406 parameters), from scratch, seed 0, at 10 clients that "
    "share {learn:,} training images, where the row says nothing else (published tables use 60,000 and hundreds of "
    "rounds); {rounds} rounds of one local epoch, Adam, batches of 50. PGD: training against PGD of 2 steps, with a "
    "ball that grows to Linf 0.3 in the first 40 % of the rounds. Judged on the first {n:,} test images under PGD of "
    "40 steps; a client by samples of its own that it held out, under PGD of 10 steps. Heterogeneity: mean distance "
    "of the clients' classes from those of all. Where 2 of 10 lie, alpha is 100; they learn class k as 9 - k, or send "
    "10 times their update with its sign turned; the trimmed mean cuts 0.2 at each end, and Krum is told of two. "
    "Bytes are those of the weights, both ways, of all rounds. Repeat it with `python benchmarks/federated.py`."
)


if __name__ == "__main__":
    main()
