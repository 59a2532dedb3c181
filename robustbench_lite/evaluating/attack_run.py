"""One attack under one threat model, with its result: what the suite's runs are kept and added up as."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from robustbench_lite.attacking.interface import Attack
from robustbench_lite.attacking.record import RunResult
from robustbench_lite.core.suite import Suite
from robustbench_lite.core.threat import NORMS, ThreatModel


class AttackRun(NamedTuple):
    """One attack under one threat model, and what came of it."""

    name: str
    algorithm: str
    attack: Attack
    threat: ThreatModel
    attempted: NDArray[np.int64]
    """Positions of the samples that it was run on."""
    result: RunResult

    def merge(self, other: AttackRun) -> AttackRun:
        """Add the same on other samples."""
        return self._replace(
            attempted=np.concatenate([self.attempted, other.attempted]), result=self.result.merge(other.result)
        )

    def take(self, rows: NDArray[np.int64]) -> AttackRun:
        """The same, of data that hold only these samples."""
        return self._replace(attempted=np.searchsorted(rows, self.attempted), result=self.result.take(rows))

    def at(self, threat: ThreatModel) -> AttackRun:
        """The same under another eps; of what was broken under a larger one, what is in the smaller ball too."""
        if threat.eps >= self.threat.eps:
            return self._replace(threat=threat)
        broken = self.result.broken & (self.result.distance <= threat.reach)
        run = replace(
            self.result,
            broken=broken,
            prediction=np.where(broken, self.result.prediction, -1),
            witnesses={row: x for row, x in self.result.witnesses.items() if broken[row]},
            denial_reasons={},  # of the larger ball
        )
        return self._replace(threat=threat, result=run)

    def known(self, wholly: bool) -> AttackRun:
        """What it tells without a pass under another eps: its witnesses or, of a search for the nearest, all of it."""
        result, broken = self.result, self.result.broken
        free = replace(
            RunResult.empty(len(broken), len(result.samples) - 1),
            broken=broken,
            prediction=result.prediction,
            distance=result.distance if wholly else np.where(broken, result.distance, np.inf),
            witnesses=result.witnesses,
        )
        return self._replace(
            attempted=self.attempted if wholly else self.attempted[broken[self.attempted]], result=free
        )


def searches_nearest(suite: Suite, attack: Attack, threat: ThreatModel) -> bool:
    """Whether an attack goes on to the nearest adversarial example of every sample."""
    return suite.curve and attack.minimal and threat.norm in NORMS
