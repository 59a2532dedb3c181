"""How stable attributions are between broken samples and their witnesses, and near the samples."""

from __future__ import annotations

from collections.abc import Callable

from robustbench_lite.core.errors import UserError
from robustbench_lite.core.threat import enough
from robustbench_lite.evaluating.measures.interface import Estimate, Measure, Subject
from robustbench_lite.explaining.interface import Asked
from robustbench_lite.explaining.pairs import broken_pairs
from robustbench_lite.explaining.run import make
from robustbench_lite.explaining.stability import NUMBERS, Attributions, taken

SAMPLES = 32
"""Broken samples that are explained."""
_METHOD = "integrated_gradients"


def _attributions(subject: Subject, method: str) -> Attributions:
    """What a method says of the broken samples; the measures of one card read the same."""
    key = f"attributions by {method}"
    if key not in subject.shared:
        explainer, target = make(method), subject.target
        if not enough(target.access, explainer.access):
            raise UserError(
                f"{method} needs {explainer.access}, and of the target only the {target.access} are seen; name "
                "another method, as in attribution_spearman:kernel_shap"
            )
        if unfit := explainer.unfit(target, tuple(subject.data.shape)):
            raise UserError(f"{method} {unfit}")
        pairs = broken_pairs(subject.card, subject.data, SAMPLES)
        subject.shared[key] = Attributions(explainer, Asked(target, subject.card.batch_size), pairs, subject.card.seed)
    found: Attributions = subject.shared[key]
    return found


def _measure(name: str, method: str) -> Measure:
    number = NUMBERS[name]

    def of(subject: Subject) -> Estimate | float:
        one = taken(name, _attributions(subject, method))
        if one is None:
            raise UserError(f"the attributions of {method} are the same everywhere for each of the samples")
        return one.value if one.low is None or one.high is None else Estimate(one.value, one.low, one.high)

    return Measure(
        unit=number.unit,
        better=number.better,
        definition=f"by {method}: {number.definition}",
        of=of,
        witnesses=True,
    )


def _by(name: str) -> Callable[[str], Measure]:
    def by(method: str) -> Measure:
        make(method)  # an unknown name is told before the run
        return _measure(name, method)

    by.__doc__ = f"As {name}, by another method of the catalogue explanations."
    return by


SPEARMAN = _measure("attribution_spearman", _METHOD)
OVERLAP = _measure("attribution_overlap", _METHOD)
SENSITIVITY = _measure("attribution_sensitivity", _METHOD)
INPUT_STABILITY = _measure("attribution_input_stability", _METHOD)
spearman_by = _by("attribution_spearman")
overlap_by = _by("attribution_overlap")
sensitivity_by = _by("attribution_sensitivity")
input_stability_by = _by("attribution_input_stability")
