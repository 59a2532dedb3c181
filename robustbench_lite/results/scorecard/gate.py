"""A demand on a scorecard, and whether it is met."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from robustbench_lite.results.scorecard.values import Frozen


class Gate(Frozen):
    """A demand on the scorecard and whether it is met."""

    name: str
    """``min_clean_accuracy``, ``min_robust_accuracy``, ``max_drop``, ``max_regression``, ``max_passes`` or
    ``max_seconds``."""
    threshold: float
    """What is demanded: a share of samples, passes a sample, or seconds."""
    value: float
    """What was seen."""
    low: float
    """Low end of its interval; of a cost the value itself."""
    high: float
    """High end of its interval; of a cost the value itself."""
    passed: bool
    """False only where the whole interval is on the wrong side: a gate doesn't fail by chance. Where the gates are
    strict, also where it is undecided."""
    decided: bool
    """False where the interval holds the threshold: more samples would be needed to tell."""
    samples: int | None = None
    """Samples that it was decided on; None on a card of before this was kept."""
    unit: str | None = None
    """Unit of the measure that it is about, such as ``share`` or ``bytes``; None where its name says it."""
    more_needed: int | None = None
    """Samples more that would decide it, if the share stays as seen; None where it is decided, and where no number
    would."""

    @property
    def kind(self) -> Literal["accuracy", "regression", "cost", "number"]:
        """What it is about: a share of the samples, one paired with a baseline's, a cost, or another number."""
        if self.unit is not None:
            return "accuracy" if self.unit == "share" else "number"
        if self.name in ("max_passes", "max_seconds"):
            return "cost"
        return "regression" if self.name == "max_regression" else "accuracy"

    @property
    def words(self) -> str:
        """``met``, ``failed``, or ``undecided with 200 samples, 1,150 more needed``."""
        if self.decided:
            return "met" if self.passed else "failed"
        if self.samples is None:
            return "undecided" if self.passed else "failed"
        if self.more_needed is None:
            return f"undecided with {self.samples:,} samples, and with any number: the share is at the threshold"
        return f"undecided with {self.samples:,} samples, {self.more_needed:,} more needed"

    @model_serializer(mode="wrap")
    def _write(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # What is not known is not written, so that a card of before it was kept is saved as it was read.
        return {key: value for key, value in write(self).items() if value is not None}
