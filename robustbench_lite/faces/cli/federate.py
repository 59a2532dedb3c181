"""``rblite federate``."""

from __future__ import annotations

from typing import Any

import click

from robustbench_lite.core.errors import UserError
from robustbench_lite.faces.cli.harden import run, training_options
from robustbench_lite.faces.cli.options import data_options, model_options, run_options

_OF_THE_STEP = (
    "clients",
    "alpha",
    "sources",
    "local_epochs",
    "strategy",
    "noise",
    "clip",
    "secure",
    "liars",
    "lie",
    "lie_scale",
    "timeout",
    "superlink",
)


@click.command()
@click.argument("model")
@model_options
@data_options
@run_options
@click.option("--recipe", default="pgd_training", show_default=True, metavar="R", help="Name, or a TOML file.")
@click.option("--rounds", type=click.IntRange(min=1), metavar="N", help="[default: the recipe's epochs]")
@click.option("--clients", type=click.IntRange(min=2), metavar="N", help="Simulated on this machine.  [default: 10]")
@click.option(
    "--alpha",
    type=click.FloatRange(min=0, min_open=True),
    metavar="X",
    help="How alike the clients' classes are: 0.1 hardly, 100 wholly.  [default: 0.3]",
)
@click.option("--source", "sources", multiple=True, metavar="D", help="Data of one client, for shares of --data.")
@click.option("--local-epochs", type=click.IntRange(min=1), metavar="N", help="Of a client in a round.  [default: 1]")
@click.option("--strategy", metavar="S", help="fedavg, fedprox, fedadam, trimmed_mean, krum, ...  [default: fedavg]")
@click.option("--strategy-param", "params", multiple=True, metavar="P=X", help="Of Flower's strategy: proximal_mu=0.1")
@click.option("--noise", type=click.FloatRange(min=0), metavar="X", help="Noise multiplier; makes it private.")
@click.option(
    "--clip", type=click.FloatRange(min=0, min_open=True), metavar="X", help="Largest norm of an update then."
)
@click.option("--secure", is_flag=True, default=None, help="Mask updates: the server learns their sum alone.")
@click.option("--liars", type=click.IntRange(min=0), metavar="N", help="Simulated clients that lie: a trial.")
@click.option("--lie", type=click.Choice(["label_flip", "sign_flip", "nan"]), help="What they do.")
@click.option(
    "--lie-scale",
    type=click.FloatRange(min=0, min_open=True),
    metavar="X",
    help="How much larger their updates are.  [default: 1]",
)
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), metavar="S", help="Seconds that a round waits.")
@click.option("--superlink", metavar="NAME", help="Run on SuperNodes: a connection of Flower's configuration.")
@training_options
def federate(model: str, recipe: str, rounds: int | None, params: tuple[str, ...], **given: Any) -> None:
    """Train MODEL at clients whose data stay with them.

    Each step of the recipe that trains is done by Flower: the clients train, a server puts their weights together,
    round after round. The rest is as in 'rblite harden', which reads the same from a recipe's step 'federated'.
    """
    from robustbench_lite.hardening.recipe import federated, load_recipe

    asked = {name: given.pop(name) for name in _OF_THE_STEP}
    asked = {name: value for name, value in asked.items() if value not in (None, ())}
    if params:
        asked["strategy_params"] = dict(_pair(text) for text in params)
    run(model, [federated(load_recipe(recipe), asked)], given | {"epochs": rounds})


def _pair(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        raise UserError(f"--strategy-param {text}: expected NAME=NUMBER, such as proximal_mu=0.1") from None
    return name.strip(), int(number) if number.is_integer() else number
