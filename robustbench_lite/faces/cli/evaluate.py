"""``rblite evaluate``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from robustbench_lite.core.errors import UserError
from robustbench_lite.faces.cli import explained, output, signals
from robustbench_lite.faces.cli.options import (
    data_options,
    data_words,
    demanded,
    json_option,
    load_both,
    load_other,
    model_options,
    model_words,
    quiet_option,
    run_options,
)

if TYPE_CHECKING:
    from robustbench_lite.results.gates import Gates
    from robustbench_lite.results.scorecard import Scorecard
    from robustbench_lite.workers import Executor

_PASSED_ON = (
    "seed",
    "limit",
    "batch_size",
    "independent",
    "curve",
    "sequential",
    "cache",
    "corpus",
    "adapt",
    "measures",
)

_NOT_REPEATED = ("json_path", "html_path", "markdown_path", "mlflow", "quiet", "cache", "explain")
"""Where it is written and kept: no part of what is asked."""


@click.command()
@click.argument("model")
@model_options
@data_options
@run_options
@click.option("--threat", "threats", multiple=True, metavar="T", help="'Linf 8/255', 'L2 0.5', ...; repeatable.")
@click.option("--suite", default="linf_standard", show_default=True, metavar="S", help="Name, or a TOML file.")
@click.option("--batch-size", type=click.IntRange(min=1), metavar="N", help="Most samples in flight.")
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Processes that share the samples.")
@click.option(
    "--ray",
    is_flag=False,
    flag_value="local",
    metavar="ADDRESS",
    help="Workers are those of a Ray cluster, one a core; without an address Ray is started here.",
)
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
@click.option(
    "--gate", "demands", multiple=True, metavar="G", help="'NAME >= X' or 'NAME <= X' on a measure; repeatable."
)
@click.option("--measure", "measures", multiple=True, metavar="NAME", help="A further number on the card; repeatable.")
@click.option("--reference", metavar="MODEL", help="Model that the measure slowdown compares with.  [default: --twin]")
@click.option("--strict", is_flag=True, help="A gate fails where it is undecided, too.")
@click.option("--allow-invalid", metavar="REASON", help="Run and let through what is INVALID; why stands on the card.")
@click.option("--sequential", is_flag=True, help="End as soon as every gate is settled.")
@click.option("--cache", metavar="DIR", help="Answer an unchanged question from here; go on after a kill.")
@click.option("--corpus", metavar="DIR", help="Replay the witnesses kept here first, and keep new ones.")
@click.option("--adapt", is_flag=True, help="Evaluate once more past what hides from the attacks; show both.")
@click.option("--twin", metavar="MODEL", help="The model of floats that MODEL came from; attacks follow its gradient.")
@json_option("The scorecard  [default: a new file in .robustbench]")
@click.option("--html", "html_path", metavar="FILE", help="Report.  [default: beside the scorecard]")
@click.option("--markdown", "markdown_path", metavar="FILE", help="Summary, for a pull request.")
@click.option("--mlflow", metavar="URI", help="Log the scorecard as a run of MLflow (an extra).")
@click.option("--keep-witnesses", is_flag=True, help="Keep the adversarial examples beside the scorecard.")
@click.option("--explain", is_flag=True, help="Explain what broke, on a page beside the report ('rblite explain').")
@quiet_option
def evaluate(model: str, suite: str, quiet: bool, **given: Any) -> None:
    """Attack MODEL with a suite and write its scorecard.

    MODEL is package.module:callable, path/to/file.py:callable, torchvision:NAME, or a folder that 'rblite harden'
    wrote; its code is run, so give only what you trust. Its inputs are in [0, 1], NCHW; normalisation is inside it, or
    given by --normalize. arch:FILE is an architecture told in TOML (docs/searching.md), which runs no code. What is no
    PyTorch module is a Target.from_callable(function) that the callable returns, or onnx:FILE, executorch:FILE,
    skops:FILE, or http://HOST/v2/models/NAME (docs/deployed.md).
    """
    from robustbench_lite.core.cost import Budget
    from robustbench_lite.core.suite import load_suite
    from robustbench_lite.core.threat import ThreatModel
    from robustbench_lite.evaluating import pipeline as evaluation
    from robustbench_lite.faces import progress
    from robustbench_lite.results.allowed import allow_invalid, allowed_because
    from robustbench_lite.results.gates import Gates
    from robustbench_lite.results.scorecard import verdict_of

    file = given["json_path"] if given["json_path"] != "-" else None
    saved = Path(file or output.fresh(f"{output.slug(model)}-{output.slug(suite)}", ".json"))
    output.check_writable(saved)
    page = Path(given["html_path"] or saved.with_suffix(".html"))
    summary = Path(given["markdown_path"]) if given["markdown_path"] else None
    witnesses = saved.with_name(f"{saved.stem}.witnesses.npz") if given["keep_witnesses"] else None
    output.check_writable(*filter(None, (saved, page, summary, witnesses)))
    named = {item.name: given[item.name] for item in fields(Gates) if item.name in given and item.name != "measures"}
    gates = Gates.of({**named, **demanded(given["demands"])})
    budget = Budget(seconds=given["seconds"], passes=given["passes"]) if given["seconds"] or given["passes"] else None
    _check_together(given, gates)
    asked = load_suite(suite)
    threats: list[str | ThreatModel] = [ThreatModel.parse(threat) for threat in given["threats"]]
    target, (data,) = load_both(model, given, "test")
    twin = load_other(given["twin"], given, data)
    if given["explain"]:
        explained.check(target, data)
    workers = _workers(given)
    signals.raise_interrupts()
    with progress.bars(quiet) as bars:
        card = evaluation.evaluate(
            target,
            data,
            asked,
            threats or None,
            **{name: given[name] for name in _PASSED_ON},
            keep_witnesses=given["keep_witnesses"] or given["explain"],
            anyway=given["allow_invalid"] is not None,
            gates=gates,
            budget=budget,
            twin=twin,
            reference=load_other(given["reference"], given, data) or twin,
            workers=workers,
            on_progress=progress.attack_bars(bars),
        )
    if given["allow_invalid"] is not None:
        card = allow_invalid(card, given["allow_invalid"])
    card = card.model_copy(update={"command": output.command_line(*_NOT_REPEATED)})
    saved = output.save(card if given["keep_witnesses"] else card.with_witnesses(None), saved)
    page = output.write_result(page, output.render("html", [card]))
    if summary:
        output.write_result(summary, output.render("markdown", [card]))
    if quiet:
        click.echo(_in_a_line(card))
    else:
        output.show([card])
    if given["adapt"] and card.adaptation is None:
        click.echo("Not adapted: no finding has a cure that could be applied (docs/adaptive.md)")
    click.echo(f"Scorecard  {saved}\nReport     {page}")
    if given["explain"]:
        click.echo(explained.beside(card, target, data, explained.page_of(saved)))
    if file is None:
        output.write_json(given["json_path"], card.model_dump_json(indent=1))
    if given["mlflow"]:
        from robustbench_lite.faces import mlflow

        click.echo(f"MLflow     {mlflow.log([card], given['mlflow'])[0]}")
    if card.interrupted == "interrupt":
        output.say(_how_to_go_on(given["cache"]))
        sys.exit(signals.exit_code())
    if not quiet:
        output.suggest(*_next(model, card, saved, given))
    sys.exit(output.EXIT[verdict_of((), card.gates) if allowed_because(card) else card.verdict])


def _check_together(given: Mapping[str, Any], gates: Gates) -> None:
    """Refuse options that don't go together, and one whose extra is missing: before the run, not after it."""
    for option in ("sequential", "strict"):
        if given[option] and not gates.demanded:
            raise UserError(f"--{option} is about gates: give one, such as --max-drop 0.3")
    if given["twin"] and given["adapt"]:
        raise UserError("--twin brings the gradient that --adapt would look for: give one of the two")
    if given["mlflow"]:
        from robustbench_lite.faces import mlflow

        mlflow.client_class()


def _workers(given: Mapping[str, Any]) -> int | Executor:
    if given["ray"] is None:
        return given["workers"] or 1
    from robustbench_lite.workers.cluster import RayExecutor

    return RayExecutor(given["ray"], given["workers"])


def _next(model: str, card: Scorecard, saved: Path, given: Mapping[str, Any]) -> Iterator[str]:
    """What may be done with such a scorecard."""
    about = [model, *model_words(dict(given)), *data_words(dict(given))]
    if card.verdict == "INVALID":
        yield f"{shlex.join(['rblite', 'doctor', *about])}   (and the cures above)"
        return
    if card.verdict == "MEASURED":
        yield "the same with --min-robust-accuracy SHARE, to demand it"
    elif card.verdict == "UNDECIDED":
        yield "the same with more samples: the gates tell how many"
    if card.verdict in ("MEASURED", "FAIL") and card.target.access == "gradients":
        names = chain(["hardened"], (f"hardened-{number}" for number in count(2)))
        out = next(name for name in names if not Path(name).exists())  # harden refuses a folder that holds a model
        yield shlex.join(["rblite", "harden", *about, "--out", out])
    if given["keep_witnesses"] and not given["explain"] and card.robust_accuracy.count < card.clean_accuracy.count:
        yield shlex.join(["rblite", "explain", str(saved)])
    yield shlex.join(["rblite", "report", str(saved), "--html", "report.html", "--open"])


def _how_to_go_on(cache: str | None) -> str:
    if cache:
        return f"Interrupted. What is done is kept in {cache}; the same command goes on from there."
    return "Interrupted. A run with --cache DIR goes on where it was stopped; this one would begin anew."


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
