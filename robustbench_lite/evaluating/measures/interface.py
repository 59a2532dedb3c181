"""What a measure is: a number of an evaluation, defined where it is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from robustbench_lite.data.dataset import Data
from robustbench_lite.model.target import Target
from robustbench_lite.results.scorecard import Finding, Interval, Scorecard


@dataclass(frozen=True)
class Subject:
    """What a measure may look at: the scorecard as the attacks left it, and the target and data themselves."""

    card: Scorecard
    target: Target
    data: Data
    reference: Target | None = None
    """Another model, that the target is compared with."""
    shared: dict[str, Any] = field(default_factory=dict)
    """What one measure found out and another one needs, such as the times of the same calls."""


class Estimate(NamedTuple):
    """A number with its 95 % interval, which is no share of the samples."""

    value: float
    low: float
    high: float


class Found(NamedTuple):
    """What a measure found, where it has more to tell than a number."""

    value: Interval | Estimate | float
    findings: tuple[Finding, ...]
    """What speaks against the number, or against the scorecard."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A number that can be put on a scorecard, shown by every report and gated by every face.

    An entry of the catalogue ``measures`` names one. What it asks of the target is not among the passes of the attacks.
    """

    unit: str
    """``share`` of the samples, or any other, such as ``passes``, ``s``, ``bytes``, ``parameters``."""
    better: Literal["higher", "lower"]
    """Which way is better."""
    definition: str
    """What it is, in a sentence, with its source where it has one."""
    of: Callable[[Subject], Interval | Estimate | float | Found]
    """Measures: a share of samples with its interval (`Interval.of`), or a finite number, with its interval or not."""
    witnesses: bool = False
    """Whether it looks at the adversarial examples (``Scorecard.witnesses``), so that they are kept for it."""
