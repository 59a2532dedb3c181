"""Whether evaluations that can't be trusted are told from honest ones: a zoo of both, each with known truth.

    python benchmarks/validity.py [CASE ...]

The zoo is that of the tests (``tests/zoo``). A broken evaluation is caught where its verdict is INVALID, or where the
suite gets to the true number all the same; an honest one must not be INVALID. No number is further down than it can be
shown to be: each adversarial example was confirmed, so the lowest robust accuracy seen of a model bounds the true one.
"""

from __future__ import annotations

import contextlib
import sys
from concurrent.futures import ProcessPoolExecutor
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import torch
from common import write

from robustbench_lite import evaluate
from robustbench_lite.core.suite import Suite
from robustbench_lite.results.scorecard import Scorecard

ZOO = Path(__file__).parents[1] / "tests" / "zoo"
sys.path.insert(0, str(ZOO))

zoo = import_module("zoo")  # it stands among the tests

SUBSET = 200
"""Samples of the dearer evaluations: of the standard suite, and adaptive ones."""
CLOSE = 0.05
"""By how much a number may be above the lowest one known."""


def evaluated(case: Any, suite: Suite | str, limit: int | None = None, adapt: bool = False) -> Scorecard:
    """Evaluate a case; in the zoo's folder, whose own attacks are found by name there."""
    with contextlib.chdir(ZOO):
        return evaluate(case.make(), case.data(), suite, case.threat, limit=limit, adapt=adapt, anyway=True)


def cards(case: Any) -> dict[str, Scorecard]:
    """By name, what is evaluated of a case: its own suite, the standard one, and, of a broken one, adaptively."""
    found = {"own": evaluated(case, case.suite)}
    if case.suite is zoo.NAIVE:
        found["standard"] = evaluated(case, "linf_standard", SUBSET)
    if case.broken and case.suite is zoo.NAIVE:
        found["adapted"] = evaluated(case, case.suite, SUBSET, adapt=True)
    return found


def _cards_by_name(name: str) -> dict[str, Scorecard]:
    return cards(next(case for case in zoo.CASES if case.name == name))


def row(case: Any, found: dict[str, Scorecard], least: float) -> dict[str, Any]:
    """One line of the table."""
    own, standard, adapted = (found.get(name) for name in ("own", "standard", "adapted"))
    assert own is not None
    assert own.checks is not None
    return {
        "case": case.name,
        "truth": "broken" if case.broken else "honest",
        "clean": own.clean_accuracy.value,
        "lowest known": least,
        "first suite": own.robust_accuracy.value,
        "findings": _codes(own),
        "outcome": outcome(case, own, least),
        "linf_standard": "" if standard is None else standard.robust_accuracy.value,
        "its findings": "" if standard is None else _codes(standard),
        "its outcome": "" if standard is None else outcome(case, standard, least),
        "adapted": "" if adapted is None else adapted.robust_accuracy.value,
        "its verdict": "" if adapted is None or adapted.adaptation is None else adapted.verdict,
        "checks, % of passes": 100 * own.checks.total / own.passes.total,
    }


def outcome(case: Any, card: Scorecard, least: float) -> str:
    """What the verdict is worth."""
    if not case.broken:
        return "false alarm" if card.verdict == "INVALID" else "trusted"
    if card.verdict == "INVALID":
        return "caught"
    return "true number" if card.robust_accuracy.value <= least + CLOSE else "missed"


def _codes(card: Scorecard) -> str:
    return " ".join(dict.fromkeys(one.code for one in card.validity if one.severity == "error"))


@click.command()
@click.argument("names", nargs=-1)
@click.option("--threads", default=1, show_default=True, help="Of each process.")
@click.option("--processes", default=2, show_default=True)
def main(names: tuple[str, ...], threads: int, processes: int) -> None:
    """Evaluate the cases (by default all) and write the table."""
    asked = [case for case in zoo.CASES if not names or case.name in names]
    found = {}
    with ProcessPoolExecutor(processes, get_context("spawn"), torch.set_num_threads, (threads,)) as pool:
        for case, of in zip(asked, pool.map(_cards_by_name, [case.name for case in asked]), strict=True):
            found[case.name] = of
            told = {name: (round(card.robust_accuracy.value, 3), card.verdict) for name, card in of.items()}
            click.echo(f"{case.name}: {told}")
    rows = []
    for case in asked:
        akin = [*found[case.name].values(), *(found.get(case.like, {})).values()]
        rows.append(row(case, found[case.name], min(card.robust_accuracy.value for card in akin)))
    outcomes = [one[name] for one in rows for name in ("outcome", "its outcome") if one[name]]
    own = [of["own"] for of in found.values()]
    share = sum(card.checks.total for card in own if card.checks) / sum(card.passes.total for card in own)
    summary = ", ".join(f"{name}: {outcomes.count(name)}" for name in sorted(set(outcomes)))
    click.echo(f"{summary}; the checks cost {share:.1%} of the passes")
    if not names:
        write(
            "validity",
            "Evaluations that can't be trusted, and honest ones",
            f"A zoo of small networks for the embedded digits ({len(rows)} cases, 539 test samples, seed 0; the "
            f"standard suite and adaptive evaluations on {SUBSET}), under Linf 0.1. *Caught*: INVALID. *True number*: "
            f"valid, and within {CLOSE} of the lowest robust accuracy known of the model. *Trusted*: not INVALID. "
            f"{summary.capitalize()}. The checks cost {share:.1%} of all passes of the first suite. "
            "Repeat it with `python benchmarks/validity.py`.",
            rows,
        )


if __name__ == "__main__":
    main()
