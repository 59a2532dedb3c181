"""Why an evaluation is believed or not: findings, the audit of its witnesses, what an adaptive one did."""

from __future__ import annotations

from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from robustbench_lite.results.scorecard.values import Frozen, Interval, Severity, Verdict


class Plot(Frozen):
    """A few points that show what a finding saw."""

    x: str
    """What goes to the right, with its unit."""
    y: str
    """What goes up."""
    points: tuple[tuple[float, float], ...]


class Finding(Frozen):
    """A reason to believe the evaluation less: what was seen, and the cure."""

    code: str
    """Stable code, such as ``RB201``."""
    severity: Severity
    """An ``error`` makes the verdict INVALID."""
    message: str
    """What was seen."""
    cure: str
    """What to do about it."""
    attack: str | None = None
    """The attack it is about; None where it is about the whole evaluation."""
    threat: str | None = None
    """The threat model under which that attack ran."""
    plot: Plot | None = None
    """What was seen, where a curve shows it."""

    @property
    def where(self) -> str:
        """The attack and its threat model, in words; empty where it is about the whole evaluation."""
        return " under ".join(one for one in (self.attack, self.threat) if one)

    @model_serializer(mode="wrap")
    def _write(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in write(self).items() if (key, value) != ("plot", None)}


CHANGED, IN_FLOAT64, OUTSIDE = DENIALS = (
    "not adversarial when asked again",
    "not adversarial in float64",
    "out of the ball or the box",
)
"""Reasons why a candidate is rejected at the confirmation."""


class Denied(Frozen):
    """A candidate that was rejected at the confirmation; the sample was attacked further."""

    index: int
    """Position of the sample in the data source."""
    attack: str
    threat: str
    reason: str
    """What was seen when it was asked about again."""


class Audit(Frozen):
    """Every adversarial example, asked about once more in another batch, its norm and box measured anew."""

    asked: int
    """Examples that the attacks found."""
    confirmed: int
    """How many of them are adversarial, in the ball and in the box: the witnesses."""
    precise: bool
    """True if they were checked in float64; False if the model behaves differently there, such as a random one."""
    images: int = 0
    """Witnesses of these that were rounded to images of 8 bits a value: all that are kept, or some."""
    rounded: int = 0
    """How many of those stay adversarial."""
    denied: tuple[Denied, ...] = ()


class Countermeasure(Frozen):
    """One thing that an adaptive evaluation does so that attacks get at the target."""

    name: str
    """``bpda``, ``logits``, ``eot``, ``rescale``, ``smoothing`` or ``surrogate``."""
    setting: str
    """How far it goes, such as ``16 draws``."""
    reason: str
    """The findings that call for it, and what was measured."""

    def __str__(self) -> str:
        return f"{self.name}, {self.setting}"


class Adaptation(Frozen):
    """What an adaptive evaluation did, and what was found without."""

    measures: tuple[Countermeasure, ...] = Field(min_length=1)
    """In the order they were taken."""
    clean_accuracy: Interval
    """Without them."""
    robust_accuracy: Interval
    """Without them."""
    verdict: Verdict
    """Without them."""
    validity: tuple[Finding, ...]
    """Without them: what called for them."""
