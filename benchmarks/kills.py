"""SIGKILL at ten moments of a search: whether a finished trial is lost or run twice, and how many there are at the end.

    python benchmarks/kills.py [--kills 10] [--trials 4] [--only evolution]

Each search runs once without a kill, to learn how much time of the processor it takes. Then it is begun in a new folder
for each of some moments that are spread over that time, killed there, and gone on with to its end. `auto` is a search
in a time, so its trials have no count: it goes on without any time left, and judges what it has.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import optuna
import torch
from common import write
from optuna.trial import TrialState
from torch import nn

from robustbench_lite.core.suite import Suite
from robustbench_lite.hardening.preparation import Changes, Sampling
from robustbench_lite.hardening.recipe import Recipe
from robustbench_lite.results.search import SEARCH
from robustbench_lite.searching.auto import STATE_FILE, AutoOptions, auto
from robustbench_lite.searching.space import Space
from robustbench_lite.searching.storage import open_study
from robustbench_lite.searching.study import Search, tune

SUITE = Suite.model_validate({"name": "short", "threats": ["Linf 0.05"], "attacks": [{"attack": "fgsm"}]})
RECIPE = Recipe.model_validate(
    {
        "name": "short",
        "defense": "pgd_training",
        "params": {"steps": 1},
        "threat": "Linf 0.05",
        "schedule": {"epochs": 4, "batch_size": 32, "lr": 0.01, "optimizer": "adam"},
    }
)
CELLS = {"space": "cells", "fixed": {"channels": 2, "stages": 1}}
_AUTO = 180.0  # seconds of a run of auto
SAMPLERS = ("evolution", "reinforce", "gradient", "gdas")
NOTE = (
    "Each search is killed (SIGKILL) at {kills} moments that are spread over its time of the processor, in a new "
    "folder each time, and gone on with to its end. A trial is lost where it was finished before the kill and isn't "
    "the same after it; it is run twice where there are more than {trials} folders, or other settings than without a "
    "kill. `auto` is killed while it searches; then it goes on without any time left, and judges the trials that it "
    "has. Repeat it with `python benchmarks/kills.py`."
)


def run(name: str, out: Path, trials: int, seconds: float) -> None:
    """Do a search, or go on with it."""
    torch.set_num_threads(1)
    if name == "auto":
        options = AutoOptions(seconds=seconds, recipe=RECIPE, suite=SUITE, limit=40, limit_train=200)
        auto("digits", out=out, options=options)
        return
    torch.manual_seed(0)
    tune(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 10)),
        "digits",
        RECIPE,
        Space.model_validate({"params": {}, "architecture": CELLS}),
        out=out,
        search=Search(trials=trials, suite=SUITE, sampler=name),
        changes=Changes(suite=SUITE),
        sampling=Sampling(limit=40, limit_train=300),
    )


_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["torch", "torch._dynamo", "optuna", "robustbench_lite.searching.auto"])


def begun(what: Callable[..., Any], *given: Any) -> Any:
    """A process of its own; it is forked from one that has loaded torch."""
    process = _CONTEXT.Process(target=what, args=given)
    process.start()
    return process


def finished(folder: Path) -> dict[int, Any]:
    """The trials that have come to their end, as the study keeps them."""
    if not (folder / "study.journal").is_file():
        return {}
    return {one.number: one for one in open_study(None, folder, "none").trials if one.state == TrialState.COMPLETE}


def took(process: Any, until: float = math.inf) -> float:
    """Wait for the end of a process, or for so many seconds of the processor; how many it has had. On Linux alone."""
    seconds = 0.0
    while process.is_alive() and seconds < until:
        with suppress(OSError, IndexError):  # it ends between two looks
            parts = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            seconds = (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")
        process.join(0.01)
    if process.exitcode:
        raise SystemExit(f"a search ended with exit code {process.exitcode}")
    return seconds


def killed(name: str, folder: Path, trials: int, kills: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Kill a search at each moment; how many trials were finished then and at the end, and whether all is right."""
    counted = name != "auto"
    whole = folder / f"{name}-whole"
    seconds = took(begun(run, name, whole, trials, _AUTO)) if counted else _AUTO / 10
    say(f"{name}: killed within {seconds:.0f} s of the processor")
    wrong, at_kill, at_end = 0, [], []
    for moment in range(1, kills + 1):
        out = folder / f"{name}-{moment}"
        process = begun(run, name, out, trials, _AUTO)
        took(process, seconds * moment / (kills + 1))
        process.kill()
        process.join()
        study = out if counted else out / SEARCH
        before = finished(study)
        # A run of auto that knows its shares judges what it has, in no time left.
        state = out / STATE_FILE
        left = 1.0 if state.is_file() and "shares" in state.read_text() else _AUTO
        took(begun(run, name, out, trials, left))
        after = finished(study)
        kept = all(after.get(number) == one for number, one in before.items())
        if counted:
            kept &= {number: one.params for number, one in after.items()} == {
                number: one.params for number, one in finished(whole).items()
            }
            kept &= len(list(out.glob("trial-*"))) == trials
        told = "none lost, none run twice" if kept else "NOT AS IT SHOULD BE"
        say(f"{name}: killed at moment {moment}, {len(before)} trials finished; {len(after)} at the end, {told}")
        wrong += not kept
        at_kill.append(len(before))
        at_end.append(len(after))
    return {
        "search": name,
        "killed, each time": kills,
        "trials finished when it was killed": " ".join(map(str, at_kill)),
        "at the end": " ".join(map(str, at_end)),
        "with a trial lost or run twice": wrong,
    }


@click.command()
@click.option("--kills", default=10, show_default=True)
@click.option("--trials", default=4, show_default=True)
@click.option("--only", multiple=True, type=click.Choice([*SAMPLERS, "auto"]))
def main(kills: int, trials: int, only: tuple[str, ...]) -> None:
    """Kill each search, and write what came of it; the exit code is 1 where something was lost or run twice."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    took(begun(abs, 1))  # the first process waits until torch is loaded
    with tempfile.TemporaryDirectory() as away:
        found = [killed(name, Path(away), trials, kills, click.echo) for name in only or (*SAMPLERS, "auto")]
    write("kills", "Searches that are killed", NOTE.format(kills=kills, trials=trials), found)
    if any(row["with a trial lost or run twice"] for row in found):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
