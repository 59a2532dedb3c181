"""What the evidence measures on the zoo of ``validity.py``, beside the thresholds: how far honest ones stay from them.

python benchmarks/thresholds.py
"""

from __future__ import annotations

from typing import Any

import click
import torch
from common import write
from validity import evaluated, zoo

from robustbench_lite.attacking.record import Samples
from robustbench_lite.core.cost import BudgetTracker
from robustbench_lite.core.suite import EVIDENCE
from robustbench_lite.evaluating import validity
from robustbench_lite.evaluating.evidence.probes import (
    JAGGED,
    OWN_STEPS,
    UNDERSTATED,
    UNREACHED,
    WEAK,
    jaggedness,
    understatement,
)
from robustbench_lite.evaluating.evidence.survivors import Survivors
from robustbench_lite.evaluating.preflight.check import CountedModel
from robustbench_lite.model.target import as_target
from robustbench_lite.results.scorecard import Outcome

SURVIVORS = 32
PROBED = ("fallen (RB211)", "unreached (RB213)", "understated (RB215)", "jagged (RB223)")


def measured(case: Any) -> dict[str, Any]:
    """What the first survivors of a case show, and what the traces of its attacks do."""
    card = evaluated(case, case.suite)
    traces = [result.trace for result in card.attacks if result.trace.stood]
    stood = (place for place, row in enumerate(card.outcomes) if _left_by_the_suite(row))
    rows = torch.tensor(list(stood)[:SURVIVORS])
    told: dict[str, Any] = {
        "case": case.name,
        "truth": "broken" if case.broken else "honest",
        "survivors asked": len(rows),
        "flat (RB222)": max((trace.flat / trace.stood for trace in traces), default=""),
        "late (RB221)": max((trace.late for trace in traces), default=""),
    }
    if not len(rows):
        return told | dict.fromkeys(
            ("fallen (RB211)", "unreached (RB213)", "understated (RB215)", "jagged (RB223)"), ""
        )
    target, data = as_target(case.make()), case.data()
    look = CountedModel(target, data, 0, BudgetTracker(), gradients=True, thorough=False)
    samples = Samples(data, torch.zeros(len(data), dtype=torch.int64), data.labels)
    with target.attacking():
        ground = Survivors.of(look, samples, card.suite.threats[0], (), rows, SURVIVORS)
        near, far = ground.climb("Linf", ground.threat.eps, OWN_STEPS), ground.climb("Linf", 1.0, OWN_STEPS)
        return told | {
            "fallen (RB211)": float((near.margin > 0).double().mean()),
            "unreached (RB213)": float((far.margin <= 0).double().mean()),
            "understated (RB215)": understatement(ground, far),
            "jagged (RB223)": float(jaggedness(ground)[2].median()),
        }


def _left_by_the_suite(row: Outcome) -> bool:
    return row.correct and all(one.attack == EVIDENCE for one in row.breaks)


@click.command()
@click.option("--threads", default=1, show_default=True)
def main(threads: int) -> None:
    """Measure every case and write the table."""
    torch.set_num_threads(threads)
    limits = {
        "case": "threshold",
        "truth": "",
        "survivors asked": "",
        "flat (RB222)": validity.FLAT_SHARE,
        "late (RB221)": validity.STILL_RISING,
        "fallen (RB211)": WEAK,
        "unreached (RB213)": UNREACHED,
        "understated (RB215)": UNDERSTATED,
        "jagged (RB223)": JAGGED,
    }
    write(
        "thresholds",
        "What the evidence measures, and where it becomes a finding",
        "The zoo of [validity](validity.md) under its first suites, seed 0. *Flat*: share of lost starts whose margin "
        "never rose. *Late*: share of the rise in the last fifth of the steps. *Fallen*: share of survivors that 20 "
        "plain steps break. *Unreached*: share that stand where every image is allowed. *Understated*: rise of the "
        "margin over what its gradient says. *Jagged*: ups and downs along the gradient. Shares must be clearly above "
        "the threshold (99 %, exact). One kind of evidence is enough; others are RB1xx, RB201, RB214 and RB231. "
        "Repeat it with `python benchmarks/thresholds.py`.",
        [*(measured(case) for case in zoo.CASES), limits],
    )


if __name__ == "__main__":
    main()
