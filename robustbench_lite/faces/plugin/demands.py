"""What may be demanded of a model, by name: a table and a marker are checked before anything runs."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from robustbench_lite.core.errors import UserError
from robustbench_lite.results.gates import Gates

GATES = tuple(field.name for field in fields(Gates) if field.name not in ("measures", "strict"))


def gate_faults(given: Any) -> list[str]:
    """What is wrong with gates by name, a line each; nothing where all is well or where another check tells."""
    if not isinstance(given, dict):
        return []
    found = []
    for name, threshold in given.items():
        if isinstance(threshold, bool) or not isinstance(threshold, int | float):
            found.append(f"{name} is {threshold!r}: expected a number")
        else:
            try:
                Gates.of({name: threshold})
            except UserError as fault:
                found.append(str(fault))
    return found
