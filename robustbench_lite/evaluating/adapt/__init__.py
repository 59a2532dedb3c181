"""Adaptive evaluation: attack what a target computes, past what only keeps attacks from computing it.

A finding such as a gradient that vanishes says that an attack was blind, and not that the target is robust. The cures
are known (Athalye, Carlini and Wagner 2018, https://arxiv.org/abs/1802.00420; Tramer, Carlini, Brendel and Madry 2020,
https://arxiv.org/abs/2002.08347). Here each is a small module around the target, which stays as it is. All but the
average over random draws leave every predicted class as it was, and change the gradient alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from robustbench_lite.core.cost import BudgetTracker
from robustbench_lite.core.threat import ThreatModel
from robustbench_lite.data.dataset import Data
from robustbench_lite.evaluating.adapt.average import averaged
from robustbench_lite.evaluating.adapt.logits import as_logits, rescaled
from robustbench_lite.evaluating.adapt.measuring import Sample, Step, over
from robustbench_lite.evaluating.adapt.slopes import sloping, straight_through
from robustbench_lite.evaluating.adapt.surrogate import surrogate as surrogate
from robustbench_lite.evaluating.preflight import SAMPLES
from robustbench_lite.evaluating.preflight.check import drawn
from robustbench_lite.model.target import Target
from robustbench_lite.results.scorecard import Countermeasure, Finding

_RANDOM = frozenset({"RB101", "RB104", "RB202", "RB203"})
_PROBABILITIES = frozenset({"RB121"})
_SATURATED = frozenset({"RB125", "RB201"})
_MASKED = frozenset(
    {"RB131", "RB132", "RB133", "RB201", "RB211", "RB213", "RB214", "RB222", "RB223", "RB231"}
)  # evidence that the gradient doesn't lead to what there is
_WHY_BPDA = (
    "the preprocessing that the target declares hides the gradient: it is applied as it is, and passed over on the "
    "way back"
)


class Adapted(NamedTuple):
    """A target that attacks can get at, and how it was made of the one that they couldn't."""

    target: Target
    measures: tuple[Countermeasure, ...]
    masked: bool
    """Whether the target's gradients led nowhere: attacks that need none are a check on the others."""


def curable(finding: Finding, target: Target) -> bool:
    """Whether an adaptive evaluation can work around a finding, so that the number means something all the same."""
    if target.predictor.opaque or finding.severity == "info":
        return False
    return finding.code in _SATURATED or (
        finding.severity == "error" and finding.code in _RANDOM | _PROBABILITIES | _MASKED
    )


def adapted(
    target: Target,
    data: Data,
    findings: Sequence[Finding],
    threats: Sequence[ThreatModel],
    *,
    seed: int = 0,
    samples: int = SAMPLES,
    batch_size: int = 128,
    budget: BudgetTracker | None = None,
) -> Adapted | None:
    """Make a target that attacks can get at.

    Parameters
    ----------
    target, data
        What was evaluated. Neither is changed.
    findings
        What stood against that evaluation. They say what is looked for; what is found by measuring decides.
    threats
        Threat models to come: their eps is the scale of a smoothing.
    seed
        Of the samples and of every draw.
    samples
        Size of the class-stratified sample that is measured.
    batch_size
        Most samples at once; halved by itself where memory runs out.
    budget
        Counts and limits the passes.

    Returns
    -------
    Adapted or None
        None where no finding has a cure here.

    Raises
    ------
    Stop
        Where the budget is spent.
    """
    codes = {finding.code for finding in findings if curable(finding, target)}
    errors = codes & {finding.code for finding in findings if finding.severity == "error"}
    if not codes:
        return None
    rows = drawn(data, samples, seed)
    sample = Sample(data.fetch(rows).to(target.device), data.labels[rows].to(target.device), budget, batch_size)
    target.probe(sample.x[:2])  # how many classes there are, also where the first evaluation came from a cache
    sample.budget.spend(min(2, len(rows)), 0)
    measures: list[Countermeasure] = []
    now = target
    declared = frozenset() if target.preprocessing is None else _MASKED
    with target.attacking():
        if errors & _MASKED and target.preprocessing is not None:
            now = straight_through(target, target.preprocessing)
            measures.append(_told("bpda", "backward pass of the identity", _WHY_BPDA, errors & _MASKED))
        steps: tuple[tuple[frozenset[str], Callable[[Target, Sample], Step | None]], ...] = (
            (_PROBABILITIES, as_logits),
            (_RANDOM, lambda now, sample: averaged(now, sample, seed)),
            (_SATURATED, rescaled),
            (_MASKED - declared, lambda now, sample: sloping(now, sample, threats)),
        )
        for cures, step in steps:
            called = (codes if cures is _SATURATED else errors) & cures
            if called and (made := step(now, sample)) is not None:
                now = over(now, made.module)
                if made.name == "rescale":
                    errors = errors - _SATURATED  # that was what hid the gradient
                measures.append(_told(made.name, made.setting, made.reason, called))
    return Adapted(now, tuple(measures), bool(errors & _MASKED)) if measures else None


def _told(name: str, setting: str, reason: str, codes: set[str] | frozenset[str]) -> Countermeasure:
    return Countermeasure(name=name, setting=setting, reason=f"{', '.join(sorted(codes))}: {reason}")
