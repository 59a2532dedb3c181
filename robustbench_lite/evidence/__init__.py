"""After the attacks: whether what still stands can be believed.

A broken sample is proved by its witness. One that stands is not: a few of them are asked what a robust one must show.
Where nothing stands, nothing is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from torch import Tensor

from robustbench_lite.engine import Samples
from robustbench_lite.evidence.audit import Kept as Kept
from robustbench_lite.evidence.audit import audit as audit
from robustbench_lite.evidence.ground import Fought as Fought
from robustbench_lite.evidence.ground import Ground
from robustbench_lite.evidence.planted import planted
from robustbench_lite.evidence.probes import OWN_STEPS, anything_goes, black_box, jagged, larger_ball, own_climbs
from robustbench_lite.meter import Stop
from robustbench_lite.preflight.look import Look as Look
from robustbench_lite.scorecard import Finding
from robustbench_lite.threat import ThreatModel

MOST, LEAST = 32, 4
"""Survivors that are asked; what they cost is to stay below `SHARE` of what the evaluation cost, where the least allow
it."""
SHARE = 0.1
_PASSES = 450  # of a survivor that is asked, where the suite has no attack without gradients and finds what is planted


class Front(NamedTuple):
    """One threat model of an evaluation."""

    threat: ThreatModel
    samples: Samples
    attacks: tuple[Fought, ...]
    """Those that came to their end."""
    survivors: Tensor
    """Positions, in the order in which they are to be asked."""


def gather(look: Look, fronts: Iterable[Front], batch_size: int) -> tuple[Finding, ...]:
    """Ask a few survivors of each threat model.

    Parameters
    ----------
    look
        The model, with the passes of each sample counted.
    fronts
        What was fought under each threat model.
    batch_size
        Most samples at once.

    Returns
    -------
    tuple of Finding
        What speaks against the evaluation. Fewer where a budget ends the probes.
    """
    found: list[Finding] = []
    asked = [front for front in fronts if len(front.survivors) >= LEAST and _by_gradient(front)]
    most = int(SHARE * look.meter.passes.total / _PASSES / max(1, len(asked)))
    count = min(MOST, max(LEAST, most))
    try:
        with look.target.attacking(), look.meter.quietly():
            for threat, samples, attacks, survivors in asked:
                found += _probed(Ground.of(look, samples, threat, attacks, survivors[:count], batch_size))
    except Stop:
        pass  # a card whose budget is spent says so
    except KeyboardInterrupt:
        look.meter.interrupted = True
    return tuple(found)


def _by_gradient(front: Front) -> bool:
    return any(one.attack.access == "gradients" for one in front.attacks)


def _probed(ground: Ground) -> Iterator[Finding]:
    climbed = ground.climb(ground.threat.norm, ground.threat.eps, OWN_STEPS)
    yield from own_climbs(ground, climbed)
    yield from anything_goes(ground)
    yield from jagged(ground)
    yield from larger_ball(ground)
    yield from black_box(ground)
    yield from planted(ground, climbed)
