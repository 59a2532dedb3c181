"""``rblite report``."""

from __future__ import annotations

import json
import shlex
import sys
import webbrowser
from collections.abc import Iterator, Sequence
from glob import glob, has_magic
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError
from robustbench_lite.faces.cli import output

if TYPE_CHECKING:
    from robustbench_lite.results.scorecard import Scorecard

_HARDENED = ("before.json", "after-*.json", "after.json")
_SEVERAL = "recipes.json"  # where several recipes ran from the same start, each in a folder of its own
_CALLED = {
    "html": "Report",
    "markdown": "Summary",
    "csv": "Table",
    "badge": "Badge",
    "sarif": "SARIF",
    "mlbom": "ML-BOM",
    "huggingface": "Results",
}


@click.command()
@click.argument("cards", nargs=-1, metavar="CARD.json...")
@click.option("--html", metavar="FILE", help="Write a page.")
@click.option("--markdown", metavar="FILE", help="Write a summary for a pull request.")
@click.option("--csv", metavar="FILE", help="Write a table, one row a sample.")
@click.option("--badge", metavar="FILE", help="Write an SVG image for a README; of one scorecard.")
@click.option("--sarif", metavar="FILE", help="Write findings and missed gates for code scanning.")
@click.option("--mlbom", metavar="FILE", help="Write a model's bill of materials, CycloneDX 1.7.")
@click.option("--huggingface", metavar="FILE", help="Write evaluation results for a model card on the hub.")
@click.option("--benchmark", metavar="ORG/NAME:TASK", help="With huggingface: a registered benchmark of the hub.")
@click.option("--mlflow", metavar="URI", help="Log each scorecard as a run of MLflow (an extra).")
@click.option("--open", "open_", is_flag=True, help="Show the page in the browser.")
@click.option("--format", "form", metavar="NAME", help="Any format, or your own.  [default: terminal]")
@click.option("--out", metavar="FILE", help="Write that format to a file instead of the terminal.")
@click.option("--title", help="Headline of the report.")
def report(
    cards: tuple[str, ...],
    title: str | None,
    open_: bool,
    form: str | None,
    out: str | None,
    benchmark: str | None,
    mlflow: str | None,
    **files: str | None,
) -> None:
    """Show scorecards: one by itself, several side by side.

    Of a folder that 'rblite harden' wrote it shows before and after, with the training's curves on the page, or the
    ranking of its recipes; of one that 'rblite tune' or 'rblite auto' wrote, the search. Patterns such as
    'cards/*.json' are expanded, quoted or not.
    Formats: terminal, html, markdown, csv, badge, github, annotations, sarif, mlbom, huggingface.
    """
    if not cards:
        raise UserError(f"no scorecard was named: {_what_there_is()}")
    asked = {name: Path(path) for name in _CALLED if (path := files[name]) is not None}
    if open_ and "html" not in asked and not (form == "html" and out):
        asked["html"] = output.fresh("report", ".html")
    output.check_writable(*asked.values(), *([Path(out)] if out and asked else []))
    paths = list(dict.fromkeys(path for given in cards for path in _expanded(given)))
    if searches := [place for place in map(_search_in, paths) if place is not None]:
        if len(paths) > 1:
            raise UserError(f"{len(paths)} things, and one is a search: expected a search by itself, or scorecards")
        _search(searches[0], title, asked.pop("html", None), bool(form or out or asked), open_)
        return
    loaded, log = _loaded(paths)
    words: dict[str | None, dict[str, Any]] = {name: {} for name in {*asked, form}}
    if "html" in words and log:
        words["html"] = {"log": log}
    if benchmark is not None:
        if "huggingface" not in words:
            raise UserError("--benchmark is about evaluation results: give --huggingface FILE, too")
        words["huggingface"] = {"benchmark": benchmark}
    # All, before any is written.
    rendered = {name: output.render(name, loaded, title=title, **words[name]) for name in asked}
    if form or not (asked or mlflow):
        _in_form(form or "terminal", output.render(form or "terminal", loaded, title=title, **words[form]), out)
        if len(paths) == 1 and form is None:
            output.suggest(f"rblite report {shlex.quote(paths[0])} --html report.html --open")
    elif out:
        raise UserError(f"--out goes with --format; for more files give --{', --'.join(_CALLED)}")
    for name, file in asked.items():
        output.write(file, rendered[name])
        click.echo(f"{_CALLED[name]:10} {file}")
    if mlflow is not None:
        from robustbench_lite.faces.mlflow import log as log_runs

        for run in log_runs(loaded, mlflow):
            click.echo(f"MLflow     {run}")
    if open_:
        _open(asked["html"] if "html" in asked else Path(out or ""))


def _what_there_is() -> str:
    """What can be shown, or how there comes to be something."""
    if not (there := sorted(output.FOLDER.glob("*.json"), key=lambda path: path.stat().st_mtime)):
        return f"there is none in {output.FOLDER} yet; make one by 'rblite evaluate MODEL --data D'"
    more = f" ({len(there)} are in {output.FOLDER})" if len(there) > 1 else ""
    return f"the newest is shown by 'rblite report {shlex.quote(str(there[-1]))}'{more}"


def _search_in(path: str) -> Path | None:
    """The folder of a search, of 'rblite tune' or 'rblite auto', where this is one, or its file."""
    from robustbench_lite.results.search import RESULT_FILE, SEARCH

    place = Path(path)
    if place.name == RESULT_FILE:
        return place.parent
    return next((one for one in (place, place / SEARCH) if (one / RESULT_FILE).is_file()), None)


def _search(place: Path, title: str | None, page: Path | None, others: bool, open_: bool) -> None:
    """Show a search, or write its page."""
    from robustbench_lite.results.search import SearchResult

    if others:
        raise UserError("a search is shown on the terminal or as a page; give --html FILE, or nothing")
    found = SearchResult.load(place)
    if page is None:
        output.print_rendered(registry.find("reports", "search")([found], title=title))
        return
    written = output.write_search(place, found, page, title)
    click.echo(f"{'Report':10} {written}")
    if open_:
        _open(written)


def _loaded(paths: Sequence[str]) -> tuple[list[Scorecard], list[dict[str, Any]]]:
    """Cards, and the log of the training where a folder of 'rblite harden' is among them."""
    cards, log = [], []
    for path in paths:
        folder = Path(path)
        if not folder.is_dir():
            cards += output.load_cards([path])
            continue
        ranked = (folder / _SEVERAL).is_file()
        files = _of_folder(folder, ranked)
        for name, card in zip(files, output.load_cards(list(map(str, files.values()))), strict=True):
            target = card.target.model_copy(update={"name": name if ranked else f"{card.target.name} ({name})"})
            cards.append(card.model_copy(update={"target": target}))
        log += _log(folder / "log.jsonl")
    return cards, log


def _of_folder(folder: Path, ranked: bool) -> dict[str, Path]:
    """The scorecards of a folder that 'rblite harden' wrote, and what each is called: ``after``, or its recipe."""
    files = {file.stem: file for name in _HARDENED for file in sorted(folder.glob(name))}
    if ranked:
        files |= {file.parent.name: file for file in sorted(folder.glob("*/after.json"))}
    if not files:
        raise UserError(f"{folder}: holds no before.json and after.json of 'rblite harden'; name the scorecards")
    return files


def _log(path: Path) -> list[dict[str, Any]]:
    """Lines of a training's log; none where it left none."""
    if not path.is_file():
        return []
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (ValueError, RecursionError) as fault:
        raise UserError(f"{path}: expected a JSON object a line ({fault}); take the file away to go without") from None
    if not all(isinstance(line, dict) for line in lines):
        raise UserError(f"{path}: expected a JSON object a line; take the file away to go without")
    return lines


def _in_form(form: str, rendered: object, out: str | None) -> None:
    """Print a format, or write it to a file."""
    if out is None:
        if form == "html" and sys.stdout.isatty():
            raise UserError("a page is not for the terminal; give --html FILE or --out FILE, or pipe it into one")
        output.print_rendered(rendered)
        return
    if not isinstance(rendered, str):
        raise UserError(f"the format {form!r} is for the terminal and can't be written to a file; try html")
    output.write(Path(out), rendered)
    click.echo(f"Report     {out}")


def _expanded(given: str) -> Iterator[str]:
    """The files that a pattern means, for shells that don't expand it; a file that is there is meant as it is."""
    if Path(given).exists() or not has_magic(given):
        yield given
        return
    found: Sequence[str] = sorted(glob(given, recursive=True))  # noqa: PTH207  # it may be absolute
    if not found:
        raise UserError(f"{given}: no file fits this pattern")
    yield from found


def _open(page: Path) -> None:
    if not webbrowser.open(page.resolve().as_uri()):
        output.say(f"No browser was found; open {page} in one.")
