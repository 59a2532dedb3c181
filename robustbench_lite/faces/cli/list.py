"""``rblite list``."""

from __future__ import annotations

import click

from robustbench_lite.core.errors import UserError, unknown
from robustbench_lite.faces.cli import output
from robustbench_lite.faces.cli.options import json_option

_KINDS = ("attacks", "suites", "defenses", "recipes", "measures", "explanations", "reports", "data")
_NEXT = {
    "attacks": "rblite list attacks pgd",
    "recipes": "rblite harden MODEL --data D --recipe R --out DIR",
    "defenses": "rblite list recipes",
    "measures": "rblite evaluate MODEL --data D --measure NAME",
    "explanations": "rblite explain CARD.json --method NAME",
    "reports": "rblite report CARD.json --format NAME",
    "data": "rblite doctor --data D",
}


@click.command("list")
@click.argument("kind", required=False, metavar=f"[{'|'.join(_KINDS)}]")
@click.argument("name", required=False)
@json_option("The names")
def list_(kind: str | None, name: str | None, json_path: str | None) -> None:
    """List attacks, suites, defenses, recipes, measures, explanations, data.

    'rblite list attacks NAME' shows every parameter of an attack, with its default. Listing runs none of your code;
    naming an attack of your own does.
    """
    from robustbench_lite.faces.cli.tables import attack, listing

    if kind is not None and kind not in _KINDS:
        raise UserError(unknown("kind", kind, _KINDS))
    if name is not None and kind != "attacks":
        raise UserError(f"{kind} {name}: only an attack is shown by its name; try 'rblite list {kind}'")
    if name is not None:
        output.write_json(json_path, attack.as_json(name))
        if json_path != "-":
            output.print_rendered(attack.details(name))
        return
    output.write_json(json_path, listing.as_json(kind))
    if json_path != "-":
        output.print_rendered(listing.listing(kind))
        output.suggest(_NEXT.get(kind or "attacks", "rblite evaluate MODEL --data D --suite S"))
