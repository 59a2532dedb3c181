"""The last word on a scorecard: whether it can be trusted, and whether its gates are met."""

from __future__ import annotations

from collections.abc import Sequence

from robustbench_lite.results.scorecard.findings import Finding
from robustbench_lite.results.scorecard.gate import Gate
from robustbench_lite.results.scorecard.values import Verdict


def verdict_of(findings: Sequence[Finding], gates: Sequence[Gate]) -> Verdict:
    """Decide the verdict.

    Returns
    -------
    Verdict
        ``INVALID`` where a finding is an error: the numbers can't be trusted, whatever the gates say. ``MEASURED``
        without a gate: nothing was demanded. ``FAIL`` where a gate is missed, ``UNDECIDED`` where the samples are too
        few to tell of one, and ``PASS`` where every gate is met for sure.
    """
    if any(finding.severity == "error" for finding in findings):
        return "INVALID"
    if not gates:
        return "MEASURED"
    if not all(gate.passed for gate in gates):
        return "FAIL"
    return "PASS" if all(gate.decided for gate in gates) else "UNDECIDED"
