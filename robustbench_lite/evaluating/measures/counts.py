"""The numbers that every scorecard has, as measures."""

from __future__ import annotations

from robustbench_lite.evaluating.measures.interface import Measure, Subject
from robustbench_lite.results.scorecard import Interval

CLEAN_ACCURACY = Measure(
    unit="share",
    better="higher",
    definition="samples that are right when clean",
    of=lambda subject: subject.card.clean_accuracy,
)
ROBUST_ACCURACY = Measure(
    unit="share",
    better="higher",
    definition="samples that are right when clean and that no attack of the suite breaks",
    of=lambda subject: subject.card.robust_accuracy,
)
PARAMETERS = Measure(
    unit="parameters",
    better="lower",
    definition="numbers in the model's parameters, trained or not",
    of=lambda subject: subject.card.target.parameters,
)
SECONDS = Measure(
    unit="s",
    better="lower",
    definition="wall-clock time of the evaluation",
    of=lambda subject: subject.card.seconds,
)


def _drop(subject: Subject) -> Interval:
    # What is right and was broken is one count of the samples, so the drop has an exact interval too.
    clean, robust = subject.card.clean_accuracy, subject.card.robust_accuracy
    return Interval.of(clean.count - robust.count, clean.total)


def _passes(subject: Subject) -> float:
    return subject.card.passes.total / max(1, subject.card.clean_accuracy.total)


DROP = Measure(
    unit="share", better="lower", definition="samples that are right when clean and broken under attack", of=_drop
)
PASSES = Measure(unit="passes", better="lower", definition="forward and backward passes a sample", of=_passes)
