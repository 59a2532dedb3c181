"""``rblite harden``."""

from __future__ import annotations

import json
import shlex
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from robustbench_lite.core import launched
from robustbench_lite.core.errors import UserError
from robustbench_lite.faces.cli import output, processes, signals
from robustbench_lite.faces.cli.options import (
    data_options,
    data_words,
    demanded,
    json_option,
    load_both,
    load_samples,
    model_options,
    quiet_option,
    run_options,
    together,
)

if TYPE_CHECKING:
    from robustbench_lite.data.dataset import Data
    from robustbench_lite.faces.tensorboard import Board
    from robustbench_lite.hardening.pipeline import Hardened
    from robustbench_lite.hardening.recipe import Recipe
    from robustbench_lite.model.target import Target
    from robustbench_lite.results.scorecard import Scorecard

_PASSED_ON = ("epochs", "lr", "batch_size", "freeze", "seed", "suite", "limit", "limit_train", "remember", "resume")
_NOT_REPEATED = ("out", "tensorboard", "json_path", "resume", "quiet", "wait")
"""Where it is written, and how it is told: no part of what is asked."""
_WIDTH = 80


training_options = together(
    click.option("--threat", "threats", multiple=True, metavar="T", help="'Linf 8/255', ...  [default: the recipe's]"),
    click.option("--out", required=True, metavar="DIR", help="Folder for the hardened model; new or empty."),
    click.option("--suite", metavar="S", help="Evaluates before and after.  [default: the recipe's]"),
    click.option("--lr", type=click.FloatRange(min=0, min_open=True), metavar="X", help="Instead of the recipe's."),
    click.option("--batch-size", type=click.IntRange(min=1), metavar="N", help="Instead of the recipe's."),
    click.option(
        "--freeze",
        multiple=True,
        metavar="P",
        help="Parameters that stay: 'features.*'; 'backbone': all but the head.",
    ),
    click.option("--limit-train", type=click.IntRange(min=1), metavar="N", help="Learn from N samples only."),
    click.option(
        "--gate", "demands", multiple=True, metavar="G", help="'NAME >= X' or 'NAME <= X' on a measure afterwards."
    ),
    click.option("--tensorboard", metavar="DIR", help="Write each epoch's numbers for TensorBoard (an extra)."),
    json_option("Verdict, numbers and files"),
    click.option("--resume", is_flag=True, help="Go on with the unfinished run in DIR."),
    quiet_option,
)


@click.command()
@click.argument("model")
@model_options
@data_options
@run_options
@click.option(
    "--recipe",
    "recipes",
    default=("pgd_training",),
    multiple=True,
    metavar="R",
    help="Name, or a TOML file. Several, as a,b,c, are run from the same start and ranked.  [default: pgd_training]",
)
@click.option("--epochs", type=click.IntRange(min=1), metavar="N", help="Instead of the recipe's.")
@click.option("--earlier", metavar="D", help="What MODEL learnt before: a folder with its memory, or data by name.")
@click.option(
    "--remember", type=click.IntRange(min=0), metavar="N", help="Keep N samples with the model, to rehearse later."
)
@click.option(
    "--timeout",
    "wait",
    default=600.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    metavar="S",
    help="Seconds that a process waits for the others, under torchrun.",
)
@training_options
def harden(model: str, recipes: tuple[str, ...], wait: float, **given: Any) -> None:
    """Train MODEL to withstand an adversary.

    With --weights it is fine-tuned from there, without from scratch. DIR then works as a MODEL of 'rblite evaluate';
    of several recipes each has a folder of its own in it.

    'torchrun --nproc-per-node 2 -m robustbench_lite harden ...' trains in two processes, to the same weights.
    """
    names = [name for given_name in recipes for name in _apart(given_name)]
    with processes.joined(given, wait):
        run(model, names, given)


def run(model: str, recipes: Sequence[str | Recipe], given: dict[str, Any]) -> None:
    """Harden a model by one recipe or several, as the options say, and tell what came of it."""
    threats, out, quiet = given["threats"], given["out"], given["quiet"]
    if len(threats) > 1:
        raise UserError(f"{len(threats)} threat models were given: a recipe hardens against one")
    target, data, test_data = _loaded(model, given)
    asked = {name: given.get(name) for name in _PASSED_ON}
    asked |= {"threat": threats[0] if threats else None, "out": out, "test_data": test_data}
    asked |= {"freeze": given["freeze"] or None}
    asked |= {"earlier": given.get("earlier") or _memory_of(model), "gates": demanded(given["demands"])}
    signals.raise_interrupts()
    again = (*output.command_line(*_NOT_REPEATED), "--out", f"{Path(out)}-again")
    with _telling(given, quiet, again) as telling, output.kept_in(out, "the same command with --resume"):
        (_one if len(recipes) == 1 else _several)(target, data, recipes, asked, telling)


def _loaded(model: str, given: dict[str, Any]) -> tuple[Target, Data, Data]:
    """The target, with a new head where --classes asks for another number than its weights have, and the samples."""
    if given["classes"] is None:
        target, (data, test_data) = load_both(model, given, "train", "test")
        return target, data, test_data
    from robustbench_lite.data.label_map import relabelled
    from robustbench_lite.hardening.transfer import load_with_head

    samples = [load_samples(given, split) for split in ("train", "test")]
    options = {name: given[name] for name in ("weights", "normalize", "seed")} | {"device": given["device"] or "auto"}
    made = load_with_head(model, samples[0], given["classes"], **options)
    made.target.name = given["name"] or made.target.name
    if made.note:
        output.say(f"Head       {made.note}")
    data, test_data = (relabelled(one, given["label_map"], made.target.class_names) for one in samples)
    return made.target, data, test_data


@dataclass(frozen=True, kw_only=True)
class _Telling:
    """What is told while it runs, and after."""

    quiet: bool
    board: Board | None
    data: tuple[str, ...]
    """The options that name the data."""
    json_path: str | None
    """Where the outcome goes for machines."""
    again: tuple[str, ...]
    """The command that makes the same again, in another folder."""

    @contextmanager
    def listeners(self) -> Iterator[dict[str, Any]]:
        """Bars while the block runs: those whom the training and the attacks tell."""
        from robustbench_lite.faces import progress

        with progress.bars(self.quiet) as bars:
            yield {
                "on_progress": progress.training_bars(bars),
                "on_attack": progress.attack_bars(bars),
                "on_epoch": self.board,
                "on_stage": progress.heading(bars),
            }

    def begin(self, recipe: str, number: int, total: int) -> None:
        """Tell that another recipe begins."""
        if not self.quiet:
            output.say(f"Recipe {number} of {total}: {recipe}")
        if self.board is not None:
            self.board.begin(recipe)

    def model(self, folder: Path, card: Scorecard) -> None:
        """Tell where the model is, and how it is used from now on; ``card`` is its scorecard."""
        from robustbench_lite.model.plain_torch import plain_torch

        # Where the source has no split for tests, most of it was learnt from: that is no data to evaluate on.
        data = ("--data", "TEST-DATA") if card.data.name.endswith(" held out") else self.data
        click.echo(f"Model      {folder}\nEvaluate   {shlex.join(['rblite', 'evaluate', str(folder), *data])}")
        if lines := plain_torch(folder):  # from the first column, so that they can be copied
            click.echo(f"In torch   without this library:\n\n{lines}\n")


@contextmanager
def _telling(given: dict[str, Any], quiet: bool, again: tuple[str, ...]) -> Iterator[_Telling]:
    from robustbench_lite.faces.tensorboard import board

    with board(given["tensorboard"]) as made:
        yield _Telling(quiet=quiet, board=made, data=data_words(given), json_path=given["json_path"], again=again)


def _one(target: Target, data: Data, recipes: Sequence[str | Recipe], asked: dict[str, Any], telling: _Telling) -> None:
    from robustbench_lite.hardening import pipeline as hardening

    with telling.listeners() as listeners:
        hardened = hardening.harden(target, data, recipes[0], **asked, **listeners)
    if launched.rank():  # the first process tells
        return
    output.keep_command(Path(asked["out"]), telling.again)
    repeatable = (card.model_copy(update={"command": telling.again}) for card in (hardened.before, hardened.after))
    cards = output.before_and_after(*repeatable)
    page = Path(asked["out"]) / "report.html"
    words = {"title": f"{target.name}: before and after", "log": [line._asdict() for line in hardened.log]}
    told = [f"{name}: {text}" for name, text in _told(hardened)]
    page = output.write_result(page, output.render("html", cards, story=told, **words))
    if not telling.quiet:
        output.show(cards)
    for name, text in _told(hardened):
        _say(name, text)
    telling.model(Path(asked["out"]), hardened.after)
    click.echo(f"Report     {page}")
    output.write_json(telling.json_path, _as_json(hardened, Path(asked["out"])))
    if not telling.quiet:
        folder = Path(asked["out"])
        output.suggest(shlex.join(["rblite", "compare", str(folder / "before.json"), str(folder / "after.json")]))
    if asked["gates"]:
        sys.exit(output.EXIT[hardened.after.verdict])


def _several(
    target: Target, data: Data, recipes: Sequence[str | Recipe], asked: dict[str, Any], telling: _Telling
) -> None:
    from robustbench_lite.hardening.several import BEFORE, RANKING_FILE, harden_all

    with telling.listeners() as listeners:
        made = harden_all(target, data, recipes, **asked, **listeners, on_recipe=telling.begin)
    title = f"{target.name}: {len(recipes)} recipes from the same start"
    output.keep_command(made.folder, telling.again)
    cards = [card.model_copy(update={"command": telling.again}) for card in made.cards]
    page = output.write_result(made.folder / "report.html", output.render("html", cards, title=title))
    output.write_result(made.folder / "ranking.md", output.render("markdown", cards, title=title))
    if not telling.quiet:
        output.show(cards, title=title)
    for name, why in made.failed.items():
        _say("Failed", f"{name}: {why}")
    for name, card in made.after.items():
        for text in _gates(card):
            _say("Gate", f"{name}: {text}")
    best = made.best
    if best is None or best == BEFORE:
        _say("Best", "none: no evaluation can be trusted" if best is None else "the model as it was before")
    else:
        _say("Best", best)
        telling.model(made.folder / best, made.after[best])
    click.echo(f"Ranking    {made.folder / RANKING_FILE}\nReport     {page}")
    output.write_json(telling.json_path, (made.folder / RANKING_FILE).read_text(encoding="utf-8"))
    if asked["gates"]:  # of the start nothing is demanded: the best of those that were made decides
        sys.exit(output.EXIT[made.after[made.best_recipe].verdict])


def _memory_of(model: str) -> str | None:
    """The folder of a model that keeps a memory."""
    from robustbench_lite.hardening.memory import MEMORY_FILE

    return model if (Path(model) / MEMORY_FILE).is_file() else None


def _apart(recipes: str) -> list[str]:
    """Names that commas part; a file's name may hold some."""
    names = [recipes] if Path(recipes).is_file() else [name.strip() for name in recipes.split(",")]
    if "" in names:
        raise UserError(f"--recipe {recipes!r} holds an empty name: expected names with a comma between each two")
    return names


def _say(name: str, text: str) -> None:
    click.echo(textwrap.fill(text, _WIDTH, initial_indent=f"{name:11}", subsequent_indent=" " * 11))


def _as_json(hardened: Hardened, folder: Path) -> str:
    """The verdict, both scorecards' numbers, and where all lies."""
    cards = {"before": hardened.before, "after": hardened.after}
    told = {
        "hardening": hardened.gain.word,
        "why": hardened.gain.why,
        "model": str(folder),
        **{
            name: {
                "file": str(folder / f"{name}.json"),
                "verdict": card.verdict,
                "clean_accuracy": card.clean_accuracy.model_dump(),
                "robust_accuracy": card.robust_accuracy.model_dump(),
            }
            for name, card in cards.items()
        },
        "notes": list(hardened.notes),
    }
    return json.dumps(told, indent=1, ensure_ascii=False)


def _told(hardened: Hardened) -> Iterator[tuple[str, str]]:
    """What came of it: the verdict, on how many samples, which epochs were kept and why, and what went wrong."""
    yield "Hardening", f"{hardened.gain.word}: {hardened.gain.why}"
    if (sizes := hardened.sizes) is not None:
        learnt = f"{sizes.train} learnt from, {sizes.held_out} held out, " if hardened.log else ""  # nothing may train
        yield "Samples", f"{learnt}{sizes.test} evaluated"
    for step in hardened.steps:
        for kept in step.kept:
            what = step.name if kept.stage == "model" else f"{step.name}, {kept.stage}"
            yield "Kept", f"epoch {kept.epoch} of {kept.epochs} ({what}): {kept.why}"
    for note in hardened.notes:
        yield "Note", note
    if hardened.memory is not None and len(hardened.memory.tasks) > 1:
        for number, task in enumerate(hardened.memory.tasks, 1):
            courses = (", ".join(f"{one.share(kind):.1%}" for one in task.scores) for kind in ("clean", "robust"))
            yield f"Task {number}", "{}, {}: clean {}; robust {}".format(task.name, task.threat, *courses)
    for text in _gates(hardened.after):
        yield "Gate", text


def _gates(card: Scorecard) -> Iterator[str]:
    """What was demanded of a model, and what was found."""
    for gate in card.gates:
        state = "undecided" if not gate.decided else "met" if gate.passed else "missed"
        yield f"{gate.name} {gate.threshold:g} is {state}: found {gate.value:.4g}"
