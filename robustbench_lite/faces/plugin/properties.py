"""What an item says to JUnit, beside passed and failed."""

from __future__ import annotations

from robustbench_lite.results.allowed import allowed_because
from robustbench_lite.results.scorecard import Scorecard


def properties(card: Scorecard) -> list[tuple[str, object]]:
    """Properties of the items of an evaluation, shares in [0, 1]."""
    robust = card.robust_accuracy
    found: list[tuple[str, object]] = [
        ("robustness.verdict", card.verdict),
        ("robustness.clean_accuracy", round(card.clean_accuracy.value, 6)),
        ("robustness.robust_accuracy", round(robust.value, 6)),
        ("robustness.robust_accuracy_low", round(robust.low, 6)),
        ("robustness.robust_accuracy_high", round(robust.high, 6)),
        ("robustness.samples", robust.total),
        ("robustness.passes", card.passes.total),
    ]
    found += [("robustness.finding", f"{finding.code} {finding.severity}") for finding in card.validity]
    found += [
        (f"robustness.{gate.name}", "missed" if not gate.passed else "met" if gate.decided else "undecided")
        for gate in card.gates
    ]
    reason = allowed_because(card)
    return [*found, ("robustness.allowed_invalid", reason)] if reason else found
