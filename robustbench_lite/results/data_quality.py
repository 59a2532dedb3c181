"""What was found in data themselves, without a model: typed, torch-free; every screen and page reads it from here."""

from __future__ import annotations

from robustbench_lite.results.scorecard.findings import Finding
from robustbench_lite.results.scorecard.values import Frozen


class Suspect(Frozen):
    """One sample that a finding is about."""

    split: str
    """``test`` or ``train``."""
    index: int
    """Position in the data source."""
    label: str
    """Name of its class, or the number where it has none."""
    why: str
    """What is wrong with it, in words."""
    file: str = ""
    """File that it is read from, where there is one."""
    picture: str = ""
    """PNG in base64; empty where it can't be shown, or further ones were shown before."""
    other: str = ""
    """PNG of the sample that it resembles."""


class Fault(Frozen):
    """A finding about the data, and the samples that it is about."""

    finding: Finding
    suspects: tuple[Suspect, ...] = ()
    """The worst first."""


class Looked(Frozen):
    """A question that was asked of the data, and what was seen."""

    name: str
    saw: str
    asked: bool = True
    """False where it could not be told."""
    faults: tuple[Fault, ...] = ()


class DataQuality(Frozen):
    """What was found in the data."""

    data: str
    """Name of the data."""
    samples: dict[str, int]
    """Samples that were looked at, by split."""
    classes: tuple[str, ...]
    checks: tuple[Looked, ...]

    @property
    def faults(self) -> tuple[Fault, ...]:
        """All faults, in the order of the checks."""
        return tuple(fault for check in self.checks for fault in check.faults)

    @property
    def errors(self) -> int:
        """Faults with which no number on these data means what it says."""
        return sum(fault.finding.severity == "error" for fault in self.faults)
