"""``rblite doctor``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import click

from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError
from robustbench_lite.faces.cli import output, signals
from robustbench_lite.faces.cli.options import (
    data_options,
    data_words,
    json_option,
    load_both,
    load_samples,
    model_options,
    model_words,
    quiet_option,
    run_options,
)

_OF_A_MODEL = ("weights", "normalize", "classes", "name", "device")


@click.command()
@click.argument("model", required=False)
@model_options
@data_options
@run_options
@click.option("--html", "html_path", metavar="FILE", help="Without MODEL: the samples that are told of, as pictures.")
@json_option("What was found", is_flag=False, flag_value="-")
@quiet_option
def doctor(model: str | None, json_path: str | None, html_path: str | None, quiet: bool, **given: Any) -> None:
    """Check MODEL before it is evaluated; without MODEL, check the data themselves.

    Of MODEL: normalisation, channel order, labels, train mode, randomness, gradients, and what a pass costs, on a
    sample of 256 unless --limit says otherwise. Of data: test samples that are in the training set, labels that are
    probably wrong, classes of unlike sizes, constant and damaged pictures, values out of [0, 1]. Exit code 1 where a
    finding would make an evaluation INVALID.
    """
    if json_path not in (None, "-") and not str(json_path).endswith(".json"):
        raise UserError(f"--json {json_path}: expected FILE.json, or nothing to print it; write MODEL before it")
    if model is None:
        _check_data(json_path, html_path, quiet, given)
        return
    from robustbench_lite.evaluating import doctor as examination
    from robustbench_lite.faces.cli.tables import doctor as table

    if html_path is not None:
        raise UserError("--html is about data: leave MODEL away, as in 'rblite doctor --data D --html FILE'")
    target, (data,) = load_both(model, given, "test")
    signals.raise_interrupts()
    found = examination.examine(target, data, seed=given["seed"], limit=given["limit"])
    output.write_json(json_path, examination.as_json(target, data, found))
    faults = [one.code for one in found.findings if one.severity == "error"]
    if quiet:
        click.echo(f"{len(faults)} errors{': ' if faults else ''}{', '.join(faults)}")
    elif json_path != "-":
        output.print_rendered(table.report(target, data, found))
        words = shlex.join([model, *model_words(given), *data_words(given)])
        output.suggest(f"rblite {'doctor' if faults else 'evaluate'} {words}{'   (once cured)' if faults else ''}")
    sys.exit(output.EXIT["FAIL"] if faults else 0)


def _check_data(json_path: str | None, html_path: str | None, quiet: bool, given: dict[str, Any]) -> None:
    """Examine the data without a model; both splits where the source has them."""
    from robustbench_lite.data.label_map import relabelled
    from robustbench_lite.data.quality import examine_data, other_split
    from robustbench_lite.faces import progress
    from robustbench_lite.faces.cli.tables.data_quality import report

    if needless := [f"--{name}" for name in _OF_A_MODEL if given[name]]:
        raise UserError(f"{', '.join(needless)}: about a model, and none was given; name one, or leave it away")
    page = Path(html_path) if html_path else None
    if page:
        output.check_writable(page)
    data = load_samples(given, "test")
    known = other_split(data, lambda: load_samples(given, "train"))
    parts = [relabelled(part, given["label_map"]) for part in (data, known) if part is not None]
    if given["limit"]:
        parts = [part.stratified(given["limit"], given["seed"]) for part in parts]
    signals.raise_interrupts()
    with progress.bars(quiet) as bars:
        found = examine_data(*parts, seed=given["seed"], on_progress=progress.plain_bars(bars))
    if page:
        page = output.write_result(page, registry.find("reports", "contact_sheet")([found]))
    without = {"checks": {"__all__": {"faults": {"__all__": {"suspects": {"__all__": {"picture", "other"}}}}}}}
    output.write_json(json_path, found.model_dump_json(indent=1, exclude=without))
    if quiet:
        click.echo(f"{found.errors} errors")
    elif json_path != "-":
        output.print_rendered(report(found))
    if page:
        click.echo(f"Pictures   {page}")
    if not quiet:
        output.suggest(shlex.join(["rblite", "doctor", "MODEL", *data_words(given)]))
    sys.exit(output.EXIT["FAIL"] if found.errors else 0)
