"""``rblite attest``."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from robustbench_lite.faces.cli import output
from robustbench_lite.faces.cli.options import json_option, quiet_option

if TYPE_CHECKING:
    from robustbench_lite.results.attestation import Checked, File

_LISTED = 10  # files of which the same is said
_SCHEMES = ("npz:", "csv:", "imagefolder:", "onnx:")


@click.command()
@click.argument("card", metavar="CARD.json")
@click.option("--weights", multiple=True, metavar="PATH", help="File or folder that holds the weights; repeatable.")
@click.option("--data", multiple=True, metavar="PATH", help="File or folder that holds the samples; repeatable.")
@click.option("--out", metavar="FILE", help="Where to write it.  [default: CARD.intoto.json]")
@click.option("--verify", metavar="FILE", help="Write nothing; hold the files against this statement.")
@json_option("What --verify found, or the statement")
@quiet_option
def attest(
    card: str,
    weights: tuple[str, ...],
    data: tuple[str, ...],
    out: str | None,
    verify: str | None,
    json_path: str | None,
    quiet: bool,
) -> None:
    """Write down which files a scorecard is about, for others to sign.

    An in-toto statement with the SHA-256 of card, weights and data, which Sigstore's tools sign (docs/reports.md).
    It is evidence, not conformity. With --verify it tells whether the files are the ones that a statement names, be it
    in an envelope; exit code 1 where one isn't, or one that it names is not given. It looks at no signature.
    """
    from robustbench_lite.core.errors import UserError
    from robustbench_lite.faces import progress
    from robustbench_lite.results import attestation

    if verify and out:
        raise UserError("--out writes a statement and --verify checks one: give one of the two")
    path = Path(card)
    [loaded] = output.load_cards([card])
    with progress.bars(quiet) as bars:
        hashed = progress.plain_bars(bars)
        about = [
            *attestation.files("scorecard", [path]),
            *attestation.files("weights", [_place(one) for one in weights], hashed),
            *attestation.files("data", [_place(one) for one in data], hashed),
        ]
    if verify:
        found = attestation.check(Path(verify), loaded, about)
        output.write_json(json_path, json.dumps([one._asdict() for one in found], indent=1, ensure_ascii=False))
        _tell(Path(verify), found, quiet)
        return
    place = Path(out) if out else path.with_name(f"{path.name.removesuffix('.json')}.intoto.json")
    output.check_writable(place)
    text = attestation.statement(loaded, about)
    output.write(place, text)
    output.write_json(json_path, text)
    if not quiet:
        _list([(f"{one.role:10}", one.name) for one in about])
    if missing := _missing(about):
        output.say(f"It is not about the {missing}: give --weights and --data, so that they can't be exchanged.")
    click.echo(f"Statement  {place}")
    if not quiet:
        output.suggest("sign it: docs/reports.md tells how with model-signing and with Sigstore")


def _tell(path: Path, found: Sequence[Checked], quiet: bool) -> None:
    shown = (one for one in found if not quiet or one.state != "as attested")
    _list([(f"{one.state:12} {one.role:10}", one.name) for one in shown])
    if any(one.state != "as attested" for one in found):
        output.say(f"Error: these are not the files that {path} names.")
        sys.exit(output.EXIT["FAIL"])
    click.echo(f"All files are the ones that {path} names. Whether it is signed, and by whom, wasn't looked at.")


def _list(lines: Sequence[tuple[str, str]]) -> None:
    """Print what is said of files, and their names; of many of which the same is said, the first ones and how many."""
    for said in dict.fromkeys(said for said, _ in lines):
        names = [name for other, name in lines if other == said]
        shown = names if len(names) <= _LISTED else names[: _LISTED - 1]
        for name in shown:
            click.echo(f"{said} {output.plain(name)}")
        if len(shown) < len(names):
            click.echo(f"{said} and {len(names) - len(shown):,} more; --json - names all")


def _place(given: str) -> Path:
    """A path, be it written as for ``rblite evaluate``."""
    return Path(next((given.removeprefix(one) for one in _SCHEMES if given.startswith(one)), given))


def _missing(about: list[File]) -> str:
    roles = {one.role for one in about}
    return " and the ".join(role for role in ("weights", "data") if role not in roles)
