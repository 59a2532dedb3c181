"""After the attacks: whether what still stands can be believed.

A broken sample is proved by its witness. One that stands is not: a few of them are asked what a robust one must show.
Where nothing stands, nothing is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from robustbench_lite.attacking.record import Samples
from robustbench_lite.core.cost import BudgetTracker
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.evaluating.evidence.audit import as_images as as_images
from robustbench_lite.evaluating.evidence.audit import audit as audit
from robustbench_lite.evaluating.evidence.planted import planted
from robustbench_lite.evaluating.evidence.probes import (
    OWN_STEPS,
    anything_goes,
    black_box,
    jagged,
    larger_ball,
    own_climbs,
)
from robustbench_lite.evaluating.evidence.survivors import AttackRecord as AttackRecord
from robustbench_lite.evaluating.evidence.survivors import BrokenSurvivors as BrokenSurvivors
from robustbench_lite.evaluating.evidence.survivors import Survivors
from robustbench_lite.evaluating.preflight.check import CountedModel
from robustbench_lite.results.scorecard import Finding

MOST, LEAST = 32, 8
"""Survivors that are asked; what they cost is to stay below `SHARE` of what the evaluation cost, where the least allow
it."""
SUSPECT = 16
"""The same, after a first evaluation that can't be trusted."""
SHARE = 0.1
_Probe = Iterator[Finding | BrokenSurvivors]
_PASSES = 450  # of a survivor that is asked, where the suite has no attack without gradients and finds what is planted


class SurvivorGroup(NamedTuple):
    """Survivors of one threat model of an evaluation."""

    threat: ThreatModel
    samples: Samples
    attacks: tuple[AttackRecord, ...]
    """Those that came to their end."""
    survivors: Tensor
    """Positions, in the order in which they are to be asked."""


def ask_survivors(
    model: CountedModel, groups: Iterable[SurvivorGroup], batch_size: int, least: int = LEAST
) -> Iterator[Finding | BrokenSurvivors]:
    """Ask a few survivors of each threat model.

    Parameters
    ----------
    model
        The model, with the passes of each sample counted.
    groups
        The survivors of each threat model.
    batch_size
        Most samples at once.
    least
        Survivors that are asked whatever it costs; `SUSPECT` where there is a suspicion already.

    Yields
    ------
    Finding
        What speaks against the evaluation.
    BrokenSurvivors
        What broke survivors all the same; it isn't confirmed yet.

    Raises
    ------
    Stop
        Where the budget is spent.
    """
    asked = [group for group in groups if len(group.survivors) >= LEAST and _by_gradient(group)]
    most = int(SHARE * model.budget.passes.total / _PASSES / max(1, len(asked)))
    count = min(MOST, max(least, most))
    with model.target.attacking():
        for number, (threat, samples, attacks, survivors) in enumerate(asked):
            broke = severe = False
            few = Survivors.of(model, samples, threat, attacks, survivors[:count], batch_size)
            for found in _told(_probes(few), model.budget, number, len(asked)):
                broke |= isinstance(found, BrokenSurvivors)
                severe |= isinstance(found, Finding) and found.severity == "error"
                yield found
            rest = survivors[count:MOST]
            if broke and not severe and len(rest):
                # What a few can't tell from chance, more can; honest evaluations seldom come here.
                yield from _told(_probes_again(few.others(rest)), model.budget, number, len(asked))


def _by_gradient(group: SurvivorGroup) -> bool:
    return any(one.attack.access == "gradients" for one in group.attacks)


def _told(probes: Sequence[_Probe], budget: BudgetTracker, group: int, groups: int) -> _Probe:
    """Run the probes of a group; tell how many are done, and nothing of the attacks that they run."""
    for place, probe in enumerate(probes):
        budget.work("checks of what stands", group * len(probes) + place, groups * len(probes))
        with budget.quietly():
            yield from probe


def _probes(survivors: Survivors) -> Sequence[_Probe]:
    climbed = survivors.climb(survivors.threat.norm, survivors.threat.eps, OWN_STEPS)
    return (
        own_climbs(survivors, climbed),
        black_box(survivors),
        anything_goes(survivors),
        jagged(survivors),
        larger_ball(survivors),
        planted(survivors, climbed),
    )


def _probes_again(survivors: Survivors) -> Sequence[_Probe]:
    """The probes that break survivors, on further ones."""
    climbed = survivors.climb(survivors.threat.norm, survivors.threat.eps, OWN_STEPS)
    return own_climbs(survivors, climbed), black_box(survivors)
