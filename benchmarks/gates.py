"""How often a gate is wrong, how often it sees what it should, and the samples that stopping early saves.

    python benchmarks/gates.py

Each row is many simulated evaluations of a model whose true share is known, decided by the product's own functions:
after each chunk of samples `settled` is asked, at the end `decide`. Beside it stands the gate that sees every sample.
The second part does the same for a regression against a baseline. Sampling noise of a rate of 2.5 % over 2,000 runs is
0.35 points.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import click
import numpy as np
from common import write

from robustbench_lite.results.gates import CONFIDENCE, Counts, Gates, check_gate, decide, settled
from robustbench_lite.results.paired import paired_interval, visible_loss

SIZES = (500, 1000, 10_000)
CHUNKS = 40
"""How often an evaluation asks whether it is settled."""
THRESHOLD = 0.45
DISTANCES = (0.0, -0.02, -0.05, -0.1, -0.2, 0.05, 0.1, 0.2)
CHURN = 0.02
"""Share of the samples that are newly withstood, whatever the model."""
ALLOWED = 0.02
"""The regression that is allowed, where one is."""


@cache
def outcome(robust: int, seen: int, total: int | None) -> str:
    """What the gate says of so many robust samples: ``met``, ``failed``, or else."""
    counts = Counts(seen=seen, right=seen, robust=robust)
    [gate] = decide(Gates(min_robust_accuracy=THRESHOLD), counts, total=total)
    return gate.words


@cache
def done(robust: int, seen: int, total: int) -> bool:
    """Whether the evaluation may stop."""
    return settled(Gates(min_robust_accuracy=THRESHOLD), Counts(seen=seen, right=seen, robust=robust), total)


def evaluation(share: float, total: int, dice: np.random.Generator) -> tuple[str, int, str]:
    """One evaluation: what it says, the samples it took, and what it would say had it been to see all."""
    chunk = max(1, total // CHUNKS)
    steps = [min(chunk, total - at) for at in range(0, total, chunk)]
    robust, seen = np.cumsum(dice.binomial(steps, share)).tolist(), np.cumsum(steps).tolist()
    stop = next(at for at in range(len(steps)) if done(robust[at], seen[at], total))
    return outcome(robust[stop], seen[stop], total), seen[stop], outcome(robust[-1], total, None)


def accuracy_rows(runs: int, seed: int) -> Iterator[dict[str, Any]]:
    """Simulate a gate on robust accuracy."""
    dice = np.random.default_rng(seed)
    for total in SIZES:
        for distance in DISTANCES:
            early, samples, fixed = zip(
                *(evaluation(THRESHOLD + distance, total, dice) for _ in range(runs)), strict=True
            )
            yield {
                "gate": f"min_robust_accuracy {THRESHOLD}",
                "samples": total,
                "truth": f"{distance:+.2f}" if distance else "at it",
                "failed, all seen": fixed.count("failed") / runs,
                "failed, early": early.count("failed") / runs,
                "met, all seen": fixed.count("met") / runs,
                "met, early": early.count("met") / runs,
                "mean samples": float(np.mean(samples)),
                "saved": 1 - float(np.mean(samples)) / total,
            }


@cache
def paired(lost: int, gained: int, samples: int, allowed: float) -> tuple[bool, bool]:
    """Whether the gate on a regression fails, and whether it is met."""
    low, high = paired_interval(lost, gained, samples, CONFIDENCE)
    value = (lost - gained) / samples
    gate = check_gate("max_regression", allowed, value, low, high, samples=samples, more_needed=None)
    return not gate.passed, gate.passed and gate.decided


def regression_rows(runs: int, seed: int) -> Iterator[dict[str, Any]]:
    """Simulate a gate on a regression."""
    dice = np.random.default_rng(seed)
    for samples in SIZES:
        seen = visible_loss(round(CHURN * samples), samples) or 1.0
        for allowed, losses in (
            (0.0, (-seen, 0.0, seen / 2, seen, 2 * seen)),
            (ALLOWED, (0.0, ALLOWED, ALLOWED + seen, ALLOWED + 2 * seen)),
        ):
            for loss in losses:
                lost, gained = max(0.0, CHURN + loss), CHURN + max(0.0, -loss - CHURN)
                draws = dice.multinomial(samples, [lost, gained, 1 - lost - gained], size=runs)
                verdicts = [paired(int(first), int(second), samples, allowed) for first, second, _ in draws]
                failed, met = np.mean(verdicts, axis=0).tolist()
                yield {
                    "gate": f"max_regression {allowed:g}",
                    "samples": samples,
                    "truth": "at it" if loss == allowed else f"{loss - allowed:+.4f}",
                    "failed, all seen": failed,
                    "failed, early": "",
                    "met, all seen": met,
                    "met, early": "",
                    "mean samples": float(samples),
                    "saved": "",
                }


@click.command()
@click.option("--runs", default=2000, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(runs: int, seed: int) -> None:
    """Simulate and write the table."""
    rows = [*accuracy_rows(runs, seed), *regression_rows(runs, seed)]
    write(
        "gates",
        "How often a gate is wrong, what it sees, and the samples that stopping early saves",
        f"{runs:,} simulated runs a row, seed {seed}; each asks {CHUNKS} times whether it is settled. `truth` is how "
        "far the model's true share lies from the threshold (for `max_regression`, its true loss from the one "
        "allowed), so `failed` in the rows at it is the false alarm rate: at most 2.5 % by construction, of 5 % on "
        f"both sides. Regressions have {CHURN:.0%} of the samples newly withstood besides; of their losses one is the "
        "smallest that is said to be visible with a power of 80 %, the others half and twice that. "
        "`python benchmarks/gates.py`",
        rows,
    )


if __name__ == "__main__":
    main()
