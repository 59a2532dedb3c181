"""``rblite explain``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from robustbench_lite.core.errors import UserError
from robustbench_lite.faces.cli import explained, output, signals
from robustbench_lite.faces.cli.evaluate import evaluate
from robustbench_lite.faces.cli.options import json_option, known_data_options, load_both, model_options, quiet_option

if TYPE_CHECKING:
    from robustbench_lite.data.dataset import Data
    from robustbench_lite.model.target import Target
    from robustbench_lite.results.scorecard import Scorecard

_OF_THE_MODEL = ("weights", "normalize", "classes", "name")
_OF_THE_DATA = ("data_root", "resize", "crop", "label_map")


@click.command()
@click.argument("card", metavar="CARD.json")
@click.argument("model", required=False)
@model_options
@known_data_options
@click.option("--method", "methods", multiple=True, metavar="NAME", help="'rblite list explanations'; repeatable.")
@click.option("--layer", metavar="NAME", help="Layer that Grad-CAM looks at.  [default: the last convolution]")
@click.option(
    "--samples", type=click.IntRange(1, 1000), default=8, show_default=True, metavar="N", help="Broken samples to show."
)
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Of what is drawn.  [default: the card's]")
@click.option("--batch-size", type=click.IntRange(min=1), metavar="N", help="Most inputs at once.")
@click.option("--html", "html_path", metavar="FILE", help="The page.  [default: beside the scorecard]")
@click.option("--png", "png_folder", metavar="DIR", help="Write the pictures as files, too.")
@json_option("What was found")
@quiet_option
def explain(card: str, model: str | None, json_path: str | None, quiet: bool, **given: Any) -> None:
    """Explain why samples broke: what the model looked at, and which break.

    CARD.json is a scorecard of 'rblite evaluate --keep-witnesses', with its .witnesses.npz beside it. MODEL, weights
    and data are those of the command that made it, and can be given anew where it was made elsewhere; the model's code
    is run, so explain only scorecards that you trust. Needs pip install 'robustbench_lite[explain]'.
    """
    from robustbench_lite.explaining import explain as run
    from robustbench_lite.explaining.run import ExplainOptions, make
    from robustbench_lite.faces import progress
    from robustbench_lite.results.scorecard import Scorecard

    page = Path(given["html_path"] or explained.page_of(Path(card)))
    output.check_writable(page)
    for name in given["methods"]:
        make(name)
    loaded = Scorecard.load(card)
    target, data = _load(loaded, model, given, quiet=quiet)
    signals.raise_interrupts()
    with progress.bars(quiet) as bars:
        options = ExplainOptions(
            methods=given["methods"],
            layer=given["layer"],
            samples=given["samples"],
            seed=loaded.seed if given["seed"] is None else given["seed"],
            batch_size=given["batch_size"],
            on_progress=progress.plain_bars(bars),
        )
        found = run(loaded, target, data, options)
    files = explained.write(found, page, given["png_folder"])
    output.write_json(json_path, explained.as_json(found))
    if not quiet and json_path != "-":
        from robustbench_lite.faces.cli.tables import explained as table

        output.print_rendered(table.report(found))
    click.echo(files)


def _load(card: Scorecard, model: str | None, given: Mapping[str, Any], *, quiet: bool) -> tuple[Target, Data]:
    """Load what the options name, and what they don't name by the command that made the card."""
    known = _known(card)
    by_card = {
        **({name: known.get(name) for name in ("model", *_OF_THE_MODEL)} if model is None else {}),
        **({name: known.get(name) for name in ("source", *_OF_THE_DATA)} if given["source"] is None else {}),
    }
    named = {name: value for name, value in {**given, "model": model}.items() if value is not None}
    options = {**dict.fromkeys(given), **by_card, **named, "seed": card.seed}  # untrained, it is the same by its seed
    if options.get("model") is None or options["source"] is None:
        raise UserError(
            "the card doesn't tell which command made it (Python or pytest did): give MODEL and --data, as in 'rblite "
            "explain CARD.json my/models.py:build --data digits'"
        )
    told = [str(by_card[name]) for name in ("model", "weights", "source") if by_card.get(name) and name not in named]
    if told and not quiet:
        output.say(f"As the card's command says: {', '.join(told)}")
    try:
        target, (data,) = load_both(options["model"], options, "test")
    except UserError as fault:
        if not told:
            raise
        raise UserError(
            f"{fault}\nThe card's command names {', '.join(told)}, to be found from this folder: run it where the card "
            "was made, or give MODEL and --data"
        ) from fault
    return target, data


def _known(card: Scorecard) -> dict[str, Any]:
    """Parameters that the card's command was given; none where another face made it."""
    if card.command[1:2] != ("evaluate",):
        return {}
    try:
        context = evaluate.make_context("rblite evaluate", list(card.command[2:]), resilient_parsing=True)
    except click.ClickException:
        return {}
    return {
        name: value
        for name, value in context.params.items()
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
