"""What is attacked, and what came of it: the samples of an evaluation, and the result of one attack run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from robustbench_lite.attacking.journal import Entry
from robustbench_lite.core.cost import Passes
from robustbench_lite.data.dataset import Data
from robustbench_lite.results.scorecard import DENIALS, IN_FLOAT64, Trace

_SUMS = (
    *("forward", "backward", "samples", "loss", "newly_broken", "zero_gradients", "unbroken_starts", "never_rose"),
    *("late_rise", "restarted", "restarts_broke", "non_finite", "seconds"),
)
"""Fields of a result that add up over samples."""


@dataclass(frozen=True)
class Samples:
    """The data of an evaluation, with what the clean pass found out about each sample."""

    data: Data
    sample_keys: Tensor
    """Hash of each sample's content, int64, shape (N,): what its random draws depend on."""
    target_classes: Tensor
    """The class that the goal is about, shape (N,)."""

    def __len__(self) -> int:
        return len(self.data)


@dataclass
class RunResult:
    """What came of one attack, by position in the data."""

    broken: NDArray[np.bool_]
    """Whether a confirmed witness was found."""
    prediction: NDArray[np.int64]
    """What the model says to the witness; -1 without one."""
    distance: NDArray[np.float64]
    """Distance of the nearest adversarial example: confirmed where it is broken or the nearest of all was searched."""
    forward: NDArray[np.int64]
    backward: NDArray[np.int64]
    samples: NDArray[np.int64]
    """By step: how many samples reached it (a restart counts again)."""
    loss: NDArray[np.float64]
    """By step: sum of their losses."""
    newly_broken: NDArray[np.int64]
    """By step: how many were broken there."""
    zero_gradients: NDArray[np.int64]
    """By step: how many had a gradient of zero."""
    witnesses: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    """Adversarial inputs of the positions that were to be kept."""
    unbroken_starts: int = 0
    """Starts that broke nothing."""
    never_rose: int = 0
    """How many of these never saw their margin rise in the ball."""
    late_rise: float = 0.0
    """Sum over these of the share of the rise that came in the last fifth of the steps."""
    restarted: int = 0
    """Starts after the first."""
    restarts_broke: int = 0
    """How many of these broke their sample."""
    denial_reasons: dict[int, str] = field(default_factory=dict)
    """By position, the reason of `DENIALS` why a candidate was rejected. Another one may still break the sample."""
    float64_held: bool = True
    """False where the model, which could be asked in float64 at first, no longer could."""
    non_finite: int = 0
    """Samples for which the model gave logits that are no finite numbers."""
    stopped: str | None = None
    """``interrupt``, ``seconds`` or ``passes`` where it didn't come to its end."""
    fault: str | None = None
    """What it tripped over, where it failed."""
    seconds: float = 0.0

    @classmethod
    def empty(cls, size: int, steps: int) -> RunResult:
        """Before the first entry, of ``size`` samples and an attack of ``steps`` steps."""
        return cls(
            broken=np.zeros(size, np.bool_),
            prediction=np.full(size, -1, np.int64),
            distance=np.full(size, np.inf),
            forward=np.zeros(size, np.int64),
            backward=np.zeros(size, np.int64),
            samples=np.zeros(steps + 1, np.int64),
            loss=np.zeros(steps + 1),
            newly_broken=np.zeros(steps + 1, np.int64),
            zero_gradients=np.zeros(steps + 1, np.int64),
        )

    def add(self, entry: Entry) -> None:
        """Add what became of some samples."""
        rows, broken = entry.rows, entry.broken
        nearer = broken & (entry.distance < self.distance[rows])  # a start after the first may find a farther one
        self.prediction[rows] = np.where(nearer, entry.prediction, self.prediction[rows])
        self.distance[rows] = np.minimum(self.distance[rows], entry.distance)
        self.broken[rows] |= broken
        self.forward[rows] += entry.forward
        self.backward[rows] += entry.backward
        for name in ("samples", "loss", "newly_broken", "zero_gradients"):
            getattr(self, name)[:] += getattr(entry, name)
        self.witnesses.update({row: entry.witnesses[row] for row in rows[nearer].tolist() if row in entry.witnesses})
        self.unbroken_starts += int((~broken).sum())
        self.never_rose += int((entry.never_rose & ~broken).sum())
        self.late_rise += float(entry.late_rise[~broken].sum())
        self.restarted += int((entry.restart > 0).sum())
        self.restarts_broke += int((broken & (entry.restart > 0)).sum())
        for row, why in zip(rows.tolist(), entry.denial_reasons.tolist(), strict=True):
            if why >= 0:
                self.denial_reasons[row] = DENIALS[why]
        self.non_finite += int(entry.non_finite.sum())
        self.seconds += entry.seconds

    def merge(self, other: RunResult) -> RunResult:
        """Add a run of the same attack on other samples of the same data."""
        return RunResult(
            broken=self.broken | other.broken,
            prediction=np.maximum(self.prediction, other.prediction),
            distance=np.minimum(self.distance, other.distance),
            witnesses=self.witnesses | other.witnesses,
            denial_reasons=self.denial_reasons | other.denial_reasons,
            float64_held=self.float64_held and other.float64_held,
            **{name: getattr(self, name) + getattr(other, name) for name in _SUMS},
            stopped=other.stopped or self.stopped,
            fault=self.fault or other.fault,
        )

    def take(self, rows: NDArray[np.int64]) -> RunResult:
        """The same, of data that hold only these samples, in this order."""
        place = {int(row): at for at, row in enumerate(rows)}
        return replace(
            self,
            broken=self.broken[rows],
            prediction=self.prediction[rows],
            distance=self.distance[rows],
            forward=self.forward[rows],
            backward=self.backward[rows],
            witnesses={place[row]: x for row, x in self.witnesses.items()},
            denial_reasons={place[row]: why for row, why in self.denial_reasons.items()},
        )

    @property
    def unconfirmed(self) -> int:
        """Samples with a candidate that succeeded in the loop and was rejected later, not because of rounding."""
        return sum(why != IN_FLOAT64 for why in self.denial_reasons.values())

    @property
    def passes(self) -> Passes:
        """All samples' passes together."""
        return Passes(forward=int(self.forward.sum()), backward=int(self.backward.sum()))

    @property
    def trace(self) -> Trace:
        """What was seen by step."""
        reached = int(np.count_nonzero(self.samples))
        return Trace(
            samples=tuple(self.samples[:reached].tolist()),
            loss=tuple((self.loss[:reached] / np.maximum(self.samples[:reached], 1)).tolist()),
            broken=tuple(self.newly_broken[:reached].tolist()),
            zero_gradient=tuple(self.zero_gradients[:reached].tolist()),
            stood=self.unbroken_starts,
            flat=self.never_rose,
            late=self.late_rise / max(self.unbroken_starts, 1),
            restarted=self.restarted,
            restarts_broke=self.restarts_broke,
        )
