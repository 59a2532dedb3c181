"""``rblite compare``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from robustbench_lite.faces.cli import output
from robustbench_lite.faces.cli.options import json_option, quiet_option

if TYPE_CHECKING:
    from robustbench_lite.results.compare import Change, Comparison


@click.command()
@click.argument("before", metavar="BEFORE.json")
@click.argument("after", metavar="AFTER.json")
@click.option("--html", "html_path", metavar="FILE", help="Write the comparison as a page, too.")
@json_option("The paired tests")
@quiet_option
def compare(before: str, after: str, html_path: str | None, json_path: str | None, quiet: bool) -> None:
    """Set two scorecards side by side.

    With a paired test (McNemar) on the samples that they share.
    """
    from robustbench_lite.results.compare import compare as paired

    first, second = cards = output.before_and_after(*output.load_cards((before, after)))
    found = paired(first, second)
    if quiet:
        click.echo(f"robust {found.robust.told}; clean {found.clean.told}")
    else:
        output.show(cards)
    output.write_json(json_path, _as_json(found))
    if html_path:
        output.write(Path(html_path), output.render("html", cards))
        click.echo(f"Report     {html_path}")
    elif not quiet:
        output.suggest(f"rblite compare {before} {after} --html comparison.html")


def _as_json(found: Comparison) -> str:
    told = {
        "samples": found.samples,
        "unpaired_before": found.unpaired_before,
        "unpaired_after": found.unpaired_after,
        **{name: _change(getattr(found, name)) for name in ("clean", "robust")},
        "differences": found.differences,
    }
    return json.dumps(told, indent=1, allow_nan=False)


def _change(change: Change) -> dict[str, object]:
    ends = {"before": change.before.model_dump(), "after": change.after.model_dump()}
    return {**{key: value for key, value in asdict(change).items() if key not in ends}, **ends}
