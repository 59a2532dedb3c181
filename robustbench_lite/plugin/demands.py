"""What may be demanded of a model, by name, without torch: a table and a marker are checked before anything runs."""

from __future__ import annotations

from typing import Any

from robustbench_lite import registry

GATES = ("min_clean_accuracy", "min_robust_accuracy", "max_drop")


def gate_faults(given: Any) -> list[str]:
    """What is wrong with gates by name, a line each; nothing where all is well or another check tells."""
    if not isinstance(given, dict):
        return []
    found = []
    for name, threshold in given.items():
        if name not in GATES:
            found.append(f"{name}: {registry.unknown('gate', name, GATES)}")
        elif isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
            found.append(f"{name}: is {threshold!r}: expected a share from 0 to 1, such as 0.45 for 45 %")
    return found
