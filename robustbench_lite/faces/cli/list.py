"""``rblite list``."""

from __future__ import annotations

import click

from robustbench_lite.faces.cli import output


@click.command("list")
@click.argument(
    "kind", required=False, type=click.Choice(["attacks", "suites", "defenses", "recipes", "reports", "data"])
)
def list_(kind: str | None) -> None:
    """List attacks, suites, defenses, recipes, data."""
    from robustbench_lite.faces.cli.tables.listing import listing

    output.print_rendered(listing(kind))
