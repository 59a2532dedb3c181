"""Which way of searching finds more robust models for the same passes of training, and what a proxy saves.

    python benchmarks/search.py                                        # digits
    python benchmarks/search.py --data mnist --root ../shared/data     # a subset of MNIST

Each point of the space is trained once for each training seed and kept (`search_tables`): a run that was stopped goes
on at the point where it was. On that table each sampler searches many times, through the same interface as `rblite
tune`.
"""

from __future__ import annotations

import itertools
import json
import math
import statistics
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import optuna
import torch
from common import write
from nets import CACHE
from search_tables import JUDGE, Row, Table

from robustbench_lite.core.files import write_atomically
from robustbench_lite.hardening.pipeline import Listeners
from robustbench_lite.hardening.preparation import Sampling
from robustbench_lite.model.architectures.cells import EDGES, Cells
from robustbench_lite.model.architectures.plain import Plain
from robustbench_lite.model.target import Target
from robustbench_lite.results.statistics import spearman
from robustbench_lite.searching.space import Axis, Dimension, of_model
from robustbench_lite.searching.strategies.interface import BEFOREHAND, find_strategy
from robustbench_lite.searching.trials import Job

TRAININGS = 3
"""Seeds with which each point is trained."""

SETTINGS: dict[str, Sequence[Any]] = {
    "schedule.lr": (0.002, 0.006, 0.02, 0.06),
    "schedule.weight_decay": (1e-5, 1e-3, 1e-1),
    "params.steps": (1, 2, 4),
}
SAMPLERS = ("grid", "random", "tpe", "gp", "hyperopt")
FINALISTS = 5
SUPERNET_STRATEGIES = ("gradient", "gdas")
STRATEGIES = ("random", "evolution", "reinforce", *SUPERNET_STRATEGIES)
CORNER = ("edge_0_1", "edge_1_3", "edge_0_3")
CORNER_OPERATIONS = ("none", "skip_connect", "nor_conv_3x3")
SUPERNETS = 3
"""Seeds with which a supernet is trained."""

NOTE = """
Robust accuracy under FGSM, PGD of 10 steps and PGD of 20 steps on the margin (Linf 0.1) of small networks that learn
for a few epochs. Every point was trained once with each of {trainings} seed(s); on that table each method searched
{searches} times for each of them. *Recipe*: learning rate, weight decay and steps of PGD training, 36 points, with
the passes of ten mean trials. *Cells*: three edges of the cell of NAS-Bench-201 with three operations each, the other
edges `none`, 27 points, with the passes of twelve trials; what the supernets of *gradient* and *gdas* cost is among
them, and each was trained with 3 seeds. *Area*: mean over the passes of the best robust accuracy on validation
samples so far; before the first trial has ended it is 0. *Fresh*: of that best trial, on samples that no search has
seen. The standard error is of the searches alone, not of the trainings: where two areas are less than two of them
apart, no difference was shown. Repeat it with `python benchmarks/search.py{data} --trainings {trainings} --searches
{searches}`.
"""
PROXY_NOTE = """
Each of the 36 settings of the recipe in [search](search.md) was trained in full, and by a proxy: FGSM-RS, a
quarter of the epochs, half of the samples. Spearman's rank correlation over all of them, with its 95 %
interval. The five best by the proxy are run in full; *passes at random in full* are those that trials drawn at
random need, on average, until one is as good as the best of these five.
"""

Look = Callable[[Mapping[str, Any]], Row]
"""What tells what came of a point."""


@dataclass(frozen=True, kw_only=True)
class Course:
    """One search: after how many passes it had found what."""

    passes: tuple[float, ...]
    """Spent by the end of each trial."""
    best: tuple[Row, ...]
    """The best trial by the validation samples, so far."""

    def at(self, spent: float) -> Row | None:
        """The best after so many passes; None before the first trial has ended."""
        done = sum(one <= spent for one in self.passes)
        return self.best[done - 1] if done else None

    def area(self, budget: float) -> float:
        """Mean over the passes of the best robust accuracy on validation samples so far."""
        # Before the first trial nothing is found: the area of that is zero, for every sampler.
        ends = [*(min(one, budget) for one in self.passes), budget]
        lengths = [end - start for start, end in itertools.pairwise(ends)]
        return sum(row.robust * length for row, length in zip(self.best, lengths, strict=True)) / budget


def course(
    sampler: str, axes: tuple[Axis, ...], look: Look, budget: float, seed: int, known: Mapping[str, Any] | None = None
) -> Course:
    """Search with a sampler, as `rblite tune` does, until the passes are spent.

    ``known`` is what the strategy has done before the first trial; its passes are spent already.
    """
    strategy = find_strategy(sampler)
    study = optuna.create_study(direction="maximize")
    if known is not None:
        study.set_user_attr(BEFOREHAND, dict(known))
    spent = 0.0 if known is None else float(known["passes"])
    passes: list[float] = []
    best: list[Row] = []
    while True:
        study.sampler = strategy.sampler(axes, seed, len(study.trials))
        trial = study.ask()
        row = look({axis.key: axis.suggest(trial) for axis in axes})
        spent += row.passes
        if spent > budget:
            return Course(passes=tuple(passes), best=tuple(best))
        study.tell(trial, row.robust)
        passes.append(spent)
        best.append(max([*best[-1:], row], key=lambda one: one.robust))


def axes_of(sampler: str) -> tuple[Axis, ...]:
    """The settings: choices for a grid, ranges for all others; a point between is rounded to one of the table."""
    found = []
    for key, values in SETTINGS.items():
        whole = all(isinstance(one, int) for one in values)
        logs = min(values) > 0 and not whole
        one = (
            Dimension(choices=tuple(values))
            if sampler == "grid"
            else Dimension(low=values[0], high=values[-1], log=logs)
        )
        found.append(Axis(key=key, values=one, whole=whole))
    return tuple(found)


def nearest(given: Mapping[str, Any]) -> dict[str, Any]:
    """The point of the table that is nearest to some settings."""
    return {
        key: min(values, key=lambda one: abs(math.log(one) - math.log(given[key]))) for key, values in SETTINGS.items()
    }


def summary(searched: str, method: str, courses: Sequence[Course], budget: float, top: float) -> dict[str, Any]:
    """A row of the table: means over the searches, and the standard error of the area."""
    areas = [one.area(budget) for one in courses]

    def mean(share: float) -> float:
        found = [row.fresh for one in courses if (row := one.at(share * budget)) is not None]
        return statistics.mean(found) if found else math.nan

    last = [one.best[-1] for one in courses]
    return {
        "searched": searched,
        "method": method,
        "searches": len(courses),
        "trials": statistics.mean(len(one.passes) for one in courses),
        "area": statistics.mean(areas),
        "its standard error": statistics.stdev(areas) / math.sqrt(len(areas)),
        "best (validation)": statistics.mean(one.robust for one in last),
        "of the table's best": statistics.mean(one.robust for one in last) / top,
        "fresh, 1/4 spent": mean(0.25),
        "fresh, 1/2 spent": mean(0.5),
        "fresh, all spent": mean(1.0),
    }


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a recipe, on one set of data."""

    table: Table
    searches: int
    trainings: int

    def look(self, seed: int) -> Look:
        """What came of settings with one training seed."""
        net = Plain(shape=self.table.shape, classes=10, depth=2, width=8)
        return lambda given: self.table.row(net, nearest(given), seed)

    @property
    def points(self) -> list[dict[str, Any]]:
        """All of the table."""
        return [dict(zip(SETTINGS, values, strict=True)) for values in itertools.product(*SETTINGS.values())]

    def fill(self) -> None:
        """Train what isn't there yet."""
        for seed in range(self.trainings):
            for number, point in enumerate(self.points, 1):
                row = self.look(seed)(point)
                print(f"{self.table.data} seed {seed}: {number} of {len(self.points)}: {row}", flush=True)

    def rows(self) -> list[dict[str, Any]]:
        """Each sampler, with the passes of ten trials."""
        looks = [self.look(seed) for seed in range(self.trainings)]
        known = [[look(point) for point in self.points] for look in looks]
        budget = 10 * statistics.mean(row.passes for rows in known for row in rows)
        top = statistics.mean(max(row.robust for row in rows) for rows in known)
        found = []
        for sampler in SAMPLERS:
            courses = [
                course(sampler, axes_of(sampler), look, budget, seed) for look in looks for seed in range(self.searches)
            ]
            found.append(summary(f"recipe, {self.table.data}", sampler, courses, budget, top))
            print(found[-1], flush=True)
        return found

    def proxy_rows(self) -> list[dict[str, Any]]:
        """How well cheap trainings tell the order of the full ones, by training seed."""
        net = Plain(shape=self.table.shape, classes=10, depth=2, width=8)
        return [self.proxy_row(net, seed) for seed in range(self.trainings)]

    def proxy_row(self, net: Plain, seed: int) -> dict[str, Any]:
        """One training seed: the correlation, and the passes to as good a model by random trials in full."""
        full = [self.look(seed)(point) for point in self.points]
        cheap = [self.table.row(net, point, seed, cheap=True) for point in self.points]
        found = spearman([one.robust for one in cheap], [one.robust for one in full])
        rho, low, high = found or (math.nan,) * 3
        first = sorted(range(len(full)), key=lambda place: -cheap[place].robust)[:FINALISTS]
        reached = max(full[place].robust for place in first)
        spent = sum(one.passes for one in cheap) + sum(full[place].passes for place in first)
        needed = trials_to_reach([one.robust for one in full], reached)
        in_full = needed * statistics.mean(one.passes for one in full)
        return {
            "data": self.table.data,
            "training seed": seed,
            "settings": len(full),
            "Spearman": rho,
            "low": low,
            "high": high,
            "best of the finalists": reached,
            "best of all": max(one.robust for one in full),
            "passes with the proxy": spent,
            "passes at random in full": in_full,
            "saved": 1 - spent / in_full,
        }


@dataclass(frozen=True, kw_only=True)
class CellSearch:
    """A corner of the cell space that is small enough to be trained as a whole."""

    table: Table
    searches: int
    trainings: int

    @property
    def start(self) -> Cells:
        """The cell without any edge, and the network's sizes."""
        none = {f"edge_{start}_{end}": "none" for start, end in EDGES}
        return Cells.model_validate({"shape": self.table.shape, "classes": 10, "channels": 4, "stages": 2} | none)

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The edges that are searched."""
        one = Dimension(choices=CORNER_OPERATIONS)
        return tuple(Axis(key=f"model.{key}", values=one, whole=False) for key in CORNER)

    def look(self, seed: int) -> Look:
        """What came of a cell with one training seed."""
        return lambda given: self.table.row(self.start.changed(of_model(given)), {}, seed)

    def fill(self) -> list[list[Row]]:
        """Train what isn't there yet; by training seed, what came of all."""
        found: list[list[Row]] = []
        for seed in range(self.trainings):
            found.append([])
            for values in itertools.product(CORNER_OPERATIONS, repeat=len(CORNER)):
                point = {f"model.{key}": value for key, value in zip(CORNER, values, strict=True)}
                found[-1].append(self.look(seed)(point))
                print(f"{self.table.data} seed {seed}, cell {len(found[-1])}: {found[-1][-1]}", flush=True)
        return found

    def supernet(self, sampler: str, seed: int) -> Mapping[str, Any]:
        """What a sampler's supernet has learnt, trained with one seed by the trials' own recipe, or kept."""
        learn, choose, _ = self.table.samples
        folder = CACHE / "search" / f"supernet-{sampler}-{zlib.crc32(repr((self.table, seed)).encode()):08x}"
        folder.mkdir(parents=True, exist_ok=True)
        kept = folder / "beforehand.json"
        if kept.is_file():
            told: Mapping[str, Any] = json.loads(kept.read_text())
            return told
        job = Job(
            target=Target(self.start.build()), training=learn, validation=choose, recipe=self.table.recipe({}),
            axes=self.axes, suite=JUDGE, sampling=Sampling(test_data=choose, seed=seed), folder=folder,
            sampler=sampler, pruner="none", storage=None, limit=1, deadline=None, min_clean=0.0,
            architecture=self.start,
        )  # fmt: skip
        strategy = find_strategy(sampler)
        assert strategy.beforehand is not None
        told = strategy.beforehand(job, Listeners())
        write_atomically(kept, json.dumps(dict(told)) + "\n")
        return told

    def rows(self) -> list[dict[str, Any]]:
        """Each strategy, with the passes of twelve trials."""
        known = self.fill()
        budget = 12 * statistics.mean(row.passes for rows in known for row in rows) + 1
        top = statistics.mean(max(row.robust for row in rows) for rows in known)
        nets = {name: [self.supernet(name, seed) for seed in range(SUPERNETS)] for name in SUPERNET_STRATEGIES}
        print(nets, flush=True)
        found = []
        for sampler in STRATEGIES:
            courses = [
                course(
                    sampler, self.axes, self.look(training), budget, seed,
                    nets[sampler][seed % SUPERNETS] if sampler in nets else None,
                )
                for training in range(self.trainings)
                for seed in range(self.searches)
            ]  # fmt: skip
            found.append(summary(f"cells, {self.table.data}", sampler, courses, budget, top))
            print(found[-1], flush=True)
        return found


def trials_to_reach(values: Sequence[float], aim: float) -> float:
    """Mean number of draws without repetition until one of the values is the aim or above."""
    good = sum(one >= aim for one in values)
    return (len(values) + 1) / (good + 1)


@click.command(help=__doc__)
@click.option("--data", type=click.Choice(["digits", "mnist"]), default="digits", show_default=True)
@click.option("--root", type=click.Path(path_type=Path), help="Of MNIST, in torchvision's layout.")
@click.option("--searches", default=10, show_default=True, help="Searches of each method, for each training seed.")
@click.option("--trainings", default=TRAININGS, show_default=True, help="Seeds with which each point is trained.")
def main(data: str, root: Path | None, searches: int, trainings: int) -> None:
    """Fill the table, search on it, write what came out."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    settings = Settings(table=Table(data=data, root=root), searches=searches, trainings=trainings)
    settings.fill()
    name = "search" if data == "digits" else f"search_{data}"
    cells = CellSearch(
        table=Table(data=data, root=root, learn=250, choose=200, judge=200, epochs=3),
        searches=searches,
        trainings=trainings,
    )
    told = " ".join(NOTE.split()).format(
        searches=searches, trainings=trainings, data=f" --data {data} --root DATA" * (data != "digits")
    )
    write(name, "Searches at equal passes", told, [*settings.rows(), *cells.rows()])
    write(f"{name}_proxy", "A proxy beside the full training", " ".join(PROXY_NOTE.split()), settings.proxy_rows())


if __name__ == "__main__":
    main()
