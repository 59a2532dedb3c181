"""``rblite doctor``."""

from __future__ import annotations

import sys
from typing import Any

import click

from robustbench_lite.faces.cli import output, signals
from robustbench_lite.faces.cli.options import data_options, load_both, model_options, run_options


@click.command()
@click.argument("model")
@model_options
@data_options
@run_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
def doctor(model: str, as_json: bool, **given: Any) -> None:
    """Check MODEL before it is evaluated.

    Normalisation, channel order, labels, train mode, randomness, gradients, and what a pass costs, on a sample of 256
    unless --limit says otherwise. Exit code 1 where a finding would make the evaluation INVALID.
    """
    from robustbench_lite.evaluating import doctor as examination
    from robustbench_lite.faces.cli.tables import doctor as table

    target, (data,) = load_both(model, given, "test")
    signals.raise_interrupts()
    found = examination.examine(target, data, seed=given["seed"], limit=given["limit"])
    output.print_rendered((examination.as_json if as_json else table.report)(target, data, found))
    sys.exit(output.EXIT["FAIL"] if examination.errors(found) else 0)
