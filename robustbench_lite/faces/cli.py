"""The command line, ``rblite``: a thin face. What a command needs is imported when it runs."""

from __future__ import annotations

import os
import re
import secrets
import sys
import traceback
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

import robustbench_lite
from robustbench_lite.core import registry
from robustbench_lite.core.errors import UserError

if TYPE_CHECKING:
    from robustbench_lite.data.dataset import Data, Split
    from robustbench_lite.model.target import Target
    from robustbench_lite.results.scorecard import Scorecard

EXIT = {"PASS": 0, "FAIL": 1, "INVALID": 3}
EXIT_USAGE, EXIT_CRASH, EXIT_INTERRUPT, EXIT_PIPE = 2, 4, 130, 141
FOLDER = Path(".robustbench")
_SLUG = 60  # characters of a name that go into a file's
_HARDEN_OPTIONS = ("epochs", "lr", "batch_size", "seed", "suite", "limit", "resume")
_EVALUATE_OPTIONS = (
    "seed",
    "limit",
    "batch_size",
    "independent",
    "curve",
    "keep_witnesses",
    "sequential",
    "cache",
    "corpus",
    "adapt",
)

_Command = TypeVar("_Command", bound=Callable[..., Any])
_Given = dict[str, Any]  # options by name; those that several commands share are read by `_target` and `_data`


_HELP = """How much of a model's accuracy survives an adversary.

\b
Exit codes:
  0    PASS: every gate is met, or may be (its interval holds the threshold)
  1    FAIL: a gate is missed by its whole interval
  2    wrong input
  3    INVALID: the evaluation can't be trusted
  4    unexpected error
  130  interrupted
  141  whoever read the output closed it early
"""


class _Group(click.Group):
    """Tells what went wrong in plain words; a traceback only where one is asked for."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except UserError as fault:
            _say(f"Error: {fault}")
            ctx.exit(EXIT_USAGE)
        except BrokenPipeError:  # whoever read our output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(EXIT_PIPE)
        except KeyboardInterrupt:
            _say("Interrupted.")
            ctx.exit(EXIT_INTERRUPT)
        except Exception as fault:
            if ctx.params.get("debug"):
                traceback.print_exc()
            else:
                _say(f"Error: {type(fault).__name__}: {fault}\nRun 'rblite --debug ...' for the traceback.")
            ctx.exit(EXIT_CRASH)


@click.group(cls=_Group, help=_HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80})
@click.version_option(robustbench_lite.__version__, prog_name="rblite")
@click.option("--debug", is_flag=True, help="Show the traceback of an unexpected error.")
def main(debug: bool) -> None:  # noqa: D103 - _HELP says it
    pass


def _options(*options: Callable[[Any], Any]) -> Callable[[_Command], _Command]:
    def add(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


_model_options = _options(
    click.option("--weights", metavar="FILE", help="safetensors, or a PyTorch state dict, for MODEL."),
    click.option("--normalize", metavar="NAME", help="imagenet, cifar10, mnist, none, or 'm1,m2,m3/s1,s2,s3'."),
    click.option(
        "--classes", type=click.IntRange(min=2), metavar="N", help="Number of classes, if MODEL must be told."
    ),
    click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1, ...; by default a GPU where there is one."),
)
_data_options = _options(
    click.option(
        "--data",
        "source",
        required=True,
        metavar="D",
        help="digits, mnist, fashion-mnist, cifar10, cifar100, imagenet, imagefolder:DIR, npz:FILE, or "
        "module:callable.",
    ),
    click.option("--data-root", metavar="DIR", help="Where torchvision's data sets lie."),
    click.option("--download", is_flag=True, help="Download the data set where it is missing."),
)
_run_options = _options(
    click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Evaluate N samples, drawn by class."),
    click.option("--seed", type=click.IntRange(min=0), metavar="N", default=0, show_default=True, help="Seed."),
)
_quiet_option = click.option("-q", "--quiet", is_flag=True, help="No progress bars and no table.")


@main.command()
@click.argument("model")
@_model_options
@_data_options
@_run_options
@click.option("--threat", "threats", multiple=True, metavar="T", help="'Linf 8/255', 'L2 0.5', ...; repeatable.")
@click.option("--suite", default="linf_standard", show_default=True, metavar="S", help="Name, or a TOML file.")
@click.option("--batch-size", type=click.IntRange(min=1), metavar="N", help="Most samples in flight.")
@click.option("--independent/--cascade", default=None, help="Each attack sees all samples, or those still standing.")
@click.option("--curve/--no-curve", default=None, help="Find the nearest example, for accuracy at every eps, or don't.")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), metavar="X", help="Stop early after this time.")
@click.option("--passes", type=click.IntRange(min=1), metavar="N", help="Stop early after this many passes.")
@click.option(
    "--min-clean-accuracy",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="Gate; fails where the whole interval is below.",
)
@click.option("--min-robust-accuracy", type=click.FloatRange(0, 1), metavar="SHARE", help="Gate, likewise.")
@click.option("--max-drop", type=click.FloatRange(0, 1), metavar="SHARE", help="Gate: clean less robust accuracy.")
@click.option("--sequential", is_flag=True, help="End as soon as every gate is settled.")
@click.option("--cache", metavar="DIR", help="Answer an unchanged question from here; go on after a kill.")
@click.option("--corpus", metavar="DIR", help="Replay the witnesses kept here first, and keep new ones.")
@click.option("--adapt", is_flag=True, help="Evaluate once more past what hides from the attacks; show both.")
@click.option("--json", "json_path", metavar="FILE", help="Scorecard.  [default: a new file in .robustbench]")
@click.option("--html", "html_path", metavar="FILE", help="Report.  [default: beside the scorecard]")
@click.option("--markdown", "markdown_path", metavar="FILE", help="Summary, for a pull request.")
@click.option("--keep-witnesses", is_flag=True, help="Keep the adversarial examples beside the scorecard.")
@_quiet_option
def evaluate(model: str, suite: str, quiet: bool, **given: Any) -> None:
    """Attack MODEL with a suite and write its scorecard.

    MODEL is package.module:callable, path/to/file.py:callable, torchvision:NAME, or a folder that 'rblite harden'
    wrote. Its inputs are in [0, 1], NCHW; normalisation is inside it, or given by --normalize. What is no PyTorch
    module is a Target.from_callable(function) that the callable returns.
    """
    from robustbench_lite.core.cost import Budget
    from robustbench_lite.core.suite import load_suite
    from robustbench_lite.core.threat import ThreatModel
    from robustbench_lite.evaluating import pipeline as evaluation
    from robustbench_lite.faces import progress
    from robustbench_lite.results.gates import Gates

    saved = Path(given["json_path"] or _fresh(f"{_slug(model)}-{_slug(suite)}", ".json"))
    page = Path(given["html_path"] or saved.with_suffix(".html"))
    summary = Path(given["markdown_path"]) if given["markdown_path"] else None
    witnesses = saved.with_name(f"{saved.stem}.witnesses.npz") if given["keep_witnesses"] else None
    _writable(*filter(None, (saved, page, summary, witnesses)))
    gates = Gates(**{item.name: given.get(item.name) for item in fields(Gates)})
    budget = Budget(seconds=given["seconds"], passes=given["passes"]) if given["seconds"] or given["passes"] else None
    if given["sequential"] and gates == Gates():
        raise UserError("--sequential ends when the gates are settled: give one, such as --max-drop 0.3")
    asked = load_suite(suite)
    threats: list[str | ThreatModel] = [ThreatModel.parse(threat) for threat in given["threats"]]
    data = _data(given, "test")
    with progress.bars(quiet) as bars:
        card = evaluation.evaluate(
            _target(model, given, data),
            data,
            asked,
            threats or None,
            **{name: given[name] for name in _EVALUATE_OPTIONS},
            gates=gates,
            budget=budget,
            on_progress=progress.attack_bars(bars),
        )
    card.save(saved)
    _write(page, _render("html", [card]))
    if summary:
        _write(summary, _render("markdown", [card]))
    if quiet:
        click.echo(_in_a_line(card))
    else:
        _show([card])
    if given["adapt"] and card.adaptation is None:
        click.echo("Not adapted: no finding has a cure that could be applied (docs/adaptive.md)")
    click.echo(f"Scorecard  {saved}\nReport     {page}")
    sys.exit(EXIT_INTERRUPT if card.interrupted == "interrupt" else EXIT[card.verdict])


@main.command()
@click.argument("model")
@_model_options
@_data_options
@_run_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
def doctor(model: str, as_json: bool, **given: Any) -> None:
    """Check MODEL before it is evaluated.

    Normalisation, channel order, labels, train mode, randomness, gradients, and what a pass costs, on a sample of 256
    unless --limit says otherwise. Exit code 1 where a finding would make the evaluation INVALID.
    """
    from robustbench_lite.evaluating import doctor as job

    data = _data(given, "test")
    target = _target(model, given, data)
    found = job.examine(target, data, seed=given["seed"], limit=given["limit"])
    _print((job.as_json if as_json else job.report)(target, data, found))
    sys.exit(EXIT["FAIL"] if job.errors(found) else 0)


@main.command()
@click.argument("model")
@_model_options
@_data_options
@_run_options
@click.option("--threat", "threats", multiple=True, metavar="T", help="'Linf 8/255', ...  [default: the recipe's]")
@click.option("--recipe", default="pgd_training", show_default=True, metavar="R", help="Name, or a TOML file.")
@click.option("--out", required=True, metavar="DIR", help="Folder for the hardened model; new or empty.")
@click.option("--suite", metavar="S", help="Judges before and after.  [default: the recipe's]")
@click.option("--epochs", type=click.IntRange(min=1), metavar="N", help="Instead of the recipe's.")
@click.option("--lr", type=click.FloatRange(min=0, min_open=True), metavar="X", help="Instead of the recipe's.")
@click.option("--batch-size", type=click.IntRange(min=1), metavar="N", help="Instead of the recipe's.")
@click.option("--resume", is_flag=True, help="Go on with the unfinished run in DIR.")
@_quiet_option
def harden(model: str, out: str, recipe: str, quiet: bool, **given: Any) -> None:
    """Train MODEL to withstand an adversary.

    With --weights it is fine-tuned from there, without from scratch. DIR then works as a MODEL of 'rblite evaluate'.
    """
    from robustbench_lite.faces import progress
    from robustbench_lite.hardening import pipeline as hardening

    threats = given["threats"]
    if len(threats) > 1:
        raise UserError(f"{len(threats)} threat models were given: a recipe hardens against one")
    data = _data(given, "train")
    target = _target(model, given, data)
    try:
        with progress.bars(quiet) as bars:
            hardened = hardening.harden(
                target,
                data,
                recipe,
                threat=threats[0] if threats else None,
                out=out,
                test_data=_data(given, "test"),
                **{name: given[name] for name in _HARDEN_OPTIONS},
                on_progress=progress.training_bars(bars),
                on_attack=progress.attack_bars(bars),
            )
    except KeyboardInterrupt:
        _say(f"Interrupted. What is done is kept in {out}; the same command with --resume goes on.")
        sys.exit(EXIT_INTERRUPT)
    cards = [_named(hardened.before, "before"), _named(hardened.after, "after")]
    page = Path(out) / "report.html"
    _write(page, _render("html", cards, title=f"{target.name}: before and after"))
    if not quiet:
        _show(cards)
    click.echo(f"Model      {out}\nReport     {page}")


@main.command()
@click.option("--out", default=str(FOLDER / "demo"), show_default=True, metavar="DIR", help="Folder for the report.")
@click.option("--seed", type=click.IntRange(min=0), metavar="N", default=0, show_default=True, help="Seed.")
@_quiet_option
def demo(out: str, seed: int, quiet: bool) -> None:
    """Harden and attack three small networks.

    Plain training, defensive distillation and PGD training under the same suite; one to two minutes on two cores.
    """
    from robustbench_lite.faces import demo as job
    from robustbench_lite.faces import progress

    page = Path(out) / "scorecard.html"
    files = {name: Path(out) / f"{_slug(name)}.json" for name in job.RECIPES}
    _writable(page, *files.values())
    with progress.bars(quiet) as bars:
        cards = job.run_demo(seed, progress.training_bars(bars), progress.attack_bars(bars))
    for card in cards:
        card.save(files[card.target.name])
    told = job.story(cards)
    _write(page, _render("html", cards, title=job.TITLE, story=told))
    if not quiet:
        _show(cards, title=job.TITLE, story=told)
    click.echo(f"Report     {page.resolve()}")


@main.command()
@click.option("--weights", required=True, metavar="DIR", help="Where the published weights lie, as downloaded.")
@click.option("--data-root", required=True, metavar="DIR", help="Where MNIST lies, in torchvision's layout.")
@click.option(
    "--case",
    "cases",
    multiple=True,
    metavar="NAME",
    help="lenet5_clean_pgd, lenet5_clean_ddn, lenet5_adv_pgd, lenet5_adv_ddn or wk17a; repeatable.  [default: all]",
)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Run N samples, drawn by class.")
@click.option("--json", "json_path", metavar="FILE", help="Write the numbers for machines.")
def calibrate(weights: str, data_root: str, cases: tuple[str, ...], limit: int | None, json_path: str | None) -> None:
    """Run published cases, to prove this install.

    Networks that others trained and attacked, from your own copies of their files; what is missing is told with where
    it is published. Exit code 1 where a number differs from the published one, 2 where none could be run.
    """
    from robustbench_lite.data.load import load_data
    from robustbench_lite.evaluating import calibration as job
    from robustbench_lite.faces import progress

    if json_path:
        _writable(Path(json_path))
    data = load_data("mnist", root=data_root)
    with progress.bars() as bars:
        found = job.calibrate(Path(weights), data, cases, limit=limit, on_progress=progress.attack_bars(bars))
    _print(job.report(found))
    if json_path:
        _write(Path(json_path), job.as_json(found))
    if found.interrupted:
        sys.exit(EXIT_INTERRUPT)
    sys.exit(EXIT_USAGE if not found.ran else EXIT["FAIL" if found.count("differs", "impossible") else "PASS"])


@main.command()
@click.argument("cards", nargs=-1, required=True, metavar="CARD.json...")
@click.option("--format", "form", default="terminal", show_default=True, help="terminal, html, markdown, or your own.")
@click.option("--out", metavar="FILE", help="Write to a file instead of the terminal.")
@click.option("--title", help="Headline of the report.")
def report(cards: tuple[str, ...], form: str, out: str | None, title: str | None) -> None:
    """Show scorecards: one by itself, several side by side."""
    loaded = _load(cards)
    rendered = _render(form, loaded, title=title)
    if out is None:
        _print(rendered)
    else:
        if not isinstance(rendered, str):
            raise UserError(f"the format {form!r} is for the terminal and can't be written to a file; try html")
        _write(Path(out), rendered)
        click.echo(f"Report     {out}")


@main.command()
@click.argument("before", metavar="BEFORE.json")
@click.argument("after", metavar="AFTER.json")
@click.option("--html", "html_path", metavar="FILE", help="Write the comparison as a page, too.")
def compare(before: str, after: str, html_path: str | None) -> None:
    """Set two scorecards side by side.

    With a paired test (McNemar) on the samples that they share.
    """
    cards = _load((before, after))
    _show(cards)
    if html_path:
        _write(Path(html_path), _render("html", cards))
        click.echo(f"Report     {html_path}")


@main.command("list")
@click.argument(
    "kind", required=False, type=click.Choice(["attacks", "suites", "defenses", "recipes", "reports", "data"])
)
def list_(kind: str | None) -> None:
    """List attacks, suites, defenses, recipes, data."""
    from robustbench_lite.faces.listing import listing

    _print(listing(kind))


@main.command()
@click.argument("folder", default=".", metavar="[DIR]")
@click.option("--force", is_flag=True, help="Replace files that are there.")
def init(folder: str, force: bool) -> None:
    """Lay files to start from in a repo.

    A suite, a recipe, an attack, a test and a workflow. All of it works as it is laid.
    A file that is there is left alone.
    """
    from robustbench_lite.faces import init as job

    laid = job.lay(folder, force=force)
    for one in laid:
        click.echo(f"{one.state:<11} {one.path:<33} {job.FILES[one.path]}")
    for told in job.missing_entries(folder, laid):
        _say(told)
    click.echo(f"\nNext, {'here' if folder == '.' else f'in {folder}'}:")
    for command, what in job.NEXT.items():
        click.echo(f"  {command}\n      {what}")


@main.command()
@click.option("--dir", "folder", default=str(FOLDER / "cache"), show_default=True, metavar="DIR", help="The cache.")
@click.option(
    "--older-than", type=click.FloatRange(min=0), default=0, metavar="DAYS", help="Only what was last used so long ago."
)
@click.option("--prune", is_flag=True, help="Delete it, but for what is in use.")
def cache(folder: str, older_than: float, prune: bool) -> None:
    """Show the evaluations that are kept by content, and delete them."""
    from robustbench_lite.evaluating import cache as kept
    from robustbench_lite.faces.cache_table import size_text, table

    seconds = older_than * 86400
    found = kept.prune(folder, seconds) if prune else kept.kept(folder, seconds)
    if found:
        _print(table(found))
    what = f"{len(found)} evaluation{'' if len(found) == 1 else 's'}, {size_text(sum(one.size for one in found))}"
    click.echo(f"{'Deleted' if prune else 'Kept'}: {what} in {folder}")
    if prune and (left := kept.kept(folder, seconds)):
        click.echo(f"{len(left)} in use, left alone")


def _target(model: str, given: _Given, data: Data) -> Target:
    from robustbench_lite.model.loading import load_target

    return load_target(
        model,
        weights=given["weights"],
        normalize=given["normalize"],
        classes=given["classes"] or len(data.classes) or None,
        device=given["device"] or "auto",
        seed=given["seed"],
    )


def _data(given: _Given, split: Split) -> Data:
    from robustbench_lite.data.load import load_data

    return load_data(given["source"], split=split, root=given["data_root"], download=given["download"])


def _load(paths: tuple[str, ...]) -> list[Scorecard]:
    from robustbench_lite.results.scorecard import Scorecard

    return [Scorecard.load(path) for path in paths]


def _named(card: Scorecard, name: str) -> Scorecard:
    return card.model_copy(update={"target": card.target.model_copy(update={"name": f"{card.target.name} ({name})"})})


def _in_a_line(card: Scorecard) -> str:
    faults = [finding.code for finding in card.validity if finding.severity == "error"]
    missed = [f"{gate.name} {gate.threshold:g}" for gate in card.gates if not gate.passed]
    why = f": {', '.join(faults or missed)}" if faults or missed else ""
    bound = "at most " if card.interrupted else ""
    plain = card.adaptation
    threats = ", ".join(str(one.threat) for one in card.threats)
    without = f" (adapted; without: {plain.robust_accuracy})" if plain else ""
    robust = f"{bound}{card.robust_accuracy} under {threats}{without}"
    return f"{card.verdict}{why}  clean {card.clean_accuracy}, robust {robust}"


def _render(form: str, cards: list[Scorecard], **words: Any) -> Any:
    return registry.find("reports", form)(cards, **words)


def _show(cards: list[Scorecard], **words: Any) -> None:
    _print(_render("terminal", cards, **words))


def _print(rendered: Any) -> None:
    if isinstance(rendered, str):
        click.echo(rendered)
    else:
        from rich.console import Console

        Console().print(rendered)


def _say(text: str) -> None:
    # Names come from files: none of them steers the terminal. Line breaks are ours.
    click.echo("".join(one for one in text if one == "\n" or unicodedata.category(one)[0] != "C"), err=True)


def _fresh(stem: str, suffix: str) -> Path:
    """A name that no other run takes, be it in the same second, so that no result is lost."""
    return FOLDER / f"{stem}-{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}{suffix}"


def _slug(text: str) -> str:
    short = Path(text).stem if text.endswith((".toml", "/")) else text
    return re.sub(r"[^A-Za-z0-9]+", "-", short).strip("-")[-_SLUG:].strip("-") or "model"


def _writable(*paths: Path) -> None:
    """Find out before the run, not after, that a file can't be written; make and touch nothing."""
    if len({path.resolve() for path in paths}) < len(paths):
        raise UserError(f"{', '.join(map(str, paths))}: expected a file of its own for each output")
    for path in paths:
        if path.is_dir():
            raise UserError(f"{path} is a folder: expected the name of a file")
        there = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
        if there != path and not there.is_dir():
            raise UserError(f"{path} can't be written: {there} is a file, not a folder; choose another place")
        if not os.access(there, os.W_OK):
            raise UserError(f"{path} can't be written: {there} is write-protected; choose another place")


def _write(path: Path, text: str) -> None:
    from robustbench_lite.core.files import write_atomically

    with _told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as fault:
        raise UserError(f"{path} can't be written: {fault.strerror or fault}; choose another place") from None


if __name__ == "__main__":
    main()
