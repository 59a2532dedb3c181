"""``rblite cache``."""

from __future__ import annotations

import click

from robustbench_lite.faces.cli import output

_DAY = 86400  # seconds


@click.command()
@click.option(
    "--dir", "folder", default=str(output.FOLDER / "cache"), show_default=True, metavar="DIR", help="The cache."
)
@click.option(
    "--older-than", type=click.FloatRange(min=0), default=0, metavar="DAYS", help="Only what was last used so long ago."
)
@click.option("--prune", is_flag=True, help="Delete it, but for what is in use.")
def cache(folder: str, older_than: float, prune: bool) -> None:
    """Show the evaluations that are kept by content, and delete them."""
    from robustbench_lite.evaluating import cache as kept
    from robustbench_lite.faces.cli.tables.cache import size_text, table

    seconds = older_than * _DAY
    found = kept.prune(folder, seconds) if prune else kept.kept(folder, seconds)
    if found:
        output.print_rendered(table(found))
    what = f"{len(found)} evaluation{'' if len(found) == 1 else 's'}, {size_text(sum(one.size for one in found))}"
    click.echo(f"{'Deleted' if prune else 'Kept'}: {what} in {folder}")
    if prune and (left := kept.kept(folder, seconds)):
        click.echo(f"{len(left)} in use, left alone")
