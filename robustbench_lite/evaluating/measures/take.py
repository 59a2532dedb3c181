"""Takes the measures that were asked for, and puts them on the scorecard."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable

from robustbench_lite.core import registry
from robustbench_lite.core.cost import BudgetTracker
from robustbench_lite.core.errors import UserError
from robustbench_lite.evaluating.measures.interface import Estimate, Found, Measure, Subject
from robustbench_lite.results.gates import Gates
from robustbench_lite.results.scorecard import Finding, Interval, Measured, Scorecard

_log = logging.getLogger(__name__)
NOT_TAKEN = "RB303"
MEASURE = "measure "
"""How the progress of measures is called, before the name."""


def asked_for(names: Iterable[str], gates: Gates) -> dict[str, Measure]:
    """Find the measures that were asked for by name, and those that a gate demands.

    Raises
    ------
    ValueError
        For an unknown name, and for an entry of a catalogue that is no `Measure`.
    """
    found = {name: registry.find("measures", name) for name in dict.fromkeys((*names, *gates.measured))}
    if wrong := [name for name, measure in found.items() if not isinstance(measure, Measure)]:
        raise UserError(f"{', '.join(wrong)}: expected a robustbench_lite.evaluating.measures.interface.Measure")
    return found


def take_measures(
    measures: dict[str, Measure], subject: Subject, gates: Gates, budget: BudgetTracker | None = None
) -> Scorecard:
    """Measure, and put the numbers on the card; the budget tells how far. One that fails is a finding."""
    numbers: list[Measured] = []
    findings: list[Finding] = []
    for place, (name, measure) in enumerate(measures.items()):
        if budget is not None:
            budget.work(f"{MEASURE}{name}", place, len(measures))
        try:
            found = measure.of(subject)
            if isinstance(found, Found):
                findings += [one for one in found.findings if one not in findings]
                found = found.value
            numbers.append(_measured(name, measure, found))
        except Exception as fault:  # it may be anyone's code
            _log.info("measure %s failed", name, exc_info=True)
            findings.append(
                Finding(
                    code=NOT_TAKEN,
                    severity="error" if name in gates.measured else "warning",  # a gate that isn't looked at isn't met
                    message=f"the measure {name} could not be taken: {type(fault).__name__}: {fault}",
                    cure="mend the measure, or leave it out",
                )
            )
    if not numbers and not findings:
        return subject.card
    validity = (*subject.card.validity, *findings)
    return subject.card.model_copy(update={"measures": tuple(numbers), "validity": validity})


def _measured(name: str, measure: Measure, found: Interval | Estimate | float) -> Measured:
    about = {"name": name, "unit": measure.unit, "better": measure.better, "definition": measure.definition}
    if isinstance(found, Interval):
        ends = {key: getattr(found, key) for key in ("value", "low", "high", "count", "total")}
        return Measured(**about, **ends)
    numbers = found if isinstance(found, Estimate) else (float(found),)
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"it is {numbers[0]}: expected a finite number")
    return Measured(**about, **dict(zip(("value", "low", "high"), numbers, strict=False)))
