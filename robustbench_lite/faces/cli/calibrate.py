"""``rblite calibrate``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from robustbench_lite.faces.cli import output, signals
from robustbench_lite.faces.cli.options import json_option, quiet_option


@click.command()
@click.option("--weights", required=True, metavar="DIR", help="Where the published weights lie, as downloaded.")
@click.option("--data-root", required=True, metavar="DIR", help="Where MNIST lies, in torchvision's layout.")
@click.option(
    "--case",
    "cases",
    multiple=True,
    metavar="NAME",
    help="lenet5_clean_pgd, lenet5_clean_ddn, lenet5_adv_pgd, lenet5_adv_ddn or wk17a; repeatable.  [default: all]",
)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Run N samples, drawn by class.")
@json_option("The numbers")
@quiet_option
def calibrate(
    weights: str, data_root: str, cases: tuple[str, ...], limit: int | None, json_path: str | None, quiet: bool
) -> None:
    """Run published cases, to prove this install.

    Networks that others trained and attacked, from your own copies of their files; what is missing is told with where
    it is published. Exit code 1 where a number differs from the published one, 2 where none could be run.
    """
    from robustbench_lite.data.load import load_data
    from robustbench_lite.evaluating import calibration
    from robustbench_lite.faces import progress
    from robustbench_lite.faces.cli.tables import calibration as table

    data = load_data("mnist", root=data_root)
    signals.raise_interrupts()
    with progress.bars(quiet) as bars:
        found = calibration.calibrate(Path(weights), data, cases, limit=limit, on_progress=progress.attack_bars(bars))
    if quiet:
        click.echo(f"{found.count('reproduces')} of {len(found.results)} reproduce")
    else:
        output.print_rendered(table.report(found))
    output.write_json(json_path, calibration.as_json(found))
    if found.interrupted:
        sys.exit(signals.exit_code())
    if not found.ran:
        sys.exit(output.EXIT_USAGE)
    sys.exit(output.EXIT["FAIL" if found.count("differs", "impossible") else "PASS"])
