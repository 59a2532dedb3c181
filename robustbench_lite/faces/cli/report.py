"""``rblite report``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from robustbench_lite.core.errors import UserError
from robustbench_lite.faces.cli import output


@click.command()
@click.argument("cards", nargs=-1, required=True, metavar="CARD.json...")
@click.option("--format", "form", default="terminal", show_default=True, help="terminal, html, markdown, or your own.")
@click.option("--out", metavar="FILE", help="Write to a file instead of the terminal.")
@click.option("--title", help="Headline of the report.")
def report(cards: tuple[str, ...], form: str, out: str | None, title: str | None) -> None:
    """Show scorecards: one by itself, several side by side."""
    rendered = output.render(form, output.load_cards(cards), title=title)
    if out is None:
        if form == "html" and sys.stdout.isatty():
            raise UserError("a page is not for the terminal; give --out FILE, or pipe it into one")
        output.print_rendered(rendered)
        return
    if not isinstance(rendered, str):
        raise UserError(f"the format {form!r} is for the terminal and can't be written to a file; try html")
    output.write(Path(out), rendered)
    click.echo(f"Report     {out}")
