"""``rblite list``."""

from __future__ import annotations

import click

from robustbench_lite.core.errors import UserError, unknown
from robustbench_lite.faces.cli import output

_KINDS = ("attacks", "suites", "defenses", "recipes", "measures", "reports", "data")


@click.command("list")
@click.argument("kind", required=False, metavar=f"[{'|'.join(_KINDS)}]")
@click.argument("name", required=False)
def list_(kind: str | None, name: str | None) -> None:
    """List attacks, suites, defenses, recipes, measures, data.

    'rblite list attacks NAME' shows every parameter of an attack, with its default. Listing runs none of your code;
    naming an attack of your own does.
    """
    from robustbench_lite.faces.cli.tables.attack import details
    from robustbench_lite.faces.cli.tables.listing import listing

    if kind is not None and kind not in _KINDS:
        raise UserError(unknown("kind", kind, _KINDS))
    if name is None:
        output.print_rendered(listing(kind))
    elif kind == "attacks":
        output.print_rendered(details(name))
    else:
        raise UserError(f"{kind} {name}: only an attack is shown by its name; try 'rblite list {kind}'")
