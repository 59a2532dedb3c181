"""What came of each attack, and of all attacks under a threat model."""

from __future__ import annotations

from typing import Any

from pydantic import SerializerFunctionWrapHandler, model_serializer

from robustbench_lite.core.cost import Passes
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.results.scorecard.values import Frozen, Interval


class Trace(Frozen):
    """What an attack saw, by step; the evidence on which an evaluation is believed or not."""

    samples: tuple[int, ...]
    """Samples that reached the step."""
    loss: tuple[float, ...]
    """Mean over them of the loss that the attack climbs."""
    broken: tuple[int, ...]
    """Samples broken at the step for the first time."""
    zero_gradient: tuple[int, ...]
    """Samples whose input gradient was zero throughout, or held what is no number."""
    stood: int = 0
    """Unsuccessful starts. This field and the next four are 0 on cards of older versions."""
    flat: int = 0
    """How many of these never saw their margin rise above where it was at their first candidate."""
    late: float = 0.0
    """Mean over these of the share of the margin's rise that came in the last fifth of the steps."""
    restarted: int = 0
    """Starts after the first."""
    restarts_broke: int = 0
    """How many of these broke their sample."""

    @model_serializer(mode="wrap")
    def _write(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Defaults are left out, so that a card of an older version is saved unchanged.
        return {key: value for key, value in write(self).items() if value != 0}


class AttackResult(Frozen):
    """One attack of the suite under one threat model."""

    name: str
    """Unique within its threat model."""
    attack: str
    """The algorithm, as the registry knows it."""
    threat: ThreatModel
    """The threat model it ran under."""
    params: dict[str, Any]
    """The algorithm's parameters, defaults included."""
    gradients: bool
    """Whether it climbs the gradient that the trace tells of; a foreign attack's loop is not seen."""
    minimal: bool = False
    """Whether it looks for the smallest perturbation, and so doesn't climb as high as the ball allows."""
    attempted: int
    """Samples it was run on: in a cascade those that were left. With them those that it had broken under a smaller eps
    of the same norm and goal, which cost nothing here."""
    broken: int
    """Samples of these that it broke, each with a confirmed witness."""
    unconfirmed: int = 0
    """Samples with a success in the loop that the independent forward pass didn't confirm; not counted. What float64
    denies is told by the card's ``audit``."""
    strange: int = 0
    """Samples for which the model gave logits that are no finite numbers; these never count as broken."""
    unmoved: int = 0
    """Witnesses at distance zero: samples that the model had right at first, and wrong when asked again."""
    robust_accuracy: Interval
    """Share of all samples still right after this attack and those before it, under its threat model."""
    alone: Interval | None
    """Share of all samples that this attack alone leaves right; None where it didn't see all of them."""
    distance_median: float | None
    """Median distance of its witnesses, in the threat model's norm; None without witnesses."""
    passes: Passes
    """What it cost."""
    seconds: float
    """Wall-clock time."""
    finished: bool = True
    """False where a budget or an interrupt stopped it early, and where it failed."""
    fault: str | None = None
    """What it tripped over, where it failed."""
    tags: tuple[str, ...] = ()
    """What it is in the words of MITRE ATLAS and NIST AI 100-2 (`results.taxonomy`); none on a card of before they were
    told, and none of natural corruptions."""
    trace: Trace

    @model_serializer(mode="wrap")
    def _write(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # As of a trace: what was always so before is not written.
        return {key: value for key, value in write(self).items() if key not in ("minimal", "tags") or value}


class Skipped(Frozen):
    """An attack of the suite that was not run under a threat model."""

    attack: str
    """Its name in the suite."""
    threat: str
    """The threat model."""
    reason: str
    """Such as ``needs gradients``, or what it expects of the inputs."""


class ThreatResult(Frozen):
    """The worst case over all attacks under one threat model."""

    threat: ThreatModel
    robust_accuracy: Interval
