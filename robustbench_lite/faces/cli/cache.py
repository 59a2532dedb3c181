"""``rblite cache``."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from robustbench_lite.faces.cli import output
from robustbench_lite.faces.cli.options import json_option, quiet_option

_DAY = 86400  # seconds


@click.command()
@click.option(
    "--dir", "folder", default=str(output.FOLDER / "cache"), show_default=True, metavar="DIR", help="The cache."
)
@click.option(
    "--older-than", type=click.FloatRange(min=0), default=0, metavar="DAYS", help="Only what was last used so long ago."
)
@json_option("What is kept")
@quiet_option
@click.option("--prune", is_flag=True, help="Delete it, but for what is in use.")
def cache(folder: str, older_than: float, prune: bool, json_path: str | None, quiet: bool) -> None:
    """Show the evaluations that are kept by content, and delete them."""
    from robustbench_lite.evaluating import cache as kept
    from robustbench_lite.faces.cli.tables.cache import size_text, table

    seconds = older_than * _DAY
    found = kept.prune(folder, seconds) if prune else kept.kept(folder, seconds)
    output.write_json(json_path, json.dumps([asdict(one) for one in found], indent=1))
    if found and not quiet:
        output.print_rendered(table(found))
    what = f"{len(found)} evaluation{'' if len(found) == 1 else 's'}, {size_text(sum(one.size for one in found))}"
    click.echo(f"{'Deleted' if prune else 'Kept'}: {what} in {folder}")
    if prune and (left := kept.kept(folder, seconds)):
        click.echo(f"{len(left)} in use, left alone")
    if not found and not prune and not quiet:
        output.suggest(f"rblite evaluate MODEL --data D --cache {folder}")
