"""What stands on a scorecard, field by field: the schema of its file."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from robustbench_lite.core.cost import Passes
from robustbench_lite.core.suite import Suite
from robustbench_lite.results.scorecard.about import DataInfo, Environment, TargetInfo
from robustbench_lite.results.scorecard.attacks import AttackResult, Skipped, ThreatResult
from robustbench_lite.results.scorecard.findings import Adaptation, Audit, Finding
from robustbench_lite.results.scorecard.gate import Gate
from robustbench_lite.results.scorecard.measured import Measured
from robustbench_lite.results.scorecard.outcomes import Example, Outcome
from robustbench_lite.results.scorecard.values import Frozen, Interval, Verdict

SCHEMA_VERSION: Literal[1] = 1


class Contents(Frozen):
    """What stands on a scorecard, field by field."""

    schema_version: Literal[1] = SCHEMA_VERSION
    created: str
    """ISO 8601, UTC."""
    version: str
    """Version of robustbench_lite."""
    target: TargetInfo
    data: DataInfo
    suite: Suite
    """The suite as it ran, threat models and parameters resolved."""
    seed: int
    batch_size: int
    environment: Environment
    clean_accuracy: Interval
    robust_accuracy: Interval
    threats: tuple[ThreatResult, ...]
    attacks: tuple[AttackResult, ...]
    skipped: tuple[Skipped, ...] = ()
    """Attacks of the suite that need to see more of the target than can be seen, or other inputs."""
    passes: Passes
    """All that was spent: more than the outcomes' sum where samples were asked about that no outcome tells of, as by
    the checks of a sequential run and by the measures of an adaptive one."""
    seconds: float
    verdict: Verdict
    validity: tuple[Finding, ...]
    checks: Passes | None = None
    """What the checks of model, data, witnesses and survivors cost, of ``passes``; None on a card of before they were
    told."""
    audit: Audit | None = None
    """What became of witnesses that were asked about once more; None where there were none to ask about."""
    gates: tuple[Gate, ...] = ()
    measures: tuple[Measured, ...] = ()
    """Further numbers that were asked for, by name or by a gate."""
    adaptation: Adaptation | None = None
    """Set if the evaluation was adaptive: all other numbers are of the target with the countermeasures applied."""
    interrupted: str | None = None
    """Why the run stopped before its end (``interrupt``, ``seconds``, ``passes``; ``invalid``: before the attacks, as
    nothing that they found could have been trusted); None where it didn't."""
    command: tuple[str, ...] = ()
    """Words of the command line that made it, which repeats it in the same folder; none where Python or pytest did."""
    outcomes: tuple[Outcome, ...] = Field(repr=False)
    gallery: tuple[Example, ...] = Field(default=(), repr=False)
    sha256: str | None = Field(default=None, exclude=True, repr=False)
    """Checksum of all else in the file, whatever its layout: it stands in the file alone; None on a card of before
    there was one."""

    @model_serializer(mode="wrap")
    def _write(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Left out where they are empty, so that a card of an older version is saved unchanged.
        unsaid = {"skipped", "measures", "adaptation", "audit", "checks", "command"}
        return {key: value for key, value in write(self).items() if key not in unsaid or value}
