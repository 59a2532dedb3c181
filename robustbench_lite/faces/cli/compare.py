"""``rblite compare``."""

from __future__ import annotations

from pathlib import Path

import click

from robustbench_lite.faces.cli import output


@click.command()
@click.argument("before", metavar="BEFORE.json")
@click.argument("after", metavar="AFTER.json")
@click.option("--html", "html_path", metavar="FILE", help="Write the comparison as a page, too.")
def compare(before: str, after: str, html_path: str | None) -> None:
    """Set two scorecards side by side.

    With a paired test (McNemar) on the samples that they share.
    """
    cards = output.before_and_after(*output.load_cards((before, after)))
    output.show(cards)
    if html_path:
        output.write(Path(html_path), output.render("html", cards))
        click.echo(f"Report     {html_path}")
