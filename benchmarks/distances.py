"""How near the nearest adversarial example is that a minimal attack finds, and what a sample costs it; beside peers'.

    pip install --no-deps adv-lib
    python benchmarks/distances.py [--only fmn] [NET ...]

Every attack, ours or another library's, runs in the engine's loop (`early_stop=False`), which clips, asks the model
again and counts the passes. A run that was killed goes on: what is done is kept in ``CACHE/distances`` under a hash of
the weights, the attack and the engine. The published medians are those that advertorch prints for these weights: 10,000
test images, correctly classified ones, DDN with 1000 steps on values rounded to 256 levels, FAB with 20 steps.
"""

from __future__ import annotations

import hashlib
import sys
import time
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType
from typing import Any, ClassVar, NamedTuple

import click
import numpy as np
import torch
from common import write
from nets import CACHE, NETS
from numpy.typing import NDArray
from torch import Tensor

from robustbench_lite.attacking.engine import RunOptions, run_attack
from robustbench_lite.attacking.interface import Attack, ModelOutput, Problem
from robustbench_lite.attacking.journal import Journal
from robustbench_lite.attacking.record import RunResult, Samples
from robustbench_lite.core import registry
from robustbench_lite.core.losses import LOSSES
from robustbench_lite.core.norms import GEOMETRIES
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.evaluating.cache import code_sha256
from robustbench_lite.model.target import Target

WIDEST = {"Linf": "1", "L2": "28", "L1": "784", "L0": "784"}
"""A ball that holds the box: the distance is searched for, not a success within some eps."""
BATCH = 128


class State(NamedTuple):
    """The candidate alone."""

    x: Tensor


@dataclass(frozen=True, kw_only=True)
class AdvLibFMN(Attack):
    """FMN as adv-lib has it, https://github.com/jeromerony/adversarial-library: its whole loop is one step."""

    norms: ClassVar[tuple[str, ...]] = ("Linf", "L2", "L1", "L0")
    gradients: ClassVar[bool] = False  # it asks for its own
    minimal: ClassVar[bool] = True

    iterations: int = 200

    @property
    def steps(self) -> int:
        return 1

    def init(self, problem: Problem) -> State:
        return State(problem.x)

    def step(self, problem: Problem, state: State, output: ModelOutput) -> State:
        # For a logger that FMN has no use for; with it adv-lib can't be installed everywhere.
        sys.modules.setdefault("visdom", ModuleType("visdom"))
        fmn = import_module("adv_lib.attacks").fmn
        norm = float(problem.threat.norm.removeprefix("L"))
        with torch.enable_grad():
            return State(
                fmn(problem.model.eval(), problem.x, problem.target_class, norm, steps=self.iterations).detach()
            )


ADAPTERS: dict[str, type[Attack]] = {"adv-lib:fmn": AdvLibFMN}
"""Of a peer that the registry doesn't know."""


@dataclass(frozen=True)
class Case:
    """An attack under a norm."""

    norm: str
    attack: str
    """Name in the registry."""
    params: dict[str, Any] = field(default_factory=dict)
    slow: bool = False
    """Whether it runs on the first ``--peer-limit`` samples alone."""
    published: dict[str, float] = field(default_factory=dict)
    """Median distance by network."""


CASES = (
    Case("L2", "ddn", published={"lenet5_clean": 1.388, "lenet5_adv": 1.872}),
    Case("L2", "carlini_wagner"),
    Case("L2", "fmn"),
    Case("L2", "fab", slow=True),
    Case("L2", "deepfool"),
    Case("L2", "foolbox:L2FMNAttack", {"steps": 200}),
    Case("L2", "adv-lib:fmn", {"iterations": 200}),
    Case("L2", "foolbox:DDNAttack", {"steps": 1000}, slow=True),
    Case("L2", "foolbox:L2CarliniWagnerAttack", {"binary_search_steps": 9, "steps": 1000}, slow=True),
    Case("L2", "art:CarliniL2Method", {"binary_search_steps": 6, "max_iter": 100, "initial_const": 1.0}, slow=True),
    Case("Linf", "fmn"),
    Case("Linf", "fab", published={"lenet5_clean": 0.112, "lenet5_adv": 0.3509}),
    Case("Linf", "deepfool"),
    Case("Linf", "foolbox:LInfFMNAttack", {"steps": 200}),
    Case("Linf", "adv-lib:fmn", {"iterations": 200}),
    Case("L1", "fmn"),
    Case("L1", "ead"),
    Case("L1", "fab", slow=True),
    Case("L1", "foolbox:L1FMNAttack", {"steps": 200}),
    Case("L1", "adv-lib:fmn", {"iterations": 200}),
    Case("L0", "fmn"),
    Case("L0", "sigma_zero"),
    Case("L0", "foolbox:L0FMNAttack", {"steps": 200}),
    Case("L0", "adv-lib:fmn", {"iterations": 200}),
)


def measured(case: Case, target: Target, samples: Samples, rows: NDArray[np.int64], seed: int) -> RunResult:
    """Run a case on some samples, or what is left of it."""
    adapter = ADAPTERS.get(case.attack)
    attack = adapter(**case.params) if adapter else registry.build("attacks", case.attack, case.params)
    threat = ThreatModel.parse(f"{case.norm} {WIDEST[case.norm]}")
    code = code_sha256((attack, run_attack, GEOMETRIES, LOSSES))
    asked = (target.weights_sha256(), repr(case), code, len(samples), rows.tolist(), seed)
    folder = CACHE / "distances"
    folder.mkdir(parents=True, exist_ok=True)
    return run_attack(
        attack,
        target,
        samples,
        rows,
        threat,
        RunOptions(
            name=case.attack,
            seed=seed,
            batch_size=BATCH,
            early_stop=False,
            journal=Journal(folder / f"{hashlib.sha256(repr(asked).encode()).hexdigest()[:16]}.jsonl"),
        ),
    )


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(["lenet5_clean", "lenet5_adv"]))
@click.option("--limit", default=1000, show_default=True, type=click.IntRange(min=1), help="First test images.")
@click.option(
    "--peer-limit", default=200, show_default=True, type=click.IntRange(min=1), help="Those for slow attacks."
)
@click.option("--only", default="", help="Attacks with this in their name, in a table of their own.")
@click.option("--seed", default=0, show_default=True)
@click.option("--threads", default=1, show_default=True)
def main(names: tuple[str, ...], limit: int, peer_limit: int, only: str, seed: int, threads: int) -> None:
    """Measure and write the table."""
    torch.set_num_threads(threads)
    few = min(limit, peer_limit)
    table: list[dict[str, Any]] = []
    for name in names or ("lenet5_clean", "lenet5_adv"):
        data, target = NETS[name].test(limit), Target(NETS[name].load())
        samples = Samples(data, torch.arange(len(data)), data.labels)
        with torch.no_grad():
            said = torch.cat(
                [target(data.fetch(part)).argmax(1) for part in torch.split(torch.arange(len(data)), BATCH)]
            )
        right = (said == data.labels).nonzero()[:, 0].numpy()
        for case in (case for case in CASES if only.lower() in case.attack.lower()):
            rows = right[right < few] if case.slow else right
            started = time.perf_counter()
            found = measured(case, target, samples, rows, seed)
            table.append(
                {
                    "network": name,
                    "norm": case.norm,
                    "attack": case.attack,
                    "parameters": ", ".join(f"{key} {value}" for key, value in case.params.items()),
                    "not found": f"{int(np.isinf(found.distance[rows]).sum())} of {len(rows)}",
                    "forward": found.passes.forward / len(rows),
                    "backward": found.passes.backward / len(rows),
                    "passes": found.passes.total / len(rows),
                    f"median, first {few}": float(np.median(found.distance[right[right < few]])),
                    f"median, first {limit}": "" if case.slow else float(np.median(found.distance[right])),
                    "published": case.published.get(name, ""),
                }
            )
            click.echo(f"{name} {case.norm} {case.attack}: {time.perf_counter() - started:.0f} s", err=True)
    write(
        f"distances_{only}" if only else "distances",
        f"Minimal distances, {only}" if only else "Minimal distances",
        "Median distance over the correctly classified of the first MNIST test images (not found: infinitely far), and "
        "passes a sample"
        + (f"; slow attacks on the first {few} alone" if few < limit and not only else "")
        + f". Without parameters an attack has its defaults; seed {seed}. "
        + (
            "Published: the medians over all 10,000 that advertorch reports for these weights, of DDN with 1000 steps, "
            "rounded to 256 levels, and of FAB with 20 steps. "
            if any(row["published"] for row in table)
            else ""
        )
        + f"`python benchmarks/distances.py --limit {limit} --peer-limit {few}{only and ' --only ' + only}`",
        table,
    )


if __name__ == "__main__":
    main()
