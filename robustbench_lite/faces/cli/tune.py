"""``rblite tune``."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from robustbench_lite.core import registry
from robustbench_lite.faces.cli import output, signals
from robustbench_lite.faces.cli.options import (
    data_options,
    data_words,
    json_option,
    load_both,
    model_options,
    quiet_option,
    run_options,
)

if TYPE_CHECKING:
    from robustbench_lite.faces.progress import Say
    from robustbench_lite.searching.study import Standing, Tuned
    from robustbench_lite.searching.trials import Tried
    from robustbench_lite.workers import Executor

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


class Duration(click.ParamType[float]):
    """A time, such as ``90s``, ``30m`` or ``1.5h``, in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it."""
        parts = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", str(value).strip())
        if parts is None or float(parts[1]) == 0:
            self.fail(f"{value!r} is no time: expected such as 90s, 30m or 1.5h", param, ctx)
        return float(parts[1]) * _UNITS[parts[2]]


@click.command()
@click.argument("model")
@model_options
@data_options
@run_options
@click.option("--recipe", default="pgd_training", show_default=True, metavar="R", help="Name, or a TOML file.")
@click.option("--space", required=True, metavar="FILE", help="TOML file of the settings to search (docs/searching.md).")
@click.option("--out", required=True, metavar="DIR", help="Folder of the search; new, or that of this very search.")
@click.option("--trials", type=click.IntRange(min=1), metavar="N", help="Most trials, beside the recipe as it is.")
@click.option("--budget", type=Duration(), metavar="T", help="No trial begins after it: 90s, 30m, 1.5h.")
@click.option(
    "--sampler",
    default="tpe",
    show_default=True,
    metavar="S",
    help="grid, random, tpe, gp, nsga2, cmaes, hyperopt, evolution, reinforce, gradient or gdas.",
)
@click.option(
    "--objective",
    default="robust",
    show_default=True,
    metavar="O",
    help="What trials are to be better in. Several, as robust,clean,bytes,latency,passes (of training, or any other "
    "measure), have nsga2, tpe, gp, random or grid seek their front; the winner is the most robust one still.",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    metavar="N",
    help="Processes that run trials.  [default: 1; with --ray one a core]",
)
@click.option(
    "--ray",
    is_flag=False,
    flag_value="local",
    metavar="ADDRESS",
    help="Run them on a Ray cluster whose machines all see DIR; without an address Ray is started here.",
)
@click.option(
    "--pruner",
    type=click.Choice(["none", "median", "hyperband"]),
    default="none",
    show_default=True,
    help="Ends trials that are behind the others on held-out samples. Optuna prunes nothing where --objective is "
    "several.",
)
@click.option(
    "--min-clean",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.0,
    metavar="SHARE",
    help="A trial whose clean accuracy is below it can't win, nor be on the front.",
)
@click.option("--storage", metavar="S", help="Optuna's: a database's URL, or a journal file.  [default: in DIR]")
@click.option("--threat", metavar="T", help="'Linf 8/255', ...  [default: the recipe's]")
@click.option("--suite", metavar="S", help="Judges the winner.  [default: the recipe's]")
@click.option("--search-suite", metavar="S", help="Attacks the trials.  [default: the short one of the norm]")
@click.option("--epochs", type=click.IntRange(min=1), metavar="N", help="Instead of the recipe's.")
@click.option("--limit-train", type=click.IntRange(min=1), metavar="N", help="Learn from N samples, drawn by class.")
@json_option("The search")
@quiet_option
def tune(model: str, out: str, quiet: bool, **given: Any) -> None:
    """Search the settings of a recipe that make MODEL most robust.

    The trials see a part of the training data. The winner, and the recipe as it is, are then judged on the test data.
    The same command goes on with a search that was stopped, and a second one beside it takes part.
    """
    from robustbench_lite.faces import progress
    from robustbench_lite.hardening.folder import RECIPE_FILE
    from robustbench_lite.hardening.pipeline import Listeners
    from robustbench_lite.hardening.preparation import Changes, Sampling
    from robustbench_lite.model.architectures.files import FILE as ARCHITECTURE_FILE
    from robustbench_lite.searching import study

    target, (data, test_data) = load_both(model, given, "train", "test")
    asked = ("trials", "sampler", "objective", "pruner", "min_clean", "storage")
    search = study.Search(seconds=given["budget"], suite=given["search_suite"], **{name: given[name] for name in asked})
    sampling = Sampling(test_data=test_data, **{name: given[name] for name in ("limit", "limit_train", "seed")})
    signals.raise_interrupts()
    with output.kept_in(out, "the same command"), progress.bars(quiet) as bars:
        found = study.tune(
            target,
            data,
            given["recipe"],
            given["space"],
            out=out,
            search=search,
            changes=Changes(**{name: given[name] for name in ("threat", "suite", "epochs")}),
            sampling=sampling,
            listeners=Listeners(on_progress=progress.training_bars(bars), on_attack=progress.attack_bars(bars)),
            on_trial=telling(progress.heading(bars)),
            jobs=_jobs(given),
        )
    winner = ended(found, given, quiet)
    if (winner / ARCHITECTURE_FILE).is_file():
        made = ("--recipe", str(winner / RECIPE_FILE), "--out", "hardened")
        again = ("rblite", "harden", f"arch:{winner / ARCHITECTURE_FILE}", *data_words(given), *made)
        click.echo(f"Again      {shlex.join(again)}")


def _jobs(given: Mapping[str, Any]) -> int | Executor:
    if given["ray"] is None:
        return given["jobs"] or 1
    from robustbench_lite.workers.cluster import RayExecutor

    return RayExecutor(given["ray"], given["jobs"])


def telling(say: Say) -> Callable[[Standing], None]:
    """Tell where the search stands as a trial begins, and after the last one."""
    from robustbench_lite.results.search import RECIPE

    def told(standing: Standing) -> None:
        if not standing.name:
            say("the winner and the recipe as it is are judged")
            return
        name = "the recipe as it is" if standing.running == (RECIPE,) else standing.name
        of = "" if standing.total is None else f" of {standing.total}"
        best = "" if standing.best is None else f"; best {_share(standing.best)} robust ({standing.best.name})"
        failed = f", {len(standing.failed)} failed" if standing.failed else ""
        say(f"{name}: {standing.done}{of} trials done{failed}{best}", standing.seconds_left)

    return told


def _share(one: Tried) -> str:
    return "" if one.robust is None else f"{one.robust.value:.1%}"


def ended(found: Tuned, given: dict[str, Any], quiet: bool) -> Path:
    """Tell and write what came of a search; returns the winner's folder, and ends the program where there is none."""
    from robustbench_lite.results.search import RESULT_FILE

    output.print_rendered(registry.find("reports", "search")([found.result], quiet=quiet))
    page = output.write_search(found.folder, found.result)
    click.echo(f"Search     {found.folder / RESULT_FILE}\nReport     {page}")
    output.write_json(given["json_path"], (found.folder / RESULT_FILE).read_text(encoding="utf-8"))
    if found.judged is None:
        sys.exit(output.EXIT["INVALID"])
    winner = found.folder / found.judged.winner.name
    click.echo(f"Model      {winner}\nEvaluate   {shlex.join(['rblite', 'evaluate', str(winner), *data_words(given)])}")
    return winner
