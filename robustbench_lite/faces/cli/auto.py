"""``rblite auto``: data and a budget of time in, the most robust model that was found out."""

from __future__ import annotations

from typing import Any

import click

from robustbench_lite.faces.cli import output, signals
from robustbench_lite.faces.cli.options import (
    data_options,
    json_option,
    load_samples,
    quiet_option,
    run_options,
)
from robustbench_lite.faces.cli.tune import Duration, ended, telling


@click.command()
@data_options
@click.option("--budget", type=Duration(), required=True, metavar="T", help="All of its time: 90s, 30m, 1.5h.")
@click.option("--out", required=True, metavar="DIR", help="Folder; new, or that of this very run, which goes on.")
@click.option("--threat", metavar="T", help="[default: 'Linf 8/255'; of signals 'Linf 0.05', of tables 'Linf 0.03']")
@click.option("--suite", metavar="S", help="Judges the winner.  [default: the standard one of the norm]")
@click.option(
    "--entrant",
    "entrants",
    multiple=True,
    metavar="E",
    help="A rival on the board: flaml, tpot, h2o, or any MODEL, such as http://HOST/v2/models/NAME; repeatable.",
)
@click.option(
    "--architecture",
    type=click.Choice(["plain", "cells"]),
    default="plain",
    show_default=True,
    help="Networks that are tried: plain ones, or cells of operations (images alone).",
)
@click.option(
    "--sampler",
    default="tpe",
    show_default=True,
    metavar="S",
    help="random, tpe, gp, nsga2, cmaes, hyperopt, evolution or reinforce.",
)
@run_options
@click.option("--limit-train", type=click.IntRange(min=1), metavar="N", help="Learn from N samples, drawn by class.")
@json_option("The search")
@quiet_option
def auto(out: str, quiet: bool, **given: Any) -> None:
    """Find a robust model of some data within a time.

    It chooses networks by the kind of input (images, tables, 1-D signals), searches networks, defenses and settings
    around the recipe pgd_training, and judges the best one beside that recipe. The same command goes on with a run that
    was stopped, in the time that is left.
    """
    from robustbench_lite.data.label_map import relabelled
    from robustbench_lite.faces import progress
    from robustbench_lite.hardening.pipeline import Listeners
    from robustbench_lite.searching import auto as machine

    known, test = (relabelled(load_samples(given, split), given["label_map"]) for split in ("train", "test"))
    asked = ("threat", "suite", "entrants", "architecture", "sampler", "limit", "limit_train", "seed")
    options = machine.AutoOptions(seconds=given["budget"], **{name: given[name] for name in asked})
    signals.raise_interrupts()
    with output.kept_in(out, "the same command"), progress.bars(quiet) as bars:
        heading = progress.heading(bars)
        found = machine.auto(
            (known, test),
            out=out,
            options=options,
            listeners=Listeners(
                on_progress=progress.training_bars(bars), on_attack=progress.attack_bars(bars), on_stage=heading
            ),
            on_trial=telling(heading),
            on_note=None if quiet else output.say,
        )
    ended(found, given, quiet)
